"""The teacher's outputs: computed once for each teacher and dataset, kept under a content key, checked when loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.content import digest, exclusive, tensors_digest, write_atomically
from harness.teacher import Teacher
from lightning_modules.batch import call
from lightning_modules.tensors import TensorDataModule

SEARCHED = ("train", "val")
"""The splits that a search may look at; the test split is nobody's before it is over."""

Outputs = dict[str, dict[str, Tensor]]
"""By split and name; ``["train"]["logits"]`` has shape (N, C), or (N, V, C) where the samples have views."""


def make_teacher_outputs(
    teacher: Teacher,
    data: TensorDataModule,
    dataset: str,
    *,
    splits: Sequence[str] = SEARCHED,
    cache_dir: Path,
    say: Callable[[str], None],
) -> Outputs:
    """Load the teacher's outputs from the cache, or run the teacher once over the data and keep them.

    They are raw logits: a softmax could not be undone, and the temperature is searched.

    Args:
        teacher: The teacher.
        data: Its samples, in a fixed order.
        dataset: Fingerprint of the data.
        splits: Names of the splits.
        cache_dir: Root of the caches.
        say: Called with a line of text when a kept file turns out to be damaged.
    """
    key = digest("teacher outputs", 1, teacher.digest, dataset, sorted(splits))
    file = cache_dir / "teacher_outputs" / f"{key}.safetensors"
    with exclusive(file.with_suffix(".lock")):
        if file.exists():
            try:
                return _load(file, key, data, splits)
            except (SafetensorError, OSError, ValueError) as error:
                say(f"the kept teacher outputs {file} are damaged ({error}); computing them again")
        flat = {f"{split}.logits": _forward(teacher, data, split) for split in splits}
        metadata = {"key": key, "digest": tensors_digest(flat), "teacher": teacher.digest, "dataset": dataset}
        write_atomically(file, lambda path: save_file(flat, path, metadata=metadata))
        return _by_split(flat)


def _load(file: Path, key: str, data: TensorDataModule, splits: Sequence[str]) -> Outputs:
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata() or {}
    flat = load_file(file)
    if metadata.get("key") != key or metadata.get("digest") != tensors_digest(flat):
        raise ValueError("their content does not match their hash")
    outputs = _by_split(flat)
    for split in splits:
        assert len(outputs[split]["logits"]) == len(data.splits[split])
    return outputs


def _by_split(flat: dict[str, Tensor]) -> Outputs:
    outputs: Outputs = {}
    for full_name, values in flat.items():
        split, name = full_name.split(".", 1)
        outputs.setdefault(split, {})[name] = values
    return outputs


@torch.no_grad()
def _forward(teacher: Teacher, data: TensorDataModule, split: str) -> Tensor:
    assert not teacher.network.training
    loader, views = data.ordered(split), []
    for view in range(1 if loader.views is None else loader.views.count):
        loader.set_epoch(view)
        logits = [call(teacher.network, batch.inputs).float().cpu() for item in loader for batch in item]
        views.append(torch.cat(logits))
    return views[0] if loader.views is None else torch.stack(views, dim=1)
