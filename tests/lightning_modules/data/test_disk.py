"""Datasets that are read sample by sample: the same batches as from memory, whoever reads them, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import environment, wait_for
from grounds import ground, outputs
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from harness.core.content import LeaseLock
from harness.preparation.fingerprint import fingerprint
from harness.teachers import StoredOutputs
from lightning_modules.batch import Batch, select
from lightning_modules.data import DatasetDataModule, Split, TensorDataModule
from lightning_modules.data.dataset_split import DatasetSplit
from lightning_modules.data.reading import KILLED, UnreadableData, unreadable_text

SIZE, WIDTH = 23, 3


def split_of(size: int, *, named: bool = False) -> Split:
    draw = torch.Generator().manual_seed(size)
    inputs = torch.rand(size, WIDTH, generator=draw)
    return Split({"x": inputs, "mask": inputs > 0.5} if named else inputs, torch.arange(size) % 4)


class Rows(Dataset[Any]):
    """The samples of a split, one by one."""

    def __init__(self, split: Split) -> None:
        self.split, self.read = split, 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        self.read += 1
        return select(self.split.inputs, torch.tensor(place)), int(self.split.labels[place])


def modules(*, workers: int = 0, named: bool = False, **sizes: int) -> tuple[TensorDataModule, DatasetDataModule]:
    """Return data modules of the same samples: in memory, and read."""
    splits = {name: split_of(size, named=named) for name, size in (("train", SIZE), ("val", 5), ("test", 4))}
    rows = {name: Rows(split) for name, split in splits.items()}
    return (
        TensorDataModule(**splits, **sizes),  # type: ignore[arg-type]
        DatasetDataModule(**rows, workers=workers, **sizes),  # type: ignore[arg-type]
    )


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    inputs = batch.inputs if isinstance(batch.inputs, dict) else {"inputs": batch.inputs}
    return {"ids": batch.ids, "target": batch.target, **inputs, **batch.teacher}


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = ([batch for item in loader for batch in item] for loader in (one, other))
    assert len(ours) == len(theirs) > 0
    for left, right in zip(ours, theirs, strict=True):
        named = tensors_of(left)
        assert named.keys() == tensors_of(right).keys()
        for name, value in tensors_of(right).items():
            assert torch.equal(named[name], value) and named[name].dtype == value.dtype, name


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("batch_size", [4, 11, 64])  # 23 = 5 * 4 + 3 = 2 * 11 + 1: one left joins the batch before it
def test_batches_are_those_of_the_same_samples_in_memory(workers: int, named: bool, batch_size: int) -> None:
    held, read = modules(workers=workers, named=named, batch_size=batch_size, eval_batch_size=4)
    outputs = {"train": {"logits": torch.rand(SIZE, 4)}, "val": {"logits": torch.rand(5, 4)}}
    for module in (held, read):
        module.seed = 7
        module.attach(outputs)
    assert held.steps_per_epoch == read.steps_per_epoch
    one, other = held.train_dataloader(), read.train_dataloader()
    assert one.last_batch_size == other.last_batch_size
    for epoch in (0, 1, 0):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        assert_same(one, other)
    assert_same(held.ordered("val"), read.ordered("val"))


def test_a_few_samples_are_those_of_a_split_in_memory() -> None:
    held, read = modules()
    ids = torch.tensor([4, 0, 9])
    for ours, theirs in (
        (held.splits["train"].at(ids), read.splits["train"].at(ids)),
        (held.splits["val"].few(2), read.splits["val"].few(2)),
        (held.splits["val"].few(99), read.splits["val"].few(99)),
    ):
        assert isinstance(ours.inputs, Tensor) and isinstance(theirs.inputs, Tensor)
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.labels, theirs.labels)
    parts = list(read.splits["train"].all_inputs())
    whole = held.splits["train"].inputs
    assert isinstance(whole, Tensor)
    assert torch.equal(torch.cat([part for part in parts if isinstance(part, Tensor)]), whole)


def test_samples_are_read_once_for_labels_and_fingerprint_and_not_at_all_where_the_dataset_declares_both() -> None:
    _, read = modules()
    split, rows = read.splits["val"], read.splits["val"].dataset  # type: ignore[attr-defined]
    assert split.labels.tolist() == split.labels.tolist() == [0, 1, 2, 3, 0] and split.fingerprint is not None
    assert rows.read == 5 + 2 * 5  # a few are read twice more, to be compared
    listed = Rows(split_of(6))
    listed.targets, listed.fingerprint = [0, 1, 2, 3, 0, 1], "mine"  # type: ignore[attr-defined]
    module = DatasetDataModule(train=listed, val=listed, test=listed)
    assert module.splits["val"].labels.tolist() == listed.targets and listed.read == 0  # type: ignore[attr-defined]
    assert module.splits["val"].fingerprint == "mine"


def test_other_samples_or_labels_have_another_fingerprint() -> None:
    def known_by(split: Split) -> str | None:
        rows = Rows(split)
        return DatasetDataModule(train=rows, val=rows, test=rows).splits["val"].fingerprint

    first = split_of(6)
    assert isinstance(first.inputs, Tensor)
    moved, relabelled = first.inputs.clone(), first.labels.clone()
    moved[5, 2] += 1
    relabelled[0] = 3
    found = {known_by(one) for one in (first, Split(moved, first.labels), Split(first.inputs, relabelled))}
    assert len(found) == 3 and known_by(first) in found


@pytest.mark.parametrize("named", [False, True])
def test_the_same_samples_have_the_same_fingerprint_in_memory_and_read(named: bool) -> None:
    held, read = modules(named=named)
    assert fingerprint(held) == fingerprint(read)
    many = split_of(600, named=named)  # more than are hashed at once
    rows = DatasetSplit(Rows(many), workers=1, name="train")
    assert rows.fingerprint == many.fingerprint != split_of(601, named=named).fingerprint


def with_ids(size: int, names: Any) -> Rows:
    rows = Rows(split_of(size))
    rows.ids = names  # type: ignore[attr-defined]
    return rows


def named_module(**names: Any) -> DatasetDataModule:
    sizes = {"train": 6, "val": 3, "test": 2}
    given = {name: [f"{name}-{place}" for place in range(size)] for name, size in sizes.items()} | names
    return DatasetDataModule(**{name: with_ids(size, given[name]) for name, size in sizes.items()})  # type: ignore[arg-type]


def test_a_dataset_may_name_its_samples() -> None:
    module = named_module()
    train = module.splits["train"]
    assert train.ids == tuple(f"train-{place}" for place in range(6)) == train.to(torch.device("cpu")).ids
    assert train.few(2).ids == ("train-0", "train-1") and train.at(torch.tensor([4, 1])).ids == ("train-4", "train-1")
    assert train.at(torch.tensor([4, 4])).ids is None
    assert modules()[1].splits["train"].ids is None
    part = Subset(Subset(with_ids(6, list("abcdef")), [5, 3, 1]), [2, 0])
    assert DatasetSplit(part, workers=0, name="train").ids == ("b", "f")
    assert DatasetSplit(with_ids(6, lambda: "abcdef"), workers=0, name="train").ids is None


def test_ids_of_datasets_that_name_no_single_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="each of the 3 samples of a split, but there are 2"):
        named_module(val=["a", "b"])
    with pytest.raises(ValueError, match="'train-1' names two of train and val"):
        named_module(val=["a", "b", "train-1"])
    with pytest.raises(TypeError, match=r"whole numbers or texts, but got 0.5 \(float\)"):
        named_module(val=["a", "b", 0.5])


def test_outputs_in_a_file_are_joined_to_samples_that_are_read_by_their_ids() -> None:
    module = named_module()
    rows = [(name, one) for name in ("train", "val") for one in module.splits[name].ids or ()]
    backwards = [one for _, one in reversed(rows)]
    logits = torch.rand(len(rows), 4)
    teacher = StoredOutputs(backwards, logits.numpy(), kind="logits")
    found = outputs(teacher, ground(module, classes=4, names=()))
    assert torch.equal(torch.cat([found["train"], found["val"]]), logits.flip(0))


def test_labels_that_are_read_otherwise_than_listed_are_refused() -> None:
    """As torchvision's ``target_transform`` leaves ``targets`` as they were."""
    listed = Rows(split_of(6))
    listed.targets, listed.fingerprint = [0, 1, 2, 0, 0, 1], "mine"  # type: ignore[attr-defined]
    module = DatasetDataModule(train=listed, val=listed, test=listed)
    told = "sample 3 of val must have one label, but is read with 3 where its dataset's targets say 0"
    with pytest.raises(ValueError, match=told):
        list(module.ordered("val"))


