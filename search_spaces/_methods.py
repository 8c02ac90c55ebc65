"""Every method of distillation, each with ranges around what its paper takes, for spaces that search the method."""

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

_TEMPERATURE = FloatDistribution(1.0, 20.0, log=True)
_ALPHA = FloatDistribution(0.0, 1.0)  # weight of the hard-label loss


def _weight(low: float, high: float) -> FloatDistribution:
    return FloatDistribution(low, high, log=True)  # beside a hard-label loss of weight 1


def all_methods(
    *, student_layers: Sequence[str], teacher_layers: Sequence[str]
) -> dict[str, Mapping[str, BaseDistribution]]:
    """Return the parameters of each method by its name.

    Args:
        student_layers: Names of the student's layers that a method may compare.
        teacher_layers: Names of the teacher's; what each gives is stored.
    """
    layers = {
        "student_layer": CategoricalDistribution(list(student_layers)),
        "teacher_layer": CategoricalDistribution(list(teacher_layers)),
    }
    response = _weight(0.25, 16.0)
    return {
        "soft_target": {"temperature": _TEMPERATURE, "alpha": _ALPHA},
        "reverse_kl": {"temperature": _TEMPERATURE, "alpha": _ALPHA},
        "jsd": {"beta": FloatDistribution(0.1, 0.9), "temperature": _TEMPERATURE, "alpha": _ALPHA},
        "skewed_kl": {"skew": FloatDistribution(0.01, 0.5, log=True), "temperature": _TEMPERATURE, "alpha": _ALPHA},
        "standardized": {"temperature": _TEMPERATURE, "alpha": _ALPHA},
        "decoupled": {"temperature": _TEMPERATURE, "target_weight": response, "non_target_weight": response},
        "correlation": {"temperature": _TEMPERATURE, "inter_weight": response, "intra_weight": response},
        "hint": {"hint_weight": _weight(1.0, 300.0), **layers},
        "attention_transfer": {"attention_weight": _weight(1.0, 3000.0), **layers},
        "relation": {"distance_weight": _weight(1.0, 100.0), "angle_weight": _weight(1.0, 200.0), **layers},
        "similarity_preserving": {"similarity_weight": _weight(30.0, 10_000.0), **layers},
        "probabilistic_transfer": {"probabilistic_weight": _weight(300.0, 100_000.0), **layers},
        "contrastive": {
            "contrastive_weight": _weight(0.03, 3.0),
            "contrastive_temperature": FloatDistribution(0.05, 0.5, log=True),
            **layers,
        },
        "self_distillation": {"trust": FloatDistribution(0.1, 0.95)},
        "label_smoothing": {"smoothing": FloatDistribution(0.01, 0.4, log=True)},
    }
