"""Several labels at once: four traits of a handwritten digit, from the scans that ship with scikit-learn."""

from pathlib import Path
from typing import Any

import torch
from optuna.distributions import FloatDistribution, IntDistribution

from harness import SearchSpace, Task
from lightning_modules.data import Split, TensorDataModule
from lightning_modules.data.embedded import digits
from lightning_modules.networks import ConvNet
from lightning_modules.outputs import MultiLabel

TRAITS = {"even": {0, 2, 4, 6, 8}, "above four": {5, 6, 7, 8, 9}, "prime": {2, 3, 5, 7}, "has a loop": {0, 6, 8, 9}}


class DigitTraits(Task):
    """8x8 scans of digits, and which of four traits each has."""

    output = MultiLabel(len(TRAITS))
    class_names = tuple(TRAITS)
    teacher_epochs = 20

    def data(self, data_dir: Path | None) -> TensorDataModule:
        table = torch.tensor([[digit in having for having in TRAITS.values()] for digit in range(10)]).float()
        parts: dict[str, Any] = {
            name: Split(part.inputs, table[part.labels]) for name, part in digits(batch_size=64).splits.items()
        }
        return TensorDataModule(**parts, batch_size=64)

    def teacher(self) -> ConvNet:
        return ConvNet(64, size=8, classes=len(TRAITS), dropout=0.3)

    def student(self, *, width: int) -> ConvNet:
        return ConvNet(width, size=8, classes=len(TRAITS))


SPACE = SearchSpace(
    task=DigitTraits(),
    student={"width": IntDistribution(1, 32, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=12,
)
