"""Who is stopped at a rung, and who never is."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import claimed, settings_in
from optuna.trial import TrialState

from harness.core.errors import TrialPruned
from harness.region import Region
from harness.reporting.trials_table import trials_frame
from harness.sampling.proposal import Proposer
from harness.settings import SAMPLERS
from harness.storage.access import STORAGE_ERRORS, open_storage
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.opening import open_study
from harness.studies.study import Study
from harness.trials.pruning import CompleteTrial, Pruner, rungs_of, shortfall, why_no_pruning
from search_spaces.digits import SPACE

OBJECTIVES = ("accuracy", "parameters")


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, ()), (2, (1,)), (6, (1, 2)), (10, (1, 3)), (20, (1, 2, 7)), (60, (1, 2, 7, 20)), (81, (1, 3, 9, 27))],
)  # fmt: skip
def test_rungs_are_a_third_and_a_ninth_and_so_on(epochs: int, rungs: tuple[int, ...]) -> None:
    assert rungs_of(epochs) == rungs


def standing(cost: float, at_two: float, end: float) -> CompleteTrial:
    return CompleteTrial(costs=(cost,), values={2: at_two}, final=end)


# A family in which the dear ones are better from the beginning, and each gains 0.2 after the rung.
FAMILY = [standing(cost, 0.3 + cost / 20, 0.5 + cost / 20) for cost in range(1, 9)]


def test_a_student_is_not_pruned_for_being_small() -> None:
    assert shortfall(0.2, 2, (0.5,), FAMILY) is None  # nothing costs no more
    assert shortfall(0.35, 2, (1.0,), FAMILY) is None  # as good as the one that costs as much


@pytest.mark.parametrize("cost", range(1, 9))
def test_a_hopeless_student_is_pruned_whatever_it_costs(cost: float) -> None:
    reach, best = shortfall(0.1, 2, (cost,), FAMILY) or (None, None)
    assert reach == pytest.approx(0.3) and best == pytest.approx(0.5 + cost / 20)


def test_the_gain_of_the_nearest_trials_decides() -> None:
    # 0.55 + 0.2 falls short of 0.9, which the best that costs no more has; where one like it gained 0.4, it does not.
    assert shortfall(0.55, 2, (8.0,), FAMILY) == pytest.approx((0.75, 0.9))
    assert shortfall(0.55, 2, (8.0,), [*FAMILY, standing(9, 0.55, 0.95)]) is None
    # One that gained so much from far below says nothing of it.
    assert shortfall(0.55, 2, (8.0,), [*FAMILY, standing(9, 0.0, 0.5)]) == pytest.approx((0.75, 0.9))


def test_the_leader_at_a_rung_continues_even_if_no_trial_gained_enough() -> None:
    others = [standing(9, 0.09, 0.2) for _ in range(7)]
    assert shortfall(0.09, 2, (1.0,), [*others, standing(1, 0.05, 0.99)]) is None
    assert shortfall(0.09, 2, (1.0,), [*others, standing(1, 0.1, 0.99)]) == pytest.approx((0.2, 0.99))


def test_the_leader_is_pruned_if_it_cannot_reach_the_floor() -> None:
    # Nothing costs as little; the seven nearest gained 0.2 each since the rung.
    assert shortfall(0.2, 2, (0.5,), FAMILY, floor=0.4) is None
    assert shortfall(0.2, 2, (0.5,), FAMILY, floor=0.45) == pytest.approx((0.4, 0.45))
    assert shortfall(0.2, 2, (0.5,), FAMILY[:6], floor=0.45) is None  # too few were seen to the end


def test_nothing_is_pruned_with_too_few_complete_trials() -> None:
    assert shortfall(0.0, 2, (8.0,), FAMILY[:6]) is None and shortfall(0.0, 2, (8.0,), FAMILY[:7]) is not None
    unmarked = [CompleteTrial(costs=(1.0,), values={}, final=0.9) for _ in range(20)]
    assert shortfall(0.0, 2, (8.0,), unmarked) is None


def test_a_trial_with_one_higher_cost_is_not_a_rival() -> None:
    rivals = [CompleteTrial(costs=(1.0, 5.0), values={2: 0.5}, final=0.9) for _ in range(8)]
    assert shortfall(0.1, 2, (8.0, 4.0), rivals) is None and shortfall(0.1, 2, (8.0, 5.0), rivals) is not None


def studied(folder: Path, objectives: tuple[str, ...] | None = OBJECTIVES) -> Study:
    settings = replace(settings_in(folder, trials=99), objectives=objectives, sampler="random")
    return open_study(settings, SPACE, open_storage(settings))


def claim_of(study: Study) -> Claim:
    claim = claimed(study, SPACE)
    assert claim is not None
    return claim


def pruner_of(study: Study) -> Pruner:
    return Pruner(study, epochs=20, costs_of=lambda params: {"parameters": float(params["width"])})


def complete(study: Study, claim: Claim, *, at_two: float, final: float) -> None:
    pruner_of(study).check(claim, 1, {"val/accuracy": at_two})
    claim.complete({"accuracy": final, "parameters": claim.trial.params["width"]})
    claim.lease.release()


def test_a_process_prunes_by_values_that_others_stored(tmp_path: Path) -> None:
    here, there = studied(tmp_path), studied(tmp_path)
    for _ in range(7):
        complete(here, claim_of(here), at_two=0.5, final=0.6)
    claim = claim_of(there)
    assert claim.recipe is None
    costs = {"parameters": 1e9}
    pruner = Pruner(there, epochs=20, costs_of=lambda params: costs)
    pruner.check(claim, 2, {"val/accuracy": 0.0})  # no rung
    pruner.check(claim, 1, {"val/accuracy": 0.5})  # level with the others
    said = r"accuracy 0.1000 after 2 of 20 epochs.*can reach 0.2000; a student that costs no more has 0.6000"
    with pytest.raises(TrialPruned, match=said) as pruned:
        pruner.check(claim, 1, {"val/accuracy": 0.1})
    claim.prune(costs, str(pruned.value))
    trial = here.trials()[claim.trial.number]
    assert trial.state == TrialState.PRUNED and trial.intermediate_values == {2: 0.1}
    assert trial.user_attrs == {"metrics": costs, "reason": str(pruned.value)}
    assert here.finished() == 8


def test_a_minimized_metric_is_pruned_in_the_other_direction(tmp_path: Path) -> None:
    study = studied(tmp_path)
    study.optuna.set_user_attr("kd.primary_direction", "minimize")
    for _ in range(8):
        complete(study, claim_of(study), at_two=0.5, final=0.4)
    claim = claim_of(study)
    pruner = Pruner(study, epochs=20, costs_of=lambda params: {"parameters": 1.0})
    pruner.check(claim, 1, {"val/accuracy": 0.45})
    with pytest.raises(TrialPruned, match=r"can reach 0.8000; a student that costs no more has 0.4000"):
        pruner.check(claim, 1, {"val/accuracy": 0.9})


@pytest.mark.parametrize(("direction", "floor", "value"), [("maximize", 0.8, 0.5), ("minimize", 0.2, 0.5)])
def test_a_trial_that_cannot_reach_the_region_is_pruned(
    tmp_path: Path, direction: str, floor: float, value: float
) -> None:
    study = studied(tmp_path)
    study.optuna.set_user_attr("kd.primary_direction", direction)
    for _ in range(8):
        complete(study, claim_of(study), at_two=0.5, final=0.6 if direction == "maximize" else 0.4)
    claim = claim_of(study)
    pruner_of(study).check(claim, 1, {"val/accuracy": value})
    study = studied(tmp_path)
    sign = study.primary_sign
    study.region = Region("accuracy", sign, floor)
    word = "least 0.8" if sign > 0 else "most 0.2"
    with pytest.raises(TrialPruned, match=f"; the region of interest is accuracy at {word}"):
        pruner_of(study).check(claim, 1, {"val/accuracy": value})


def test_a_resumed_trial_is_not_judged_again_at_a_rung_that_it_passed(tmp_path: Path) -> None:
    study = studied(tmp_path)
    for _ in range(8):
        complete(study, claim_of(study), at_two=0.5, final=0.6)
    claim = claim_of(study)
    pruner = Pruner(study, epochs=20, costs_of=lambda params: {"parameters": 1.0})
    with pytest.raises(TrialPruned):
        pruner.check(claim, 1, {"val/accuracy": 0.1})
    trial = copy.deepcopy(claim.trial)
    trial.intermediate_values = {2: 0.1, 7: 0.5}
    pruner.check(replace(claim, trial=trial), 1, {"val/accuracy": 0.1})
    trial.intermediate_values = {2: 0.1}  # cut before the verdict, or after it
    with pytest.raises(TrialPruned):
        pruner.check(replace(claim, trial=trial), 1, {"val/accuracy": 0.1})


def test_values_at_rungs_passed_during_an_outage_are_stored_even_if_the_worker_dies(tmp_path: Path) -> None:
    study = studied(tmp_path)
    claim = claim_of(study)
    pruner_of(study).check(claim, 0, {"val/accuracy": 0.2})
    claim.lease.release()  # it is killed after the eighth epoch; two rungs were never stored
    heir = claim_of(study)
    assert heir.resumed and heir.trial.intermediate_values == {1: 0.2}
    curve = {0: 0.9, 1: 0.3, 2: 0.35, 6: 0.5, 7: 0.55}
    pruner_of(study).restore(heir, curve, kept=1)
    assert heir.intermediate_values == {}  # the others will be passed again
    pruner_of(study).restore(heir, curve, kept=8)
    heir.complete({"accuracy": 0.6, "parameters": 1.0})
    assert study.trials()[heir.trial.number].intermediate_values == {1: 0.2, 2: 0.3, 7: 0.5}


def test_a_value_that_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    study = studied(tmp_path)
    claim = claim_of(study)
    Pruner(study, epochs=20, costs_of=lambda params: {}).check(claim, 1, {"val/accuracy": math.nan})
    assert study.trials()[claim.trial.number].intermediate_values == {}


@pytest.mark.parametrize("error", [ConnectionError("reset by peer"), OSError(116, "stale handle"), MemoryError()])
def test_an_outage_of_the_storage_does_not_fail_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    study = studied(tmp_path)
    claim = claim_of(study)

    def away(*arguments: object) -> None:
        raise error

    for name in ("set_trial_intermediate_value", "set_trial_state_values"):
        monkeypatch.setattr(study.storage.optuna, name, away)
    with pytest.raises(STORAGE_ERRORS):
        Pruner(study, epochs=20, costs_of=lambda params: {}).check(claim, 1, {"val/accuracy": 0.5})
    claim.unreported.clear()
    with pytest.raises(STORAGE_ERRORS):
        claim.complete({"accuracy": 0.5, "parameters": 1.0})
    assert study.trials()[claim.trial.number].state == TrialState.RUNNING


def test_a_trial_that_resumes_after_an_interrupted_pruning_has_no_reason(tmp_path: Path) -> None:
    study = studied(tmp_path)
    claim = claim_of(study)
    study.storage.optuna.set_trial_user_attr(claim.trial._trial_id, "reason", "hopeless")
    claim.complete({"accuracy": 0.5, "parameters": 1.0})
    assert trials_frame(study)["reason"].tolist() == [""]


@pytest.mark.parametrize("objectives", [("accuracy", "parameters"), ("accuracy",), ("accuracy", "macs", "size_mb")])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_works_with_pruned_trials(tmp_path: Path, sampler: str, objectives: tuple[str, ...]) -> None:
    study = studied(tmp_path, objectives)
    study.settings = replace(study.settings, sampler=sampler)
    claimant = TrialClaimer(study, Proposer(SPACE, sampler=sampler, seed=0, directions=study.directions))
    for number in range(24):
        # New processes see trials that are over; the same one sees them running first.
        claim = claimant.claim() if number % 4 else claim_of(study)
        assert claim is not None
        claim.report_intermediate(2, 0.5)
        metrics = {"accuracy": number / 30, "parameters": 1.0, "macs": 2.0, "size_mb": 3.0}
        if number % 3:
            claim.prune(metrics, "hopeless")
        else:
            claim.complete(metrics)
    assert study.finished() == 24


@pytest.mark.parametrize(
    ("objectives", "why"),
    [
        (None, None),
        (("accuracy", "compression", "throughput_per_s"), None),
        (("accuracy",), None),
        (("accuracy", "ece"), "ece is not known before the end"),
        (("accuracy", "teacher_kl"), "teacher_kl is not known before the end"),
        (("agreement", "macs"), "accuracy is not an objective"),
    ],
)
def test_objectives_that_are_not_known_beforehand_prevent_pruning(
    tmp_path: Path, objectives: tuple[str, ...] | None, why: str | None
) -> None:
    assert why_no_pruning(studied(tmp_path, objectives)) == why
