"""Whether students can be foreseen: only where costs are known, and within the budgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import opened, settings_in
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.cost.base import Conditions
from harness.cost.budgets import within
from harness.cost.table import CostTable, key_of
from harness.preparation.prepared import Prepared
from harness.settings import Settings
from harness.space import SearchSpace
from harness.trials.forecasting import make_forecast, small_architectures, why_no_forecast
from search_spaces.digits import SPACE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(settings_in(tmp_path, trials=3), objectives=("accuracy", "macs", "throughput_per_s"))


def cost(width: int) -> dict[str, float]:
    return {
        "parameters": 100 * width,
        "trainable_parameters": 100 * width,
        "macs": 1_000 * width,
        "size_mb": 0.1,
        "latency_p50_ms": 0.1 * width,
        "latency_p95_ms": 0.2 * width,
        "throughput_per_s": 1_000.0 / width,
    }


def prepared(space: SearchSpace, widths: range) -> Prepared:
    students = {key_of({"width": width}): cost(width) for width in widths}
    table = CostTable({"torch_eager": Conditions("cpu")}, cost(64), students)
    return Prepared(data=cast(Any, None), classes=10, dataset="", teacher_digest="", costs=table)


def test_a_forecast_knows_only_what_is_within_the_budgets(settings: Settings) -> None:
    settings = replace(settings, budgets={"parameters": 1_000.0})
    study, ready = opened(settings), prepared(SPACE, range(1, 33))
    narrowed = within(SPACE, settings.budgets, ready.costs)
    forecast = make_forecast(settings, narrowed, study, ready)
    assert forecast is not None and why_no_forecast(SPACE, study, ready) is None
    drawn = [forecast.propose([], lambda params, width=width: params["width"] == width) for width in range(1, 33)]
    assert [found is not None for found in drawn] == [width <= 10 for width in range(1, 33)]


def test_a_maximized_cost_is_inverted_for_the_forecast(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("harness.trials.forecasting.Forecast", lambda space, **known: given.update(known))
    study = opened(settings)
    study.primary_bounds = (-1.0, 1.0)
    make_forecast(settings, SPACE, study, prepared(SPACE, range(1, 33)))
    assert given["costs"] == pytest.approx(np.array([[1_000 * w, w / 1_000] for w in range(1, 33)]))
    assert given["metric"].bounds == (-1.0, 1.0) and given["metric"].sign == 1.0


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "parameters"), ("accuracy", "parameters", "macs")])
def test_counts_are_costs_and_a_study_may_have_none(settings: Settings, objectives: tuple[str, ...]) -> None:
    settings = replace(settings, objectives=objectives)
    forecast = make_forecast(settings, SPACE, opened(settings), prepared(SPACE, range(1, 33)))
    assert forecast is not None and forecast.propose([], lambda params: True) is not None


def test_without_costs_known_beforehand_there_is_no_forecast(settings: Settings) -> None:
    study = opened(settings)
    large = replace(SPACE, student={"width": IntDistribution(1, 400)})
    ready = prepared(large, range(1, 20))
    assert "more than 256 architectures" in str(why_no_forecast(large, study, ready))
    assert make_forecast(settings, large, study, ready) is None
    known = prepared(SPACE, range(1, 33))
    assert make_forecast(replace(settings, sampler="tpe"), SPACE, study, known) is None
    late = opened(replace(settings, study="late", objectives=("accuracy", "ece")))
    assert why_no_forecast(SPACE, late, known) == "ece is not known before the end"
    assert make_forecast(settings, SPACE, late, known) is None


def test_students_that_could_not_be_measured_are_not_forecast(settings: Settings) -> None:
    ready = prepared(SPACE, range(1, 11))  # and more that memory did not suffice for
    forecast = make_forecast(settings, SPACE, opened(settings), ready)
    assert forecast is not None
    drawn = [forecast.propose([], lambda params, width=width: params["width"] == width) for width in (9, 10, 11, 12)]
    assert [found is not None for found in drawn] == [True, True, False, False]


@pytest.mark.parametrize(("rising", "depths"), [(True, (2, 2)), (False, (6, 6))])
def test_small_architectures_have_few_parameters_in_any_order(
    settings: Settings, rising: bool, depths: tuple[int, int]
) -> None:
    # Parameters fall as the stride rises, and one depth has 100 times those of the other; of a depth of 1, all are over
    # the budget.
    space = replace(SPACE, student={"stride": IntDistribution(1, 6), "depth": CategoricalDistribution([6, 2, 1])})
    students = {
        key_of({"stride": s, "depth": d}): cost(10**7 if d == 1 else 4 ** (6 - s) * (100 if (d == 6) == rising else 1))
        for s in range(1, 7)
        for d in (6, 2, 1)
    }
    ready = prepared(space, range(0))
    ready.costs.students = students
    study = opened(settings)
    within_1e8, within_1 = (replace(settings, budgets={"parameters": most}) for most in (1e8, 1.0))
    # 100 to 10,240,000 parameters: a quarter of the way is 1,789, and 1,600 the nearest.
    small = [{"stride": stride, "depth": depth} for stride, depth in zip((6, 4), depths, strict=True)]
    assert small_architectures(within_1e8, space, study, ready) == small
    assert small_architectures(within_1, space, study, ready) == []
    endless = replace(space, student={"stride": FloatDistribution(1, 6)})
    assert small_architectures(settings, endless, study, ready) == []
    assert small_architectures(settings, SPACE, study, ready) == []  # of another space than was measured
    alone = opened(replace(settings, study="alone", objectives=("accuracy", "agreement")))
    assert small_architectures(within_1e8, space, alone, ready) == []
