"""A table and a LightningDataModule are searched to the end; what is wrong is one line before anything trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, engine, environment, numbers, search

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "a_table.py"
QUICK = ("--objectives", "accuracy,parameters", "--trials", "4", "--workers", "1")


@pytest.fixture(scope="module")
def wines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table of the example."""
    folder = tmp_path_factory.mktemp("wines")
    subprocess.run([sys.executable, str(EXAMPLE), str(folder / "wines.csv")], check=True, env=environment())
    return folder


def error_of(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in output, output
    return lines[0]


def doctor(folder: Path, *flags: str, expect: int) -> str:
    told = engine(folder, "doctor", *flags, expect=expect)
    assert "Traceback" not in told
    return told


def test_the_doctor_finds_nothing_wrong_with_the_example_of_a_table(wines: Path, tmp_path: Path) -> None:
    told = doctor(tmp_path, "--space", str(EXAMPLE), "--data-dir", str(wines), expect=0)
    assert "107 train, 35 val, 36 test; Classification(), 3 by the labels; finite" in told and "FAILED" not in told


def test_the_example_of_a_table_is_searched_and_its_study_goes_on(wines: Path, tmp_path: Path) -> None:
    flags = ("--space", str(EXAMPLE), "--data-dir", str(wines), "--study", "wines", *QUICK)
    output = search(tmp_path, *flags)
    assert "107 train, 35 val, 36 test samples" in output and "4/4 done" in output
    again = search(tmp_path, *flags)
    assert "error: " not in again and len(numbers(tmp_path, "wines")) == 4
    # Confirmed on new rows beside the test split; on others then, without a training.
    table = pd.read_csv(wines / "wines.csv")
    for name, more in (("warm", 30.0), ("odd", 90.0)):
        # No row of the table is among them.
        (tmp_path / name).mkdir()
        table.assign(proline=table["proline"] + more).to_csv(tmp_path / name / "wines.csv", index=False)
    command = ("confirm", "--study", "wines", "--space", str(EXAMPLE), "--seeds", "2", "--controls", "plain")
    said = engine(tmp_path, *command, "--workers", "1", "--on", "warm")
    assert "new data  178 samples of warm" in said and "On warm, 178 new samples" in said and "its teacher" in said
    said = engine(tmp_path, *command, "--workers", "1", "--on", "odd")
    assert "confirmed with 2 seeds" in said and "confirm   " not in said and "On odd, 178 new samples" in said
    table = pd.read_csv(tmp_path / "mlruns" / "trials" / "wines" / "report" / "new_data.csv")
    assert table["on"].unique().tolist() == ["warm", "odd"] and {"student", "teacher"} <= {*table["arm"]}


def test_outputs_in_a_file_are_joined_to_the_rows_of_a_table_by_the_column_that_names_them(
    wines: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(wines / "wines.csv")
    said = pd.get_dummies(table["grower"]).astype(float) * 0.9 + 0.1 / 3
    said.insert(0, "id", table["bottle"])
    said.sample(frac=1.0, random_state=0).to_csv(tmp_path / "answers.csv", index=False)
    flags = ("--space", str(EXAMPLE), "--data-dir", str(wines), "--teacher", "answers.csv", *QUICK)
    output = search(tmp_path, *flags, "--study", "answers", "--controls", "none")
    assert "accuracy 1.0000" in output and "4/4 done" in output


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('label="grower"', 'label="growers"', "there is no 'growers'; did you mean 'grower'?"),
        (', id="bottle"', "", "column 'bottle' must hold categories, but has"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line_of_search_and_doctor(
    wines: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    (tmp_path / "space.py").write_text(EXAMPLE.read_text().replace(old, new))
    flags = ("--space", "space.py", "--data-dir", str(wines))
    assert told in error_of(search(tmp_path, *flags, *QUICK, expect=2))
    (line,) = [line for line in doctor(tmp_path, *flags, expect=1).splitlines() if line.startswith("FAILED")]
    assert told in line


OWN = """
import pytorch_lightning as pl
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from harness import SearchSpace, Task


class Scans(pl.LightningDataModule):
    def setup(self, stage):
        found = load_digits()
        whole = TensorDataset(torch.from_numpy(found.data[:600]).float() / 16, torch.from_numpy(found.target[:600]))
        self.train, self.val, self.test = random_split(whole, [0.6, 0.2, 0.2])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=64)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=64)


class Digits(Task):
    teacher_epochs = 2

    def data(self, data_dir):
        return Scans()

    def teacher(self):
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def student(self, *, width):
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


SPACE = SearchSpace(
    task=Digits(),
    student={"width": IntDistribution(2, 8, log=True)},
    distillation={"temperature": FloatDistribution(1, 20, log=True), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=2,
)
"""
HOOK = """
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch

    def setup(self, stage):"""


def test_a_data_module_of_lightning_is_searched_and_the_study_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(OWN)
    flags = ("--space", "space.py", *QUICK, "--controls", "none", "--min", "none")
    output = search(tmp_path, *flags)
    assert "360 train, 120 val, 120 test samples" in output and "4/4 done" in output
    assert "drop_last of train_dataloader() is not followed" in output
    more = search(tmp_path, *flags[:-6], "--trials", "5", "--workers", "2", "--controls", "none", "--min", "none")
    assert "5/5 done" in more


def test_a_data_module_whose_hook_would_not_be_called_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(OWN.replace("\n    def setup(self, stage):", HOOK, 1))
    told = "Scans has on_after_batch_transfer(), which is not called here: leave it out"
    assert told in error_of(search(tmp_path, "--space", "space.py", *QUICK, expect=2))


SAMPLER = """
    def sampler(self, split, seed, epoch):
        generator = torch.Generator().manual_seed((seed << 24) + epoch)
        return torch.randint(len(split), (200,), generator=generator)

    def teacher(self):"""


def test_a_task_that_samples_its_epochs_is_searched(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(OWN.replace("\n    def teacher(self):", SAMPLER))
    flags = ("--space", "space.py", *QUICK, "--controls", "none", "--min", "none")
    assert "4/4 done" in search(tmp_path, *flags)
    assert "FAILED" not in doctor(tmp_path, "--space", "space.py", expect=0)


def test_a_sampler_that_never_ends_is_refused_in_one_line(tmp_path: Path) -> None:
    endless = SAMPLER.replace("torch.randint(len(split), (200,), generator=generator)", "iter(int, 1)")
    (tmp_path / "space.py").write_text(OWN.replace("\n    def teacher(self):", endless))
    told = "sampler(split, seed, epoch) must end, but gives more than 36,000 samples"  # 100 times as many as there are
    assert told in error_of(search(tmp_path, "--space", "space.py", *QUICK, expect=2))
