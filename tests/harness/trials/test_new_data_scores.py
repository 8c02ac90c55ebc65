"""What confirmed students score on new data: of the saved networks, and drops that are worked by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Silent, claimed, metrics, opened, settings_in
from scipy.stats import ttest_rel

from harness.networks.students import build_student
from harness.preparation.new_data import NEW
from harness.settings import Settings
from harness.studies.study import Study
from harness.tracking.spool import SPOOL, Spool, read_events
from harness.training.tensor_file import cpu_state, save_tensors
from harness.trials.confirm import confirmations, seeds_confirmed, untrained_confirmations
from harness.trials.context import TrialContext
from harness.trials.new_data_scores import new_data_results, new_data_table, score_on
from lightning_modules.data import Split, TensorDataModule
from search_spaces.digits import SPACE

PICKS = {0: "accurate"}
ON_TEST, ON_NEW = (0.93, 0.95, 0.94), (0.83, 0.80, 0.82)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=1)


@pytest.fixture
def study(settings: Settings) -> Study:
    study = opened(settings)
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.complete(metrics(0.9, 1.0))
    claim.lease.release()
    study.tested_teacher = {"accuracy": 0.97}
    return study


def keep(study: Study, scores: Mapping[str, tuple[float, ...]]) -> None:
    for arm, values in scores.items():
        for place, accuracy in enumerate(values):
            study.store_retrained(f"confirm/0/{arm}-{place}", {"pick": "old", "metrics": {"test/accuracy": accuracy}})


def keep_new(study: Study, scores: Mapping[str, tuple[float, ...]], teacher: float = 0.9, name: str = "f") -> None:
    named = {f"confirm/0/{arm}-{i}": {"accuracy": one} for arm, each in scores.items() for i, one in enumerate(each)}
    found = {"path": f"{name}.csv", "samples": 50, "teacher": {"accuracy": teacher}, "scores": named}
    study.store_new_data_scores(name, found)


def test_a_drop_is_compared_with_the_teachers_and_paired_with_the_controls(study: Study) -> None:
    on_test, on_new = (0.92, 0.95, 0.91), (0.88, 0.89, 0.86)
    keep(study, {"student": ON_TEST, "control": on_test})
    keep_new(study, {"student": ON_NEW, "control": on_new})
    (found,) = new_data_results(study)
    assert (found.path, found.samples, found.fingerprint) == ("f.csv", 50, "f")
    assert (found.teacher_test, found.teacher_new, found.teacher_drop) == pytest.approx((0.97, 0.9, 0.07))
    (pick,) = found.picks
    student, control = pick.drops
    assert (student.arm, control.arm, student.seeds) == ("student", "control", 3)
    # Drops of 0.10, 0.15 and 0.12: of the teacher's 0.07 they are 0.0533 beyond.
    assert student.drop.mean == pytest.approx(0.37 / 3) and student.new.mean == pytest.approx(np.mean(ON_NEW))
    assert student.beyond_teacher.mean == pytest.approx(0.37 / 3 - 0.07)
    assert control.drop.mean == pytest.approx(0.15 / 3) and pick.control == "plain"
    lost = np.subtract(ON_TEST, ON_NEW)
    expected = ttest_rel(lost, np.subtract(on_test, on_new)).confidence_interval(0.95)
    beyond = pick.beyond_control
    assert beyond is not None and (beyond.low, beyond.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("teacher", "verdict"), [(0.95, "loses more"), (0.70, "loses less"), (0.85, "as the teacher")])
def test_the_verdict_is_that_of_the_interval_beside_the_teachers_drop(
    study: Study, teacher: float, verdict: str
) -> None:
    keep(study, {"student": ON_TEST, "control": ON_TEST})  # drops 0.123 ± 0.063
    keep_new(study, {"student": ON_NEW}, teacher)
    (pick,) = new_data_results(study)[0].picks
    assert pick.verdict == verdict and pick.beyond_control is None and len(pick.drops) == 1
    study.store_retrained("confirm/0/student-3", {"pick": "old", "reason": "val/loss is nan"})
    assert new_data_results(study)[0].picks[0].verdict == "unproven"


def test_a_rising_error_is_a_drop_too(study: Study) -> None:
    study.optuna.set_user_attr("kd.primary_direction", "minimize")
    keep(study, {"student": (0.1, 0.2)})
    keep_new(study, {"student": (0.3, 0.5)}, teacher=1.0)
    (found,) = new_data_results(study)
    assert found.teacher_drop == pytest.approx(0.03) and found.picks[0].student.drop.mean == pytest.approx(0.25)


def test_a_table_has_a_row_for_each_arm_and_set_and_one_seed_is_not_enough(study: Study) -> None:
    keep(study, {"student": ON_TEST, "control": ON_TEST})
    keep_new(study, {"student": ON_NEW, "control": ON_NEW})
    keep_new(study, {"student": ON_NEW[:1]}, name="a")
    keep_new(study, {"student": ON_NEW, "control": ON_NEW}, teacher=0.8)  # again: it stays the first
    table = new_data_table(new_data_results(study), {0: "small"})
    assert table["on"].tolist() == ["f.csv"] * 3 + ["a.csv"]
    assert table["arm"].tolist() == ["student", "control", "teacher", "teacher"]
    student, _, teacher, _ = (row for _, row in table.iterrows())
    assert (student["pick"], student["picked"], student["trial"], student["seeds"]) == ("old", "small", 0, 3)
    assert student["drop_low"] < student["drop"] < student["drop_high"] and student["control"] == "plain"
    assert (student["beyond_control"], teacher["new"], teacher["samples"]) == (0.0, 0.8, 50)
    assert student["verdict"] == "as the teacher"


def test_nothing_is_said_of_new_data_before_something_was_confirmed(study: Study) -> None:
    assert new_data_results(study) == []


def new_data(answers: torch.Tensor) -> TensorDataModule:
    """Thirty images, labelled by ``answers``, with a teacher that is right of all."""
    draw = torch.Generator().manual_seed(5)
    part = Split(torch.rand(30, 1, 8, 8, generator=draw), answers)
    data = TensorDataModule(train=part, val=part, test=part, eval_batch_size=7)
    data.splits = {NEW: part}
    data.attach({NEW: {"logits": torch.eye(10)[answers] * 9}})
    return data


def test_saved_students_are_scored_and_logged_and_known_scores_are_not_made_again(
    study: Study, settings: Settings
) -> None:
    keep(study, {"student": (0.5, 0.5, 0.5), "control": (0.5,)})
    assert seeds_confirmed(study) == 3
    trained = confirmations(study, settings, SPACE, PICKS, 3)
    assert [one.name for one in untrained_confirmations(study, settings, SPACE, PICKS, 3)] == [
        "confirm/0/control-1",
        "confirm/0/control-2",
    ]
    data = new_data(torch.arange(30) % 10)
    part, right = data.splits[NEW], []
    for seed, name in enumerate(["confirm/0/student-0", "confirm/0/student-1"]):
        torch.manual_seed(seed)
        network = build_student(SPACE, SPACE.building(study.trials()[0].params), _digits()).eval()
        (study.folder / name).mkdir(parents=True)
        save_tensors(cpu_state(network), study.folder / name / "student.safetensors", {})
        with contextlib.closing(Spool(study.folder / name)) as log:
            log.begin(name, tags={}, params={})
            log.set_state("COMPLETE")
        right.append(float((network(part.inputs).argmax(1) == part.labels).float().mean()))
    prepared: Any = SimpleNamespace(data=_digits(), classes=10)
    context = TrialContext(settings=settings, space=SPACE, study=study, prepared=prepared, mirror=Silent())
    said: list[str] = []
    with contextlib.closing(Spool(study.folder)) as spool:
        score_on(Path("there"), data, trained, context, spool, said.append)
        (kept,) = study.new_data_scores().values()
        assert [kept["scores"][f"confirm/0/student-{seed}"]["accuracy"] for seed in (0, 1)] == pytest.approx(right)
        assert len(kept["scores"]) == 2 and kept["teacher"]["accuracy"] == 1.0 and kept["samples"] == 30
        # A student whose file is gone, and a control, are named, and the others' scores stand.
        (line,) = said
        assert "not scored on there: 2 students whose files are missing" in line
        events = read_events(study.folder / "confirm/0/student-1" / SPOOL)
        logged = [event["values"] for event in events if event["event"] == "metrics"]
        assert logged[-1]["on/accuracy"] == pytest.approx(right[1])
        tags = [event["values"] for event in events if event["event"] == "tags"][-1]
        assert tags == {"kd.on": "there", "kd.on_dataset": part.fingerprint}
        (study.folder / "confirm/0/student-0" / "student.safetensors").unlink()
        score_on(Path("there"), data, trained, replace(context), spool, said.append)
    assert study.new_data_scores() == {part.fingerprint: kept}


def _digits() -> TensorDataModule:
    return SPACE.task.data(None)
