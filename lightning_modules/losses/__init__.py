"""Distillation losses as pure functions, each with its formula, shapes, units and paper."""

from lightning_modules.losses.contrastive import contrastive_representation_loss
from lightning_modules.losses.divergence import generalized_jsd_loss, skewed_kl_loss
from lightning_modules.losses.feature import attention_transfer_loss, hint_loss
from lightning_modules.losses.relation import (
    angle_relation_loss,
    distance_relation_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)
from lightning_modules.losses.response import (
    correlation_loss,
    decoupled_loss,
    distillation_loss,
    hard_label_loss,
    self_distillation_loss,
    smoothed_label_loss,
    soft_target_loss,
    standardized_soft_target_loss,
)
from lightning_modules.losses.values import bounded_regression_loss, value_loss

__all__ = [
    "angle_relation_loss",
    "attention_transfer_loss",
    "bounded_regression_loss",
    "contrastive_representation_loss",
    "correlation_loss",
    "decoupled_loss",
    "distance_relation_loss",
    "distillation_loss",
    "generalized_jsd_loss",
    "hard_label_loss",
    "hint_loss",
    "probabilistic_transfer_loss",
    "self_distillation_loss",
    "similarity_preserving_loss",
    "skewed_kl_loss",
    "smoothed_label_loss",
    "soft_target_loss",
    "standardized_soft_target_loss",
    "value_loss",
]
