"""Searches of tasks whose networks give something else than one class a sample, to the end: real data, all commands."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, ended, environment, load, search
from forked import Forked

pytestmark = pytest.mark.slow

TAGGING = '''
"""Tag each character of the language's own modules: the next one, which a recurrent network is to know."""

import inspect
import textwrap

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import Split, TensorDataModule
from lightning_modules.outputs import Tokens

LENGTH, PADDING = 32, -100
TEXT = inspect.getsource(textwrap)
KNOWN = sorted(set(TEXT))


class Reader(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(len(KNOWN), 16)
        self.memory = nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, len(KNOWN))

    def forward(self, characters):
        return self.head(self.memory(self.embedding(characters))[0])


class NextCharacter(Task):
    output = Tokens(len(KNOWN))
    teacher_epochs = 4

    def data(self, data_dir):
        codes = torch.tensor([KNOWN.index(character) for character in TEXT])
        rows = codes[: len(codes) // LENGTH * LENGTH].view(-1, LENGTH)
        labels = torch.cat([rows[:, 1:], torch.full((len(rows), 1), PADDING)], 1)
        places = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).chunk(4)
        parts = {"train": torch.cat(places[:2]), "val": places[2], "test": places[3]}
        return TensorDataModule(**{n: Split(rows[ids], labels[ids]) for n, ids in parts.items()}, batch_size=32)

    def teacher(self):
        return Reader(64)

    def student(self, *, width):
        return Reader(width)


SPACE = SearchSpace(
    task=NextCharacter(),
    student={"width": IntDistribution(4, 32, log=True)},
    distillation={"temperature": FloatDistribution(1, 4), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(3e-3, 3e-2, log=True)},
    epochs=2,
)
'''
SPACES = {
    "diabetes": ("mae", {"r2"}, False),
    "digit_traits": ("f1", {"average_precision"}, True),
    "digit_masks": ("miou", {"pixel_accuracy"}, True),
    "tagging": ("accuracy", {"perplexity"}, True),
}
"""The primary metric of each space, its other ones, and whether its outputs have classes."""
TOLD = {
    "diabetes": r"errs by \d\.\d+ on average, the teacher by \d",
    "digit_traits": r"of the teacher's [\d,]+ right labels .* in label (even|above four|prime|has a loop): (no|yes) ",
    "digit_masks": r"of the teacher's [\d,]+ right pixels .*its IoU falls most in class \d",
    "tagging": r"of the teacher's [\d,]+ right tokens ",
}
"""What the report says of a pick, in the words of the output kind."""


@pytest.mark.parametrize("space", SPACES)
def test_a_task_of_any_output_is_searched_scored_and_reported(tmp_path: Path, space: str) -> None:
    primary, others, has_classes = SPACES[space]
    file = ROOT / "search_spaces" / f"{space}.py"
    if space == "tagging":
        file = tmp_path / "tagging.py"
        file.write_text(TAGGING)
    flags = ("--trials", "3", "--epochs", "2", "--controls", "plain", "--min", "none")
    output = search(tmp_path, "--space", str(file), *flags)
    study = space.replace("_", "-")
    assert "3/3 done" in output and f"teacher   {primary} " in output
    (trial, *_) = [one for one in load(tmp_path, study).trials if one.state.name == "COMPLETE"]
    scores = trial.user_attrs["metrics"]
    assert next(iter(scores)) == primary and others <= scores.keys()
    assert ({"agreement", "teacher_kl", "ece"} <= scores.keys()) == has_classes
    folder = tmp_path / "mlruns" / "trials" / study
    assert (folder / str(trial.number) / "answers.safetensors").exists()
    table = pd.read_csv(folder / "report" / "trials.csv")
    assert table[primary].notna().any() and table["agreement"].notna().any() == has_classes
    assert re.search(TOLD[space], output)
    assert "answers.safetensors" not in output  # nothing is said to be missing
    assert (folder / "report" / "transfer.csv").exists()
    assert (folder / "report" / "transfer.png").exists() == has_classes


def test_another_metric_of_the_task_may_be_an_objective(tmp_path: Path) -> None:
    file = ROOT / "search_spaces" / "diabetes.py"
    command = ("--space", str(file), "--trials", "3", "--epochs", "2", "--controls", "none", "--min", "none")
    output = search(tmp_path, *command, "--objectives", "mae,r2,parameters")
    assert "the Pareto front of mae ↓, r2 ↑, parameters ↓" in output
    assert [direction.name for direction in load(tmp_path, "diabetes").directions] == [
        "MINIMIZE",
        "MAXIMIZE",
        "MINIMIZE",
    ]


def test_numbers_are_confirmed_on_the_test_split(tmp_path: Path) -> None:
    file = ROOT / "search_spaces" / "diabetes.py"
    search(tmp_path, "--space", str(file), "--trials", "3", "--epochs", "3", "--controls", "none", "--min", "none")
    command = (Path("-m"), "harness", "confirm", "--study", "diabetes", "--seeds", "2")
    output = ended(
        Forked("harness", *command[2:], output=tmp_path / "output.txt", env=environment()), tmp_path / "output.txt"
    )
    assert "Confirmed on the test split" in output and "verdict" in output and "agreement" not in output


def test_a_method_of_classes_is_refused_where_there_are_none(tmp_path: Path) -> None:
    text = (ROOT / "search_spaces" / "diabetes.py").read_text()
    start, end = text.index("    distillation="), text.index("    training=")
    soft = '    distillation={"temperature": FloatDistribution(1, 4), "alpha": FloatDistribution(0, 1)},\n'
    (tmp_path / "numbers.py").write_text(text[:start] + soft + text[end:])
    output = search(tmp_path, "--space", "numbers.py", "--trials", "2", expect=2)
    assert "method 'soft_target' can't be searched: it compares scores of classes" in output
    assert "the task's output is Regression(1)" in output
