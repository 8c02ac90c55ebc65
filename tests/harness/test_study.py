"""A study on real storages: it stays what it is, is made once and whole, and its trials go on where they were."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import claimed, environment, in_sqlite, metrics, opened, settings_in
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from harness.claims import Hold
from harness.content import Lease
from harness.pareto import pareto_front
from harness.proposal import Proposer
from harness.settings import SAMPLERS, Settings
from search_spaces.digits import SPACE

RECIPES = ["repdistiller", "distilbert", "keras"]

WORKER = """
import json, sys
from harness.proposal import Proposer
from harness.settings import SAMPLERS, Settings
from harness.storage import open_storage
from harness.opening import open_study
from pathlib import Path
from search_spaces.digits import SPACE

def answer(**what):
    print(json.dumps(what), flush=True)

answer(ready=True)
for line in sys.stdin:
    word, folder, *rest = json.loads(line)
    if word == "open":
        settings = Settings(space_name="digits", space_file=Path("digits.py"), study="s", trials=rest[0],
                            storage=f"sqlite:///{folder}/optuna.db", runs_dir=Path(folder) / "mlruns")
        storage = open_storage(settings)
        answer(storage=True)
    elif word == "make":
        study = open_study(settings, SPACE, storage)
        proposer = Proposer(SPACE, sampler="tpe", seed=0, directions=study.directions)
        answer(id=study.id)
    elif word == "claim":
        claim = study.claim(proposer)
        answer(number=claim.trial.number, params=claim.configuration.params())
    elif word == "claim all":
        claims = []
        while (claim := study.claim(proposer)) is not None:
            claims.append(claim)
        answer(numbers=[claim.trial.number for claim in claims])
"""


class Worker:
    """Another process that opens studies and claims trials as it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, *words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(w) if isinstance(w, Path) else w for w in words]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self.process.kill()  # SIGKILL
        self.process.communicate()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Two processes that have imported all they need, and wait."""
    started = [Worker(), Worker()]
    for worker in started:
        assert worker.answer() == {"ready": True}
    yield started
    for worker in started:
        worker.end()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a study in a journal file, which is there at once; ``in_sqlite`` is what a person gets."""
    return settings_in(tmp_path, trials=3)


