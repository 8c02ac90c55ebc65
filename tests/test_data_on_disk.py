"""A folder of pictures that is read while students train: searched to the end, cut in the middle, refused if torn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import search
from PIL import Image
from sklearn.datasets import load_digits

pytestmark = pytest.mark.slow

SPACE = """
from pathlib import Path

import numpy as np
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from PIL import Image
from torch.utils.data import Dataset

from harness import SearchSpace, Task
from lightning_modules.data import DatasetDataModule
from lightning_modules.networks import ConvNet


class Pictures(Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        file = self.files[place]
        return torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255)[None], int(file.parent.name)


class Digits(Task):
    teacher_epochs = 2

    def data(self, data_dir):
        files = sorted(data_dir.glob("*/*.png"), key=lambda file: file.name)
        parts = files[:600], files[600:800], files[800:]
        train, val, test = map(Pictures, parts)
        return DatasetDataModule(train=train, val=val, test=test, batch_size=64, workers=1)

    def teacher(self):
        return ConvNet(16, size=8)

    def student(self, *, width):
        return ConvNet(width, size=8)


SPACE = SearchSpace(
    task=Digits(),
    student={"width": IntDistribution(2, 8, log=True)},
    distillation={"temperature": FloatDistribution(1, 20, log=True), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=4,
)
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each class with a thousand of scikit-learn's scans, as PNG files."""
    folder, scans = tmp_path_factory.mktemp("pictures"), load_digits()
    for place, (pixels, label) in enumerate(zip(scans.images[:1000], scans.target, strict=False)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / str(label) / f"{place:04d}.png")
    return folder


def command(pictures: Path, *more: str) -> tuple[str, ...]:
    flags = ("--space", "space.py", "--data-dir", str(pictures), "--objectives", "accuracy,parameters")
    return (*flags, "--trials", "4", "--controls", "none", *more)


def test_two_workers_read_pictures_with_processes_of_their_own(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    output = search(tmp_path, *command(pictures, "--workers", "2"))
    assert "600 train, 200 val, 200 test samples" in output and "4/4 done" in output


FOLDERS = """
from optuna.distributions import FloatDistribution, IntDistribution

from harness import SearchSpace, Task
from lightning_modules.data import ImageFolders
from lightning_modules.networks import ConvNet


class Digits(Task):
    teacher_epochs = 2

    def data(self, data_dir):
        return ImageFolders(data_dir, size=8, batch_size=64, workers=1)

    def teacher(self):
        return ConvNet(16, size=8, channels=3)

    def student(self, *, width):
        return ConvNet(width, size=8, channels=3)


SPACE = SearchSpace(
    task=Digits(),
    student={"width": IntDistribution(2, 8, log=True)},
    distillation={"temperature": FloatDistribution(1, 20, log=True), "alpha": FloatDistribution(0, 1)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=2,
)
"""


def test_pictures_in_a_folder_for_each_class_are_searched(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")
    (tmp_path / "space.py").write_text(FOLDERS)
    output = search(tmp_path, *command(pictures, "--min", "none"))
    assert "4/4 done" in output and "599 train, 200 val, 201 test samples" in output


def test_a_picture_that_is_none_is_named_before_anything_trains(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    torn = sorted(pictures.glob("*/*.png"))[0]
    kept = torn.read_bytes()
    torn.write_text("no picture")
    try:
        output = search(tmp_path, *command(pictures), expect=2)
    finally:
        torn.write_bytes(kept)
    assert "can't be read: UnidentifiedImageError: cannot identify image file" in output and torn.name in output
    assert "teacher" not in output
