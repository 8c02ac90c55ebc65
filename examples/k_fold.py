"""Few samples, in five folds: a trial's score is the mean over folds, each with a teacher that never saw it.

python search.py --space examples/k_fold.py --trials 30
"""

from pathlib import Path

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_breast_cancer
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import TensorDataModule, stratified_splits
from lightning_modules.outputs import Classification

FEATURES = 30


class Tumours(Task):
    """Malignant or benign, by 30 measurements of the cells of each of 569 tumours."""

    output = Classification(2)
    class_names = ("malignant", "benign")

    def data(self, data_dir: Path | None) -> TensorDataModule:
        found = load_breast_cancer()
        inputs = torch.tensor((found.data / found.data.max(0)) ** 0.5, dtype=torch.float32)
        return TensorDataModule(**stratified_splits(inputs, torch.tensor(found.target)), folds=5)

    def teacher(self) -> nn.Module:
        return perceptron(64)

    def student(self, *, width: int) -> nn.Module:  # type: ignore[override]
        return perceptron(width)


def perceptron(width: int) -> nn.Module:
    """Return a perceptron of one hidden layer."""
    return nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, 2))


SPACE = SearchSpace(
    task=Tumours(),
    student={"width": IntDistribution(1, 16, log=True)},
    distillation={"temperature": FloatDistribution(1, 20, log=True), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},
    epochs=20,
)
