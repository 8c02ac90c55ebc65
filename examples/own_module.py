"""Students that train themselves: a LightningModule with its own loss, SGD and schedule, on handwritten digits.

python search.py --space examples/own_module.py --trials 20 --study own
"""

from typing import Any

import pytorch_lightning as pl
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data.embedded import digits
from lightning_modules.losses import distillation_loss


class Perceptron(pl.LightningModule):
    """One hidden layer. With ``alpha`` = 1 it is a control, and reads nothing of the teacher."""

    def __init__(self, width: int, temperature: float, alpha: float, lr: float) -> None:
        super().__init__()
        self.weights, self.lr = {"alpha": alpha, "temperature": temperature}, lr
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        logits = self(batch.inputs)
        self.log("train/accuracy", (logits.argmax(-1) == batch.target).float().mean())
        if self.weights["alpha"] == 1:
            return nn.functional.cross_entropy(logits, batch.target)
        return distillation_loss(logits, batch.teacher["logits"], batch.target, **self.weights)

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        return [sgd], [torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=self.trainer.max_epochs or 1)]


class Digits(Task):
    """8x8 scans of digits; a wide perceptron, and narrow ones that train themselves."""

    def data(self, data_dir: object) -> Any:
        return digits(batch_size=64)

    def teacher(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.Dropout(0.3), nn.ReLU(), nn.Linear(512, 10))

    def module(self, *, width: int, temperature: float, alpha: float, lr: float) -> Perceptron:
        return Perceptron(width, temperature, alpha, lr)


SPACE = SearchSpace(
    task=Digits(),
    student={"width": IntDistribution(4, 64, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 20.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"lr": FloatDistribution(3e-3, 3e-1, log=True)},
)
