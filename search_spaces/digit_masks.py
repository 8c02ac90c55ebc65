"""Segmentation: to which digit each pixel of two scans side by side belongs, from what ships with scikit-learn."""

from pathlib import Path
from typing import Any

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import Split, TensorDataModule
from lightning_modules.data.embedded import digits
from lightning_modules.outputs import Segmentation

BACKGROUND, UNSURE = 10, 255


class DigitMasks(Task):
    """8x16 pictures of two digits: each pixel is background, ink of a digit, or too faint to tell."""

    output = Segmentation(11, ignore_index=UNSURE)
    teacher_epochs = 20

    def data(self, data_dir: Path | None) -> TensorDataModule:
        parts: dict[str, Any] = {name: pairs(part) for name, part in digits(batch_size=32).splits.items()}
        return TensorDataModule(**parts, batch_size=32)

    def teacher(self) -> nn.Module:
        return network(48)

    def student(self, *, width: int) -> nn.Module:
        return network(width)


def pairs(part: Split) -> Split:
    """Return pictures of two digits each, and the class of every pixel."""
    ink = part.inputs
    assert isinstance(ink, torch.Tensor)
    level = ink.amax(1) / ink.amax()
    classes = part.labels[:, None, None].expand(-1, *level.shape[1:])
    masks = torch.where(level > 0.5, classes, torch.where(level < 0.1, BACKGROUND, UNSURE))
    half = len(ink) // 2
    pictures, classes = (torch.cat([each[:half], each[half : 2 * half]], -1) for each in (ink, masks))
    return Split(pictures, classes)


def network(width: int) -> nn.Module:
    """Return a convolutional network that keeps the size of a picture."""
    layers: list[nn.Module] = []
    for before, after in ((1, width), (width, width), (width, width)):
        layers += [nn.Conv2d(before, after, 5, padding=2), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 11, 1))


SPACE = SearchSpace(
    task=DigitMasks(),
    student={"width": IntDistribution(2, 24, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=8,
)
