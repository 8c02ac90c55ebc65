"""Optimizers: which parameters are in which group, with which rate and decay."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.training import Training
from lightning_modules.training.optimizers import make_optimizer, unmatched_patterns


class Net(nn.Module):
    """A parameter of each kind that decays, and of each that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.wide = nn.LayerNorm((2, 3))
        self.cell = nn.LSTM(2, 3)
        self.scale = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(3, 2)


WEIGHTS = {"stem.weight", "cell.weight_ih_l0", "cell.weight_hh_l0", "head.weight", "criterion.weight"}


def module() -> nn.Module:
    return nn.ModuleDict({"network": Net(), "criterion": nn.Linear(2, 2)})


def by_name(made: torch.optim.Optimizer, parts: nn.Module, setting: str) -> dict[str, float]:
    names = {id(parameter): name.removeprefix("network.") for name, parameter in parts.named_parameters()}
    return {names[id(one)]: group[setting] for group in made.param_groups for one in group["params"]}


def test_the_default_has_all_parameters_in_one_group_of_fused_adamw_as_before_there_was_a_choice() -> None:
    parts = module()
    made = make_optimizer(Training(), parts)
    assert type(made) is torch.optim.AdamW
    (group,) = made.param_groups
    assert [id(one) for one in group["params"]] == [id(one) for one in parts.parameters()]
    expected = torch.optim.AdamW(parts.parameters(), lr=1e-2, weight_decay=1e-4, fused=True).param_groups[0]
    assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in expected.items() if k != "params"}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_biases_norms_and_scales_do_not_decay(optimizer: str) -> None:
    parts = module()
    made = make_optimizer(Training(optimizer=optimizer, weight_decay=0.5), parts)
    decays = by_name(made, parts, "weight_decay")
    assert {name for name, decay in decays.items() if decay} == WEIGHTS
    assert set(decays.values()) == {0.0, 0.5} and len(decays) == len(list(parts.parameters()))


def test_all_decay_where_it_is_said() -> None:
    parts = module()
    made = make_optimizer(Training(optimizer="sgd", weight_decay=0.5, decay_on="all"), parts)
    assert set(by_name(made, parts, "weight_decay").values()) == {0.5} and len(made.param_groups) == 1
    spared = make_optimizer(Training(decay_on="weights"), parts)
    assert {name for name, decay in by_name(spared, parts, "weight_decay").items() if decay == 1e-4} == WEIGHTS


def test_the_first_pattern_that_matches_a_name_in_the_network_holds() -> None:
    parts, factors = module(), {"head.b*": {"learning_rate": 3.0}, "head.*": {"learning_rate": 10.0, "weight_decay": 2}}
    made = make_optimizer(Training(optimizer="sgd", learning_rate=0.1, weight_decay=0.01, groups=factors), parts)
    rates, decays = by_name(made, parts, "lr"), by_name(made, parts, "weight_decay")
    assert rates["head.bias"] == pytest.approx(0.3) and rates["head.weight"] == pytest.approx(1.0)
    assert {rate for name, rate in rates.items() if not name.startswith("head")} == {0.1}
    assert (decays["head.weight"], decays["head.bias"], decays["stem.weight"]) == (0.02, 0.0, 0.01)


def test_a_pattern_does_not_reach_what_a_method_learns() -> None:
    parts = module()
    made = make_optimizer(Training(groups={"*weight": {"learning_rate": 2.0}}), parts)
    rates = by_name(made, parts, "lr")
    assert rates["criterion.weight"] == 0.01 and rates["stem.weight"] == 0.02


def test_patterns_that_match_nothing_or_only_what_others_match_are_named() -> None:
    groups = {"h*": {"learning_rate": 2.0}, "head.*": {"learning_rate": 2.0}, "hed.*": {"weight_decay": 2.0}}
    assert unmatched_patterns(Training(groups=groups), [Net()]) == ["head.*", "hed.*"]
    assert unmatched_patterns(Training(groups={"9.*": {"learning_rate": 2.0}}), [Net(), nn.Sequential(Net())]) == [
        "9.*"
    ]
    assert unmatched_patterns(Training(groups={"0.*": {"learning_rate": 2.0}}), [Net(), nn.Sequential(Net())]) == []


def test_sgd_has_its_momentum() -> None:
    assert make_optimizer(Training(optimizer="sgd"), module()).defaults["momentum"] == 0.9
    assert make_optimizer(Training(optimizer="sgd", momentum=0.0), module()).defaults["momentum"] == 0.0


def test_a_factory_is_given_the_parameters_and_keeps_its_own_settings() -> None:
    parts = module()
    factory = functools.partial(torch.optim.RMSprop, alpha=0.5, weight_decay=0.7)
    made = make_optimizer(Training(optimizer=factory, learning_rate=0.25), parts)
    (group,) = made.param_groups
    assert (type(made), group["lr"], group["alpha"], group["weight_decay"]) == (torch.optim.RMSprop, 0.25, 0.5, 0.7)
    assert [id(one) for one in group["params"]] == [id(one) for one in parts.parameters()]


def test_a_factorys_optimizer_has_what_is_set_beside_it() -> None:
    parts = module()
    given = Training(
        optimizer=torch.optim.SGD, momentum=0.5, weight_decay=0.1, groups={"head.*": {"learning_rate": 2.0}}
    )
    made = make_optimizer(given, parts)
    assert set(by_name(made, parts, "momentum").values()) == {0.5}
    assert {name for name, decay in by_name(made, parts, "weight_decay").items() if decay == 0.1} == WEIGHTS
    assert by_name(made, parts, "lr")["head.bias"] == 0.02
    plain = make_optimizer(Training(optimizer=torch.optim.SGD, momentum=0.5), parts)
    assert set(by_name(plain, parts, "momentum").values()) == {0.5} and len(plain.param_groups) == 1


def forgetful(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(parameters)[:1], lr=lr)


def stubborn(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": dict}, "the factory dict must return a torch.optim.Optimizer, but returned dict"),
        ({"optimizer": forgetful}, r"the factory forgetful must give its optimizer all 15 parameters .* but SGD has 1"),
        ({"optimizer": stubborn}, "the learning rate lr that it is called with, 0.01 here, but SGD has 0.5"),
        (
            {"optimizer": torch.optim.Adagrad, "momentum": 0.5},
            "the factory Adagrad must return an optimizer with momentum, which is set, but Adagrad has none; leave",
        ),
        (
            {"optimizer": torch.optim.SGD, "groups": {"head.*": {"weight_decay": 2.0}}},
            "groups have a factor of weight_decay, but weight_decay is not set, and the factory SGD's own is not known",
        ),
    ],
)
def test_a_factory_that_does_not_do_as_it_is_told_is_refused(given: dict[str, Any], message: str) -> None:
    if given["optimizer"] is dict:
        given = {"optimizer": lambda parameters, lr: {}}
        message = message.replace("factory dict", "factory .*lambda.*")
    with pytest.raises(ValueError, match=message):
        make_optimizer(Training(**given), module())
