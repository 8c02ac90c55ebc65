"""The teacher's outputs: computed once for each teacher and dataset, kept under a content key, checked when loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.content import digest, exclusive, tensors_digest, write_atomically
from harness.teacher import Teacher
from lightning_modules.batch import call
from lightning_modules.tensors import TensorDataModule

SPLITS = ("train", "val")  # the test split is nobody's before the search is over

Outputs = dict[str, dict[str, Tensor]]
"""By split and name; ``["train"]["logits"]`` has shape (N, C), or (N, V, C) where the samples have views."""


def make_teacher_outputs(
    teacher: Teacher, data: TensorDataModule, dataset: str, *, cache_dir: Path, say: Callable[[str], None]
) -> Outputs:
    """Load the teacher's outputs from the cache, or run the teacher once over the data and keep them.

    They are raw logits: a softmax could not be undone, and the temperature is searched.

    Args:
        teacher: The teacher.
        data: Its samples, in a fixed order.
        dataset: Fingerprint of the data.
        cache_dir: Root of the caches.
        say: Called with a line of text when a kept file turns out to be damaged.
    """
    file, key = _file_and_key(teacher.digest, dataset, cache_dir)
    with exclusive(file.with_suffix(".lock")):
        try:
            kept = find_teacher_outputs(teacher.digest, data, dataset, cache_dir=cache_dir)
        except (SafetensorError, OSError, ValueError) as error:
            say(f"the kept teacher outputs {file} are damaged ({error}); computing them again")
            kept = None
        if kept is not None:
            return kept
        flat = _run(teacher.network, data)
        metadata = {"key": key, "digest": tensors_digest(flat), "teacher": teacher.digest, "dataset": dataset}
        write_atomically(file, lambda path: save_file(flat, path, metadata=metadata))
        return _by_split(flat)


def run_teacher(network: nn.Module, data: TensorDataModule) -> Outputs:
    """What is stored of a teacher: its outputs for every sample, computed now, on the CPU.

    Args:
        network: The teacher, in eval mode.
        data: Its samples, in a fixed order.
    """
    return _by_split(_run(network, data))


def find_teacher_outputs(
    teacher_digest: str, data: TensorDataModule, dataset: str, *, cache_dir: Path
) -> Outputs | None:
    """The kept outputs of a teacher, or ``None`` if there are none.

    Raises:
        SafetensorError, OSError, ValueError: If they are damaged.
    """
    file, key = _file_and_key(teacher_digest, dataset, cache_dir)
    return _load(file, key, data) if file.exists() else None


def _file_and_key(teacher_digest: str, dataset: str, cache_dir: Path) -> tuple[Path, str]:
    key = digest("teacher outputs", 1, teacher_digest, dataset)
    return cache_dir / "teacher_outputs" / f"{key}.safetensors", key


def _load(file: Path, key: str, data: TensorDataModule) -> Outputs:
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata() or {}
    flat = load_file(file)
    if metadata.get("key") != key or metadata.get("digest") != tensors_digest(flat):
        raise ValueError("their content does not match their hash")
    outputs = _by_split(flat)
    for split in SPLITS:
        assert len(outputs[split]["logits"]) == len(data.splits[split])
    return outputs


def _by_split(flat: dict[str, Tensor]) -> Outputs:
    outputs: Outputs = {}
    for full_name, values in flat.items():
        split, name = full_name.split(".", 1)
        outputs.setdefault(split, {})[name] = values
    return outputs


def _run(network: nn.Module, data: TensorDataModule) -> dict[str, Tensor]:
    return {f"{split}.logits": _forward(network, data, split) for split in SPLITS}


@torch.no_grad()
def _forward(network: nn.Module, data: TensorDataModule, split: str) -> Tensor:
    assert not network.training
    loader, views = data.ordered(split), []
    for view in range(1 if loader.views is None else loader.views.count):
        loader.set_epoch(view)
        logits = [call(network, batch.inputs).float().cpu() for item in loader for batch in item]
        views.append(torch.cat(logits))
    return views[0] if loader.views is None else torch.stack(views, dim=1)
