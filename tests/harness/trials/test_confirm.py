"""What is confirmed: pairs of fresh seeds, their interval, and what may be claimed from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import claimed, metrics, opened, settings_in
from scipy.stats import ttest_1samp

from harness.settings import Settings
from harness.space import LABELS_ALONE
from harness.studies.study import Study
from harness.trials.confirm import confirmed, confirmed_table, interval, untrained_confirmations
from harness.trials.controls import untrained_controls
from search_spaces.digits import SPACE
from search_spaces.digits_methods import SPACE as METHODS


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=4)


def a_study(settings: Settings, *accuracies: float) -> Study:
    study = opened(settings)
    for accuracy in accuracies:
        claim = claimed(study, SPACE.fixed(settings.fixed))
        assert claim is not None
        claim.complete(metrics(accuracy, 1.0))
        claim.lease.release()
    return study


def keep(study: Study, number: int, arm: str, *accuracies: float) -> None:
    for place, accuracy in enumerate(accuracies):
        result = {"pick": "accurate", "metrics": {"test/accuracy": accuracy}}
        study.store_retrained(f"confirm/{number}/{arm}-{place}", result)


def test_the_interval_is_that_of_a_t_test() -> None:
    values = [0.91, 0.93, 0.9, 0.94, 0.925]
    found, expected = interval(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.921, expected.low, expected.high))
    assert interval([0.5, 0.5]) == interval([0.5] * 3)  # seeds that agree leave no doubt


def test_student_and_control_of_one_seed_differ_in_the_teacher_alone(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    first, second, third, fourth = untrained_confirmations(study, settings, SPACE, {0: "accurate"}, seeds=2)
    assert [one.name for one in (first, second)] == ["confirm/0/student-0", "confirm/0/control-0"]
    assert (
        first.spec.seed
        == second.spec.seed
        == first.spec.order_seed
        == second.spec.order_seed
        != third.spec.seed
        == fourth.spec.seed
    )
    assert first.spec.configuration.params() == study.trials()[0].params
    assert second.spec.configuration.distillation == LABELS_ALONE
    assert second.spec.configuration.student == first.spec.configuration.student
    assert second.spec.configuration.training == first.spec.configuration.training
    assert {one.spec.split for one in (first, second)} == {"test"}
    assert first.tags["kd.role"] == "confirm" and first.facts == {"pick": "accurate"}
    # A seed of the search's own was chosen by.
    assert first.spec.seed not in {settings.seed, 0, 1}


def test_a_configuration_is_restored_from_its_parameters_for_every_method(settings: Settings) -> None:
    for method in METHODS.methods:
        params = METHODS.middle(method)
        assert METHODS.configuration(params).params() == params
        assert METHODS.configuration(params).distillation["method"] == method


def test_confirmed_seeds_are_not_trained_again_and_more_seeds_add_to_them(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    keep(study, 0, "student", 0.9, 0.91)
    keep(study, 0, "control", 0.89)
    left = [one.name for one in untrained_confirmations(study, settings, SPACE, {0: "small"}, seeds=3)]
    assert left == ["confirm/0/control-1", "confirm/0/student-2", "confirm/0/control-2"]


@pytest.mark.parametrize(
    ("student", "control", "verdict"),
    [
        ((0.92, 0.93, 0.94), (0.90, 0.91, 0.92), "gain"),
        ((0.92, 0.93, 0.94), (0.94, 0.95, 0.96), "loss"),
        ((0.92, 0.93, 0.94), (0.90, 0.95, 0.93), "no gain"),
        # Far apart one by one, but the same of each pair: pairs tell what means do not.
        ((0.50, 0.70, 0.90), (0.49, 0.69, 0.89), "gain"),
    ],
)
def test_a_gain_is_claimed_where_the_interval_is_above_zero(
    settings: Settings, student: tuple[float, ...], control: tuple[float, ...], verdict: str
) -> None:
    study = a_study(settings, 0.9)
    keep(study, 0, "student", *student)
    keep(study, 0, "control", *control)
    (found,) = confirmed(study)
    assert found.verdict == verdict and found.seeds == 3 and found.gain is not None
    assert found.gain.mean == pytest.approx(np.mean(student) - np.mean(control))
    assert found.sentence("accuracy", {0: "small"}).startswith("small (trial 0): accuracy 0.")
    assert found.sentence("accuracy", {0: "small"}).endswith(f"{verdict}.")
    row = confirmed_table([found], {0: "small"}).iloc[0]
    assert (row["trial"], row["pick"], row["picked"], row["verdict"]) == (0, "accurate", "small", verdict)
    assert (row["student_failed"], row["control_failed"]) == (0, 0)
    assert row["gain_low"] <= row["gain"] <= row["gain_high"] and row["student"] == pytest.approx(np.mean(student))


def test_a_lower_value_of_a_minimized_metric_is_a_gain(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    study.optuna.set_user_attr("kd.primary_direction", "minimize")
    keep(study, 0, "student", 0.10, 0.11)
    keep(study, 0, "control", 0.20, 0.21)
    (found,) = confirmed(study)
    assert found.verdict == "gain" and found.gain is not None and found.gain.mean == pytest.approx(0.1)


def test_only_complete_pairs_count_and_one_pair_is_not_enough(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    keep(study, 0, "student", 0.9, 0.91, 0.92)
    keep(study, 0, "control", 0.89)
    assert confirmed(study) == []
    study.store_retrained("confirm/0/control-2", {"pick": "accurate", "metrics": {"test/accuracy": 0.9}})
    (found,) = confirmed(study)
    assert found.seeds == 2 and found.student is not None
    assert found.student.mean == pytest.approx(0.91)  # the first and the third


def failed(study: Study, arm: str, place: int, reason: str = "val/loss is nan in epoch 2") -> None:
    study.store_retrained(f"confirm/0/{arm}-{place}", {"pick": "accurate", "reason": reason})


@pytest.mark.parametrize(
    ("arm", "told"),
    [("student", "; 2 of 5 seeds failed"), ("control", "; of its control, 2 of 5 seeds failed")],
)
def test_failed_seeds_are_reported_and_no_gain_is_claimed_from_the_others(
    arm: str, told: str, settings: Settings
) -> None:
    study = a_study(settings, 0.9)
    keep(study, 0, "student", *[0.92, 0.93, 0.94, 0.93, 0.93])
    keep(study, 0, "control", *[0.90, 0.91, 0.92, 0.91, 0.91])
    assert confirmed(study)[0].verdict == "gain"
    failed(study, arm, 3)
    failed(study, arm, 4)
    (found,) = confirmed(study)
    assert found.verdict == "unproven" and found.seeds == 3
    sentence = found.sentence("accuracy", {0: "accurate"})
    assert f"{told} (val/loss is nan in epoch 2, 2 times), so it is unproven." in sentence
    row = confirmed_table([found], {0: "accurate"}).iloc[0]
    assert row["verdict"] == "unproven" and row[f"{arm}_failed"] == 2


def test_a_pick_whose_seeds_all_fail_is_reported(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    keep(study, 0, "control", 0.9, 0.91)
    failed(study, "student", 0)
    failed(study, "student", 1, "out of memory: 3 GB")
    (found,) = confirmed(study)
    assert found.sentence("accuracy", {0: "accurate"}) == (
        "accurate (trial 0): 2 of 2 seeds failed (val/loss is nan in epoch 2; out of memory: 3 GB); too few are left "
        "for a mean: unproven."
    )
    assert confirmed_table([found], {}).iloc[0][["student", "gain"]].isna().all()


def test_a_former_pick_is_named_as_such(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    keep(study, 0, "student", 0.9, 0.92)
    keep(study, 0, "control", 0.9, 0.91)
    (found,) = confirmed(study)
    assert found.sentence("accuracy", {7: "accurate"}).startswith("formerly accurate (trial 0): accuracy 0.9100")
    assert confirmed_table([found], {7: "accurate"}).iloc[0]["picked"] == ""


def test_the_method_of_a_controls_run_is_labels_alone(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    for one in untrained_confirmations(study, settings, SPACE, {0: "small"}, seeds=1):
        assert not one.extra_params
    settings = replace(settings, study="methods", fixed={"method": "label_smoothing"})
    claim = claimed(opened(settings, METHODS), METHODS.fixed(settings.fixed))
    assert claim is not None
    student, control = untrained_confirmations(opened(settings, METHODS), settings, METHODS, {0: "small"}, seeds=1)
    assert not student.extra_params and control.extra_params == {"method": "labels alone"}


def test_a_pick_on_labels_alone_has_no_control(settings: Settings) -> None:
    settings = replace(settings, fixed={"alpha": "1"})
    study = a_study(settings, 0.9)
    left = untrained_confirmations(study, settings, SPACE, {0: "accurate"}, seeds=2)
    assert [one.name for one in left] == ["confirm/0/student-0", "confirm/0/student-1"]
    keep(study, 0, "student", 0.9, 0.92)
    (found,) = confirmed(study)
    assert found.gain is None and found.control is None and "nothing to gain over" in found.sentence("accuracy", {})
    failed(study, "student", 1)
    failed(study, "student", 2)
    assert confirmed(study)[0].sentence("accuracy", {}).startswith("formerly accurate (trial 0): 2 of 3 seeds failed")


def tune(study: Study, best: float) -> str:
    """Keep five controls of trial 0, the plain one with 0.5 and a try with ``best``; the last arm to be confirmed."""
    study.store_retrained("controls/0", {"metrics": {"accuracy": 0.5}})
    tries = untrained_controls(study, study.settings, SPACE, [0])
    for one in tries:
        study.store_retrained(one.name, {**one.facts, "metrics": {"accuracy": best if one is tries[2] else 0.4}})
    *_, last = untrained_confirmations(study, study.settings, SPACE, {0: "accurate"}, seeds=1)
    return last.name.split("/")[2].rpartition("-")[0]


def test_the_verdict_is_over_the_tuned_control_and_both_are_shown(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    arm = tune(study, 0.8)
    student, control, its_tuned = untrained_confirmations(study, settings, SPACE, {0: "accurate"}, seeds=1)
    assert its_tuned.name == f"confirm/0/{arm}-0" and its_tuned.tags["kd.arm"] == "tuned control"
    assert its_tuned.spec.seed == student.spec.seed == control.spec.seed
    assert its_tuned.spec.configuration.student == student.spec.configuration.student
    assert (
        its_tuned.spec.configuration.training
        != control.spec.configuration.training
        == student.spec.configuration.training
    )
    keep(study, 0, "student", 0.92, 0.93, 0.94)
    keep(study, 0, "control", 0.90, 0.91, 0.92)
    (found,) = confirmed(study)
    assert found.verdict == "gain" and found.gain_over == "plain" and found.tuned is None
    keep(study, 0, arm, 0.92, 0.95, 0.93)
    (found,) = confirmed(study)
    assert found.verdict == "no gain" and found.gain_over == "tuned" and found.gain is not None
    assert found.gain.mean == pytest.approx(-0.01 / 3)
    sentence = found.sentence("accuracy", {})
    assert "its plain control 0.9100" in sentence and "its tuned control 0.9333" in sentence
    row = confirmed_table([found], {}).iloc[0]
    assert (row["gain_over"], row["tuned_failed"]) == ("tuned", 0) and row["tuned"] == pytest.approx(2.8 / 3)
    study.store_retrained(f"confirm/0/{arm}-3", {"pick": "accurate", "reason": "loss is nan"})
    assert confirmed(study)[0].verdict == "unproven"
    assert "of its tuned control, 1 of 4 seeds failed" in confirmed(study)[0].sentence("accuracy", {})


def test_tuned_settings_that_change_later_are_confirmed_again(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    arm = tune(study, 0.8)
    for each, accuracies in (("student", (0.92, 0.93)), ("control", (0.90, 0.91)), (arm, (0.90, 0.91))):
        keep(study, 0, each, *accuracies)
    name, result = next(
        item for item in study.retrained().items() if item[0].startswith("tuned/") and "0.4" in str(item)
    )
    study.store_retrained(name, {**result, "metrics": {"accuracy": 0.99}})
    assert confirmed(study)[0].gain_over == "plain"
    (left,) = untrained_confirmations(study, settings, SPACE, {0: "accurate"}, seeds=1)
    assert left.tags["kd.arm"] == "tuned control" and arm not in left.name


def test_a_tuned_control_with_the_trial_s_own_settings_is_trained_once(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    assert tune(study, 0.45) == "control"
    keep(study, 0, "student", 0.92, 0.93)
    keep(study, 0, "control", 0.90, 0.91)
    (found,) = confirmed(study)
    assert found.gain_over == "tuned" and found.tuned == found.control


def test_no_gain_is_claimed_where_no_control_is_possible(settings: Settings) -> None:
    study = a_study(settings, 0.9)
    study.no_control = "the views mix samples"
    left = untrained_confirmations(study, settings, SPACE, {0: "accurate"}, seeds=2)
    assert [one.name for one in left] == ["confirm/0/student-0", "confirm/0/student-1"]
    keep(study, 0, "student", 0.92, 0.93)
    keep(study, 0, "control", 0.10, 0.11)
    (found,) = confirmed(study)
    assert found.verdict == "no control possible" and found.gain is None and found.control is None
    assert found.sentence("accuracy", {}).endswith("over 2 seeds; no control possible.")