class Random(Rows):
    def __getitem__(self, place: int) -> tuple[Any, int]:
        inputs, label = super().__getitem__(place)
        return inputs + torch.rand(1), label


def test_a_dataset_that_draws_at_random_is_refused() -> None:
    rows = Random(split_of(6))
    module = DatasetDataModule(train=rows, val=rows, test=rows)
    told = r"sample 0 of val must be the same each time that it is read, but is not: .* augment=Augment\(\.\.\)"
    with pytest.raises(ValueError, match=told):
        _ = module.splits["val"].labels
    rows.fingerprint = "mine"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=told):
        _ = DatasetDataModule(train=rows, val=rows, test=rows).splits["val"].fingerprint


def test_reading_draws_nothing_from_the_generator_that_a_training_seeds() -> None:
    _, read = modules(workers=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(read.ordered("val"))
    assert torch.equal(torch.get_rng_state(), before)


READER = """
import os, sys, time
import torch
from torch.utils.data import Dataset
from harness.core.content import LeaseLock
from lightning_modules.data import DatasetDataModule


class Slow(Dataset):
    fingerprint, targets = "slow", [0, 1] * 4

    def __len__(self):
        return 8

    def __getitem__(self, place):
        print(os.getpid(), flush=True)
        time.sleep(600)


lease = LeaseLock(__import__("pathlib").Path(sys.argv[1]))
assert lease.acquire()
list(DatasetDataModule(train=Slow(), val=Slow(), test=Slow(), workers=1).ordered("val"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no signal comes when a parent ends")
def test_readers_end_with_the_process_they_read_for_and_free_its_locks(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) != process.pid
    assert not LeaseLock(tmp_path).is_free()
    process.kill()
    process.wait()
    wait_for(lambda: LeaseLock(tmp_path).is_free())
    process.stdout.close()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("dataset", "error", "told"),
    [
        (Stream(), TypeError, "train must be a map-style dataset, .* but got Stream: the teacher's outputs are joined"),
        (iter([1]), TypeError, "but got list_iterator"),
        ([], ValueError, "train must have a sample at least"),
    ],
)
def test_what_is_no_map_style_dataset_is_refused(dataset: Any, error: type[Exception], told: str) -> None:
    val = Rows(split_of(4))
    with pytest.raises(error, match=told):
        DatasetDataModule(train=dataset, val=val, test=val)


@pytest.mark.parametrize("workers", [-1, 1.5, True])
def test_a_number_of_workers_that_is_none_is_refused(workers: Any) -> None:
    rows = Rows(split_of(4))
    with pytest.raises(ValueError, match="workers must be a whole number of at least 0"):
        DatasetDataModule(train=rows, val=rows, test=rows, workers=workers)


class Broken(Rows):
    """A dataset whose fifth sample is something else."""

    def __init__(self, fifth: Any) -> None:
        super().__init__(split_of(8))
        self.fifth = fifth

    def __getitem__(self, place: int) -> Any:
        if place != 4:
            return super().__getitem__(place)
        if isinstance(self.fifth, Exception):
            raise self.fifth
        return self.fifth


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fifth", "told"),
    [
        (OSError("torn.png is no image"), "^sample 4 of val can't be read: OSError: torn.png is no image$"),
        ((torch.zeros(WIDTH),), r"^sample 4 of val must be \(input, label\), but got tuple of 1.$"),
        (torch.zeros(WIDTH), r"^sample 4 of val must be \(input, label\), but got Tensor.$"),
        (
            (torch.zeros(WIDTH + 1), 0),
            r"^sample 4 of val .* sample 0, but its input is float32 of shape \(4,\), not .*3,",
        ),
        (
            (torch.zeros(WIDTH).double(), 0),
            r"^sample 4 of val .* sample 0, but its input is float64 of shape \(3,\), not",
        ),
        (("text", 0), "^sample 4 of val must have the form of sample 0, but its input is str, not float32"),
        ((torch.zeros(WIDTH), 0.5), "^sample 4 of val .* sample 0, but its label is a number, not a whole number"),
        (
            (torch.zeros(WIDTH), torch.zeros(2, 2)),
            r"^sample 4 of val .*, but its label is float32 of shape \(2, 2\), not",
        ),
        (({"x": torch.zeros(WIDTH)}, 0), "^sample 4 of val .* sample 0, but its input is missing, not float32"),
    ],
)
def test_a_sample_that_can_not_be_used_is_named(workers: int, fifth: Any, told: str) -> None:
    rows = Rows(split_of(4))
    module = DatasetDataModule(train=rows, val=Broken(fifth), test=rows, workers=workers)
    with pytest.raises(ValueError, match=told):
        list(module.ordered("val"))


def test_a_mask_of_another_size_than_the_others_is_named_though_it_is_in_a_later_batch() -> None:
    class Masks(Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, place: int) -> Any:
            return torch.zeros(1, 4, 4), torch.zeros(4 - place // 8, 4, dtype=torch.int64)

    module = DatasetDataModule(train=Masks(), val=Masks(), test=Masks(), batch_size=4, eval_batch_size=1)
    with pytest.raises(
        UnreadableData, match=r"sample 8 of val .* its label is int64 of shape \(3, 4\), not .*\(4, 4\)"
    ):
        list(module.ordered("val"))


DEAD = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.mark.parametrize("error", [DEAD, EOFError(), ConnectionResetError(104, "reset by peer")])
def test_a_reader_that_is_killed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def reading(*_: Any) -> Any:
        raise error
        yield

    rows = Rows(split_of(4))
    module = DatasetDataModule(train=rows, val=rows, test=rows, workers=1)
    assert len(module.splits["val"].labels) == 4
    monkeypatch.setattr(DatasetSplit, "_reading", reading)
    with pytest.raises(UnreadableData, match=r"^a process that reads samples was killed: where") as raised:
        list(module.ordered("val"))
    assert raised.value.__context__ is None  # which would keep the readers
    assert unreadable_text(raised.value) == unreadable_text(DEAD) == KILLED
    assert unreadable_text(RuntimeError("another one")) is None


def test_a_dataset_whose_length_changes_is_refused() -> None:
    _, read = modules()
    rows = read.splits["train"].dataset  # type: ignore[attr-defined]
    rows.split = split_of(SIZE + 2)
    with pytest.raises(ValueError, match="train must keep its length, 23 samples, but has 25 now"):
        list(read.train_dataloader())
