"""Which students need a control, and what theirs is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Silent, claimed, metrics, opened, settings_in
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from harness.core.content import derived_seed
from harness.settings import Settings
from harness.space import SearchSpace, is_own_control
from harness.studies.study import Study
from harness.tracking.spool import SPOOL
from harness.trials.controls import (
    describe_controls,
    plain_control_metrics,
    tuned_controls,
    untrained_controls,
)
from harness.trials.retraining import Retraining, retraining_run
from harness.trials.runner import begin_spool, open_spool
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
        claim.lease.release()
    return study


def due(study: Study, **settings: Any) -> list[int]:
    """Numbers of the trials whose plain controls are left."""
    return [
        int(one.name.removeprefix("controls/"))
        for one in untrained_controls(study, plain(study, **settings), SPACE, [0])
    ]


def plain(study: Study, **settings: Any) -> Settings:
    return replace(study.settings, controls="plain", **settings)


def test_a_control_starts_as_its_trial_and_tuned_ones_are_of_one_start(settings: Settings) -> None:
    starts = CategoricalDistribution(["scratch", "pruned"])
    space = replace(SPACE.fixed({"width": "8"}), initial={"start": starts})
    study = opened(replace(settings, trials=6), space)
    for accuracy in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
        claim = claimed(study, space)
        assert claim is not None
        claim.complete(metrics(accuracy, 1 - accuracy))
        claim.lease.release()
    started = {trial.number: trial.params["start"] for trial in study.trials()}
    assert set(started.values()) == {"scratch", "pruned"}
    controls = untrained_controls(study, replace(study.settings, controls="tuned"), space, list(started))
    tries = [one for one in controls if one.tags["kd.control"] == "tuned"]
    for one in controls:
        numbers = [int(number) for number in one.tags["kd.control_of"].split(", ")]
        assert {started[number] for number in numbers} == {one.spec.configuration.initial["start"]}
    assert len({one.name.split("/")[1] for one in tries}) == 2  # one set of tries for each start


def test_each_trial_on_the_front_needs_one_plain_control(settings: Settings) -> None:
    study = a_study(settings, (0.9, 3.0), (0.8, 2.0), (0.7, 2.5))  # the last one is dominated
    assert due(study) == [0, 1] and plain_control_metrics(study) == {}
    study.store_retrained("controls/1", {"metrics": {"accuracy": 0.75}})
    assert due(study) == [0] and plain_control_metrics(study) == {1: {"accuracy": 0.75}}
    study.store_retrained("controls/0", {"reason": "loss is nan"})  # it would fail again
    assert due(study) == [] and plain_control_metrics(study) == {1: {"accuracy": 0.75}}
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 3  # a control is no trial


def test_a_control_differs_from_its_student_in_the_teacher_alone(settings: Settings) -> None:
    study = a_study(settings, (0.9, 3.0), (0.8, 2.0))
    for control, trial in zip(untrained_controls(study, plain(study), SPACE, []), study.trials(), strict=True):
        assert control.spec.configuration.student == {"width": trial.params["width"]}
        assert control.spec.configuration.training == {"learning_rate": trial.params["learning_rate"]}
        assert control.spec.configuration.distillation["alpha"] == 1
        assert (control.spec.seed, control.spec.order_seed) == (derived_seed(5, "trial", trial.number), 5)
        assert control.tags == {"kd.role": "control", "kd.control": "plain", "kd.control_of": str(trial.number)}


def test_if_no_control_is_fair_none_is_trained(settings: Settings) -> None:
    study = tried(settings, (4, 0.9))
    study.store_retrained("controls/0", {"metrics": {"accuracy": 0.75}})
    study.no_control = "the views mix samples"
    assert (
        untrained_controls(study, settings, SPACE, [0]) == []
        and plain_control_metrics(study) == {}
        and tuned_controls(study) == {}
    )


def tried(settings: Settings, *trials: tuple[int, float], alpha: float = 0.5, space: SearchSpace = SPACE) -> Study:
    """A study of which these trials are over, with width and accuracy; a larger one costs more."""
    study = opened(settings, space)
    for width, accuracy in trials:
        try_once(study, width, accuracy, alpha=alpha)
    return study


def try_once(study: Study, width: int, accuracy: float, alpha: float = 0.5, state: str = "COMPLETE") -> None:
    params = {"width": width, "temperature": 2.0, "alpha": alpha, "learning_rate": 0.01}
    found = metrics(accuracy, float(width))
    values = [found[name] for name in study.objectives] if state == "COMPLETE" else None
    study.optuna.add_trial(
        create_trial(
            params=params,
            distributions=dict(SPACE.distributions),
            state=TrialState[state],
            values=values,
            user_attrs={"metrics": found} if values else {},
        )
    )


def tries(study: Study, *picks: int) -> list[Retraining]:
    return [one for one in untrained_controls(study, study.settings, SPACE, picks) if one.tags["kd.control"] == "tuned"]


def keep(study: Study, accuracies: Mapping[str, float]) -> None:
    """What came of the controls: of one that is not named, 0.5."""
    for one in untrained_controls(study, study.settings, SPACE, [0]):
        accuracy = accuracies.get(one.name.rpartition("/")[2] if one.tags["kd.control"] == "tuned" else one.name, 0.5)
        study.store_retrained(one.name, {**one.facts, "metrics": {"accuracy": accuracy}})


def test_a_tuned_control_has_five_tries_and_the_plain_control_counts_as_one(settings: Settings) -> None:
    study = tried(settings, (4, 0.9), (4, 0.8), (8, 0.95))
    drawn = tries(study, 0)
    assert len(drawn) == 4 and all(one.spec.configuration.student == {"width": 4} for one in drawn)
    rates = [one.spec.configuration.training["learning_rate"] for one in drawn]
    assert len({*rates, 0.01}) == 5 and all(1e-3 <= rate <= 3e-2 for rate in rates)
    # One in each quarter of the range, as the first four points of a Sobol sequence lie.
    assert sorted(int(4 * math.log(rate / 1e-3) / math.log(30)) for rate in rates) == [0, 1, 2, 3]
    assert [one.spec.seed for one in drawn[:2]] == [derived_seed(5, "trial", number) for number in (0, 1)]
    assert {one.spec.order_seed for one in drawn} == {5}
    assert [one.tags["kd.try"] for one in drawn] == ["1", "2", "3", "4"] and drawn[0].tags["kd.control_of"] == "0"
    assert [one.name for one in tries(study, 0, 2)][:4] == [one.name for one in drawn]
    assert len(tries(study, 0, 2)) == 8


def test_picks_of_one_architecture_share_their_tries_and_trials_on_labels_alone_count(settings: Settings) -> None:
    study = tried(settings, (4, 0.9), (4, 0.9))  # equal: both are on the front
    assert len(tries(study, 0, 1)) == 3 and tries(study, 0, 1)[0].tags["kd.control_of"] == "0, 1"
    try_once(study, 4, 0.7, alpha=1.0)
    assert len(tries(study, 0, 1)) == 2


def test_a_tuned_control_has_as_many_tries_as_its_architecture_had_trials(settings: Settings) -> None:
    study = tried(settings, (4, 0.9), *[(4, 0.1)] * 3)
    keep(study, {})
    assert tries(study, 0) == []
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        try_once(study, 4, 0.1, state=state)
    assert tuned_controls(study) == {}  # five of seven
    new = tries(study, 0)
    assert [one.name.rpartition("/")[2] for one in new] == ["4", "5"]
    keep(study, {})
    assert tries(study, 0) == [] and tuned_controls(study)[0].tries == 7


def test_the_best_try_is_chosen(settings: Settings) -> None:
    study = tried(settings, (4, 0.9), (8, 0.95))
    (_, second, *_) = tries(study, 0)
    keep(study, {"1": 0.8, "controls/0": 0.7, "3": 0.6})
    found = tuned_controls(study)[0]
    assert found.chosen.name == second.name and found.chosen.training == second.spec.configuration.training
    assert found.tries == 5 and not found.is_plain and 1 not in tuned_controls(study)
    study.optuna.set_user_attr("kd.primary_direction", "minimize")
    assert (tuned_controls(opened(settings))[0].chosen.metrics or {})["accuracy"] == 0.5


def test_the_plain_control_is_the_tuned_one_if_it_is_the_best(settings: Settings) -> None:
    study = tried(settings, (4, 0.9))
    keep(study, {"controls/0": 0.9})
    assert tuned_controls(study)[0].is_plain and tuned_controls(study)[0].chosen.name == "controls/0"


def test_tries_that_failed_count_and_are_not_chosen(settings: Settings) -> None:
    study = tried(settings, (4, 0.9))
    for one in untrained_controls(study, settings, SPACE, [0]):
        study.store_retrained(one.name, {**one.facts, "reason": "loss is nan"})
    assert tuned_controls(study) == {} and tries(study, 0) == []


def test_a_space_with_fixed_training_settings_has_no_tuned_controls(settings: Settings) -> None:
    settings = replace(settings, fixed={"learning_rate": "0.01"})
    study = tried(settings, (4, 0.9))
    assert [one.name for one in untrained_controls(study, settings, SPACE.fixed(settings.fixed), [0])] == ["controls/0"]
    assert study.tuned_parameters == []


def test_the_time_of_controls_is_estimated_before_they_are_trained(settings: Settings) -> None:
    study = a_study(settings, (0.9, 3.0))
    left = untrained_controls(study, settings, SPACE, [0])
    assert describe_controls(left, study, 2).startswith(
        "5 trainings on labels alone: 1 plain, of the students on the front and 4 tries of training settings for the "
        "tuned ones of the picks; about 0:0"
    )


def test_a_trial_on_labels_alone_is_its_own_control(settings: Settings) -> None:
    study = opened(replace(settings, fixed={"alpha": "1"}))
    claim = claimed(study, SPACE.fixed({"alpha": "1"}))
    assert claim is not None
    claim.complete(metrics(0.9, 1.0))
    claim.lease.release()
    assert due(study) == [] and plain_control_metrics(study) == {0: metrics(0.9, 1.0)}


def test_the_run_of_a_control_has_the_same_names_as_a_trials_run(settings: Settings) -> None:
    settings = replace(settings, fixed={"method": "soft_target"})
    study = opened(settings, METHODS)
    claim = claimed(study, METHODS.fixed(settings.fixed))
    assert claim is not None
    claim.complete(metrics(0.9, 1.0))
    claim.lease.release()
    (control,) = untrained_controls(study, replace(settings, controls="plain"), METHODS, [0])
    hold = study.acquire_lease([control.name]) or pytest.fail()
    with open_spool(study.folder / control.name, hold, Silent()) as spool:
        begin_spool(spool, retraining_run(0, control, hold, study), study)
    hold.release()
    logged = [json.loads(line) for line in (spool.folder / SPOOL).read_text().splitlines()]
    (params,) = (line["params"] for line in logged if line.get("params"))
    assert params.keys() == claim.configuration.params().keys() and params["method"] == "labels alone"


def test_alpha_of_1_is_labels_alone_in_methods_that_ship_and_in_no_other() -> None:
    assert is_own_control({"alpha": 1.0}) and is_own_control({"method": "soft_target", "alpha": 1.0})
    assert not is_own_control({"alpha": 0.5})
    assert not is_own_control({"method": "mine", "alpha": 1.0})
