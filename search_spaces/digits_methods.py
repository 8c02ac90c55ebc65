"""Handwritten digits, with the method of distillation searched beside its own parameters."""

from dataclasses import replace

from optuna.distributions import FloatDistribution

from search_spaces.digits import SPACE as DIGITS

_TEMPERATURE = FloatDistribution(1.0, 20.0, log=True)
_ALPHA = FloatDistribution(0.0, 1.0)  # weight of the hard-label loss
_WEIGHT = FloatDistribution(0.25, 16.0, log=True)  # beside a hard-label loss of weight 1

METHODS = {
    "soft_target": {"temperature": _TEMPERATURE, "alpha": _ALPHA},
    "standardized": {"temperature": _TEMPERATURE, "alpha": _ALPHA},
    "decoupled": {"temperature": _TEMPERATURE, "target_weight": _WEIGHT, "non_target_weight": _WEIGHT},
    "correlation": {"temperature": _TEMPERATURE, "inter_weight": _WEIGHT, "intra_weight": _WEIGHT},
    "label_smoothing": {"smoothing": FloatDistribution(0.01, 0.4, log=True)},
}
"""The response methods, and label smoothing, which asks no teacher."""

SPACE = replace(DIGITS, distillation=METHODS)
