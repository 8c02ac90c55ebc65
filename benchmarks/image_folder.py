"""A trial on a folder of pictures beside a plain Lightning script that does the same; live and stored teachers.

    python benchmarks/image_folder.py --pairs 3

The same pictures, transforms, networks, loss, batch size and number of reading processes. *plain*: torchvision's
``ImageFolder`` in a ``DataLoader``, the teacher in ``training_step``. *live*: ``views="fresh"``. *stored*: four views,
of which the teacher was asked once. Time is that of the training alone. Memory is the largest sum of the process
tree's proportional set sizes (PSS).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from learning_curves import prepared_for
from PIL import Image
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from harness.space import Configuration
from harness.trials.trial import TrainingSpec, train_student
from lightning_modules.data.images import IMAGENET_MEAN, IMAGENET_STD
from lightning_modules.pretrained import network

SIDE, SIZE, BATCH, WORKERS, EPOCHS, RATE = 160, 96, 64, 2, 3, 0.01
TEMPERATURE, ALPHA = 4.0, 0.3
STUDENT = "torchvision:squeezenet1_1"
CLASSES = 4

SPACE = """
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torchvision.transforms import v2

from harness import SearchSpace, Task
from lightning_modules.data import Augment, ImageFolders
from lightning_modules.pretrained import network


class Pictures(Task):
    teacher_epochs = 1

    def data(self, data_dir):
        crop = v2.Compose([v2.RandomResizedCrop({size}, antialias=True), v2.RandomHorizontalFlip()])
        augment = Augment(crop, views={views})
        return ImageFolders(data_dir, size={size}, batch_size={batch}, workers={workers}, augment=augment)

    def teacher(self):
        return network("{teacher}", classes={classes}).requires_grad_(False)

    def student(self, *, family):
        return network(family, classes={classes})


SPACE = SearchSpace(
    task=Pictures(),
    student={{"family": CategoricalDistribution(["{student}"])}},
    distillation={{"temperature": FloatDistribution(1, 10), "alpha": FloatDistribution(0, 1)}},
    training={{"learning_rate": FloatDistribution(1e-4, 1e-1, log=True)}},
    epochs={epochs},
)
"""


def make_pictures(folder: Path, count: int) -> None:
    """Write pictures of smooth noise, in train, val and test, a folder for each class."""
    draw = np.random.default_rng(0)
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        for place in range(int(count * share)):
            name = folder / split / str(place % CLASSES)
            name.mkdir(parents=True, exist_ok=True)
            small = draw.integers(0, 256, (10, 10, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(name / f"{place}.jpg")


class Plain(pl.LightningModule):
    """What people write: the teacher is asked in ``training_step``."""

    def __init__(self, teacher: nn.Module, steps: int) -> None:
        super().__init__()
        self.teacher, self.student, self.steps = teacher, network(STUDENT, classes=CLASSES), steps

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        with torch.no_grad():
            target = self.teacher.eval()(inputs) / TEMPERATURE
        logits = self.student(inputs)
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, -1), F.log_softmax(target, -1), reduction="batchmean", log_target=True
        )
        loss = ALPHA * F.cross_entropy(logits, labels) + (1 - ALPHA) * TEMPERATURE**2 * soft
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, labels = batch
        self.log("val/accuracy", (self.student(inputs).argmax(-1) == labels).float().mean())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def plain(pictures: Path, teacher: nn.Module) -> None:
    """Train a student with Lightning and a ``DataLoader``."""
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))]
    crop = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    whole = v2.Compose([v2.Resize(SIZE, antialias=True), v2.CenterCrop(SIZE)])
    train, val = (
        DataLoader(
            ImageFolder(str(pictures / split), v2.Compose([v2.PILToTensor(), first, *last])),
            batch_size=BATCH,
            shuffle=split == "train",
            num_workers=WORKERS,
        )
        for split, first in (("train", crop), ("val", whole))
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", default_root_dir=folder, **quiet)  # type: ignore[arg-type]
        trainer.fit(Plain(teacher, EPOCHS * len(train)), train, val)


def pss_mb() -> float:
    """Return the sum of the proportional set sizes of this process and its children."""
    this, total = psutil.Process(), 0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a training takes, and its largest memory in MB."""
    ended, most = threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.2):
            most[0] = max(most[0], pss_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began_s = time.perf_counter()
    try:
        run()
    finally:
        taken_s = time.perf_counter() - began_s
        ended.set()
        watcher.join()
    return taken_s, most[0]


def main() -> None:
    """Train pairs and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--teacher", default="torchvision:resnet18", help="a larger one is asked for longer")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    pictures = folder / "pictures"
    make_pictures(pictures, asked.pictures)
    how = {"size": SIZE, "batch": BATCH, "workers": WORKERS, "classes": CLASSES, "epochs": EPOCHS}
    prepared = {}
    for name, views in (("live", '"fresh"'), ("stored", "4")):
        file = folder / f"{name}_space.py"
        file.write_text(textwrap.dedent(SPACE).format(views=views, teacher=asked.teacher, student=STUDENT, **how))
        prepared[name] = prepared_for(str(file), folder / "runs", "--data-dir", str(pictures))
    torch.manual_seed(0)
    teacher = network(asked.teacher, classes=CLASSES).eval().requires_grad_(False)
    configuration = Configuration({"family": STUDENT}, {"temperature": 4.0, "alpha": 0.3}, {"learning_rate": RATE})

    def trial(name: str, seed: int) -> Callable[[], object]:
        space, made = prepared[name]
        spec = TrainingSpec(configuration=configuration, seed=seed, order_seed=seed)
        return lambda: train_student(spec, space, made, folder=Path(tempfile.mkdtemp()), accelerator="cpu")

    taken: dict[str, list[float]] = {"plain": [], "live": [], "stored": []}
    for pair in range(asked.pairs):
        runs = {"plain": lambda: plain(pictures, teacher), "live": trial("live", pair), "stored": trial("stored", pair)}
        order = list(runs) if pair % 2 == 0 else list(runs)[::-1]
        for name in order:
            seconds, memory = timed(runs[name])
            taken[name].append(seconds)
            print(f"{name:<7} {seconds:6.1f} s, {memory:,.0f} MB", flush=True)
    for name, other in (("live", "plain"), ("live", "stored")):
        ratios = [one / two for one, two in zip(taken[name], taken[other], strict=True)]
        print(f"{name} / {other}: {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
