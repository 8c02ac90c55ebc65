"""Define the methods that networks are trained with: methods of distillation, and baselines without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lightning_modules.methods.base import Criterion, Term
from lightning_modules.methods.contrastive import ContrastiveCriterion
from lightning_modules.methods.feature import AttentionTransferCriterion, HintCriterion
from lightning_modules.methods.labels import HardLabelCriterion, SmoothedLabelCriterion
from lightning_modules.methods.relation import ProbabilisticCriterion, RelationCriterion, SimilarityCriterion
from lightning_modules.methods.response import (
    CorrelationCriterion,
    DecoupledCriterion,
    DistillationCriterion,
    JSDCriterion,
    ReverseKLCriterion,
    SkewedKLCriterion,
    StandardizedCriterion,
)
from lightning_modules.methods.self_distillation import SelfDistillationCriterion
from lightning_modules.methods.values import BoundedRegressionCriterion, ValueCriterion

__all__ = [
    "HINTON",
    "METHODS",
    "AttentionTransferCriterion",
    "BoundedRegressionCriterion",
    "ContrastiveCriterion",
    "CorrelationCriterion",
    "Criterion",
    "DecoupledCriterion",
    "DistillationCriterion",
    "HardLabelCriterion",
    "HintCriterion",
    "JSDCriterion",
    "ProbabilisticCriterion",
    "RelationCriterion",
    "ReverseKLCriterion",
    "SelfDistillationCriterion",
    "SimilarityCriterion",
    "SkewedKLCriterion",
    "SmoothedLabelCriterion",
    "StandardizedCriterion",
    "Term",
    "ValueCriterion",
    "make_criterion",
]

HINTON = "soft_target"
METHODS: Mapping[str, type[Criterion]] = MappingProxyType(
    {
        HINTON: DistillationCriterion,
        "reverse_kl": ReverseKLCriterion,
        "jsd": JSDCriterion,
        "skewed_kl": SkewedKLCriterion,
        "standardized": StandardizedCriterion,
        "decoupled": DecoupledCriterion,
        "correlation": CorrelationCriterion,
        "hint": HintCriterion,
        "attention_transfer": AttentionTransferCriterion,
        "relation": RelationCriterion,
        "similarity_preserving": SimilarityCriterion,
        "probabilistic_transfer": ProbabilisticCriterion,
        "contrastive": ContrastiveCriterion,
        "self_distillation": SelfDistillationCriterion,
        "label_smoothing": SmoothedLabelCriterion,
        "teacher_values": ValueCriterion,
        "bounded_regression": BoundedRegressionCriterion,
    }
)
"""Methods by name; a method's keywords are its searchable parameters."""


def make_criterion(method: str = HINTON, **parameters: Any) -> Criterion:
    """Return a method, to be set up before use (``Criterion.setup``).

    Args:
        method: Its name in ``METHODS``.
        parameters: Its parameters.
    """
    return METHODS[method](**parameters)
