"""What black-box teachers of tests stand on: a little data that is easy to tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import Silent
from torch import Tensor

from harness.teachers.black_box import BlackBoxTeacher, Ground
from harness.teachers.cache import ArtifactCache, null_lock
from harness.teachers.outputs import run_teacher
from harness.teachers.prepare_black_box import prepare_black_box
from harness.tracking.spool import Spool
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views

NAMES = ("ant", "bee", "cat")
SIZES = {"train": 45, "val": 15, "test": 15}


def clusters(*, ids: bool = True, views: Views | None = None, classes: int = 3) -> TensorDataModule:
    """Points around a centre for each class, each split with ids of its own: ``train-0`` and so on."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for name, size in SIZES.items():
        labels = torch.arange(size) % classes
        inputs = torch.randn(size, 4, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 4)
        splits[name] = Split(inputs, labels, [f"{name}-{row}" for row in range(size)] if ids else None)
    return TensorDataModule(**splits, batch_size=8, eval_batch_size=10, views=views)


def ground(data: TensorDataModule | None = None, **changes: Any) -> Ground:
    """A ground on such data; what is said goes nowhere unless ``note`` is given."""
    given = {"data": clusters() if data is None else data, "dataset": "some data", "classes": 3, "names": NAMES}
    return Ground(**{**given, **changes})


def outputs(teacher: BlackBoxTeacher, on: Ground, *splits: str) -> dict[str, Tensor]:
    """The logits that a teacher gives of all samples, once it is prepared."""
    teacher.prepare(on)
    asked = splits or ("train", "val")
    return {split: found["logits"] for split, found in run_teacher(teacher, on.data, splits=asked).items()}


def prepared_in(folder: Path, teacher: BlackBoxTeacher, on: Ground, said: list[str]) -> str:
    """Prepare a teacher as a search does, with a cache in a folder; its digest."""
    start, spool = prepare_black_box(
        teacher,
        Ground(on.data, on.dataset, on.classes, on.names, on.seed, said.append),
        folder,
        ArtifactCache(null_lock, Silent(), said.append),
        lambda place: _begun(place),
        lambda asked: None,
    )
    spool.close()
    return start.digest


def _begun(folder: Path) -> Spool:
    spool = Spool(folder)
    spool.begin("teacher", tags={}, params={})
    return spool
