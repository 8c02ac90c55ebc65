"""What is tried next: nothing twice, to the end of a finite space, and away from what runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import claimed, metrics, opened, settings_in
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from harness.core.pareto import pareto_front
from harness.sampling.first_trials import InitialTrials
from harness.sampling.proposal import Proposer
from harness.settings import SAMPLERS, Settings
from search_spaces.digits import SPACE

RECIPES = ["repdistiller", "distilbert", "keras"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=3)


def test_a_long_nsga2_search_resumes_in_a_new_process(settings: Settings) -> None:
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
def test_unhashable_choices_are_distinguished(settings: Settings) -> None:
    space = replace(SPACE, student={"width": CategoricalDistribution([[8, 16], [16, 32]])})  # type: ignore[list-item]
    proposer = Proposer(space, sampler="random", seed=0, directions=("maximize", "minimize"))
    assert proposer.propose([]) is not None


def test_a_sampler_sees_the_best_and_the_newest_of_many_trials_in_any_process(settings: Settings) -> None:
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
    no_recipes = InitialTrials(default_recipes=False)
    living = Proposer(SPACE, sampler="tpe", seed=0, directions=directions, initial=no_recipes)
    for count in (10, 500, 900, 1300, 1700):
        fresh = Proposer(SPACE, sampler="tpe", seed=0, directions=directions, initial=no_recipes)
        assert living.propose(trials[:count]) == fresh.propose(trials[:count])
    # All but one to two blocks of 400 are told by one block.
    seen = set(living._copied)
    assert len(seen) == 400 + 500 and set(range(1200, 1700)) <= seen
    front = pareto_front([trial.values for trial in trials[:1200]], directions)
    assert set(front.tolist()) <= seen


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
        claim.complete(metrics(params["alpha"], params["width"]))
        claim.lease.release()
    assert len(seen) == len(set(seen)) == 3 * 2 * 3 and study.is_exhausted
    # A trial that runs elsewhere is not begun a second time either.
    assert study.finished() == 18 and claimed(study, held) is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_of_several_methods_can_be_exhausted(settings: Settings, sampler: str) -> None:
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
        claim.complete(metrics(0.5, params["width"]))
        claim.lease.release()
    assert len(seen) == len(set(seen)) == 3 * (3 + 2) and study.is_exhausted


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_keeps_away_from_trials_that_run_elsewhere(settings: Settings, sampler: str) -> None:
    study = opened(replace(settings, trials=30, sampler=sampler))
    for _ in range(15):
        claim = claimed(study, SPACE)
        assert claim is not None
        params = claim.configuration.params()
        claim.complete(metrics(1 - (params["alpha"] - 0.4) ** 2, params["width"]))
        claim.lease.release()
    running = [claimed(study, SPACE) for _ in range(4)]
    places = []
    for claim in running:
        assert claim is not None and not claim.resumed
        params = claim.configuration.params()
        logs = (("width", 3.5), ("temperature", 3), ("learning_rate", 3.4))
        places.append((params["alpha"], *(math.log(params[name]) / span for name, span in logs)))
        claim.lease.release()
    assert min(math.dist(a, b) for n, a in enumerate(places) for b in places[:n]) > 0.03
