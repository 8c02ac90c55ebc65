"""Opening a study: created once, resumed only with its identity, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import claimed, metrics, opened, places_of, settings_in
from optuna.distributions import BaseDistribution, IntDistribution

from harness.core.content import FolderLock
from harness.core.errors import HarnessError
from harness.metrics import METRICS
from harness.options.spaces import SPACES_DIR
from harness.settings import ConfirmSettings, Settings
from harness.space import SearchSpace, load_space
from harness.storage.access import open_storage
from harness.studies.changes import pin_starts
from harness.studies.opening import find_study, reopen_study
from harness.studies.start import Start
from harness.studies.study import Study
from search_spaces.digits import SPACE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=3)


def begun(settings: Settings) -> Study:
    """The study, with a trial of a process that is gone."""
    study = opened(settings)
    study.optuna.ask(SPACE.distributions)
    return study


def with_student(**student: BaseDistribution) -> SearchSpace:
    return replace(SPACE, student=student)


def refused(settings: Settings, space: SearchSpace = SPACE) -> str:
    """The one line that a study is refused with."""
    with pytest.raises(HarnessError) as raised:
        opened(settings, space)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 5}, "--epochs 20 and cannot be resumed with 5;"),
        ({"seed": 1}, "--seed 0 and cannot be resumed with 1;"),
        ({"fixed": {"alpha": "0.5"}}, "--fix none and cannot be resumed with alpha=0.5;"),
        ({"space_name": "fashion-mnist"}, "--space digits and cannot be resumed with fashion-mnist;"),
        (
            {"objectives": ("accuracy", "macs")},
            "--objectives accuracy,latency_p50_ms,parameters and cannot be resumed with accuracy,macs;",
        ),
        (
            {"objectives": ("accuracy", "parameters", "latency_p50_ms")},
            "--objectives accuracy,latency_p50_ms,parameters and cannot be resumed with "
            "accuracy,parameters,latency_p50_ms;",
        ),
    ],
)
def test_a_study_is_not_resumed_with_another_identity(settings: Settings, changed: dict[str, Any], words: str) -> None:
    study = begun(settings)
    assert refused(replace(settings, **changed)) == (
        f"study 's' was created with {words} use --study to name a new one."
    )
    again = opened(settings)
    assert (again.id, again.attrs) == (study.id, study.attrs)
    assert opened(replace(settings, study="t", **changed)).id != study.id


def test_messages_name_a_user_s_space_by_its_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = settings.runs_dir.parent
    begun(mine := replace(settings, space_name="my-space", space_file=folder / "spaces" / "my_space.py"))
    monkeypatch.chdir(folder)
    assert "with --space spaces/my_space.py and cannot be resumed with digits;" in refused(settings)
    other = replace(mine, space_name="other", space_file=Path("other.py"))
    assert "with --space spaces/my_space.py and cannot be resumed with other.py;" in refused(other)


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (with_student(width=IntDistribution(2, 64, log=True)), "width: 2-64 log, "),
        (with_student(width=IntDistribution(2, 32)), "width: 2-32, "),
        (with_student(depth=IntDistribution(2, 32, log=True)), "depth: 2-32 log, "),
        (replace(SPACE, training={}), "width: 1-32 log, temperature: 1-20 log, alpha: 0-1;"),
    ],
)
def test_a_study_is_not_resumed_with_another_space(settings: Settings, space: SearchSpace, shown: str) -> None:
    begun(settings)
    message = refused(settings, space)
    stored = "width: 1-32 log, temperature: 1-20 log, alpha: 0-1, learning_rate: 0.001-0.03 log"
    assert message.startswith(f"study 's' was created with parameters {stored} and cannot be resumed with {shown}")
    assert message.endswith("use --study to name a new one.")
    assert message.count(stored) == 1


def test_a_fixed_value_can_be_neither_changed_nor_released(settings: Settings) -> None:
    held = replace(settings, fixed={"alpha": "0.5"})
    begun(held)
    assert "--fix alpha=0.5 and cannot be resumed with none; use --study" in refused(settings)
    assert "with alpha=0.25; use --study" in refused(replace(settings, fixed={"alpha": "0.25"}))
    assert opened(held).attrs["kd.identity"]["fixed"] == {"alpha": "0.5"}


def test_a_budget_a_sampler_and_explicit_defaults_do_not_change_the_identity(settings: Settings) -> None:
    study = opened(settings)
    aloud = ("accuracy", "latency_p50_ms", "parameters")
    again = opened(replace(settings, trials=99, sampler="random", timeout_s=1, epochs=20, objectives=aloud))
    assert again.id == study.id


def test_a_study_is_pinned_to_its_first_data_and_networks(settings: Settings) -> None:
    begun(settings).pin_inputs(dataset="d1", students="s1")
    opened(settings).pin_inputs(teacher="t1")
    opened(settings).pin_inputs(dataset="d1", students="s1", teacher="t1")
    for given, words in (
        ({"dataset": "d2"}, "other dataset (d1) than what is there now (d2);"),
        ({"dataset": "d1", "students": "s2"}, "other students (s1) than what is there now (s2);"),
        ({"teacher": "t2"}, "other teacher (t1) than what is there now (t2);"),
    ):
        with pytest.raises(HarnessError) as raised:
            opened(settings).pin_inputs(**given)
        hint = " If nothing was changed, data() gives others each time: a split that is drawn wants a seed."
        ways = "use --study" if "dataset" in words else "use --accept-changes to go on, or use --study"
        told = f"study 's' was begun with {words} {ways} to name a new one."
        assert str(raised.value) == (told + hint if "dataset" in words else told)
    assert opened(settings).attrs["kd.prepared"] == {"dataset": "d1", "students": "s1", "teacher": "t1"}


def test_a_first_start_that_failed_pins_nothing(settings: Settings) -> None:
    first = opened(settings)
    first_id = first.id
    first.pin_inputs(dataset="d1", students="s1")
    first.costs = "a table"
    mended = opened(settings)
    mended.join()
    mended.pin_inputs(dataset="d2", students="s1")
    assert mended.attrs["kd.prepared"] == {"dataset": "d2", "students": "s1"} and mended.costs_are_outdated
    mended.lock.release()
    at_work = FolderLock(settings.study_dir, shared=True)
    assert at_work.acquire()
    assert "--epochs 20 and cannot be resumed with 5;" in refused(replace(settings, epochs=5))
    at_work.release()
    again = opened(replace(settings, epochs=5), with_student(depth=IntDistribution(1, 2)))
    assert again.id != first_id and "depth" in again.attrs["kd.identity"]["parameters"]
    assert optuna.get_all_study_names(open_storage(settings).optuna) == ["s"]


def test_of_two_simultaneous_first_starts_the_second_can_not_change_the_teacher(settings: Settings) -> None:
    first, second = opened(settings), opened(settings)
    for study in (first, second):
        study.join()
    first.pin_inputs(teacher="t1")
    first.costs = "a table"
    with pytest.raises(HarnessError, match=r"begun with other teacher \(t1\) than what is there now \(t2\)"):
        second.pin_inputs(teacher="t2")
    assert first.attrs["kd.prepared"] == {"teacher": "t1"} and first.costs == "a table"
    first.lock.release()
    second.pin_inputs(teacher="t2")  # alone now
    assert second.attrs["kd.prepared"] == {"teacher": "t2"} and second.costs_are_outdated


def test_a_study_created_in_another_folder_is_not_created_again(settings: Settings) -> None:
    first = opened(settings)
    first.pin_inputs(teacher="t1")
    elsewhere = replace(settings, runs_dir=settings.runs_dir.parent / "elsewhere")
    assert "--epochs 20 and cannot be resumed with 5;" in refused(replace(elsewhere, epochs=5))
    there = opened(elsewhere)
    there.join()
    with pytest.raises(HarnessError, match="begun with other teacher"):
        there.pin_inputs(teacher="t2")
    assert there.id == first.id and first.attrs["kd.prepared"] == {"teacher": "t1"}


def test_a_start_whose_study_was_created_again_by_another_is_refused(settings: Settings) -> None:
    early = opened(settings)
    opened(replace(settings, epochs=5))  # before the early one holds it
    with pytest.raises(HarnessError, match=r"^study 's' was made anew by another start at the same time; start"):
        early.join()


def test_an_unknown_objective_creates_no_study(settings: Settings) -> None:
    message = refused(replace(settings, objectives=("accuracy", "speed")))
    assert message.startswith("--objectives must name some of accuracy, parameters, ")
    assert message.endswith("but got 'speed'; did you mean speedup?")
    assert optuna.get_all_study_names(open_storage(settings).optuna) == []


def test_each_objective_is_searched_in_its_own_direction(settings: Settings) -> None:
    up = {"accuracy", "throughput_per_s", "agreement", "compression", "speedup"}
    study = opened(replace(settings, objectives=("accuracy", *METRICS)))
    assert {name for name, way in zip(study.objectives, study.directions, strict=True) if way == "maximize"} == up
    assert len(study.objectives) == 13 and (study.primary, study.primary_direction) == ("accuracy", "maximize")


def test_a_study_of_another_program_is_not_changed(settings: Settings) -> None:
    theirs = optuna.create_study(study_name="s", storage=open_storage(settings).optuna)
    theirs.set_user_attr("who", "another program")
    assert refused(settings) == (
        f"study 's' in {settings.storage} was not made by this program; use --study to name a new one."
    )
    with pytest.raises(HarnessError, match="study 's' was not made by this program"):
        find_study(settings)
    kept = optuna.load_study(study_name="s", storage=open_storage(settings).optuna)
    assert kept.user_attrs == {"who": "another program"}


def test_reading_a_missing_study_is_refused_and_creates_no_storage(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "optuna.db").unlink()
    with pytest.raises(HarnessError, match=f"there is no file '{tmp_path}/optuna."):
        find_study(settings)
    assert not list(tmp_path.glob("optuna.*"))
    made = opened(settings)
    assert find_study(settings).id == made.id
    with pytest.raises(HarnessError, match="must hold study 'other', but holds s"):
        find_study(replace(settings, study="other"))


class Cut(Exception):
    """What stands for kill -9 between two writes."""


@pytest.mark.parametrize("write", range(2, 7))
def test_a_study_cut_while_it_was_created_is_created_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    writes = 0

    def cut(method: Callable[..., Any]) -> Callable[..., Any]:
        def writing(*args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == write:
                raise Cut
            return method(*args, **kwargs)

        return writing

    # Six writes: that it is being made, and what it is.
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "set_user_attr", cut(optuna.Study.set_user_attr))
        with pytest.raises(Cut):
            opened(settings)
    left = optuna.load_study(study_name="s", storage=open_storage(settings).optuna)
    assert "kd.making" in left.user_attrs and "kd.identity" not in left.user_attrs
    with pytest.raises(HarnessError):
        find_study(settings)
    # Nothing holds it to what it would have been.
    study = opened(replace(settings, seed=7, objectives=("accuracy", "macs")))
    assert optuna.get_all_study_names(open_storage(settings).optuna) == ["s"]
    assert study.attrs["kd.identity"]["seed"] == 7 and study.directions == ("maximize", "minimize")
    assert study.owns_folder() and find_study(settings).id == study.id


def test_a_study_with_a_trial_begun_in_another_folder_is_refused(settings: Settings, tmp_path: Path) -> None:
    study = opened(settings)
    elsewhere = replace(settings, runs_dir=tmp_path / "elsewhere")
    assert opened(elsewhere).id == study.id  # nothing runs: it can be moved
    claim = claimed(study, SPACE)
    assert claim is not None
    third = replace(settings, runs_dir=tmp_path / "third")
    for cut in (False, True):
        if cut:
            claim.lease.release()  # its checkpoint is in the other folder all the same
        assert refused(third) == (
            "study 's' has a trial that was begun with another --runs-dir or in another folder than "
            f"{tmp_path.resolve()}/third/trials/s; go on there."
        )
        assert not (tmp_path / "third" / "trials" / "s").exists()
    again = opened(settings)
    taken = claimed(again, SPACE)
    assert taken is not None and taken.resumed
    taken.complete(metrics(0.5, 1.0))
    taken.lease.release()
    assert opened(third).owns_folder()


def test_two_studies_of_one_name_in_two_storages_take_turns_in_the_folder(settings: Settings, tmp_path: Path) -> None:
    other = replace(settings, storage=f"sqlite:///{tmp_path}/other.db")
    first = opened(settings)
    (first.folder / "0").mkdir()
    (first.folder / "0" / "spool.jsonl").write_text("first's")
    second = opened(other)
    assert second.id != first.id and second.folder == first.folder
    assert second.owns_folder() and not first.owns_folder()
    assert sorted(path.name for path in second.folder.iterdir()) == ["study.json"]
    aside = second.folder.with_name(f"s.{first.id[:8]}")
    assert (aside / "0" / "spool.jsonl").read_text() == "first's"
    (second.folder / "0").mkdir()
    (second.folder / "0" / "spool.jsonl").write_text("second's")
    for one, content in ((settings, "first's"), (other, "second's"), (settings, "first's")):
        study = opened(one)
        assert study.owns_folder() and (study.folder / "0" / "spool.jsonl").read_text() == content
    assert not aside.exists() and (second.folder.with_name(f"s.{second.id[:8]}")).is_dir()


def test_a_cut_trial_is_resumed_after_a_namesake_had_the_folder(settings: Settings, tmp_path: Path) -> None:
    claim = claimed(opened(settings), SPACE)
    assert claim is not None
    claim.lease.release()
    opened(replace(settings, storage=f"sqlite:///{tmp_path}/other.db"))
    taken = claimed(opened(settings), SPACE)
    assert taken is not None and taken.resumed and taken.configuration == claim.configuration
    taken.lease.release()


def test_a_folder_in_which_a_namesake_is_searched_is_not_renamed(settings: Settings, tmp_path: Path) -> None:
    first = opened(settings)
    lease = FolderLock(first.folder, shared=True)  # what a search holds
    assert lease.acquire()
    other = replace(settings, storage=f"sqlite:///{tmp_path}/other.db")
    message = refused(other)
    assert message.startswith("another study of the name 's', in another storage, is being searched in ")
    assert optuna.get_all_study_names(open_storage(other).optuna) == []
    assert message.endswith("use --study or --runs-dir to keep them apart.")
    assert first.owns_folder()
    lease.release()
    assert opened(other).owns_folder()


def test_a_running_trial_is_not_resumed_in_a_namesake_s_folder(settings: Settings, tmp_path: Path) -> None:
    claim = claimed(opened(settings), SPACE)
    assert claim is not None
    elsewhere = tmp_path / "elsewhere"
    opened(replace(settings, storage=f"sqlite:///{tmp_path}/other.db", runs_dir=elsewhere))
    refused(replace(settings, runs_dir=elsewhere))


def test_a_study_cut_before_its_first_attribute_is_created_again(settings: Settings) -> None:
    directions = ["maximize", "minimize", "minimize"]
    optuna.create_study(study_name=settings.study, storage=open_storage(settings).optuna, directions=directions)
    study = opened(settings)
    assert study.owns_folder() and find_study(settings).id == study.id


def test_an_embedded_space_is_loaded_from_this_program_whatever_is_stored(settings: Settings, tmp_path: Path) -> None:
    study = opened(settings, load_space(SPACES_DIR / "digits.py"))
    theirs = tmp_path / "digits.py"
    theirs.write_text("open('theirs.txt', 'w').close()\nraise RuntimeError\n")
    study.optuna.set_user_attr("kd.sources", {**study.sources, "space_file": str(theirs)})
    again, space = reopen_study(ConfirmSettings(places=places_of(settings)))
    assert space.declaration() == SPACE.declaration() and again.settings.space_file == SPACES_DIR / "digits.py"


def with_code(settings: Settings, **files: str) -> SearchSpace:
    """The digits' space as a file of one's own, which imports the other files."""
    folder = settings.runs_dir.parent
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    imports = "".join(f"import {name}\n" for name in files)
    (folder / "own_space.py").write_text(f"{imports}from search_spaces.digits import SPACE\n")
    return load_space(folder / "own_space.py")


def test_a_study_is_resumed_with_other_code_only_if_that_is_accepted_and_noted(settings: Settings) -> None:
    study = opened(settings, with_code(settings, slopes="SLOPE = 0.1\n"))
    study.optuna.ask(SPACE.distributions)
    same = with_code(settings, slopes="# a comment\nSLOPE  =  0.1  # and another\n")
    assert opened(settings, same).changes == ()
    other = with_code(settings, slopes="SLOPE = 0.2\n")
    assert refused(settings, other) == (
        "study 's' was begun with other code: slopes.py has `SLOPE = 0.2` where `SLOPE = 0.1` stood; use "
        "--accept-changes to go on and note it, or --study to name a new one."
    )
    with pytest.raises(HarnessError, match=r"begun with other code: slopes\.py has"):
        reopen_study(ConfirmSettings(places=places_of(settings), space_file=settings.runs_dir.parent / "own_space.py"))
    study.costs = "a table"
    at_work = FolderLock(settings.study_dir, shared=True)
    assert at_work.acquire()
    accepting = replace(settings, accept_changes=True)
    assert refused(accepting, other).startswith("study 's' is being worked on in its previous state; stop that")
    at_work.release()
    noted = ("before trial 1: slopes.py has `SLOPE = 0.2` where `SLOPE = 0.1` stood",)
    again = opened(accepting, other)
    assert (again.id, again.changes) == (study.id, noted)
    assert again.costs == "a table" and again.costs_are_outdated  # it is of the trials that there are
    again.costs = "another"
    assert not opened(settings, other).costs_are_outdated
    assert opened(settings, other).changes == noted


def test_a_first_start_whose_space_was_corrected_is_created_again(settings: Settings) -> None:
    first = opened(settings, with_code(settings, slopes="SLOPE = 0.1\n"))
    again = opened(settings, with_code(settings, slopes="SLOPE = 0.2\n"))
    assert again.id != first.id and again.changes == ()


def test_simultaneous_starts_that_accept_the_same_changes_do_not_refuse_one_another(settings: Settings) -> None:
    was, now, third = (Start("shape", (3.0, number), "s") for number in (1.0, 1.5, 2.0))
    pin_starts(begun(settings), {"student": was})
    accepting = replace(settings, accept_changes=True)
    one, other, late = opened(accepting), opened(accepting), opened(accepting)
    for study in (one, other, late):
        study.join()
        study.pin_inputs(students="s1")
    for study in (one, other):
        pin_starts(study, {"student": now})
        study.pin_inputs(teacher="t1")
    one.begin_work()
    other.begin_work()
    with pytest.raises(HarnessError, match="is being worked on in its previous state; stop that first"):
        pin_starts(late, {"student": third})
    assert one.changes == ("before trial 1: other start weights of student",)


def test_a_start_is_refused_if_another_changed_the_inputs_while_it_was_prepared(settings: Settings) -> None:
    begun(settings).pin_inputs(students="s1")
    accepting = replace(settings, accept_changes=True)
    one, other = opened(accepting), opened(accepting)
    for study, students in ((one, "s2"), (other, "s3")):
        study.join()
        study.pin_inputs(students=students)
    other.begin_work()
    with pytest.raises(HarnessError, match=r"^another start changed the students of study 's' while this one"):
        one.begin_work()


def test_a_start_is_refused_if_another_accepted_other_code_while_it_was_prepared(
    settings: Settings,
) -> None:
    early = opened(settings, with_code(settings, slopes="SLOPE = 0.1\n"))
    early.optuna.ask(SPACE.distributions)
    late = opened(replace(settings, accept_changes=True), with_code(settings, slopes="SLOPE = 0.2\n"))
    early.join()
    late.join()
    late.begin_work()
    with pytest.raises(HarnessError, match=r"^another start changed the code of study 's' while this one prepared"):
        early.begin_work()
    late.leave()
    bound = opened(settings, with_code(settings, slopes="SLOPE = 0.2\n"))
    bound.join()
    bound.begin_work()  # nobody is at work any more


@pytest.mark.parametrize("found", [None, 1, 99])
def test_a_study_of_another_version_of_the_program_is_refused_in_one_line(settings: Settings, found: Any) -> None:
    study = begun(settings)
    identity = {name: value for name, value in study.attrs["kd.identity"].items() if name != "format"}
    study.optuna.set_user_attr("kd.identity", identity if found is None else {**identity, "format": found})
    told = (
        f"study 's' was made by another version of kd-harness, which stored it in format {found or 1}, and this one "
        "reads format 4; go on with that version, or use --study to name a new one."
    )
    assert refused(settings) == told
    with pytest.raises(HarnessError) as raised:
        find_study(settings)
    assert str(raised.value) == told


def test_a_study_is_resumed_with_other_start_weights_only_if_that_is_accepted(settings: Settings) -> None:
    was, now = Start("shape", (3.0, 1.0), "a"), Start("shape", (3.0, 1.5), "b")
    last_bits = Start("shape", (3.0, 1.000001), "c")
    study = begun(settings)
    study.join()
    assert pin_starts(study, {"student(width=2)": was}) == {"student(width=2)": was}
    assert pin_starts(study, {"student(width=2)": last_bits}) == {"student(width=2)": was}
    with pytest.raises(HarnessError) as raised:
        pin_starts(study, {"student(width=2)": now, "student(width=4)": now})
    assert str(raised.value) == (
        "study 's' was begun with other start weights: those of student(width=2) differ (another file is loaded, or no "
        "seed decides a draw); use --accept-changes to go on and note it, or --study to name a new one."
    )
    study.lock.release()
    accepting = opened(replace(settings, accept_changes=True))
    accepting.join()
    assert pin_starts(accepting, {"student(width=2)": now}) == {"student(width=2)": now}
    accepting.pin_inputs(teacher="t1")
    also = FolderLock(settings.study_dir, shared=True, name="work.lease")
    assert also.acquire()
    for change in (
        lambda: accepting.pin_inputs(teacher="t2"),
        lambda: pin_starts(accepting, {"student(width=2)": was}),
    ):
        with pytest.raises(HarnessError, match="is being worked on in its previous state; stop that first"):
            change()
    also.release()
    accepting.pin_inputs(teacher="t2")
    assert accepting.changes == (
        "before trial 1: other start weights of student(width=2)",
        "before trial 1: other teacher, t2 where t1 stood",
    )
    with pytest.raises(HarnessError, match="other dataset"):
        accepting.pin_inputs(dataset="d1")
        accepting.pin_inputs(dataset="d2")
