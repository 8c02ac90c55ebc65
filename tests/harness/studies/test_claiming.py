"""Claiming trials on real storages: exactly as many as were asked for, each one worker's, cut ones resumed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from claiming_partner import claim_as_told
from conftest import claimed, metrics, opened, settings_in
from forked import Partner
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.content import LeaseLock
from harness.core.errors import HarnessError
from harness.sampling.first_trials import InitialTrials
from harness.sampling.proposal import Proposal, Proposer
from harness.settings import Settings
from harness.storage.leases import Lease, VerifyLock
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.study import Study
from search_spaces.digits import SPACE

RECIPES = ["repdistiller", "distilbert", "keras"]


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Partner]]:
    """Two processes that wait to be told what to do."""
    started = [Partner(claim_as_told), Partner(claim_as_told)]
    yield started
    for worker in started:
        worker.end()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=3)


def test_the_first_trials_are_the_recipes_also_after_a_restart(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    for name in (*RECIPES, None):
        study = opened(settings)
        claim = claimed(study, SPACE)
        assert claim is not None and claim.recipe == name
        claim.complete(metrics(0.5, 1.0))
        claim.lease.release()
    assert study.finished() == 4


def test_simultaneous_first_starts_create_one_study(tmp_path: Path, workers: list[Partner]) -> None:
    for n in range(6):
        folder = tmp_path / str(n)
        folder.mkdir()
        for worker in workers:
            worker.tell("open", folder, 6)
        for worker in workers:
            worker.answer()
        for worker in workers:
            worker.tell("make", folder)
        first, second = (worker.answer()["id"] for worker in workers)
        assert first == second
        assert json.loads((folder / "mlruns" / "trials" / "s" / "study.json").read_text()) == {"id": first}
        database = sqlite3.connect(folder / "optuna.db")
        assert database.execute("SELECT count(*) FROM studies").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        database.close()


def test_concurrent_processes_begin_exactly_the_trials_asked_for(tmp_path: Path, workers: list[Partner]) -> None:
    for worker in workers:
        worker.tell("open", tmp_path, 25)
        worker.tell("make", tmp_path)
    for worker in workers:
        worker.answer()
        worker.answer()
    for worker in workers:
        worker.tell("claim all", tmp_path)
    first, second = (worker.answer()["numbers"] for worker in workers)
    assert sorted(first + second) == list(range(25)) and first and second
    stored = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert len(stored.trials) == 25


def test_a_trial_is_resumed_elsewhere_only_after_its_process_was_killed(tmp_path: Path, settings: Settings) -> None:
    worker = Partner(claim_as_told)
    worker.tell("open", tmp_path, 3)
    worker.tell("make", tmp_path)
    worker.tell("claim", tmp_path)
    begun = [worker.answer() for _ in range(3)][-1]
    study = opened(settings)
    second = claimed(study, SPACE)
    assert begun["number"] == 0 and second is not None and (second.trial.number, second.resumed) == (1, False)
    worker.end()
    taken = claimed(study, SPACE)
    assert taken is not None and (taken.trial.number, taken.resumed, taken.recipe) == (0, True, "repdistiller")
    assert taken.configuration.params() == begun["params"]
    third = claimed(study, SPACE)
    assert third is not None and (third.trial.number, third.resumed) == (2, False)
    assert claimed(study, SPACE) is None  # all are begun, and their workers live
    for claim in (second, taken, third):
        claim.lease.release()


def test_exactly_the_trials_asked_for_are_claimed(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    study, claims = opened(settings), []
    while (claim := claimed(study, SPACE)) is not None:
        claims.append(claim)
        if claim.trial.number == 2:
            claim.fail("loss is nan")  # a trial that failed is spent too
        else:
            claim.complete(metrics(0.5, 1.0))
        claim.lease.release()
    assert [claim.trial.number for claim in claims] == list(range(6))
    assert [claim.recipe for claim in claims] == [*RECIPES, None, None, None]
    assert not any(claim.resumed for claim in claims)
    assert [claim.folder for claim in claims] == [study.folder / str(number) for number in range(6)]
    again = opened(settings)
    assert claimed(again, SPACE) is None and again.finished() == len(again.trials()) == 6
    assert again.trials()[2].user_attrs["reason"] == "loss is nan"
    more = claimed(opened(replace(settings, trials=7)), SPACE)
    assert more is not None and more.trial.number == 6
    more.lease.release()


def test_the_recipes_are_claimed_as_they_were_published(settings: Settings) -> None:
    study = opened(replace(settings, trials=3))
    tried, widths = [], []
    while (claim := claimed(study, SPACE)) is not None:
        tried.append((claim.configuration.distillation["temperature"], claim.configuration.distillation["alpha"]))
        widths.append(claim.configuration.student["width"])
        claim.lease.release()
        claim.complete(metrics(0.5, 1.0))
    assert tried == [(4.0, 0.1), (2.0, 2 / 7), (10.0, 0.1)]
    assert widths == [6, 6, 6]  # sqrt(1 x 32)


def test_a_cut_trial_is_resumed_with_its_number_and_parameters(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    study = opened(settings)
    for _ in range(5):
        claim = claimed(study, SPACE)
        assert claim is not None
        claim.complete(metrics(0.5, 1.0))
        claim.lease.release()
    begun = claimed(study, SPACE)
    assert begun is not None and (begun.trial.number, begun.recipe, begun.resumed) == (5, None, False)
    other = opened(settings)
    assert claimed(other, SPACE) is None  # its process lives
    begun.lease.release()
    taken = claimed(other, SPACE)
    assert taken is not None and (taken.trial.number, taken.resumed) == (5, True)
    assert taken.configuration == begun.configuration and taken.folder == begun.folder
    assert not LeaseLock(taken.folder).acquire()
    taken.complete(metrics(0.5, 1.0))
    taken.lease.release()
    assert claimed(opened(settings), SPACE) is None


def drawn(settings: Settings, *, cut: bool) -> list[dict[str, Any]]:
    """The parameters of a search's trials; ``cut`` after each claim, if asked for."""
    study = opened(settings)
    while (claim := claimed(study, SPACE)) is not None:
        if cut:
            claim.lease.release()
            study = opened(settings)
            again = claimed(study, SPACE)
            assert again is not None and again.resumed and again.configuration == claim.configuration
            claim = again
        params = claim.configuration.params()
        claim.complete(metrics(1 - (params["alpha"] - 0.4) ** 2 / params["width"], params["width"]))
        claim.lease.release()
    return [trial.params for trial in study.trials()]


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 14), ("nsga2", 19), ("gp", 11), ("random", 8)])
def test_a_search_that_is_cut_proposes_the_same_trials(settings: Settings, sampler: str, trials: int) -> None:
    # Past the first ten of TPE and GP, and the first generation (16) of NSGA-II.
    settings = replace(settings, sampler=sampler, trials=trials)
    folder = settings.runs_dir.parent
    whole, cut, other = (
        drawn(
            replace(settings, storage=f"sqlite:///{folder}/{name}.db", runs_dir=folder / name, seed=seed),
            cut=name == "cut",
        )
        for name, seed in (("whole", 3), ("cut", 3), ("other", 4))
    )
    assert len(whole) == settings.trials and cut == whole
    assert other[:3] == whole[:3]  # recipes
    assert all(theirs != ours for theirs, ours in zip(other[3:], whole[3:], strict=True))
    assert len({json.dumps(params) for params in whole[3:]}) == settings.trials - 3


