"""Build the optimizer of a training, with groups of parameters that have a rate or a decay of their own."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lightning_modules.training.settings import Training, keyword_text
from lightning_modules.training.values import FROZEN

NETWORK = "network."
"""What the names of the network's parameters begin with in the module that is trained."""

_CLASSES: dict[Any, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
_MOMENTUM = 0.9
_WIDE_NORMS = (nn.LayerNorm, nn.RMSNorm)  # whose weights may have several dimensions; those of others have one
_ALIKE = (1.0, 1.0, 0.0)  # factors of the learning rate and of the weight decay, and the share of frozen steps


def make_optimizer(training: Training, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a module's parameters.

    Args:
        training: The settings.
        module: The module; the names of its network's parameters begin with ``network.``.

    Raises:
        ValueError: If a factory returns no optimizer, or one that does not have the settings that it is given.
    """
    parameters = _parameters(training, module)
    if callable(training.optimizer):
        return _by_factory(training, parameters)
    settings: dict[str, Any] = {"lr": training.learning_rate, "weight_decay": training.decay, "fused": True}
    if training.optimizer == "sgd":
        settings["momentum"] = _MOMENTUM if training.momentum is None else training.momentum
    return _CLASSES[training.optimizer](parameters, **settings)


def unmatched_patterns(training: Training, networks: Iterable[nn.Module]) -> list[str]:
    """Return the patterns of ``groups`` that hold for no parameter of any of some networks."""
    left = list(training.groups)
    for network in networks:
        found = {_pattern(training, name) for name, _ in network.named_parameters()}
        left = [pattern for pattern in left if pattern not in found]
    return left


def _pattern(training: Training, name: str) -> str | None:
    """Return the pattern that holds for a parameter of the network; ``None`` if none does."""
    return next((pattern for pattern in training.groups if fnmatchcase(name, pattern)), None)


def _parameters(training: Training, module: nn.Module) -> list[Any]:
    """Return all parameters, or groups of them where they have settings of their own."""
    spared = set() if training.decays_all or training.decay is None else _norms_and_biases(module)
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        pattern = _pattern(training, name.removeprefix(NETWORK)) if name.startswith(NETWORK) else None
        given = training.groups[pattern] if pattern is not None else {}
        decay = 0.0 if parameter in spared else given.get("weight_decay", 1.0)
        factors = given.get("learning_rate", 1.0), decay, given.get(FROZEN, 0.0)
        groups.setdefault(factors, []).append(parameter)
    set_for_factory = callable(training.optimizer) and (training.momentum, training.decay) != (None, None)
    if list(groups) == [_ALIKE] and not set_for_factory:
        return groups[_ALIKE]
    return [{"params": params, **_settings(training, *factors)} for factors, params in groups.items()]


def _settings(training: Training, rate: float, decay: float, frozen: float) -> dict[str, float]:
    """Return the settings of a group, given its factors."""
    found = {"lr": training.learning_rate * rate, **({FROZEN: frozen} if frozen else {})}
    if training.decay is not None:
        found["weight_decay"] = training.decay * decay
    if training.momentum is not None:
        found["momentum"] = training.momentum
    return found


def _norms_and_biases(module: nn.Module) -> set[nn.Parameter]:
    """Return biases, the parameters of norms, and others of one dimension, such as learned scales."""
    return {
        parameter
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if parameter.ndim <= 1 or name.startswith("bias") or isinstance(part, _WIDE_NORMS)
    }


def _by_factory(training: Training, parameters: list[Any]) -> torch.optim.Optimizer:
    name = f"the factory {keyword_text(training.optimizer)}"
    if training.decay is None and any("weight_decay" in factors for factors in training.groups.values()):
        raise ValueError(
            f"groups have a factor of weight_decay, but weight_decay is not set, and {name}'s own is not known; set it "
            "in Training(weight_decay=…)."
        )
    assert callable(training.optimizer)
    optimizer = training.optimizer(parameters, lr=training.learning_rate)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{name} must return a torch.optim.Optimizer, but returned {type(optimizer).__name__}.")
    for setting, value in (("momentum", training.momentum), ("weight_decay", training.decay)):
        if value is not None and setting not in optimizer.defaults:
            raise ValueError(
                f"{name} must return an optimizer with {setting}, which is set, but {type(optimizer).__name__} has "
                f"none; leave {setting} out."
            )
    _check_taken(name, optimizer, parameters, training.learning_rate)
    return optimizer


def _check_taken(name: str, optimizer: torch.optim.Optimizer, parameters: list[Any], rate: float) -> None:
    """Check that a factory's optimizer has the parameters and learning rates that the factory was called with."""
    groups: list[Any] = parameters if isinstance(parameters[0], dict) else [{"params": parameters, "lr": rate}]
    wanted = {id(one): group["lr"] for group in groups for one in group["params"]}
    found = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    if found.keys() != wanted.keys():
        raise ValueError(
            f"{name} must give its optimizer all {len(wanted)} parameters that it is called with, but "
            f"{type(optimizer).__name__} has {len(found)}."
        )
    other = next((found[key] for key, lr in wanted.items() if found[key] != lr), None)
    if other is not None:
        raise ValueError(
            f"{name} must give its optimizer the learning rate lr that it is called with, {rate:g} here, but "
            f"{type(optimizer).__name__} has {other:g}; Training(groups=…) gives some parameters another one."
        )
