"""The teacher's outputs: computed once for each teacher and dataset, kept under content keys, checked when loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.core.content import digest, tensors_digest
from harness.teachers.answers import FLOOR
from harness.teachers.black_box import BlackBoxTeacher, Query
from harness.teachers.cache import ArtifactCache, outputs_file
from harness.teachers.make import Teacher
from harness.training.tensor_file import save_tensors
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.features import capture_features, probe_features

SEARCHED = ("train", "val")
"""The splits that a search may use; the test split is for ``confirm``, after it."""

Outputs = dict[str, dict[str, Any]]
"""A teacher's outputs by split and name; ``["train"]["logits"]`` has shape (N, C), or (N, V, C) with V views.

They are tensors; logits in the form of ``TopK`` are a ``StoredTopK``.
"""

_Answer = Callable[[Query], dict[str, Tensor]]

LOGITS = "logits"
"""Name of a teacher's raw logits among its outputs."""

_HALVED = "train"  # the split whose outputs may be stored in float16: the largest, which nothing is scored on


def make_teacher_outputs(
    teacher: Teacher,
    data: TensorDataModule,
    dataset: str,
    *,
    splits: Sequence[str] = SEARCHED,
    layers: Sequence[str] = (),
    has_logits: bool = True,
    dtype: torch.dtype = torch.float32,
    cache_dir: Path,
    artifacts: ArtifactCache,
) -> Outputs:
    """Load the teacher's outputs from the cache, or run the teacher once over the data and keep them.

    Stored are raw logits, for a softmax could not be undone and the temperature is searched, and the outputs of some
    layers. Each has a file of its own, so that a layer that is needed later adds one. A file is mapped into memory:
    workers of one machine share it, and what is never read takes no memory.

    Args:
        teacher: The teacher.
        data: Its samples, in a fixed order.
        dataset: Fingerprint of the data.
        splits: Names of the splits.
        layers: Names of the layers whose outputs are wanted.
        has_logits: Whether the logits are wanted too; at least one output is.
        dtype: Type of those of the training split: float32, or float16, whose largest error is said.
        cache_dir: Root of the caches.
        artifacts: Finds outputs that are kept, and keeps those that are computed.

    Raises:
        ValueError: If there is no layer of a name, or what it gives can't be stored.
    """
    keys = {name: _key(teacher.digest, dataset, name, splits, dtype) for name in [LOGITS] * has_logits + [*layers]}
    files = {name: outputs_file(cache_dir, key) for name, key in keys.items()}
    names = {file: name for name, file in files.items()}
    kept: dict[str, dict[str, Tensor]] = {}

    def load(file: Path) -> None:
        name = names[file]
        kept[name] = _load(file, keys[name], data, splits)

    def compute(missing: list[Path]) -> None:
        asked = teacher.black_box or teacher.network
        assert asked is not None
        made = _forward(asked, data, [names[file] for file in missing], splits)
        if teacher.black_box is not None and (floored := teacher.black_box.floored):
            artifacts.say(f"teacher   {floored:,} of its probabilities are below {FLOOR:g}, and are stored as that")
        for file in missing:
            name = names[file]
            by_split = made.pop(name)
            if dtype == torch.float16 and _HALVED in by_split:
                artifacts.say(f"teacher   {_halve(by_split, name)}")
            metadata = {"key": keys[name], "name": name, "teacher": teacher.digest, "dataset": dataset}
            _save(by_split, file, metadata)
            if name != LOGITS:
                size_mb = sum(values.nbytes for values in by_split.values()) / 1e6
                artifacts.say(f"teacher   what its layer {name} gives is stored, {size_mb:,.0f} MB")

    what, run_folder = "teacher outputs", teacher.spool.folder
    artifacts.get_or_create(
        list(names),
        lock=next(iter(names)).with_suffix(".lock"),
        name=f"outputs {next(iter(keys.values()))}",
        what=what,
        doing="computes the teacher's outputs",
        run_key=teacher.run_key,
        run_folder=run_folder,
        load=load,
        make=compute,
    )
    artifacts.share(list(names), what, run_folder)
    return {split: {name: kept[name][split] for name in files} for split in splits}


