"""A teacher's outputs in the form of ``TopK``: streamed to disk in shards, so that no split is ever held in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from harness.core.content import derived_seed, digest, tensors_digest
from harness.core.errors import Unfit
from harness.networks.logits import SOURCES_OF_NAN, numbers_fault
from harness.teachers.answers import FLOOR
from harness.teachers.black_box import BlackBoxTeacher, Query
from harness.teachers.cache import ArtifactCache, outputs_file
from harness.teachers.make import Teacher
from harness.training.tensor_file import save_tensors
from lightning_modules.batch import Batch, call
from lightning_modules.data.stored_top_k import ROWS, StoredTopK
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.outputs import Output
from lightning_modules.top_k import TopK

_SHARD_BYTES = 2**26
_TRAIN = "train"


@dataclass(frozen=True)
class _Shard:
    """Consecutive samples of a split, which have a file of their own."""

    split: str
    first: int
    last: int
    key: str


def make_top_k_outputs(
    teacher: Teacher,
    data: TensorDataModule,
    dataset: str,
    *,
    form: TopK,
    output: Output,
    classes: int,
    splits: Sequence[str],
    cache_dir: Path,
    artifacts: ArtifactCache,
) -> dict[str, StoredTopK]:
    """Find a teacher's outputs in the form of ``TopK``, or ask it, and return them by split.

    Each shard is a file under a content key, written atomically: what a killed process has stored is found by the next
    one. Beside the k largest logits, the true class of a sample that is scored is kept, so that what the teacher scores
    is not changed by the form.

    Args:
        teacher: The teacher.
        data: Its samples.
        dataset: What stands for them in keys.
        form: The form.
        output: The kind of its output, whose rows are scores of classes.
        classes: Number of classes C.
        splits: Names of the splits.
        cache_dir: Root of the caches.
        artifacts: Finds shards that are kept, and keeps those that are made.

    Raises:
        Unfit: If there is NaN or infinity in its logits.
    """
    by_split = {name: _shards(teacher.digest, data, dataset, name, form, classes) for name in splits}
    shards = {outputs_file(cache_dir, one.key): one for each in by_split.values() for one in each}

    def compute(missing: list[Path]) -> None:
        asked = teacher.black_box or teacher.network
        assert asked is not None
        if len(missing) < len(shards):
            kept = len(shards) - len(missing)
            artifacts.say(f"teacher   {kept} of {len(shards)} files of its outputs are stored already")

        def answer(shard: _Shard, batch: Batch, view: int) -> Tensor:
            if isinstance(asked, BlackBoxTeacher):
                return asked.ask(Query(shard.split, batch.ids, view, batch.inputs))
            return call(asked, batch.inputs)

        if teacher.black_box is not None:
            teacher.black_box.floored = 0
        for file in missing:
            shard = shards[file]
            rows = {ROWS: _packed(shard, answer, data, form, output)}
            metadata = {"key": shard.key, "teacher": teacher.digest, "dataset": dataset, "digest": tensors_digest(rows)}
            save_tensors(rows, file, metadata)
        if teacher.black_box is not None and (floored := teacher.black_box.floored):
            artifacts.say(f"teacher   {floored:,} of its probabilities are below {FLOOR:g}, and are stored as that")

    first = next(iter(shards))
    artifacts.get_or_create(
        list(shards),
        lock=first.with_suffix(".lock"),
        name=f"outputs {shards[first].key}",
        what="teacher outputs",
        doing="computes the teacher's outputs",
        run_key=teacher.run_key,
        run_folder=teacher.spool.folder,
        load=lambda file: _check(file, shards[file]),
        make=compute,
    )
    artifacts.share(list(shards), "teacher outputs", teacher.spool.folder)
    return {
        name: StoredTopK([outputs_file(cache_dir, one.key) for one in each], form, classes)
        for name, each in by_split.items()
    }


def _shards(teacher: str, data: TensorDataModule, dataset: str, split: str, form: TopK, classes: int) -> list[_Shard]:
    """Return the shards of a split: as many samples each as make 64 MB."""
    size = max(1, _SHARD_BYTES // sample_bytes(data, split, form, classes))
    count = len(data.splits[split])
    edges = [*range(0, count, size), count]
    asked = (dataset, split, data.eval_batch_size)  # each batch has draws of its own
    named = ("top k of teacher outputs", 1, teacher, *asked, form.k, form.draws, *form.temperatures)
    return [_Shard(split, first, last, digest(*named, first, last)) for first, last in itertools.pairwise(edges)]


def sample_bytes(data: TensorDataModule, split: str, form: TopK, classes: int) -> int:
    """Return how many bytes are stored of a sample of a split, in all its stored views."""
    places = math.prod(data.splits[split].labels.shape[1:])
    views = data.views.count if split == _TRAIN and data.views is not None else 1
    return places * views * form.row_bytes(classes)


def _check(file: Path, shard: _Shard) -> None:
    """Check that a shard is what was written.

    Raises:
        ValueError: If it is not.
    """
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata() or {}
    rows = load_file(file)
    if metadata.get("key") != shard.key or metadata.get("digest") != tensors_digest(rows):
        raise ValueError("their content does not match their hash")


@torch.no_grad()
def _packed(
    shard: _Shard,
    answer: Callable[[_Shard, Batch, int], Tensor],
    data: TensorDataModule,
    form: TopK,
    output: Output,
) -> Tensor:
    """Ask about the samples of a shard, batch by batch, and return them packed, shape (n, ..., W)."""
    loader = data.ordered(shard.split, torch.arange(shard.first, shard.last))
    views = () if loader.views is None else (loader.views.count,)
    labels = data.splits[shard.split].labels
    rows: Tensor | None = None
    for view in range(*views or (1,)):
        loader.set_epoch(view)
        for batch in (batch for item in loader for batch in item):
            logits = answer(shard, batch, view).float().movedim(output.size_axis, -1)
            if fault := numbers_fault(logits.flatten(0, -2)):
                raise Unfit(f"the teacher has {fault} of {shard.split} in its logits", SOURCES_OF_NAN)
            seed = derived_seed(shard.key, view, int(batch.ids[0]))
            packed = form.pack(
                logits, None if shard.split == _TRAIN else batch.target.to(logits.device), seed=seed
            ).cpu()
            if rows is None:
                places = labels.shape[1:]
                rows = torch.zeros((shard.last - shard.first, *views, *places, packed.shape[-1]), dtype=torch.int16)
            local = batch.ids.cpu() - shard.first
            (rows[:, view] if views else rows)[local] = packed
    assert rows is not None
    return rows
