"""Which students need a control, and what theirs is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Silent, claimed, metrics, opened, settings_in

from harness.content import derived_seed
from harness.settings import Settings
from harness.studies.study import Study
from harness.tracking.spool import SPOOL
from harness.trials.controls import controls, due, known
from harness.trials.retraining import _begin
from harness.trials.worker import spool_of
from search_spaces.digits import SPACE
from search_spaces.digits_methods import SPACE as METHODS


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(settings_in(tmp_path, trials=4), seed=5)


def a_study(settings: Settings, *outcomes: tuple[float, float]) -> Study:
    """A study of which these trials are over, with accuracy and all costs."""
    study = opened(settings)
    for accuracy, cost in outcomes:
        claim = claimed(study, SPACE)
        assert claim is not None
        claim.complete(metrics(accuracy, cost))
        claim.hold.release()
    return study


def test_those_on_the_front_need_one_each_once(settings: Settings) -> None:
    study = a_study(settings, (0.9, 3.0), (0.8, 2.0), (0.7, 2.5))  # the last one is dominated
    assert due(study) == [0, 1] and known(study) == {}
    study.keep_retrained("controls/1", {"metrics": {"accuracy": 0.75}})
    assert due(study) == [0] and known(study) == {1: {"accuracy": 0.75}}
    study.keep_retrained("controls/0", {"reason": "loss is nan"})  # it would fail again
    assert due(study) == [] and known(study) == {1: {"accuracy": 0.75}}
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 3  # a control is no trial


def test_a_control_differs_from_its_student_in_the_teacher_alone(settings: Settings) -> None:
    study = a_study(settings, (0.9, 3.0), (0.8, 2.0))
    for control, trial in zip(controls(study, settings, SPACE), study.trials(), strict=True):
        assert control.configuration.student == {"width": trial.params["width"]}
        assert control.configuration.training == {"learning_rate": trial.params["learning_rate"]}
        assert control.configuration.distillation["alpha"] == 1
        assert (control.seed, control.order_seed) == (derived_seed(5, "trial", trial.number), 5)
        assert control.tags == {"kd.role": "control", "kd.control_of": str(trial.number)}


def test_a_trial_on_labels_alone_is_its_own_control(settings: Settings) -> None:
    study = opened(replace(settings, fixed={"alpha": "1"}))
    claim = claimed(study, SPACE.fixed({"alpha": "1"}))
    assert claim is not None
    claim.complete(metrics(0.9, 1.0))
    claim.hold.release()
    assert due(study) == [] and known(study) == {0: metrics(0.9, 1.0)}


def test_the_run_of_a_control_has_the_names_of_a_trial_s_run(settings: Settings) -> None:
    settings = replace(settings, fixed={"method": "soft_target"})
    study = opened(settings, METHODS)
    claim = claimed(study, METHODS.fixed(settings.fixed))
    assert claim is not None
    claim.complete(metrics(0.9, 1.0))
    claim.hold.release()
    (control,) = controls(study, settings, METHODS)
    _, hold = study.take([control.name]) or pytest.fail()
    with spool_of(study.folder / control.name, hold, Silent()) as spool:
        _begin(spool, control, hold, study)
    hold.release()
    logged = [json.loads(line) for line in (spool.folder / SPOOL).read_text().splitlines()]
    (params,) = (line["params"] for line in logged if line.get("params"))
    assert params.keys() == claim.configuration.params().keys() and params["method"] == "labels alone"