def run_teacher(
    network: nn.Module | BlackBoxTeacher,
    data: TensorDataModule,
    *,
    layers: Sequence[str] = (),
    splits: Sequence[str] = SEARCHED,
) -> Outputs:
    """Compute what is stored of a teacher: its outputs for every sample, on the CPU.

    Args:
        network: The teacher: in eval mode, or prepared.
        data: Its samples, in a fixed order.
        layers: Names of the layers whose outputs are wanted beside the logits.
        splits: Names of the splits.

    Raises:
        ValueError: If there is no layer of a name, or what it gives can't be stored.
    """
    made = _forward(network, data, (LOGITS, *layers), splits)
    return {split: {name: by_split[split] for name, by_split in made.items()} for split in splits}


def find_teacher_outputs(
    teacher_digest: str,
    data: TensorDataModule,
    dataset: str,
    *,
    cache_dir: Path,
    dtype: torch.dtype = torch.float32,
) -> Outputs | None:
    """Return the kept logits of a teacher; ``None`` if there are none.

    Raises:
        SafetensorError, OSError, ValueError: If they are damaged.
    """
    key = _key(teacher_digest, dataset, LOGITS, SEARCHED, dtype)
    file = outputs_file(cache_dir, key)
    if not file.exists():
        return None
    return {split: {LOGITS: values} for split, values in _load(file, key, data, SEARCHED).items()}


def _key(teacher_digest: str, dataset: str, name: str, splits: Sequence[str], dtype: torch.dtype) -> str:
    halved = [str(dtype)] if dtype != torch.float32 else []
    return digest("teacher outputs", 2, teacher_digest, dataset, name, *splits, *halved)


def _halve(by_split: dict[str, Tensor], name: str) -> str:
    """Store a teacher's outputs for the training split in float16, and return the largest error that it makes.

    Raises:
        ValueError: If a number does not fit.
    """
    whole = by_split[_HALVED]
    half = whole.half()
    finite = whole.isfinite()
    what = "logits" if name == LOGITS else f"outputs of its layer {name}"
    if not bool((half.isfinite() == finite).all()):
        largest = float(whole[finite].abs().max())
        raise ValueError(
            f"its {what} must be within ±65,504 to be stored in float16, but go up to {largest:,.4g}: leave "
            "teacher_outputs_dtype out"
        )
    by_split[_HALVED] = half
    error = float((half.float() - whole)[finite].abs().max()) if bool(finite.any()) else 0.0
    return f"its {what} for training samples are stored in float16, off by at most {error:.2g}"


def _save(by_split: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    metadata["digest"] = tensors_digest(by_split)
    save_tensors(by_split, file, metadata)


def _load(file: Path, key: str, data: TensorDataModule, splits: Sequence[str]) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata() or {}
    by_split = load_file(file)
    if metadata.get("key") != key or metadata.get("digest") != tensors_digest(by_split):
        raise ValueError("their content does not match their hash")
    for split in splits:
        if split not in by_split or len(by_split[split]) != len(data.splits[split]):
            raise ValueError(f"they must have a row for each {split} sample")
    return by_split


@torch.no_grad()
def _forward(
    asked: nn.Module | BlackBoxTeacher, data: TensorDataModule, names: Sequence[str], splits: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """Return outputs by name and split; each tensor is allocated once, for features are large."""
    layers = [name for name in names if name != LOGITS]
    answer = _answers_of_black_box(asked) if isinstance(asked, BlackBoxTeacher) else _answers_of(asked, data, layers)
    outputs: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for split in splits:
        loader = data.ordered(split, whole=bool(layers))
        views = () if loader.views is None else (loader.views.count,)
        for view in range(*views or (1,)):
            loader.set_epoch(view)
            for batch in (batch for item in loader for batch in item):
                found = answer(Query(split, batch.ids, view, batch.inputs))
                rows = batch.ids.cpu()
                for name in names:
                    if split not in outputs[name]:
                        outputs[name][split] = torch.empty(len(loader.split), *views, *found[name].shape[1:])
                    outputs[name][split][(rows, view) if views else rows] = found[name].float().cpu()
    return outputs


def _answers_of(network: nn.Module, data: TensorDataModule, layers: Sequence[str]) -> _Answer:
    """Return what asks a network for its logits and the outputs of some layers."""
    assert not network.training
    if layers:
        probe_features(network, data.splits["val"].few(2).inputs, layers)  # raises for what can't be stored

    def answer(query: Query) -> dict[str, Tensor]:
        with capture_features(network, layers) as found:
            found[LOGITS] = call(network, query.inputs)
        return found

    return answer


def _answers_of_black_box(teacher: BlackBoxTeacher) -> _Answer:
    """Return what asks a teacher that is no network; it has no layers."""
    teacher.floored = 0
    return lambda query: {LOGITS: teacher.ask(query)}
