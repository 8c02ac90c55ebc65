"""Which recipes a study tries first, and why one can't be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from conftest import metrics, opened, settings_in
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.recipes import RECIPES
from harness.sampling.first_trials import InitialTrials, first_trials
from harness.sampling.proposal import Proposer
from harness.space import SearchSpace
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.study import Study
from search_spaces.digits import SPACE, Digits
from search_spaces.digits_methods import SPACE as METHODS

UNASKED = ["repdistiller", "distilbert", "keras"]


def a_space(temperature: BaseDistribution, alpha: BaseDistribution) -> SearchSpace:
    return SearchSpace(
        task=Digits(),
        student={"width": IntDistribution(2, 32, log=True)},
        distillation={"temperature": temperature, "alpha": alpha},
    )


def refused(space: SearchSpace, name: str) -> str:
    with pytest.raises(HarnessError) as raised:
        first_trials(space, [name])
    return str(raised.value)


def test_every_recipe_lies_in_the_digits_space() -> None:
    found = first_trials(SPACE, list(RECIPES))
    assert set(found) == set(RECIPES)
    for configuration in found.values():
        assert set(configuration) == set(SPACE.distributions)
        # What a recipe does not say: sqrt(1 x 32) and sqrt(1e-3 x 3e-2).
        assert configuration["width"] == 6
        assert configuration["learning_rate"] == pytest.approx(5.477226e-3)


def test_requested_recipes_come_first_and_once() -> None:
    assert list(first_trials(SPACE)) == UNASKED
    asked = first_trials(SPACE, ["hinton", "keras"])
    assert list(asked) == ["hinton", "keras", "repdistiller", "distilbert"]
    assert list(first_trials(SPACE, ["hinton"], defaults=False)) == ["hinton"]
    assert first_trials(SPACE, defaults=False) == {}


@pytest.mark.parametrize(
    ("fixed", "left"),
    [
        ({"alpha": "0.5"}, []),
        ({"alpha": "0.1"}, ["repdistiller", "keras"]),
        ({"alpha": "1"}, []),
        ({"temperature": "4.0", "alpha": "0.1"}, ["repdistiller"]),
        ({"width": "4"}, UNASKED),
    ],
)
def test_a_default_recipe_that_differs_from_a_fixed_value_is_left_out(fixed: dict[str, str], left: list[str]) -> None:
    found = first_trials(SPACE.fixed(fixed))
    assert list(found) == left
    for name, configuration in found.items():
        assert {key: float(text) for key, text in fixed.items()}.items() <= configuration.items()
        assert RECIPES[name].items() <= configuration.items()


def test_a_default_recipe_outside_the_space_is_left_out() -> None:
    narrow = a_space(FloatDistribution(1.0, 5.0), FloatDistribution(0.0, 0.5))
    assert list(first_trials(narrow)) == ["repdistiller", "distilbert"]


def test_a_space_of_integer_temperatures_contains_every_recipe() -> None:
    whole = a_space(IntDistribution(1, 20), FloatDistribution(0.0, 1.0))
    assert set(first_trials(whole, list(RECIPES))) == set(RECIPES)


def test_a_space_of_categorical_alphas_contains_the_matching_recipes() -> None:
    choices = a_space(FloatDistribution(1.0, 20.0), CategoricalDistribution([0, 0.1, 1]))
    assert list(first_trials(choices)) == ["repdistiller", "keras"]


def test_a_requested_recipe_outside_the_space_is_refused_with_the_reason() -> None:
    ends = FloatDistribution(0.0, 1.0)
    narrow = a_space(FloatDistribution(1.5, 5.0), ends)
    error = refused(narrow, "keras")
    assert error == "--recipe keras can't be tried: its temperature is 10, and the space has 1.5 to 5."
    coarse = a_space(FloatDistribution(1.0, 5.0, step=0.5), FloatDistribution(0.0, 1.0, step=0.25))
    assert "its alpha is 0.2857, and the space has 0 to 1 in steps of 0.25." in refused(coarse, "distilbert")
    choices = a_space(CategoricalDistribution([2, 5]), ends)
    assert "its temperature is 3, and the space has one of 2, 5." in refused(choices, "deit")
    held = SPACE.fixed({"alpha": "0.5"})
    assert "its alpha is 0.3333, and the space has it fixed at 0.5." in refused(held, "hinton")
    one = METHODS.fixed({"method": "decoupled"})
    assert "it is of method soft_target, and the space has only decoupled." in refused(one, "hinton")


def proposed(study: Study, *recipes: str, defaults: bool = True) -> Claim:
    """A claim as a new start with ``--recipe`` makes it, told at once."""
    proposer = Proposer(
        SPACE,
        sampler="random",
        seed=0,
        directions=study.directions,
        initial=InitialTrials(recipes=recipes, default_recipes=defaults),
    )
    claim = TrialClaimer(study, proposer).claim()
    assert claim is not None
    claim.complete(metrics(0.5, 1.0))
    claim.lease.release()
    return claim


def test_a_recipe_is_the_next_trial_of_a_resumed_study_once(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trials=8)
    study = opened(settings)
    assert [proposed(study, defaults=False).recipe, proposed(study).recipe] == [None, "repdistiller"]
    again = opened(replace(settings, recipes=("hinton",), default_recipes=False))  # no other study, for they may change
    assert again.id == study.id
    claim = proposed(again, "hinton", "deit", defaults=False)
    assert claim.recipe == "hinton" and RECIPES["hinton"].items() <= claim.configuration.params().items()
    names = [proposed(again, "hinton", "repdistiller", "deit", defaults=False).recipe for _ in range(2)]
    assert names == ["deit", None]


SMALL = ({"width": 2}, {"width": 4})


@pytest.mark.parametrize(
    ("asked", "small", "widths"),
    [
        ((), SMALL, {"repdistiller": 2, "distilbert": 6, "keras": 4}),
        (("hinton",), SMALL, {"hinton": 6, "repdistiller": 2, "distilbert": 6, "keras": 4}),
        (("distilbert",), SMALL, {"distilbert": 6, "repdistiller": 2, "keras": 4}),
        (("repdistiller", "keras"), SMALL, {"repdistiller": 6, "keras": 6, "distilbert": 2}),
        ((), (), {"repdistiller": 6, "distilbert": 6, "keras": 6}),
    ],
)
def test_the_first_and_the_last_default_recipe_have_small_students(
    asked: tuple[str, ...], small: tuple[dict[str, int], ...], widths: dict[str, int]
) -> None:
    initial = InitialTrials(recipes=asked, small=small)
    proposer = Proposer(SPACE, sampler="random", seed=0, directions=("maximize",), initial=initial)
    study, found = optuna.create_study(), {}
    for _ in widths:
        proposal = proposer.propose(study.get_trials(deepcopy=False))
        assert proposal is not None and proposal.recipe is not None
        found[proposal.recipe] = proposal.params["width"]
        study.add_trial(
            optuna.trial.create_trial(
                value=0.5, params=proposal.params, distributions=proposal.distributions,
                user_attrs={"recipe": proposal.recipe},
            )
        )  # fmt: skip
    assert list(found.items()) == list(widths.items())


def test_a_requested_recipe_without_an_affordable_student_is_refused() -> None:
    endless = replace(SPACE, student={"width": FloatDistribution(1.0, 32.0)})

    def proposal(*recipes: str) -> object:
        proposer = Proposer(
            endless, sampler="random", seed=0, directions=("maximize",),
            refusal=lambda architecture: None if architecture["width"] < 8 else "over --max",
            initial=InitialTrials(recipes=recipes),
        )  # fmt: skip
        return proposer.propose([])

    assert proposal() is not None  # those that nobody asked for are left out
    with pytest.raises(HarnessError, match=r"--recipe hinton needs a student .* checked none may: 1 over --max"):
        proposal("hinton")