def test_a_study_begins_with_the_recipes_however_often_it_is_opened(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    for name in (*RECIPES, None):
        study = opened(settings)
        claim = claimed(study, SPACE)
        assert claim is not None and claim.recipe == name
        study.complete(claim, metrics(0.5, 1.0))
        claim.hold.release()
    assert study.finished() == 4


def test_first_starts_at_once_make_one_study(tmp_path: Path, workers: list[Worker]) -> None:
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


def test_processes_side_by_side_begin_exactly_the_trials_asked_for(tmp_path: Path, workers: list[Worker]) -> None:
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


def test_a_trial_goes_on_elsewhere_only_when_its_process_is_gone(tmp_path: Path, settings: Settings) -> None:
    worker = Worker()
    worker.tell("open", tmp_path, 3)
    worker.tell("make", tmp_path)
    worker.tell("claim", tmp_path)
    begun = [worker.answer() for _ in range(4)][-1]
    study = opened(in_sqlite(settings))
    second = claimed(study, SPACE)
    assert begun["number"] == 0 and second is not None and (second.trial.number, second.resumed) == (1, False)
    worker.end()
    taken = claimed(study, SPACE)
    assert taken is not None and (taken.trial.number, taken.resumed, taken.recipe) == (0, True, "repdistiller")
    assert taken.configuration.params() == begun["params"]
    third = claimed(study, SPACE)
    assert third is not None and (third.trial.number, third.resumed) == (2, False)
    assert claimed(study, SPACE) is None  # all are begun, and in living hands
    for claim in (second, taken, third):
        claim.hold.release()


@pytest.mark.parametrize("storage", ["sqlite:///{}/optuna.db", "{}/optuna.journal"])
def test_exactly_the_trials_asked_for_are_claimed(settings: Settings, tmp_path: Path, storage: str) -> None:
    settings = replace(settings, trials=6, storage=storage.format(tmp_path))
    study, claims = opened(settings), []
    while (claim := claimed(study, SPACE)) is not None:
        claims.append(claim)
        if claim.trial.number == 2:
            study.fail(claim, "loss is nan")  # a trial that failed is spent too
        else:
            study.complete(claim, metrics(0.5, 1.0))
        claim.hold.release()
    assert [claim.trial.number for claim in claims] == list(range(6))
    assert [claim.recipe for claim in claims] == [*RECIPES, None, None, None]
    assert not any(claim.resumed for claim in claims)
    assert [claim.folder for claim in claims] == [study.folder / str(number) for number in range(6)]
    again = opened(settings)
    assert claimed(again, SPACE) is None and again.finished() == len(again.trials()) == 6
    assert again.trials()[2].user_attrs["reason"] == "loss is nan"
    more = claimed(opened(replace(settings, trials=7)), SPACE)
    assert more is not None and more.trial.number == 6
    more.hold.release()


def test_the_recipes_are_claimed_as_they_were_published(settings: Settings) -> None:
    study = opened(replace(settings, trials=3))
    tried = []
    while (claim := claimed(study, SPACE)) is not None:
        tried.append((claim.configuration.distillation["temperature"], claim.configuration.distillation["alpha"]))
        assert claim.configuration.student == {"width": 6}  # sqrt(1 x 32)
        claim.hold.release()
        study.complete(claim, metrics(0.5, 1.0))
    assert tried == [(4.0, 0.1), (2.0, 2 / 7), (10.0, 0.1)]


def test_a_trial_that_was_cut_goes_on_with_its_number_and_parameters(settings: Settings) -> None:
    settings = replace(settings, trials=6)
    study = opened(settings)
    for _ in range(5):
        claim = claimed(study, SPACE)
        assert claim is not None
        study.complete(claim, metrics(0.5, 1.0))
        claim.hold.release()
    begun = claimed(study, SPACE)
    assert begun is not None and (begun.trial.number, begun.recipe, begun.resumed) == (5, None, False)
    other = opened(settings)
    assert claimed(other, SPACE) is None  # its process lives
    begun.hold.release()
    taken = claimed(other, SPACE)
    assert taken is not None and (taken.trial.number, taken.resumed) == (5, True)
    assert taken.configuration == begun.configuration and taken.folder == begun.folder
    assert not Lease(taken.folder).acquire()
    other.complete(taken, metrics(0.5, 1.0))
    taken.hold.release()
    assert claimed(opened(settings), SPACE) is None


def test_what_a_trial_reached_is_stored_in_the_order_of_the_objectives(settings: Settings) -> None:
    study = opened(replace(settings, objectives=("macs", "accuracy")))
    claim = claimed(study, SPACE)
    assert claim is not None
    study.complete(claim, metrics(0.75, 1.0) | {"macs": 1234.0})
    claim.hold.release()
    (trial,) = [t for t in opened(study.settings).trials() if t.state.name == "COMPLETE"]
    assert trial.values == [1234.0, 0.75] and trial.user_attrs["metrics"]["accuracy"] == 0.75


def drawn(settings: Settings, *, cut: bool) -> list[dict[str, Any]]:
    """The parameters of a search's trials; ``cut`` after each claim, if asked for."""
    study = opened(settings)
    while (claim := claimed(study, SPACE)) is not None:
        if cut:
            claim.hold.release()
            study = opened(settings)
            again = claimed(study, SPACE)
            assert again is not None and again.resumed and again.configuration == claim.configuration
            claim = again
        params = claim.configuration.params()
        study.complete(claim, metrics(1 - (params["alpha"] - 0.4) ** 2 / params["width"], params["width"]))
        claim.hold.release()
    return [trial.params for trial in study.trials()]


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 14), ("nsga2", 19), ("gp", 11), ("random", 8)])
def test_a_search_that_is_cut_draws_what_one_that_is_not_would(settings: Settings, sampler: str, trials: int) -> None:
    # Past the first ten of TPE and GP, and the first generation (16) of NSGA-II.
    settings = replace(settings, sampler=sampler, trials=trials)
    folder = settings.runs_dir.parent
    whole, cut, other = (
        drawn(
            replace(settings, storage=f"{folder}/{name}.journal", runs_dir=folder / name, seed=seed), cut=name == "cut"
        )
        for name, seed in (("whole", 3), ("cut", 3), ("other", 4))
    )
    assert len(whole) == settings.trials and cut == whole
    assert other[:3] == whole[:3]  # recipes
    assert all(theirs != ours for theirs, ours in zip(other[3:], whole[3:], strict=True))
    assert len({json.dumps(params) for params in whole[3:]}) == settings.trials - 3


def test_a_trial_that_ends_while_it_is_looked_at_is_not_taken_up_again(settings: Settings) -> None:
    first, second = opened(settings), opened(settings)
    mine = claimed(first, SPACE)
    assert mine is not None
    take = second.claims.take

    def after_it_has_ended(pieces: Sequence[str]) -> tuple[str, Hold] | None:
        if "0" in pieces:
            first.complete(mine, metrics(0.5, 1.0))
            mine.hold.release()
        return take(pieces)

    second.claims.take = after_it_has_ended  # type: ignore[method-assign]
    claim = claimed(second, SPACE)
    assert claim is not None and claim.trial.number == 1 and not claim.resumed


