"""Gradient-boosted trees teach perceptrons to read letters, by rows that lie between those of the table (munging).

apt-get download r-cran-mlbench && dpkg-deb -x r-cran-mlbench_*.deb mlbench && pip install rdata
python examples/letters.py mlbench/usr/lib/R/site-library/mlbench/data/LetterRecognition.rda letters.csv
python search.py --space examples/letters.py --data-dir . --trials 30 --study letters

20,000 letters of 26 kinds, in 16 numbers each (Frey & Slate 1991). Each row has four stored views, of which the trees
say what they are; the letter of a row stays right, for its neighbours are of the same letter, so controls are fair.
"""

import sys
from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from harness import SearchSpace, Task
from harness.teachers import SklearnTeacher
from lightning_modules.data import Tables
from lightning_modules.data.munge import MungedViews


class Letters(Task):
    """Boosted trees, and perceptrons of two hidden layers."""

    def data(self, data_dir: Path | None) -> Tables:
        data = Tables(data_dir and data_dir / "letters.csv", label="lettr", batch_size=128)
        train = data.splits["train"]
        assert isinstance(train.inputs, Tensor)
        data.views = MungedViews(samples=train.inputs, labels=train.labels, count=4, sharpness=2.0)
        return data

    def teacher(self) -> SklearnTeacher:
        return SklearnTeacher(HistGradientBoostingClassifier(max_iter=100, random_state=0))

    def student(self, *, width: int) -> nn.Module:
        hidden = [nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, 26))


SPACE = SearchSpace(
    task=Letters(),
    student={"width": IntDistribution(16, 128, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=20,
)

if __name__ == "__main__":
    import rdata

    rdata.read_rda(sys.argv[1])["LetterRecognition"].to_csv(sys.argv[2], index=False)
