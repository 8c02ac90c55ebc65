"""Moving a study: it arrives complete, and at every moment it can be resumed in exactly one storage."""

from __future__ import annotations

import fcntl
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Moving, claimed, opened, settings_in
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.content import FolderLock
from harness.core.errors import HarnessError
from harness.screen.terminal import Terminal
from harness.storage.access import Storage, open_storage
from harness.studies.move import move
from harness.studies.opening import find_study
from search_spaces.digits import SPACE

PARAMS = {"width": 8, "temperature": 4.0, "alpha": 0.1 + 0.2, "learning_rate": 1e-2}


@pytest.fixture
def settings(tmp_path: Path) -> Moving:
    """Return the settings of a study that is to be moved to another file."""
    return Moving(**vars(settings_in(tmp_path, trials=9)), to=f"sqlite:///{tmp_path}/there.db")


def there(settings: Moving) -> Moving:
    return replace(settings, storage=settings.to, to=settings.storage)


def begin(settings: Moving) -> None:
    """A study with a trial in each state, with all that a trial can have."""
    study = opened(settings)
    study.pin_inputs(dataset="d", teacher="t")
    study.store_retrained("2/control", {"metrics": {"accuracy": 0.5}})
    for state, values in (("COMPLETE", [0.1 + 0.2, math.inf, 1e-300]), ("PRUNED", None), ("FAIL", None)):
        trial = create_trial(
            state=TrialState[state],
            params=PARAMS,
            distributions=SPACE.distributions,
            values=values,
            intermediate_values={1: 0.25, 9: math.nan},
            user_attrs={"metrics": {"accuracy": 1 / 3}, "reason": "é\n"},
            system_attrs={"nsga:generation": 2},
        )
        study.optuna.add_trial(trial)
    study.optuna.enqueue_trial({"width": 3})
    begun = create_trial(state=TrialState.RUNNING, params=PARAMS, distributions=SPACE.distributions)
    study.optuna.add_trial(begun)


def known(settings: Moving) -> list[Any]:
    """All that a storage says of a study, read without the code under test."""
    study = optuna.load_study(study_name="s", storage=open_storage(settings).optuna)
    attrs = {k: v for k, v in study.user_attrs.items() if k not in ("kd.moved", "kd.moving")}
    trials = [
        [
            *(t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.system_attrs),
            *(repr(sorted(t.intermediate_values.items())), t.datetime_start, t.datetime_complete),
        ]
        for t in study.trials
    ]
    return [attrs, study.directions, trials]