def test_a_trial_that_ends_just_before_its_lease_is_acquired_is_not_resumed(settings: Settings) -> None:
    first, second = opened(settings), opened(settings)
    mine = claimed(first, SPACE)
    assert mine is not None
    acquire = second.leases.acquire

    def after_it_has_ended(items: Sequence[str]) -> Lease | None:
        if "0" in items:
            mine.complete(metrics(0.5, 1.0))
            mine.lease.release()
        return acquire(items)

    second.leases.acquire = after_it_has_ended  # type: ignore[method-assign]
    claim = claimed(second, SPACE)
    assert claim is not None and claim.trial.number == 1 and not claim.resumed


def test_an_enqueued_trial_comes_next_and_its_missing_parameters_are_drawn(settings: Settings) -> None:
    study = opened(replace(settings, trials=2))
    study.optuna.enqueue_trial({"width": 5, "alpha": 0.25})
    claim = claimed(study, SPACE)
    assert claim is not None and (claim.trial.number, claim.recipe) == (0, None)
    assert claim.configuration.student == {"width": 5} and claim.configuration.distillation["alpha"] == 0.25
    assert set(claim.trial.params) == set(SPACE.distributions)
    after = claimed(study, SPACE)
    assert after is not None and after.recipe == RECIPES[0]
    assert claimed(study, SPACE) is None
    for one in (claim, after):
        one.lease.release()


