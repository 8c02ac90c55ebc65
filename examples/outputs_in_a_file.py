"""Outputs in a file teach: what some model said of each sample, joined to the samples by their ids.

python examples/outputs_in_a_file.py answers.parquet  # writes such a file, as another program would
python search.py --space examples/outputs_in_a_file.py --teacher answers.parquet --trials 20 --study answers

The file has a column ``id`` and one for each class, named as in ``class_names``. The model that made it is not needed.
"""

import sys
from pathlib import Path

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_digits
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import TensorDataModule, stratified_splits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class FromAFile(Task):
    """8x8 scans of digits, each with an id; the teacher is whatever answered about them."""

    class_names = NAMES

    def data(self, data_dir: Path | None) -> TensorDataModule:
        scans, labels = load_digits(return_X_y=True)
        ids = [f"scan-{number}" for number in range(len(scans))]
        splits = stratified_splits(torch.from_numpy(scans / 16).float(), torch.from_numpy(labels).long(), ids)
        return TensorDataModule(**splits, batch_size=64)

    def teacher(self) -> nn.Module:
        raise ValueError("the teacher is a file of outputs: give it by --teacher answers.parquet")

    def student(self, *, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


SPACE = SearchSpace(
    task=FromAFile(),
    student={"width": IntDistribution(4, 64, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=20,
)

if __name__ == "__main__":  # another program, which has never heard of this one: a k-NN, asked out of fold
    import pandas as pd
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    scans, labels = load_digits(return_X_y=True)
    said = pd.DataFrame(
        cross_val_predict(KNeighborsClassifier(10), scans, labels, method="predict_proba"), columns=NAMES
    )
    said.insert(0, "id", [f"scan-{number}" for number in range(len(scans))])
    said.to_parquet(sys.argv[1])
