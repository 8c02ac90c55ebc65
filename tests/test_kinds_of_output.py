"""Searches of tasks whose networks give something else than one class a sample, to the end: real data, all commands."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, ended, environment, load, search
from forked import Forked
from rich.console import Console

from harness.doctor import diagnose
from harness.screen.terminal import Terminal
from harness.settings import Settings

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


FITTED = '''
class Fitted(nn.Module):
    """Least squares of the disease's progression as it was measured, 152 on average, and not standardized."""

    def __init__(self, inputs, targets):
        super().__init__()
        whole = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
        self.register_buffer("weights", torch.linalg.lstsq(whole, 77 * targets + 152).solution)

    def forward(self, inputs):
        return inputs @ self.weights[:-1] + self.weights[-1]


'''


def written_with_own_scale(folder: Path, output: str) -> None:
    """Write the diabetes space with a teacher that answers in other units than the targets'."""
    text = (ROOT / "search_spaces" / "diabetes.py").read_text()
    start, end = text.index("        layers = nn.Linear"), text.index("    def student")
    teacher = "        train = self.data(None).splits['train']\n        return Fitted(train.inputs, train.labels)\n\n"
    text = (text[:start] + teacher + text[end:]).replace("output = Regression(1)", f"output = {output}")
    (folder / "units.py").write_text(text.replace("class Diabetes", FITTED.strip() + "\n\n\nclass Diabetes"))


def test_a_teacher_of_other_units_is_refused_unless_they_are_its_own_and_then_mapped(tmp_path: Path) -> None:
    command = ("--space", "units.py", "--trials", "2", "--epochs", "2", "--controls", "none", "--min", "none")
    written_with_own_scale(tmp_path, "Regression(1)")
    refused = search(tmp_path, *command, expect=2)
    assert "the teacher gives numbers on another scale than the targets: a target is about 0.01" in refused
    assert "Regression(1, teacher_scale='own')" in refused
    written_with_own_scale(tmp_path, "Regression(1, teacher_scale='own')")
    output = search(tmp_path, *command, "--study", "own")
    slope, intercept = 1 / 77, 152 / 77  # of the line of least squares through answers of least squares
    assert f"a target is taken to be {slope:.4g} · answer - {intercept:.4g}, fitted to the training split" in output
    found = re.search(r"teacher   mae (0\.\d+)", output)
    assert found and float(found[1]) < 0.75  # of standard deviations; a constant answer has 0.8


def test_the_doctor_says_the_same_of_a_teacher_s_units(tmp_path: Path) -> None:
    found = {}
    for name, output in (("other", "Regression(1)"), ("own", "Regression(1, teacher_scale='own')")):
        (tmp_path / name).mkdir()
        written_with_own_scale(tmp_path / name, output)
        settings = Settings(
            space_name="s",
            space_file=tmp_path / name / "units.py",
            study="s",
            runs_dir=tmp_path / "mlruns",
            accelerator="cpu",
        )
        findings = diagnose(settings, Terminal(Console(file=io.StringIO())))
        found[name] = {one.name: one for one in findings if one.name in ("teacher knows", "region", "distillation")}
    refused = found["other"]["teacher knows"]
    assert refused.state == "FAILED" and "numbers on another scale than the targets" in refused.found
    assert "teacher_scale='own'" in refused.remedy
    assert {one.state for one in found["own"].values()} == {"ok"}
    assert "a target is taken to be 0.01" in found["own"]["teacher knows"].found
