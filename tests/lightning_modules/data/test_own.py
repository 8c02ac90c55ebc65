"""A LightningDataModule that someone has already: served as its loaders say, or refused in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from lightning_modules.batch import Batch
from lightning_modules.data import DatasetDataModule, TensorDataModule
from lightning_modules.data.own import data_module_of, is_lightning

SIZES = {"train": 23, "val": 9, "test": 7}


def tensors(size: int) -> TensorDataset:
    return TensorDataset(torch.rand(size, 3, generator=torch.Generator().manual_seed(size)), torch.arange(size) % 4)


class Rows(Dataset[Any]):
    """The samples of a TensorDataset, one by one, so that they are read as those on disk are."""

    def __init__(self, source: TensorDataset) -> None:
        self.source, self.ids = source, [f"{len(source)}-{place}" for place in range(len(source))]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: int) -> Any:
        return self.source[place]


class Own(pl.LightningDataModule):
    """A data module of three loaders; ``how`` makes them from their datasets, by split."""

    def __init__(
        self, make: Callable[[int], Any] = tensors, default: dict[str, Any] | None = None, **how: Callable[[Any], Any]
    ) -> None:
        super().__init__()
        self.make, self.how, self.default = make, how, default or {}
        self.called: list[str] = []

    def prepare_data(self) -> None:
        self.called.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.called.append(f"setup {stage}")
        self.sets = {name: self.make(size) for name, size in SIZES.items()}

    def loader(self, name: str) -> Any:
        own = self.how.get(name)
        return own(self.sets[name]) if own else DataLoader(self.sets[name], batch_size=4, **self.default)

    def train_dataloader(self) -> Any:
        return self.loader("train")

    def val_dataloader(self) -> Any:
        return self.loader("val")

    def test_dataloader(self) -> Any:
        return self.loader("test")


def batches(loader: Any) -> list[Batch]:
    return [batch for item in loader for batch in item]


def samples(module: TensorDataModule, split: str) -> tuple[Tensor, Tensor]:
    found = batches(module.ordered(split))
    return torch.cat([one.inputs for one in found]), torch.cat([one.target for one in found])  # type: ignore[arg-type]


def assert_same_batches(one: TensorDataModule, other: TensorDataModule) -> None:
    for epoch in (0, 1):
        pair = one.train_dataloader(), other.train_dataloader()
        for loader in pair:
            loader.set_epoch(epoch)
        ours, theirs = map(batches, pair)
        assert len(ours) == len(theirs) == one.steps_per_epoch > 0
        for left, right in zip(ours, theirs, strict=True):
            assert isinstance(left.inputs, Tensor) and isinstance(right.inputs, Tensor)
            assert torch.equal(left.inputs, right.inputs) and torch.equal(left.target, right.target)


def test_it_is_prepared_and_set_up_once_for_each_stage_as_lightning_does() -> None:
    own = Own()
    data_module_of(own)
    assert own.called == ["prepare_data", "setup fit", "setup test"]


def test_a_module_of_tensors_is_served_from_memory_with_the_batches_of_one_that_is_read() -> None:
    held, read = data_module_of(Own()), data_module_of(Own(lambda size: Rows(tensors(size))))
    assert type(held) is TensorDataModule and isinstance(read, DatasetDataModule)
    assert held.batch_size == held.eval_batch_size == read.batch_size == 4
    assert_same_batches(held, read)
    for name, size in SIZES.items():
        inputs, labels = samples(held, name)
        assert torch.equal(inputs, tensors(size).tensors[0]) and torch.equal(labels, tensors(size).tensors[1])
    assert held.notes == ()


def test_part_of_a_tensor_dataset_is_served_from_memory_too() -> None:
    whole = tensors(40)
    parts = {"train": list(range(20)), "val": list(range(20, 30)), "test": [33, 31]}

    def make(size: int) -> Any:
        name = next(name for name, known in SIZES.items() if known == size)
        return Subset(Subset(whole, list(range(39, -1, -1))), [39 - place for place in parts[name]])

    module = data_module_of(Own(make))
    assert type(module) is TensorDataModule
    assert torch.equal(samples(module, "test")[0], whole.tensors[0][[33, 31]])


def test_batch_sizes_and_workers_are_those_of_the_loaders() -> None:
    module = data_module_of(
        Own(
            lambda size: Rows(tensors(size)),
            train=lambda rows: DataLoader(rows, batch_size=5, num_workers=1),
            val=lambda rows: DataLoader(rows, batch_size=6, num_workers=2),
        )
    )
    assert (module.batch_size, module.eval_batch_size) == (5, 6)
    assert {part.workers for part in module.splits.values()} == {2}  # type: ignore[attr-defined]
    assert len(batches(module.train_dataloader())) == 5  # 23 = 4 * 5 + 3


def test_the_order_of_an_epoch_is_the_engines_whether_or_not_a_loader_shuffles() -> None:
    assert_same_batches(data_module_of(Own(default={"shuffle": True})), data_module_of(Own()))


class Splitting(pl.LightningDataModule):
    """A module that draws its splits without a generator of its own, at each set-up."""

    def __init__(self, draw: Callable[[], list[int]]) -> None:
        super().__init__()
        self.draw = draw

    def setup(self, stage: str) -> None:
        whole, order = tensors(30), self.draw()
        cut = order[:18], order[18:24], order[24:]
        self.parts = [Subset(whole, part) for part in cut]

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts[0], batch_size=4)

    def val_dataloader(self) -> Any:
        return DataLoader(self.parts[1], batch_size=4)

    def test_dataloader(self) -> Any:
        return DataLoader(self.parts[2], batch_size=4)


def _of_random() -> list[int]:
    order = list(range(30))
    random.shuffle(order)
    return order


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.randperm(30).tolist(), lambda: np.random.permutation(30).tolist(), _of_random],
    ids=["torch", "numpy", "random"],
)
def test_splits_that_are_drawn_without_a_generator_are_the_same_each_time_and_disjoint(draw: Any) -> None:
    first = data_module_of(Splitting(draw))
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    second = data_module_of(Splitting(draw))
    assert (torch.rand(1), np.random.rand(), random.random()) == expected  # nothing of it was drawn there
    rows = [tuple(row.tolist()) for name in SIZES for row in samples(first, name)[0]]
    assert len(set(rows)) == 30
    for name in SIZES:
        assert torch.equal(samples(first, name)[0], samples(second, name)[0])


def test_random_split_is_taken_from_memory() -> None:
    def make(size: int) -> Any:
        return random_split(tensors(size), [size - 2, 2])[0]

    assert {name: len(part) for name, part in data_module_of(Own(make)).splits.items()} == {
        "train": 21,
        "val": 7,
        "test": 5,
    }


def test_a_module_from_datasets_is_taken() -> None:
    sets = {f"{name}_dataset": tensors(size) for name, size in SIZES.items()}
    given = pl.LightningDataModule.from_datasets(
        sets["train_dataset"], sets["val_dataset"], sets["test_dataset"], batch_size=3
    )
    assert data_module_of(given).batch_size == 3
    with pytest.raises(ValueError, match=r"LightningDataModule must have test_dataloader\(\), but has none"):
        data_module_of(pl.LightningDataModule.from_datasets(sets["train_dataset"], sets["val_dataset"]))


def test_a_subset_random_sampler_is_a_split() -> None:
    """As tutorials cut one dataset into train and val."""
    whole = tensors(20)
    module = data_module_of(
        Own(
            train=lambda _: DataLoader(whole, batch_size=4, sampler=SubsetRandomSampler([7, 3, 5, 1, 0])),
            val=lambda _: DataLoader(whole, batch_size=4, sampler=SubsetRandomSampler(range(8, 12))),
        )
    )
    assert torch.equal(samples(module, "train")[0], whole.tensors[0][[0, 1, 3, 5, 7]])
    assert torch.equal(samples(module, "val")[0], whole.tensors[0][8:12])


def test_plain_batch_samplers_and_a_list_of_one_loader_are_taken() -> None:
    module = data_module_of(
        Own(
            train=lambda rows: DataLoader(rows, batch_sampler=BatchSampler(RandomSampler(rows), 6, drop_last=False)),
            val=lambda rows: [DataLoader(rows, batch_size=2)],
        )
    )
    assert (module.batch_size, module.eval_batch_size) == (6, 2)


def test_a_collate_fn_is_followed_sample_by_sample() -> None:
    def doubled(found: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels = default_collate(found)
        return {"x": 2 * inputs}, labels + 1

    module = data_module_of(Own(default={"collate_fn": doubled}))
    assert isinstance(module, DatasetDataModule)
    batch = batches(module.ordered("val"))[0]
    inputs, labels = tensors(9).tensors
    assert isinstance(batch.inputs, dict) and torch.equal(batch.inputs["x"], 2 * inputs[:4])
    assert torch.equal(batch.target, labels[:4] + 1)


def test_what_a_dataset_says_of_itself_reaches_through_a_collate_fn() -> None:
    module = data_module_of(Own(lambda size: Rows(tensors(size)), {"collate_fn": lambda rows: default_collate(rows)}))
    assert module.splits["test"].ids == tuple(f"7-{place}" for place in range(7))
    assert module.splits["test"].dataset.source is not None  # type: ignore[attr-defined]


def test_worker_init_fn_is_called_once_in_each_reader() -> None:
    class Opened(Rows):
        opened = 0

        def __getitem__(self, place: int) -> Any:
            inputs, label = super().__getitem__(place)
            return inputs, label + 10 * self.opened

    sets = {size: Opened(tensors(size)) for size in SIZES.values()}

    def opening(worker: int) -> None:
        for one in sets.values():
            one.opened += 1

    module = data_module_of(
        Own(lambda size: sets[size], {"num_workers": 1, "worker_init_fn": opening}),
    )
    found = [
        batch for item in module.splits["train"].batches([torch.arange(8), torch.arange(8, 23)]) for batch in [item]
    ]  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([labels for _, _, labels in found]), torch.arange(23) % 4 + 10)


def test_a_last_batch_that_a_loader_drops_is_trained_on_and_said() -> None:
    module = data_module_of(Own(train=lambda rows: DataLoader(rows, batch_size=4, drop_last=True)))
    assert sum(len(batch.ids) for batch in batches(module.train_dataloader())) == 23
    assert module.notes == (
        "drop_last of train_dataloader() is not followed: every sample counts, in each epoch and in a score",
    )


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        raise NotImplementedError


class Every(BatchSampler):
    """A batch sampler of someone's own."""


