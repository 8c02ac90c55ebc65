"""Handwritten digits, the embedded default: 1,797 real scans that ship inside scikit-learn."""

from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution

from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.embedded import digits
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.networks import ConvNet


class Digits(Task):
    """8x8 scans of digits; a convolutional teacher of width 64 and narrower students of the same kind."""

    teacher_epochs = 30

    def data(self, data_dir: Path | None) -> TensorDataModule:
        if data_dir is not None:
            raise ValueError(
                f"digits ship with scikit-learn and are read from nowhere else, but got --data-dir {data_dir}."
            )
        return digits(batch_size=64)

    def teacher(self) -> ConvNet:
        return ConvNet(64, size=8, dropout=0.3)

    def student(self, *, width: int) -> ConvNet:
        return ConvNet(width, size=8)


SPACE = SearchSpace(
    task=Digits(),
    student={"width": IntDistribution(1, 32, log=True)},  # channels of the first block
    distillation={
        "temperature": FloatDistribution(1.0, 20.0, log=True),
        "alpha": FloatDistribution(0.0, 1.0),  # weight of the hard-label loss
    },
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=20,
)
