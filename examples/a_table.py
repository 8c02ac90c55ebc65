"""A table with numbers, categories and gaps: three growers of wine, told from its chemistry and its cellar.

python examples/a_table.py wines/wines.csv  # writes such a table, of scikit-learn's wines
python search.py --space examples/a_table.py --data-dir wines --trials 20 --study wines

Columns are encoded by the training rows alone, and rows are split by what they hold, so always alike.
"""

import sys
from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import Tables


def perceptron(width: int) -> nn.Module:
    """Return a network of one hidden layer, whose number of inputs is that of the table's columns."""
    return nn.Sequential(nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, 3))


class Wines(Task):
    """Wines of three growers; perceptrons teach narrower ones."""

    def data(self, data_dir: Path | None) -> Tables:
        return Tables(data_dir and data_dir / "wines.csv", label="grower", id="bottle", batch_size=16)

    def teacher(self) -> nn.Module:
        return perceptron(64)

    def student(self, *, width: int) -> nn.Module:
        return perceptron(width)


SPACE = SearchSpace(
    task=Wines(),
    student={"width": IntDistribution(2, 16, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=20,
)

if __name__ == "__main__":
    import numpy as np
    from sklearn.datasets import load_wine

    wines, draw = load_wine(as_frame=True), np.random.default_rng(0)
    table = wines.data.mask(draw.random(wines.data.shape) < 0.02)  # some measurements are missing
    table.insert(0, "bottle", [f"bottle-{number}" for number in range(len(table))])
    table["cellar"] = np.where(draw.random(len(table)) < 0.8, wines.target, draw.integers(0, 4, len(table)))
    table["cellar"] = table["cellar"].map({0: "Rossi", 1: "Bruni", 2: "Conti", 3: "Villa"})
    table["grower"] = wines.target.map(dict(enumerate(wines.target_names)))
    table.to_csv(sys.argv[1], index=False)