def test_a_trial_that_someone_enqueued_comes_next_and_its_rest_is_drawn(settings: Settings) -> None:
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
        one.hold.release()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_configuration_is_tried_twice_and_a_space_can_be_exhausted(settings: Settings, sampler: str) -> None:
    held = replace(
        SPACE,
        student={"width": IntDistribution(2, 4)},
        distillation={"temperature": CategoricalDistribution([1, 4]), "alpha": FloatDistribution(0, 1, step=0.5)},
        training={},
    )
    study = opened(replace(settings, trials=50, sampler=sampler), held)
    seen = []
    while (claim := claimed(study, held)) is not None:
        params = claim.configuration.params()
        seen.append(tuple(params.values()))
        study.complete(claim, metrics(params["alpha"], params["width"]))
        claim.hold.release()
    assert len(seen) == len(set(seen)) == 3 * 2 * 3 and study.is_exhausted
    # A trial that runs elsewhere is not begun a second time either.
    assert study.finished() == 18 and claimed(study, held) is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_of_methods_is_exhausted_method_by_method(settings: Settings, sampler: str) -> None:
    methods = {
        "soft_target": {"temperature": CategoricalDistribution([4]), "alpha": FloatDistribution(0, 1, step=0.5)},
        "label_smoothing": {"smoothing": CategoricalDistribution([0.1, 0.2])},
    }
    space = replace(SPACE, student={"width": IntDistribution(2, 4)}, distillation=methods, training={})
    study = opened(replace(settings, trials=50, sampler=sampler), space)
    seen = []
    while (claim := claimed(study, space)) is not None:
        params = claim.configuration.params()
        seen.append(tuple(sorted((name, str(value)) for name, value in params.items())))
        study.complete(claim, metrics(0.5, params["width"]))
        claim.hold.release()
    assert len(seen) == len(set(seen)) == 3 * (3 + 2) and study.is_exhausted


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_keeps_away_from_what_runs_elsewhere(settings: Settings, sampler: str) -> None:
    study = opened(replace(settings, trials=30, sampler=sampler))
    for _ in range(15):
        claim = claimed(study, SPACE)
        assert claim is not None
        params = claim.configuration.params()
        study.complete(claim, metrics(1 - (params["alpha"] - 0.4) ** 2, params["width"]))
        claim.hold.release()
    running = [claimed(study, SPACE) for _ in range(4)]
    places = []
    for claim in running:
        assert claim is not None and not claim.resumed
        params = claim.configuration.params()
        logs = (("width", 3.5), ("temperature", 3), ("learning_rate", 3.4))
        places.append((params["alpha"], *(math.log(params[name]) / span for name, span in logs)))
        claim.hold.release()
    assert min(math.dist(a, b) for n, a in enumerate(places) for b in places[:n]) > 0.03


def test_a_long_search_of_generations_goes_on_in_a_new_process(settings: Settings) -> None:
    # Parents are chosen from the generation before, and so on back: once by recursion, 600 calls deep.
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(16 * 620):
        params = {name: SPACE.middle()[name] for name in SPACE.distributions} | {"alpha": number / 16 / 620}
        study.add_trial(
            optuna.trial.create_trial(
                values=[params["alpha"] % 0.1, 8],
                params=params,
                distributions=SPACE.distributions,
                system_attrs={"NSGAIISampler:generation": number // 16},
                user_attrs={"recipe": RECIPES[number % 3]},
            )
        )
    proposer = Proposer(SPACE, sampler="nsga2", seed=0, directions=("maximize", "minimize"))
    proposal = proposer.propose(study.get_trials(deepcopy=False))
    assert proposal is not None and proposal.notes["NSGAIISampler:generation"] == 620


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_that_have_no_hash_are_told_apart(settings: Settings) -> None:
    space = replace(SPACE, student={"width": CategoricalDistribution([[8, 16], [16, 32]])})  # type: ignore[list-item]
    proposer = Proposer(space, sampler="random", seed=0, directions=("maximize", "minimize"))
    assert proposer.propose([]) is not None


def test_a_trial_is_stored_whole_in_one_write(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(in_sqlite(settings))
    storage = study.optuna._storage
    for name in ("set_trial_param", "set_trial_user_attr", "set_trial_system_attr"):
        monkeypatch.setattr(storage, name, None)
    claim = claimed(study, SPACE)
    assert claim is not None
    (stored,) = opened(in_sqlite(settings)).trials()
    assert stored.params == claim.configuration.params() and stored.user_attrs == {"recipe": RECIPES[0]}


def test_a_model_looks_at_the_best_and_the_newest_of_many_trials_whoever_asks(settings: Settings) -> None:
    draw = np.random.default_rng(0)
    directions = ("maximize", "minimize")

    def tried(number: int) -> FrozenTrial:
        width = int(draw.integers(2, 33))
        params = {"width": width, **{name: float(draw.uniform(0.01, 0.02)) for name in ("alpha", "learning_rate")}}
        values = [width / 40 + float(draw.uniform(0, 0.1)), float(width)]
        trial = create_trial(values=values, params={**params, "temperature": 2.0}, distributions=SPACE.distributions)
        trial.number = number
        return trial

    trials = [tried(number) for number in range(1700)]
    living = Proposer(SPACE, sampler="tpe", seed=0, directions=directions)
    for count in (10, 500, 900, 1300, 1700):
        fresh = Proposer(SPACE, sampler="tpe", seed=0, directions=directions)
        assert living.propose(trials[:count]) == fresh.propose(trials[:count])
    # All but one to two blocks of 400 are told by one block.
    seen = set(living._viewed)
    assert len(seen) == 400 + 500 and set(range(1200, 1700)) <= seen
    front = pareto_front([trial.values for trial in trials[:1200]], directions)
    assert set(front.tolist()) <= seen
