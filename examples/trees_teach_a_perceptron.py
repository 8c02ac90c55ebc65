"""Gradient-boosted trees, no PyTorch network, teach a perceptron, on scikit-learn's handwritten digits.

python search.py --space examples/trees_teach_a_perceptron.py --trials 20 --study trees

The trees are fitted once. What they say of training rows is out of fold: each row is answered by trees that have not
seen it, for those that have would only repeat its label.
"""

from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from harness import SearchSpace, Task
from harness.teachers import SklearnTeacher
from lightning_modules.data import TensorDataModule
from lightning_modules.data.embedded import digits


class Trees(Task):
    """8x8 scans of digits; boosted trees, and perceptrons of one hidden layer."""

    def data(self, data_dir: Path | None) -> TensorDataModule:
        return digits(batch_size=64)

    def teacher(self) -> SklearnTeacher:
        return SklearnTeacher(HistGradientBoostingClassifier(max_iter=50))

    def student(self, *, width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


SPACE = SearchSpace(
    task=Trees(),
    student={"width": IntDistribution(4, 64, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=20,
)
