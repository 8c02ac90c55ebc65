"""Regression: how a diabetes progresses within a year, of 442 patients (Efron et al. 2004); ships with scikit-learn."""

from pathlib import Path
from typing import Any

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_diabetes
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import Split, TensorDataModule
from lightning_modules.outputs import Regression


class Diabetes(Task):
    """Ten measurements of a patient, and the disease's progression in standard deviations."""

    output = Regression(1)
    teacher_epochs = 60

    def data(self, data_dir: Path | None) -> TensorDataModule:
        found = load_diabetes()
        inputs = torch.from_numpy(found.data).float() * 20
        target = torch.from_numpy(found.target).float()[:, None]
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
        parts = {"train": order[:300], "val": order[300:370], "test": order[370:]}
        train = target[parts["train"]]
        scaled = (target - train.mean()) / train.std()
        splits: dict[str, Any] = {name: Split(inputs[ids], scaled[ids]) for name, ids in parts.items()}
        return TensorDataModule(**splits, batch_size=32)

    def teacher(self) -> nn.Module:
        layers = nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        return nn.Sequential(*layers)

    def student(self, *, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 1))


SPACE = SearchSpace(
    task=Diabetes(),
    student={"width": IntDistribution(1, 32, log=True)},
    distillation={
        "teacher_values": {"alpha": FloatDistribution(0.0, 1.0)},
        "bounded_regression": {
            "bounded_weight": FloatDistribution(0.1, 2.0, log=True),
            "margin": FloatDistribution(0.0, 0.5),
        },
    },
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=30,
)
