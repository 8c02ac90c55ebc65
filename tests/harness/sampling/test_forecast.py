"""What is expected of students: where the next one is looked for, which one is given up, and whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import settings_in
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.pareto import hypervolume
from harness.sampling.candidates import SpaceEncoder
from harness.sampling.first_trials import InitialTrials
from harness.sampling.forecast import Forecast, _prefer_one_architecture
from harness.sampling.model_fit import PrimaryMetric
from harness.sampling.proposal import Proposer
from harness.space import SearchSpace
from search_spaces.digits import SPACE

EPOCHS = 20
WIDTHS = range(2, 33)
HELD = replace(
    SPACE,
    student={"width": IntDistribution(2, 32, log=True)},
    distillation={"temperature": FloatDistribution(4, 4), "alpha": FloatDistribution(0, 1)},
)


def forecast(
    space: SearchSpace = HELD,
    *,
    widths: Sequence[int] = WIDTHS,
    costs: Sequence[Sequence[float]] | None = None,
    sign: float = 1.0,
    bounds: tuple[float | None, float | None] = (0.0, 1.0),
    floor: float | None = None,
    seed: int = 0,
) -> Forecast:
    """That of a space whose students cost their width, or ``costs``."""
    return Forecast(
        replace(space, epochs=EPOCHS),
        encoder=SpaceEncoder(space),
        architectures=[{"width": width} if space.student else {} for width in widths],
        costs=np.array([[float(width)] for width in widths] if costs is None else costs),
        metric=PrimaryMetric("accuracy", sign, bounds, floor),
        seed=seed,
    )


def quality(params: Mapping[str, Any], epochs: int = EPOCHS) -> float:
    """Best at alpha 0.3 and a learning rate of 0.01; more with width, and with epochs."""
    off = (params["alpha"] - 0.3) ** 2 + np.log10(params["learning_rate"] / 0.01) ** 2 / 2
    return float((0.98 - 0.3 / params["width"]) * np.exp(-off) * (1 - 0.5 / epochs))


def trial(
    number: int, params: Mapping[str, Any], state: TrialState = TrialState.COMPLETE, *, marks: Sequence[int] = (1, 2, 7)
) -> FrozenTrial:
    complete = state == TrialState.COMPLETE
    made = create_trial(
        state=state,
        params=dict(params),
        distributions=HELD.distributions,
        values=[quality(params)] if complete else None,
        user_attrs={"metrics": {"accuracy": quality(params)}} if complete else {},
        intermediate_values={rung: quality(params, rung) for rung in marks},
    )
    made.number = number
    return made


def at(width: int, alpha: float, learning_rate: float) -> dict[str, Any]:
    return {"width": width, "temperature": 4.0, "alpha": alpha, "learning_rate": learning_rate}


def by_chance(count: int, seed: int = 0) -> list[FrozenTrial]:
    rng = np.random.default_rng(seed)
    places = [at(int(rng.integers(2, 33)), rng.random(), 10 ** rng.uniform(-3, -1.53)) for _ in range(count)]
    return [trial(number, params) for number, params in enumerate(places)]


def volume(trials: Sequence[FrozenTrial]) -> float:
    points = [[quality(trial.params), np.log(trial.params["width"])] for trial in trials]
    return hypervolume(points, [0.3, np.log(33)], ["maximize", "minimize"])


def searched(seed: int) -> list[FrozenTrial]:
    """25 trials, the first six by chance."""
    trials, searching = by_chance(6, seed), forecast(seed=seed)
    while len(trials) < 25:
        params = searching.propose(trials, lambda params: True)
        assert params is not None
        trials.append(trial(len(trials), params))
    return trials


def test_the_forecast_finds_a_better_front_than_twice_as_many_random_trials() -> None:
    ours = [volume(searched(seed)) for seed in range(5)]
    theirs = [volume(by_chance(50, seed)) for seed in range(20)]
    assert np.mean(ours) > np.mean(theirs) + 2 * np.std(theirs) / 20**0.5


def test_a_lucky_run_does_not_make_the_same_configuration_be_tried_again() -> None:
    rng = np.random.default_rng(0)
    trials, searching = by_chance(6), forecast()
    while len(trials) < 40:
        params = searching.propose(trials, lambda params: True)
        assert params is not None
        trials.append(trial(len(trials), params))
        luck = 0.01 * float(rng.standard_normal())
        trials[-1].set_user_attr("metrics", {"accuracy": quality(params) + luck})
    places = {
        (t.params["width"], round(t.params["alpha"], 1), round(np.log(t.params["learning_rate"]))) for t in trials
    }
    assert len(places) > 25


def test_a_diverged_run_does_not_distort_the_model_of_an_unbounded_metric() -> None:
    def proposed(astray: float | None) -> list[float]:
        trials = by_chance(25)
        if astray is not None:
            trials[2].intermediate_values[1] = astray
        searching = forecast(bounds=(None, 1.0))
        found = [searching.propose([*trials, *by_chance(n)], lambda params: True) for n in range(3)]
        return [quality(params) for params in found if params is not None]

    assert np.mean(proposed(-1e4)) > np.mean(proposed(None)) - 0.05


def test_a_small_student_far_below_all_large_ones_is_not_an_outlier() -> None:
    trials = []
    for number, (width, end) in enumerate([(2, -1.0), *((30, -0.5 - n / 400) for n in range(8))]):
        one = trial(number, {"width": width, "temperature": 4.0, "alpha": 0.1 * number, "learning_rate": 0.01})
        one.values, one.user_attrs["metrics"] = [end], {"accuracy": end}
        one.intermediate_values = {1: end - 1.5, 2: end - 0.5}
        trials.append(one)
    searching = forecast(bounds=(None, None))
    fit = searching._fitter.fit(searching._fitter.observe(trials), len(trials))
    assert fit is not None
    assert fit.surface[0] == -1.0 and fit.surface[-1] == -0.5  # the cheapest, the dearest
    assert [params["width"] for params in fit.best] == [30, 2]


def test_no_trial_is_pruned_if_no_new_configuration_is_left() -> None:
    held = replace(HELD, distillation={name: FloatDistribution(1, 1) for name in ("temperature", "alpha")}, training={})
    trials = [trial(number, at(width, 1.0, 0.01)) for number, width in enumerate(WIDTHS)]
    for one in trials:
        one.params = {"width": one.params["width"], "temperature": 1.0, "alpha": 1.0}
    last = trial(len(trials) - 1, at(32, 1.0, 0.001), TrialState.RUNNING, marks=(1, 2))
    last.params = trials[-1].params
    last.intermediate_values = {1: 0.1, 2: 0.1}
    assert forecast(held).should_prune(last.number, 2, [*trials[:-1], last]) is None
    left = [one for one in trials[:-1] if one.params["width"] not in (2, 3)]
    for number, one in enumerate(left):
        one.number = number
    last.number = len(left)
    assert forecast(held).should_prune(last.number, 2, [*left, last]) is not None


def test_a_slightly_cheaper_student_counts_as_cheaper() -> None:
    widths = range(2, 100)
    space = replace(HELD, student={"width": IntDistribution(2, 99)})
    searching = forecast(space, widths=widths, costs=[[float(width), float(width) ** 2] for width in widths])
    trials = by_chance(25)
    for one in trials:
        one.params = {**one.params, "width": 63}
    for width in (60, 61, 62):  # none that costs no more was tried
        hopeless = trial(25, at(32, 1.0, 0.001), TrialState.RUNNING, marks=(1, 2))
        hopeless.params = {**hopeless.params, "width": width}
        assert searching.should_prune(25, 2, [*trials, hopeless]) is None
    hopeless.params = {**hopeless.params, "width": 64}
    assert searching.should_prune(25, 2, [*trials, hopeless]) is not None


def test_a_minimized_metric_is_searched_like_its_maximized_negative() -> None:
    trials = by_chance(12)
    mirrored = by_chance(12)
    for one in mirrored:
        one.set_user_attr("metrics", {"accuracy": 1 - quality(one.params)})
        one.intermediate_values = {rung: 1 - value for rung, value in one.intermediate_values.items()}
    found = forecast().propose(trials, lambda params: True)
    assert found == forecast(sign=-1.0).propose(mirrored, lambda params: True)


def test_a_hopeless_trial_is_pruned_and_a_leading_or_promising_one_is_not() -> None:
    trials = by_chance(25)
    hopeless = trial(25, at(30, 1.0, 0.001), TrialState.RUNNING, marks=(1, 2))
    times = forecast().should_prune(25, 2, [*trials, hopeless])
    assert times is not None and times > 10
    promising = trial(25, at(30, 0.3, 0.01), TrialState.RUNNING, marks=(1, 2))
    assert forecast().should_prune(25, 2, [*trials, promising]) is None
    # Nothing as cheap was tried: it goes on, however bad it is.
    dear = [one for one in trials if one.params["width"] > 4]
    dear = [trial(number, one.params) for number, one in enumerate(dear)]
    cheap = trial(len(dear), at(2, 1.0, 0.001), TrialState.RUNNING, marks=(1, 2))
    assert forecast().should_prune(len(dear), 2, [*dear, cheap]) is None


def test_with_few_trials_nothing_is_pruned_and_proposals_are_random() -> None:
    trials = by_chance(3)
    hopeless = trial(3, at(30, 1.0, 0.001), TrialState.RUNNING, marks=(1,))
    assert forecast().should_prune(3, 1, [*trials, hopeless]) is None
    assert forecast().propose([], lambda params: True) != forecast(seed=1).propose([], lambda params: True)


def test_proposals_keep_away_from_running_and_failed_trials() -> None:
    trials = by_chance(10)
    first = forecast().propose(trials, lambda params: True)
    assert first is not None

    def distance(params: dict[str, Any] | None) -> float:
        assert params is not None
        apart = [np.log(params[name] / first[name]) / np.log(30) for name in ("width", "learning_rate")]
        return float(np.hypot(np.hypot(*apart), params["alpha"] - first["alpha"]))

    running = trial(10, first, TrialState.RUNNING, marks=())
    assert distance(forecast().propose([*trials, running], lambda params: True)) > 0.02
    failed = [trial(10 + number, first, TrialState.FAIL, marks=()) for number in range(3)]
    assert distance(forecast().propose([*trials, *failed], lambda params: True)) > 0.1


def test_a_long_running_and_a_new_process_propose_the_same() -> None:
    trials = by_chance(30)
    living = forecast()
    for count in (4, 12, 30):
        assert living.propose(trials[:count], lambda params: True) == forecast().propose(
            trials[:count], lambda params: True
        )
    running = trial(30, at(30, 1.0, 0.001), TrialState.RUNNING, marks=(1,))
    living.propose([*trials, running], lambda params: True)
    running.intermediate_values[2] = 0.1
    assert living.should_prune(30, 2, [*trials, running]) == forecast().should_prune(30, 2, [*trials, running])


def test_tried_configurations_are_not_proposed_and_enqueued_trials_are_ignored() -> None:
    trials = by_chance(10)
    enqueued = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"width": 3}})
    enqueued.number = 10
    found = forecast().propose([*trials, enqueued], lambda params: params["width"] > 20)
    assert found is not None and found["width"] > 20
    assert forecast().propose(trials, lambda params: False) is None


def test_of_thousands_of_trials_the_model_is_fitted_to_a_subsample() -> None:
    trials = by_chance(2_000)
    found = forecast().propose(trials, lambda params: True)
    assert found is not None and abs(found["alpha"] - 0.3) < 0.25


def test_the_proposer_tries_recipes_first_and_then_the_forecast(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trials=3)
    proposer = Proposer(HELD, sampler=forecast(), seed=settings.seed, directions=("maximize", "minimize"))
    first = proposer.propose([])
    assert first is not None and first.recipe is not None
    trials = by_chance(10)
    alone = Proposer(
        HELD,
        sampler=forecast(),
        seed=settings.seed,
        directions=("maximize", "minimize"),
        initial=InitialTrials(default_recipes=False),
    )
    found = alone.propose(trials)
    assert found is not None and found.params == forecast().propose(trials, lambda params: True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_intermediate_value_that_is_not_finite_is_ignored(value: float) -> None:
    trials = by_chance(10)
    trials[3].intermediate_values[1] = value
    assert forecast().propose(trials, lambda params: True) is not None


def test_a_space_with_one_architecture_is_searched() -> None:
    space = replace(HELD, student={})
    alone = forecast(space, widths=[1], costs=[[1.0, 1.0]])
    trials = by_chance(10)
    for one in trials:
        one.params = {name: value for name, value in one.params.items() if name != "width"}
    found = alone.propose(trials, lambda params: True)
    assert found is not None and found.keys() == space.distributions.keys()


def test_students_below_the_floor_get_no_trials_once_the_model_knows() -> None:
    # By ``quality``, widths 2, 3 and 4 end at 0.83, 0.88 and 0.905 at best: the floor of 0.9 leaves out the first two.
    trials = [
        trial(number, at(width, alpha, learning_rate))
        for number, (width, alpha, learning_rate) in enumerate(
            [
                *((2, 0.3, 0.01), (2, 0.1, 0.02), (2, 0.6, 0.006), (2, 0.3, 0.025), (3, 0.3, 0.01), (3, 0.2, 0.013)),
                *((8, 0.3, 0.01), (16, 0.4, 0.01), (32, 0.3, 0.012)),
            ]
        )
    ]
    found = [forecast(floor=0.9, seed=seed).propose(trials, lambda params: True) for seed in range(8)]
    assert min(params["width"] for params in found if params is not None) >= 4
    assert len(found) == 8 and None not in found


def test_a_leading_trial_that_is_unlikely_to_reach_the_floor_is_pruned() -> None:
    trials = [trial(number, one.params) for number, one in enumerate(by_chance(30)) if one.params["width"] > 2]
    trials = [trial(number, one.params) for number, one in enumerate(trials)]
    cheapest = trial(len(trials), at(2, 0.9, 0.002), TrialState.RUNNING, marks=(1, 2, 7))
    assert forecast().should_prune(len(trials), 7, [*trials, cheapest]) is None  # nothing as cheap was tried
    assert forecast(floor=0.95).should_prune(len(trials), 7, [*trials, cheapest]) == np.inf


def test_a_student_within_the_region_that_adds_nothing_is_not_reported_as_outside() -> None:
    def last(alike: float, *, best_is_marked: bool = True) -> list[FrozenTrial]:
        """20 dear ones of about 0.35, far below a cheap one of 0.8, and one more of them."""
        params = [at(2, 0.3, 0.01), *(at(32, 1.0, 0.001 + number * 2e-5) for number in range(20))]
        trials = [trial(number, one, marks=(7,)) for number, one in enumerate(params)]
        trials[0].intermediate_values = trials[0].intermediate_values if best_is_marked else {}
        return [*trials, trial(21, at(32, 1.0, alike), TrialState.RUNNING, marks=(7,))]

    times = forecast().should_prune(21, 7, last(0.001))
    assert times is not None and times > 1e6
    assert forecast(floor=0.3).should_prune(21, 7, last(0.001)) == times
    leading = last(0.0014, best_is_marked=False)
    assert forecast().should_prune(21, 7, leading) is forecast(floor=0.3).should_prune(21, 7, leading) is None
    assert forecast(floor=0.6).should_prune(21, 7, leading) == np.inf


def test_a_floor_that_no_trial_reaches_is_approached() -> None:
    trials = by_chance(30)
    found = forecast(floor=0.9999).propose(trials, lambda params: True)
    assert found is not None and quality(found) > np.quantile([quality(one.params) for one in trials], 0.8)


def test_a_floor_of_a_minimized_metric_is_handled_like_its_negative() -> None:
    trials, mirrored = by_chance(12), by_chance(12)
    for one in mirrored:
        one.set_user_attr("metrics", {"accuracy": 1 - quality(one.params)})
        one.intermediate_values = {rung: 1 - value for rung, value in one.intermediate_values.items()}
    found = forecast(floor=0.9).propose(trials, lambda params: True)
    assert found == forecast(sign=-1.0, floor=0.1).propose(mirrored, lambda params: True)


def test_the_best_architecture_comes_first_until_it_was_tried_often_and_then_the_least_tried_alike() -> None:
    gains, architectures = np.array([1.0, 0.9, 0.6, 0.05]), np.array([0, 1, 2, 3])

    def order(*counts: int) -> list[int]:
        tried = [place for place, count in enumerate(counts) for _ in range(count)]
        return np.argsort(-_prefer_one_architecture(gains, architectures, tried)).tolist()  # type: ignore[no-any-return]

    assert order(0, 0, 0, 0) == [0, 1, 2, 3]
    assert order(2, 5, 1, 0) == [0, 1, 2, 3]  # the first promises most still, and was not tried often
    assert order(3, 5, 1, 0) == [2, 0, 1, 3]  # 3 was tried least, but promises too little


def test_the_score_of_an_architecture_falls_with_its_number_of_trials() -> None:
    gains, architectures = np.array([1.0, 0.06]), np.array([0, 1])
    assert np.argmax(_prefer_one_architecture(gains, architectures, [0] * 3)) == 0
    assert np.argmax(_prefer_one_architecture(gains, architectures, [0] * 8)) == 1
