"""Define what a network's output means: its labels, losses, metrics, and what of it can be compared with a teacher."""

from lightning_modules.outputs.base import CategoricalOutput, Metrics, Output
from lightning_modules.outputs.classification import Classification
from lightning_modules.outputs.dense import Segmentation, Tokens
from lightning_modules.outputs.errors import Errors
from lightning_modules.outputs.multilabel import MultiLabel
from lightning_modules.outputs.regression import Regression

__all__ = [
    "CategoricalOutput",
    "Classification",
    "Errors",
    "Metrics",
    "MultiLabel",
    "Output",
    "Regression",
    "Segmentation",
    "Tokens",
]
