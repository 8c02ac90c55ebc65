"""Splits, and the batches that are cut from them."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.batch import Batch, Inputs
from lightning_modules.data.tensors import Split, TensorDataModule, TensorLoader
from lightning_modules.data.views import ShiftedViews

SIZE = 23


def a_split(size: int = SIZE) -> Split:
    """Sample i is the row (i, -i) of label i % 3: whatever is taken of it can be traced back to it."""
    ids = torch.arange(size)
    return Split(torch.stack([ids, -ids], dim=1).float(), ids % 3)


def its_teacher(size: int = SIZE) -> dict[str, Tensor]:
    ids = torch.arange(size).float()
    return {"logits": torch.stack([10 * ids, ids + 0.5, ids], dim=1), "feature": 100 * ids[:, None]}


def batches_of(loader: TensorLoader) -> list[Batch]:
    return [batch for item in loader for batch in item]


def order_of(loader: TensorLoader) -> list[int]:
    return [int(i) for batch in batches_of(loader) for i in batch.ids]


def a_module(size: int = SIZE, batch_size: int = 4) -> TensorDataModule:
    return TensorDataModule(train=a_split(size), val=a_split(5), test=a_split(3), batch_size=batch_size)


@pytest.mark.parametrize("shuffle_seed", [None, 0, 2**31 - 1])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
@pytest.mark.parametrize("batches_per_item", [1, 3, 32])
def test_an_epoch_shows_every_sample_exactly_once(
    shuffle_seed: int | None, batch_size: int, batches_per_item: int
) -> None:
    loader = TensorLoader(
        a_split(), batch_size=batch_size, shuffle_seed=shuffle_seed, batches_per_item=batches_per_item
    )
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert sorted(order_of(loader)) == list(range(SIZE))


@pytest.mark.parametrize(
    ("batch_size", "batches_per_item", "items"),
    [(4, 32, [[4, 4, 4, 4, 4, 3]]), (10, 2, [[10, 10], [3]]), (23, 1, [[23]]), (8, 1, [[8], [8], [7]])],
)
def test_only_the_last_batch_is_smaller(batch_size: int, batches_per_item: int, items: list[list[int]]) -> None:
    loader = TensorLoader(a_split(), batch_size=batch_size, shuffle_seed=1, batches_per_item=batches_per_item)
    assert [[len(batch.target) for batch in item] for item in loader] == items
    assert len(loader) == len(items)
    assert loader.batches == sum(len(item) for item in items)
    assert loader.last_batch_size == items[-1][-1]


@pytest.mark.parametrize("shuffle_seed", [None, 5])
def test_inputs_labels_and_teacher_outputs_stay_with_their_sample(shuffle_seed: int | None) -> None:
    loader = TensorLoader(a_split(), batch_size=4, teacher=its_teacher(), shuffle_seed=shuffle_seed)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in batches_of(loader):
            for row, sample in enumerate(batch.ids.tolist()):
                assert isinstance(batch.inputs, Tensor)
                assert batch.inputs[row].tolist() == [sample, -sample]
                assert batch.target[row] == sample % 3
                assert batch.teacher["logits"][row].tolist() == [10 * sample, sample + 0.5, sample]
                assert batch.teacher["feature"][row].tolist() == [100 * sample]


def test_every_tensor_of_a_dict_of_inputs_is_sliced_alike() -> None:
    ids = torch.arange(SIZE)
    inputs: Inputs = {"tokens": ids[:, None].repeat(1, 6), "length": ids + 7}
    loader = TensorLoader(Split(inputs, ids), batch_size=5, shuffle_seed=2)
    seen = batches_of(loader)
    for batch in seen:
        assert isinstance(batch.inputs, dict) and set(batch.inputs) == {"tokens", "length"}
        assert torch.equal(batch.inputs["tokens"], batch.ids[:, None].repeat(1, 6))
        assert torch.equal(batch.inputs["length"], batch.ids + 7)
    assert sum(len(batch.ids) for batch in seen) == SIZE


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, *, drawn_before: int) -> tuple[int, ...]:
        torch.manual_seed(drawn_before)
        torch.rand(drawn_before)
        loader = TensorLoader(a_split(), batch_size=4, shuffle_seed=seed)
        for earlier in range(drawn_before):  # a pass that was begun, and one that was made, leave nothing behind
            loader.set_epoch(earlier)
            next(iter(loader))
        loader.set_epoch(epoch)
        return tuple(order_of(loader))

    pairs = [(seed, epoch) for seed in (0, 1, 2, 2**31 - 1) for epoch in range(4)]
    orders = {pair: order(*pair, drawn_before=0) for pair in pairs}
    assert orders == {pair: order(*pair, drawn_before=3) for pair in pairs}
    assert len(set(orders.values())) == len(pairs)  # 23! orders: two alike would be no accident
    assert tuple(range(SIZE)) not in orders.values()


def test_without_a_seed_the_order_is_that_of_the_split() -> None:
    loader = TensorLoader(a_split(), batch_size=4)
    loader.set_epoch(3)
    assert order_of(loader) == list(range(SIZE))


def test_the_number_of_batches_in_an_item_does_not_change_the_order() -> None:
    def order(batches_per_item: int) -> list[int]:
        return order_of(TensorLoader(a_split(), batch_size=4, shuffle_seed=9, batches_per_item=batches_per_item))

    assert order(1) == order(4) == order(32)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), "same length"),
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, torch.zeros(3, dtype=torch.long), "same length"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "at least 1"),
    ],
)
def test_a_split_refuses_invalid_inputs_and_labels(inputs: Inputs, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(inputs, labels)


def test_attached_teacher_outputs_reach_shuffled_training_batches() -> None:
    data = a_module()
    data.seed = 11
    data.attach({"train": its_teacher(), "val": its_teacher(5)})
    loader = data.train_dataloader()
    assert order_of(loader) != list(range(SIZE))
    for batch in batches_of(loader):
        assert torch.equal(batch.teacher["logits"][:, 2], batch.ids.float())
    (val,) = batches_of(data.ordered("val"))
    assert val.ids.tolist() == list(range(5)) and torch.equal(val.teacher["logits"], its_teacher(5)["logits"])


@pytest.mark.parametrize(("split", "rows", "samples"), [("train", SIZE - 1, SIZE), ("val", SIZE, 5)])
def test_teacher_outputs_of_another_length_are_refused(split: str, rows: int, samples: int) -> None:
    data = a_module()
    with pytest.raises(ValueError, match=f"logits must hold one row for each of the {samples} samples of {split}"):
        data.attach({split: its_teacher(rows)})
    assert data.teacher_outputs == {}


@pytest.mark.parametrize(("size", "batch_size", "steps"), [(23, 4, 6), (24, 4, 6), (3, 64, 1)])
def test_steps_per_epoch_are_those_that_the_loader_makes(size: int, batch_size: int, steps: int) -> None:
    data = a_module(size, batch_size)
    assert data.steps_per_epoch == steps == len(batches_of(data.train_dataloader()))


@pytest.mark.parametrize(("batch_size", "eval_batch_size"), [(0, 1), (1, 0), (-4, 8)])
def test_batch_sizes_below_one_are_refused(batch_size: int, eval_batch_size: int) -> None:
    split = a_split()
    with pytest.raises(ValueError, match=f"but got batch_size={batch_size} and eval_batch_size={eval_batch_size}"):
        TensorDataModule(train=split, val=split, test=split, batch_size=batch_size, eval_batch_size=eval_batch_size)


@pytest.mark.parametrize(
    ("inputs", "labels", "error", "words"),
    [
        (
            np.zeros((2, 3), dtype=np.float32),
            torch.tensor([0, 1]),
            TypeError,
            "inputs .* must be a tensor, but got nda",
        ),
        (torch.zeros(2, 3), [0, 1], TypeError, "labels of a split must be a tensor, but got list"),
        (
            torch.zeros(2, 3, dtype=torch.float64),
            torch.tensor([0, 1]),
            ValueError,
            "inputs .* but got float64: call .float",
        ),
        (
            torch.tensor([[True], [False]]),
            torch.tensor([0, 1]),
            ValueError,
            r"^inputs of a split must be float32 or whole numbers, but are bool: call \.float\(\)\.$",
        ),
    ],
)
def test_numpy_arrays_are_refused_with_the_conversion(
    inputs: Any, labels: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Split(inputs, labels)


def test_a_tuple_is_not_a_split() -> None:
    split = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
    pair: Any = (split.inputs, split.labels)
    with pytest.raises(TypeError, match=r"val must be a Split\(inputs, labels\) of lightning_modules.data, but got"):
        TensorDataModule(train=split, val=pair, test=split)


@pytest.mark.parametrize(
    ("size", "batch_size", "sizes"),
    [(23, 11, [11, 12]), (9, 4, [4, 5]), (1, 4, [1]), (3, 1, [1, 1, 1]), (33, 8, [8, 8, 8, 9])],
)
@pytest.mark.parametrize("batches_per_item", [1, 2, 32])
def test_a_single_remaining_sample_joins_the_batch_before_it(
    size: int, batch_size: int, sizes: list[int], batches_per_item: int
) -> None:
    loader = TensorLoader(a_split(size), batch_size=batch_size, shuffle_seed=1, batches_per_item=batches_per_item)
    assert [len(batch.ids) for batch in batches_of(loader)] == sizes
    assert sorted(order_of(loader)) == list(range(size))
    assert loader.batches == len(sizes) == a_module(size, batch_size).steps_per_epoch
    assert len(loader) == len(list(loader))


@pytest.mark.parametrize("mapping", [UserDict, OrderedDict, dict])
def test_any_mapping_of_tensors_is_converted_to_a_dict(mapping: type) -> None:
    split = Split(mapping(x=torch.arange(6.0).view(3, 2)), torch.tensor([0, 1, 0]))
    assert type(split.inputs) is dict and type(split.few(2).inputs) is dict
    assert torch.equal(split.few(2).tensors()["inputs.x"], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))


def test_inputs_with_a_graph_and_inference_tensors_can_be_trained_on() -> None:
    weights = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        inferred, labels = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 0])
    for inputs in (inferred, torch.arange(6.0).view(3, 2).requires_grad_(), torch.arange(6.0).view(3, 2) * weights):
        split = Split(inputs, labels)
        assert not any(value.requires_grad or value.is_inference() for value in split.tensors().values())
        loss = (split.tensors()["inputs"] * weights).sum()
        loss.backward()
        loss = (split.tensors()["inputs"] * weights).sum()
        loss.backward()
    with torch.inference_mode():
        assert not Split(inferred, labels).labels.is_inference()


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Holder:
    x: Tensor


@pytest.mark.parametrize(
    ("inputs", "labels", "words"),
    [
        (Pair(torch.zeros(2), torch.zeros(2)), torch.tensor([0, 1]), r"got Pair: .*x._asdict\(\) makes a dict"),
        ([torch.zeros(2), torch.zeros(2)], torch.tensor([0, 1]), r"got list: .*dict\(name=..\) makes a dict"),
        (Holder(torch.zeros(2)), torch.tensor([0, 1]), r"got Holder: .*vars\(x\) makes a dict"),
        ({"x": {"y": torch.zeros(2)}}, torch.tensor([0, 1]), "x of a split must be a tensor, but got dict"),
        (
            torch.zeros(2, 3).to_sparse(),
            torch.tensor([0, 1]),
            r"dense tensor, but got one that is sparse.*to_dense\(\)",
        ),
        (torch.zeros(2, 3, device="meta"), torch.tensor([0, 1]), "one that is on the meta device"),
        ({}, torch.tensor([0, 1]), "got an empty dict"),
        (torch.tensor(1.0), torch.tensor([0]), "inputs .* but is one number"),
    ],
)
def test_invalid_inputs_are_refused_with_the_conversion(inputs: Any, labels: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Split(inputs, labels)


@pytest.mark.parametrize("batch_size", [4.0, True, None, "4"])
def test_a_batch_size_that_is_not_a_whole_number_is_refused(batch_size: Any) -> None:
    split = a_split()
    with pytest.raises(ValueError, match="batch sizes must be whole numbers"):
        TensorDataModule(train=split, val=split, test=split, batch_size=batch_size)
    assert type(TensorDataModule(train=split, val=split, test=split, batch_size=np.int64(4)).batch_size) is int


def test_a_class_of_views_is_refused() -> None:
    split = a_split()
    with pytest.raises(TypeError, match="views must be an instance"):
        TensorDataModule(train=split, val=split, test=split, views=ShiftedViews)  # type: ignore[arg-type]


def test_a_dict_of_inputs_may_hold_a_mask() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    split = Split({"tokens": torch.ones(2, 2, dtype=torch.int64), "mask": mask}, torch.tensor([0, 1]))
    assert torch.equal(split.tensors()["inputs.mask"], mask)