class Shuffling(DataLoader[Any]):
    def __iter__(self) -> Any:
        raise NotImplementedError


def pads(found: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.ones(len(found), len(found)), torch.tensor([label for _, label in found])


def mixes(found: list[Any]) -> tuple[Tensor, Tensor]:
    inputs, labels = default_collate(found)
    return 0.7 * inputs + 0.3 * inputs.flip(0), labels


LIKE = r"train_dataloader\(\) of Own must "


@pytest.mark.parametrize(
    ("train", "error", "told"),
    [
        (lambda rows: None, ValueError, r"Own must have train_dataloader\(\), but has none"),
        (lambda rows: [], ValueError, r"must have train_dataloader\(\), but has none"),
        (lambda rows: [DataLoader(rows)] * 2, TypeError, LIKE + "give one torch.utils.data.DataLoader, .* a list of 2"),
        (lambda rows: {"a": DataLoader(rows)}, TypeError, LIKE + "give one .* a dict of 1"),
        (lambda rows: rows, TypeError, LIKE + "give one .* but gives a TensorDataset"),
        (lambda rows: Shuffling(rows), TypeError, LIKE + "give one .* but gives a Shuffling"),
        (lambda rows: DataLoader(Stream()), TypeError, LIKE + "serve a map-style dataset, .* a Stream, an Iterable"),
        (lambda rows: DataLoader(rows, batch_size=None), ValueError, LIKE + r"cut .* own \(batch_size=None\)"),
        (
            lambda rows: DataLoader(rows, batch_sampler=Every(SequentialSampler(rows), 4, False)),
            ValueError,
            LIKE + "cut its samples into batches of one size, but has a Every",
        ),
        (
            lambda rows: DataLoader(rows, sampler=WeightedRandomSampler([1.0] * 23, 23)),
            ValueError,
            LIKE + "show each sample once an epoch, but has a WeightedRandomSampler: leave it out, and let",
        ),
        (
            lambda rows: DataLoader(rows, sampler=RandomSampler(rows, replacement=True)),
            ValueError,
            LIKE + "show each sample once .* RandomSampler: leave replacement or num_samples out",
        ),
        (
            lambda rows: DataLoader(rows, sampler=RandomSampler(rows, num_samples=5)),
            ValueError,
            LIKE + "show each sample once",
        ),
        (
            lambda rows: DataLoader(rows, collate_fn=lambda found: {"x": 1, "labels": 2}),
            TypeError,
            r"the collate_fn of train_dataloader\(\) of Own must give \(inputs, targets\), .* but gives a dict of 2",
        ),
        (
            lambda rows: DataLoader(rows, collate_fn=lambda found: (found, torch.zeros(len(found)))),
            TypeError,
            r"must give \(inputs, targets\), .* but gives a tuple of 2",
        ),
        (lambda rows: DataLoader(rows, collate_fn=pads), ValueError, "the same alone as beside others, but does not"),
        (lambda rows: DataLoader(rows, collate_fn=mixes), ValueError, "the same alone as beside others, but does not"),
    ],
)
def test_what_a_loader_does_that_can_not_be_followed_is_refused(train: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        data_module_of(Own(train=train))


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device"])
def test_hooks_that_change_batches_are_refused(hook: str) -> None:
    own = type("Own", (Own,), {hook: lambda self, *given: given[0]})
    with pytest.raises(TypeError, match=rf"Own has {hook}\(\), which is not called here: leave it out, and "):
        data_module_of(own())


@pytest.mark.parametrize("hook", ["state_dict", "load_state_dict"])
def test_a_state_is_refused_for_a_trial_resumes_by_seed_and_epoch(hook: str) -> None:
    own = type("Own", (Own,), {hook: lambda self, *given: {}})
    with pytest.raises(TypeError, match=rf"{hook}\(\), which is not called here: .* its seed and epoch"):
        data_module_of(own())


def test_splits_that_share_samples_are_refused() -> None:
    whole = tensors(20)
    with pytest.raises(ValueError, match=r"train and val of Own must share no sample, but share 20 of one TensorDatas"):
        data_module_of(Own(train=lambda _: DataLoader(whole), val=lambda _: DataLoader(whole)))
    with pytest.raises(ValueError, match=r"val and test of Own .* share 2 of one TensorDataset \(such as 4\): give"):
        data_module_of(
            Own(
                val=lambda _: DataLoader(Subset(whole, [5, 4, 9])),
                test=lambda _: DataLoader(Subset(whole, [1, 4, 5]), collate_fn=lambda found: default_collate(found)),
            )
        )


def test_modules_of_either_package_are_known_and_other_objects_are_not() -> None:
    theirs = type("LightningDataModule", (), {"__module__": "lightning.pytorch.core.datamodule"})
    assert is_lightning(Own()) and is_lightning(type("Mine", (theirs,), {})())
    assert not is_lightning([]) and not is_lightning(type("LightningDataModule", (), {"__module__": "mine"})())