def refused(action: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(HarnessError) as raised:
        action(*arguments)
    return str(raised.value)


def test_a_moved_study_is_complete_and_is_resumed_in_its_new_storage(settings: Moving) -> None:
    begin(settings)
    before = known(settings)
    assert [row[1].name for row in before[2]] == ["COMPLETE", "PRUNED", "FAIL", "WAITING", "RUNNING"]
    move(settings, settings.to, Terminal())
    assert known(there(settings)) == before
    study = opened(there(settings))
    cut = claimed(study, SPACE)
    assert cut is not None
    assert (cut.trial.number, cut.resumed) == (4, True)
    assert study.may_be_elsewhere  # the server that it came from may have had workers on other machines
    waited = claimed(study, SPACE)
    assert waited is not None
    assert (waited.trial.number, waited.configuration.student) == (3, {"width": 3})
    new = claimed(study, SPACE)
    assert new is not None
    assert new.trial.number == 5 and study.folder == settings.study_dir and study.owns_folder()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("sqlite:///optuna.db", "without --storage and $KD_STORAGE, for that is where studies are by default."),
        ("sqlite:///my study.db", "with --storage 'sqlite:///my study.db', or that address in $KD_STORAGE."),
    ],
)
def test_a_move_tells_how_to_reach_the_new_storage(
    to: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = replace(settings_in(tmp_path, trials=9), storage=f"sqlite:///{tmp_path}/source.db")
    begin(settings)
    move(settings, to, Terminal())
    assert capsys.readouterr().out.endswith(f"go on with it there: the same flags, {said}\n")


def test_the_old_storage_names_the_new_one(settings: Moving) -> None:
    begin(settings)
    late = opened(settings)
    move(settings, settings.to, Terminal())
    place = settings.to
    for action, arguments in (
        (opened, (settings,)),
        (find_study, (settings,)),
        (move, (settings, settings.to, Terminal())),
        (late.join, ()),
    ):
        assert refused(action, *arguments) == f"study 's' was moved to {place}; go on there, with --storage."


def test_a_study_can_be_moved_back(settings: Moving) -> None:
    begin(settings)
    move(settings, settings.to, Terminal())
    opened(there(settings)).optuna.enqueue_trial({"width": 4})
    now = known(there(settings))
    move(there(settings), settings.storage, Terminal())
    assert known(settings) == now and opened(settings).attrs["kd.id"] == now[0]["kd.id"]
    assert "was moved to" in refused(opened, there(settings))
    move(settings, settings.to, Terminal())
    assert known(there(settings)) == now


def test_a_study_with_a_process_at_work_is_not_moved(settings: Moving) -> None:
    begin(settings)
    study = opened(settings)
    study.join()
    assert "study 's' is being worked on by a process of this machine; stop" in refused(
        move, settings, settings.to, Terminal()
    )
    study.lock.release()
    move(settings, settings.to, Terminal())


def test_a_study_with_a_process_at_work_in_another_runs_folder_is_not_moved(settings: Moving, tmp_path: Path) -> None:
    opened(settings)  # which has begun no trial, or no other folder could have it
    elsewhere = replace(settings, runs_dir=tmp_path / "elsewhere")
    study = opened(elsewhere)
    study.join()
    assert "study 's' is being worked on by a process of this machine; stop" in refused(
        move, settings, settings.to, Terminal()
    )
    words = refused(opened(settings).join)
    assert f"is being worked on in {elsewhere.study_dir}, so it can't be in {settings.study_dir} at the" in words
    second = opened(elsewhere)
    second.join()
    study.lock.release()
    assert "is being worked on" in refused(opened(settings).join)
    second.lock.release()
    move(settings, settings.to, Terminal())
    assert "was moved to" in refused(study.join)


def test_a_process_that_joins_just_when_another_runs_folder_is_left_is_not_refused(
    settings: Moving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(settings)
    other = opened(replace(settings, runs_dir=tmp_path / "elsewhere"))
    other.join()
    flock = fcntl.flock

    def leave(descriptor: int, operation: int) -> None:
        try:
            flock(descriptor, operation)
        except BlockingIOError:
            other.lock.release()
            raise

    monkeypatch.setattr(fcntl, "flock", leave)
    study.join()
    assert "is being worked on in" in refused(other.join)


def test_a_process_that_opened_a_study_before_its_move_begins_no_trial(settings: Moving) -> None:
    begin(settings)
    late = opened(settings)
    move(settings, settings.to, Terminal())
    assert refused(claimed, late, SPACE) == f"study 's' was moved to {settings.to}; go on there, with --storage."
    assert "was moved to" in refused(late.acquire_lease, ["controls/2"])


def test_another_study_of_the_same_name_is_not_overwritten(settings: Moving) -> None:
    begin(settings)
    optuna.create_study(study_name="s", storage=open_storage(there(settings)).optuna).set_user_attr("mine", 1)
    assert "must hold no study 's' yet, but holds one; nothing was moved" in refused(
        move, settings, settings.to, Terminal()
    )
    assert optuna.load_study(study_name="s", storage=open_storage(there(settings)).optuna).user_attrs == {"mine": 1}
    assert opened(settings).finished() == 3


def test_a_move_that_is_impossible_is_refused_with_its_reason(settings: Moving, tmp_path: Path) -> None:
    begin(settings)
    assert "must be another storage than --storage" in refused(move, settings, settings.storage, Terminal())
    elsewhere = replace(settings, runs_dir=tmp_path / "other")
    assert "was searched with another --runs-dir" in refused(move, elsewhere, settings.to, Terminal())
    assert "must hold study 'none', but holds s" in refused(
        move, replace(settings, study="none"), settings.to, Terminal()
    )
    words = refused(move, settings, "sqlite:////nowhere/at/all.db", Terminal())
    assert words.startswith("--to sqlite:////nowhere/at/all.db can't be used: ")
    assert opened(settings).finished() == 3


def test_a_move_that_loses_a_storage_names_both(settings: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(settings)

    def lost(*arguments: Any, **more: Any) -> int:
        raise StorageInternalError("no answer")

    monkeypatch.setattr(type(open_storage(there(settings)).optuna), "create_new_trial", lost)
    words = refused(move, settings, settings.to, Terminal())
    assert words.startswith(f"--storage {settings.storage} or --to {settings.to} can't be used any more: no answer")


class Cut(BaseException):
    """A process's end."""


STEPS = ("create_new_study", "set_study_user_attr", "create_new_trial", "told", "unmarked")


@pytest.mark.parametrize("step", STEPS)
def test_a_move_cut_at_any_step_leaves_one_study_to_resume_or_is_ended_by_the_same_command(
    settings: Moving, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    begin(settings)
    before = known(settings)
    with monkeypatch.context() as patch:
        _cut_after(step, settings, patch)
        with pytest.raises(Cut):
            move(settings, settings.to, Terminal())
    free = FolderLock(settings.study_dir)
    assert free.acquire()
    free.release()
    if step in ("told", "unmarked"):
        assert "was moved to" in refused(opened, settings)
    else:
        assert known(settings) == before and opened(settings).finished() == 3
    if step == "unmarked":
        assert opened(there(settings)).finished() == 3
        return
    if step == "told":
        assert "its move there is in progress or was cut" in refused(opened, there(settings))
    elif step != "create_new_study":
        assert "its move there is in progress or was cut" in refused(find_study, there(settings))
    move(settings, settings.to, Terminal())
    assert known(there(settings)) == before and opened(there(settings)).finished() == 3


def _cut_after(step: str, settings: Moving, patch: pytest.MonkeyPatch) -> None:
    """Let a move be cut: in the middle of a step that is repeated."""
    if step in ("told", "unmarked"):
        mark = "kd.moved" if step == "told" else "kd.moving"
        original = optuna.Study.set_user_attr

        def tell(study: optuna.Study, key: str, value: Any) -> None:
            original(study, key, value)
            if key == mark and (step == "told" or value is None):
                raise Cut

        patch.setattr(optuna.Study, "set_user_attr", tell)
        return
    kind = type(open_storage(there(settings)).optuna)
    done = getattr(kind, step)
    count = {"create_new_study": 1, "set_study_user_attr": 3, "create_new_trial": 2}[step]
    calls = []

    def cut(storage: Any, *arguments: Any, **more: Any) -> Any:
        result = done(storage, *arguments, **more)
        calls.append(step)
        if len(calls) == count:
            raise Cut
        return result

    patch.setattr(kind, step, cut)


def test_a_trial_that_gets_another_number_ends_the_move_and_leaves_the_source_whole(
    settings: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the other storage has kept a trial whose answer was lost, and keeps it again."""
    begin(settings)
    before, create = known(settings), Storage.create_trial

    def twice(storage: Storage, study_id: int, trial: FrozenTrial) -> FrozenTrial:
        if trial.number == 1:
            create(storage, study_id, trial)
        return create(storage, study_id, trial)

    monkeypatch.setattr(Storage, "create_trial", twice)
    assert "trial 1 was stored as 2" in refused(move, settings, settings.to, Terminal())
    monkeypatch.undo()
    assert known(settings) == before
    move(settings, settings.to, Terminal())
    assert known(there(settings)) == before