def claimer_of(study: Study) -> TrialClaimer:
    proposer = Proposer(
        SPACE, sampler="random", seed=0, directions=study.directions, initial=InitialTrials(default_recipes=False)
    )
    return TrialClaimer(study, proposer)


def choosing(claimer: TrialClaimer, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> None:
    """Let something happen whenever a worker is about to choose a configuration."""
    propose = claimer._proposer.propose

    def interrupted(trials: list[FrozenTrial]) -> Proposal | None:
        meanwhile()
        return propose(trials)

    monkeypatch.setattr(claimer._proposer, "propose", interrupted)


@pytest.mark.parametrize("trials", [1, 9])
def test_a_prefetch_blocks_no_other_worker_and_is_repeated_after_a_conflict(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    settings = replace(settings, trials=trials)
    slow, fast = claimer_of(opened(settings)), claimer_of(opened(settings))
    faster: list[Claim | None] = []
    choosing(slow, monkeypatch, lambda: None if faster else faster.append(fast.claim()))
    claim = slow.claim()
    assert faster[0] is not None and faster[0].trial.number == 0
    if trials == 1:
        assert claim is None  # it was the last one
    else:
        assert claim is not None and claim.trial.number == 1
        assert claim.configuration != faster[0].configuration
        alone = opened(replace(settings, study="alone"))
        in_turn = [one.claim() for one in [claimer_of(alone)] * 2]
        assert [one and one.configuration for one in in_turn] == [faster[0].configuration, claim.configuration]


def test_a_trial_enqueued_during_a_prefetch_comes_first(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(settings)
    claimer = claimer_of(study)
    choosing(claimer, monkeypatch, lambda: study.optuna.enqueue_trial({"width": 5}))
    claim = claimer.claim()
    assert claim is not None and claim.configuration.student == {"width": 5}


def test_a_prefetch_that_saw_an_enqueued_trial_incomplete_is_repeated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, trials=9)
    beside = claimer_of(opened(replace(settings, study="beside")))
    assert beside.claim() is not None
    second = beside.claim()  # what is chosen where one trial has begun
    assert second is not None
    study = opened(settings)
    study.optuna.enqueue_trial(second.trial.params)
    first, other = claimer_of(study), claimer_of(opened(settings))
    storage, prefetched = study.storage.optuna, []
    begin = storage.set_trial_state_values

    def begun(*arguments: Any, **more: Any) -> bool:
        found = begin(*arguments, **more)
        prefetched.append(other._prefetch())  # which sees of the enqueued trial only that it runs
        return found

    monkeypatch.setattr(storage, "set_trial_state_values", begun)
    enqueued = first.claim()
    assert enqueued is not None and enqueued.trial.params == second.trial.params
    monkeypatch.setattr(other, "_prefetch", prefetched.pop)
    claim = other.claim()
    assert claim is not None and claim.trial.number == 1 and claim.configuration != enqueued.configuration


def test_an_enqueued_trial_begun_by_another_process_causes_no_additional_trial(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, trials=1)
    study = opened(settings)
    study.optuna.enqueue_trial({"width": 5})
    storage, begin = study.storage.optuna, study.storage.optuna.set_trial_state_values

    def too_late(*arguments: Any, **more: Any) -> bool:
        monkeypatch.undo()
        opened(settings).optuna.ask()  # with Optuna's own means, which take no lock
        return begin(*arguments, **more)

    monkeypatch.setattr(storage, "set_trial_state_values", too_late)
    claim = claimer_of(study).claim()
    assert claim is not None and (claim.trial.number, claim.configuration.student) == (0, {"width": 5})
    assert len(study.optuna.trials) == 1


def test_a_worker_proposes_within_the_lock_after_it_waited(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(replace(settings, trials=9))
    claimer, exclusive, events = claimer_of(study), study.leases.exclusive, []
    waits = iter([False, True, False, False])

    @contextlib.contextmanager
    def noted(what: str, *, on_wait: Callable[[], None], briefly: bool) -> Iterator[VerifyLock]:
        if next(waits):
            on_wait()
        events.append("lock")
        with exclusive(what, briefly=briefly) as verify_lock:
            yield verify_lock

    monkeypatch.setattr(study.leases, "exclusive", noted)
    choosing(claimer, monkeypatch, lambda: events.append("propose"))
    claims = [claimer.claim() for _ in range(4)]
    assert [claim and claim.trial.number for claim in claims] == [0, 1, 2, 3]
    assert events == ["propose", "lock", "propose", "lock", "lock", "propose", "propose", "lock"]


def test_no_more_cut_trials_are_resumed_than_are_still_asked_for(settings: Settings) -> None:
    study = opened(replace(settings, trials=5))
    claims = [claimed(study, SPACE) for _ in range(5)]
    for claim in claims:
        assert claim is not None
        if claim.trial.number == 2:
            claim.complete(metrics(0.5, 1.0))
        claim.lease.release()
    fewer = opened(replace(settings, trials=3))
    for number in (0, 1):
        claim = claimed(fewer, SPACE)
        assert claim is not None and claim.resumed and claim.trial.number == number
        claim.complete(metrics(0.5, 1.0))
        claim.lease.release()
    assert claimed(fewer, SPACE) is None and fewer.is_over and fewer.finished() == 3
    again = claimed(opened(replace(settings, trials=5)), SPACE)
    assert again is not None and again.resumed and again.trial.number == 3


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"width": 1000}, "width is 1000, and the space has IntDistribution"),
        ({"widht": 5}, "'widht' is no parameter of the space; did you mean width?"),
        ({"alpha": "half"}, "alpha is 'half', and the space has FloatDistribution"),
    ],
)
def test_an_enqueued_trial_outside_of_the_space_fails_and_the_next_one_is_begun(
    settings: Settings, asked: dict[str, Any], words: str
) -> None:
    study = opened(replace(settings, trials=9))
    study.optuna.enqueue_trial(asked)
    claim = claimed(study, SPACE)
    assert claim is not None and claim.trial.number == 1
    first = study.trials()[0]
    assert first.state == TrialState.FAIL and first.user_attrs["reason"].startswith(words)


def test_a_trial_that_another_program_added_as_complete_counts_as_failed(settings: Settings) -> None:
    study = opened(replace(settings, trials=9))
    width = {"width": 2}, {"width": IntDistribution(1, 4, log=True)}
    study.optuna.add_trial(create_trial(values=[0.99, 0.01, 50.0], params=width[0], distributions=width[1]))
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL]
    assert "without its metrics" in study.trials()[0].user_attrs["reason"]
    assert study.front() == [] and study.finished() == 1
    claim = claimed(study, SPACE)
    assert claim is not None and claim.trial.number == 1


def test_a_trial_that_another_program_added_with_another_range_is_reported(settings: Settings) -> None:
    study = opened(settings)
    study.optuna.add_trial(
        create_trial(values=[0.99, 0.01, 50.0], params={"width": 2}, distributions={"width": IntDistribution(1, 4)})
    )
    for action in (lambda: claimed(study, SPACE), lambda: opened(settings)):
        with pytest.raises(HarnessError, match="must hold trials of its own space only, but another program"):
            action()
