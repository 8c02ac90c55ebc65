"""A teacher that is asked about each batch: fresh views, mixed samples, the same bits after a kill, a fair control."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import epochs_logged, load, numbers, search, start, wait_for
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from harness.core.content import tensors_digest

pytestmark = pytest.mark.slow

SPACE = """
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn
from torchvision.transforms import v2

from harness import SearchSpace, Task
from lightning_modules.data import Augment, ImageFolders, MixUp
from lightning_modules.networks import ConvNet
from lightning_modules.training import Training


class Digits(Task):
    training = Training(optimizer="sgd", momentum=0.9, schedule="cosine", ema_decay=0.9)
    teacher_epochs = 2

    def data(self, data_dir):
        crop = v2.Compose([v2.RandomResizedCrop(8, scale=(0.7, 1), antialias=True), v2.ColorJitter(0.4)])
        augment = Augment(crop, views="fresh", mix=MixUp(0.4))
        return ImageFolders(data_dir, size=8, batch_size=64, workers=1, augment=augment)

    def teacher(self):
        return ConvNet(16, size=8, channels=3)

    def student(self, *, width):
        return ConvNet(width, size=8, channels=3)


SPACE = SearchSpace(
    task=Digits(),
    student={"width": IntDistribution(2, 8, log=True)},
    distillation={"temperature": FloatDistribution(1, 20, log=True), "alpha": FloatDistribution(0, 0.9)},
    training={"learning_rate": FloatDistribution(1e-2, 3e-1, log=True)},
    epochs=4,
)
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each class with five hundred of scikit-learn's scans, as PNG files."""
    pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")
    folder, scans = tmp_path_factory.mktemp("pictures"), load_digits()
    for place, (pixels, label) in enumerate(zip(scans.images[:500], scans.target, strict=False)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / str(label) / f"{place:04d}.png")
    return folder


def command(pictures: Path, *more: str) -> tuple[str, ...]:
    flags = ("--space", "space.py", "--data-dir", str(pictures), "--objectives", "accuracy,parameters")
    return (*flags, "--trials", "3", "--pruner", "none", "--min", "none", *more)


def students(folder: Path) -> list[str]:
    """Content hashes of the students' weights."""
    files = sorted((folder / "mlruns" / "trials" / "space").glob("[0-9]*/student.safetensors"))
    return [tensors_digest(load_file(file)) for file in files]


