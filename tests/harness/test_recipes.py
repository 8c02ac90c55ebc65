"""Published settings, in this project's terms."""

from __future__ import annotations

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.recipes import RECIPES, configurations
from harness.space import SearchSpace
from lightning_modules.criteria import DistillationCriterion
from search_spaces.digits import SPACE, Digits

ALL = {"repdistiller", "distilbert", "keras", "control"}


def a_space(temperature: BaseDistribution, alpha: BaseDistribution) -> SearchSpace:
    return SearchSpace(
        task=Digits(),
        student={"width": IntDistribution(2, 32, log=True)},
        distillation={"temperature": temperature, "alpha": alpha},
    )


def test_every_recipe_reaches_the_digits() -> None:
    found = configurations(SPACE)
    assert set(found) == ALL
    for configuration in found.values():
        assert set(configuration) == set(SPACE.distributions)
        # What a recipe does not say: sqrt(2 x 32) and sqrt(1e-3 x 3e-2).
        assert configuration["width"] == 6
        assert configuration["learning_rate"] == pytest.approx(5.477226e-3)


def test_alpha_is_translated_to_the_weight_of_the_hard_labels() -> None:
    # As published. RepDistiller: -r 0.1 -a 0.9, cross-entropy times r. DistilBERT: 5 of soft targets to 2 of labels.
    # Keras: alpha=0.1 times the student loss. The control is trained on labels alone.
    assert {name: recipe["alpha"] for name, recipe in RECIPES.items()} == {
        "repdistiller": 0.1, "distilbert": pytest.approx(2 / (5 + 2)), "keras": 0.1, "control": 1.0,
    }  # fmt: skip
    assert {name: recipe["temperature"] for name, recipe in RECIPES.items() if name != "control"} == {
        "repdistiller": 4, "distilbert": 2, "keras": 10,
    }  # fmt: skip
    for recipe in RECIPES.values():
        DistillationCriterion(**{"temperature": 1.0, **recipe})  # takes what a recipe says, and nothing else


@pytest.mark.parametrize(
    ("fixed", "left"),
    [
        ({"alpha": "0.5"}, set()),
        ({"alpha": "0.1"}, {"repdistiller", "keras"}),
        ({"alpha": "1"}, {"control"}),
        ({"temperature": "4.0", "alpha": "0.1"}, {"repdistiller"}),
        ({"width": "4"}, ALL),
    ],
)
def test_a_recipe_that_differs_from_what_is_held_fixed_is_left_out(fixed: dict[str, str], left: set[str]) -> None:
    found = configurations(SPACE.fixed(fixed))
    assert set(found) == left
    for name, configuration in found.items():
        assert {key: float(text) for key, text in fixed.items()}.items() <= configuration.items()
        assert RECIPES[name].items() <= configuration.items()


def test_a_recipe_out_of_the_space_s_reach_is_left_out() -> None:
    narrow = a_space(FloatDistribution(1.0, 5.0), FloatDistribution(0.0, 0.5))
    assert set(configurations(narrow)) == {"repdistiller", "distilbert"}


def test_whole_numbered_temperatures_reach_every_recipe() -> None:
    whole = a_space(IntDistribution(1, 20), FloatDistribution(0.0, 1.0))
    assert set(configurations(whole)) == ALL


def test_a_choice_of_alphas_reaches_the_recipes_that_it_names() -> None:
    choices = a_space(FloatDistribution(1.0, 20.0), CategoricalDistribution([0, 0.1, 1]))
    assert set(configurations(choices)) == {"repdistiller", "keras", "control"}
