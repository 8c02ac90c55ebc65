"""Distillation losses: pure functions, each with its formula, shapes, units and paper."""

from lightning_modules.losses.response import distillation_loss, hard_label_loss, soft_target_loss

__all__ = ["distillation_loss", "hard_label_loss", "soft_target_loss"]