def test_a_search_with_fresh_views_that_is_killed_ends_with_the_same_students(pictures: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        (folder / "space.py").write_text(SPACE)
    output = search(whole, *command(pictures, "--controls", "none"))
    assert "fresh views, mixed by MixUp(0.4) to train on" in output
    assert "outputs   asked live about each batch" in output
    process = start(cut, *command(pictures, "--controls", "none"))
    wait_for(lambda: epochs_logged(cut, "space", 1) >= 1 or process.poll() is not None)
    process.kill()
    process.wait()
    search(cut, *command(pictures, "--controls", "none"))
    assert numbers(cut, "space") == numbers(whole, "space") != []
    assert students(cut) == students(whole) and len(students(whole)) == 3


IN_MEMORY = """
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import Augment, CutMix, MixUp, TensorDataModule
from lightning_modules.data.embedded import digits
from lightning_modules.networks import ConvNet


def noisy(image):
    return image + 0.05 * torch.randn(image.shape)


class Digits(Task):
    teacher_epochs = 3

    def data(self, data_dir):
        data = digits(batch_size=64)
        return TensorDataModule(**{{n: s.few(400) for n, s in data.splits.items()}}, batch_size=64{augment})

    def teacher(self):
        return {teacher}

    def student(self, *, width):
        return ConvNet(width, size=8)


SPACE = SearchSpace(
    task=Digits(),
    student={{"width": IntDistribution(2, 8, log=True)}},
    distillation={{"temperature": FloatDistribution(1, 20, log=True), "alpha": FloatDistribution(0, 0.9)}},
    training={{"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)}},
    epochs=3,
)
"""


def in_memory(folder: Path, augment: str = "", *, teacher: str = "ConvNet(16, size=8)") -> tuple[str, ...]:
    text = IN_MEMORY.format(augment=augment, teacher=teacher)
    (folder / "space.py").write_text(text)
    flags = ("--space", "space.py", "--objectives", "accuracy,parameters", "--pruner", "none", "--min", "none")
    return (*flags, "--trials", "3")


def test_a_live_teacher_teaches_what_a_stored_one_does_and_a_study_keeps_its_way(tmp_path: Path) -> None:
    """Without augmentation both see the same samples, so only last bits may differ."""
    flags = (*in_memory(tmp_path), "--controls", "none")
    output = search(tmp_path, *flags, "--study", "stored", "--teacher-outputs", "stored")
    assert "outputs   stored: 400 samples, 0.0 MB, about" in output
    output = search(tmp_path, *flags, "--study", "live", "--teacher-outputs", "live")
    assert "outputs   asked live about each batch: about" in output
    for stored, live in zip(numbers(tmp_path, "stored"), numbers(tmp_path, "live"), strict=True):
        assert stored[:3] == live[:3]
        assert stored[3]["accuracy"] == pytest.approx(live[3]["accuracy"], abs=0.02)
        assert stored[3]["teacher_kl"] == pytest.approx(live[3]["teacher_kl"], rel=0.05, abs=1e-3)
    output = search(tmp_path, *flags, "--study", "live", "--trials", "4")  # goes on live
    assert "outputs   asked live about each batch" in output and "4/4 done" in output
    output = search(tmp_path, *flags, "--study", "live", "--trials", "5", "--teacher-outputs", "stored", expect=2)
    assert "study 'live' was begun with other teacher_outputs (live) than what is there now (stored)" in output


def test_students_and_controls_are_trained_on_the_same_mixed_targets(tmp_path: Path) -> None:
    flags = in_memory(tmp_path, ", augment=Augment(noisy, views='fresh', mix=CutMix())")
    output = search(tmp_path, *flags, "--controls", "plain")
    assert "no control possible" not in output and "fresh views, mixed by CutMix(1)" in output
    table = pd.read_csv(tmp_path / "mlruns" / "trials" / "space" / "report" / "trials.csv")
    assert table["control"].notna().any()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute("SELECT value FROM metrics WHERE key = 'train/hard_loss'").fetchall()
    assert rows and all(0 < value < 10 for (value,) in rows)


def test_a_function_is_asked_about_fresh_views_and_trees_are_refused_before_they_are_fitted(tmp_path: Path) -> None:
    asking = "\n\ndef ask(x):\n    return x.flatten(1)[:, 8:18]\n\n\nclass Digits"
    for teacher in ("FunctionTeacher(ask, digest='ten pixels')", "SklearnTeacher(Never())"):
        flags = in_memory(tmp_path, ", augment=Augment(noisy, views='fresh')", teacher=teacher)
        file = tmp_path / "space.py"
        never = (
            "class Never(DecisionTreeClassifier):\n    def fit(self, *given):\n        raise RuntimeError('fitted')\n"
        )
        imports = (
            "from sklearn.tree import DecisionTreeClassifier\n\n"
            "from harness.teachers import FunctionTeacher, SklearnTeacher\n\n\n"
        )
        file.write_text(file.read_text().replace("\n\nclass Digits", f"\n\n{imports}{never}{asking}", 1))
        if teacher.startswith("Function"):
            output = search(tmp_path, *flags, "--controls", "none", "--study", "asked", "--trials", "1")
            assert "outputs   asked live about each batch" in output and "1/1 done" in output
    output = search(tmp_path, *flags, "--study", "trees", expect=2)
    assert "fresh views need a teacher that can be asked about each batch" in output and "fitted" not in output


def test_stored_views_of_a_transform_are_asked_about_once(tmp_path: Path) -> None:
    flags = in_memory(tmp_path, ", augment=Augment(noisy, views=2)")
    output = search(tmp_path, *flags, "--controls", "none")
    assert "2 views of each to train on" in output and "outputs   stored: 2 views of 400 samples" in output
    assert all(trial.state.name == "COMPLETE" for trial in load(tmp_path, "space").trials)


def test_a_live_teacher_with_dropout_on_is_refused_before_a_trial(tmp_path: Path) -> None:
    noisy = "nn.Sequential(Noisy(), ConvNet(16, size=8))"
    flags = in_memory(tmp_path, ", augment=Augment(noisy, views='fresh')", teacher=noisy)
    file = tmp_path / "space.py"
    drops = "class Noisy(nn.Module):\n    def forward(self, x):\n        return nn.functional.dropout(x, 0.5)\n\n\n"
    file.write_text(file.read_text().replace("class Digits", drops + "class Digits"))
    output = search(tmp_path, *flags, expect=2)
    assert "a teacher that is asked live must answer alike each time" in output and "trial 0" not in output


def test_samples_that_can_not_be_mixed_are_named_before_a_teacher_is_made(tmp_path: Path) -> None:
    flags = in_memory(tmp_path, ", augment=Augment(mix=CutMix())")
    file = tmp_path / "space.py"
    flat = "{n: Split(s.inputs[:400].flatten(1), s.labels[:400]) for n, s in data.splits.items()}"
    text = file.read_text().replace("{n: s.few(400) for n, s in data.splits.items()}", flat)
    file.write_text(
        text.replace("import Augment, CutMix, MixUp, TensorD", "import Augment, CutMix, MixUp, Split, TensorD")
    )
    file.write_text(
        file.read_text()
        .replace("ConvNet(16, size=8)", "nn.Linear(64, 10)")
        .replace("ConvNet(width, size=8)", "nn.Sequential(nn.Linear(64, width), nn.Linear(width, 10))")
    )
    output = search(tmp_path, *flags, expect=2)
    assert "CutMix must have images (B, C, H, W), but got inputs of shape (4, 64)" in output
    assert "teacher   0/" not in output


def test_a_control_does_not_ask_the_live_teacher(tmp_path: Path) -> None:
    """Each call of the teacher about a training batch writes a byte."""
    flags = in_memory(tmp_path, ", augment=Augment(noisy, views='fresh')", teacher="Counting(ConvNet(16, size=8))")
    file = tmp_path / "space.py"
    counting = (
        "class Counting(nn.Sequential):\n    def forward(self, x):\n        if torch.is_inference_mode_enabled():\n"
        "            open('calls', 'a').write('.')\n        return super().forward(x)\n\n\n"
    )
    file.write_text(file.read_text().replace("class Digits", counting + "class Digits"))
    search(tmp_path, *flags, "--controls", "none")
    alone = (tmp_path / "calls").stat().st_size
    search(tmp_path, *flags, "--controls", "plain")
    assert alone > 0 and (tmp_path / "calls").stat().st_size == alone
