"""The embedded data sets, and the IDX files that they are read from."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from lightning_modules.data.embedded import digits, fashion_mnist, read_idx, stratified, stratified_splits
from lightning_modules.data.tensors import Split, TensorDataModule

FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(values: NDArray[np.uint8]) -> bytes:
    """The format, written from its description: 00 00, type 08, dimensions, sizes of 4 bytes big-endian, data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def write_fashion(folder: Path, *, train: int = 60, test: int = 20, compressed: bool = False) -> None:
    """Image i is filled with the value i and has the label i % 10."""
    for part, size in (("train", train), ("t10k", test)):
        ids = np.arange(size, dtype=np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": ids[:, None, None].repeat(28, 1).repeat(28, 2),
            f"{part}-labels-idx1-ubyte": ids % 10,
        }
        for name, values in files.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (folder / name).write_bytes(idx(values))


def pixels(split: Split) -> NDArray[np.float32]:
    assert isinstance(split.inputs, torch.Tensor)
    rows: NDArray[np.float32] = split.inputs.flatten(1).numpy()
    return rows


def sorted_rows(data: TensorDataModule) -> NDArray[np.float32]:
    rows = [np.column_stack([pixels(split), split.labels.numpy()]) for split in data.splits.values()]
    return np.array(sorted(np.concatenate(rows).tolist()))


def test_digits_are_split_60_20_20_and_every_scan_is_in_one_split_with_its_label() -> None:
    data, source = digits(batch_size=64), load_digits()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1077, "val": 360, "test": 360}
    # Each of the 1,797 scans once, with its label: so no sample is in two splits.
    expected = np.array(sorted(np.column_stack([source.data / 16, source.target]).tolist()))
    np.testing.assert_array_equal(sorted_rows(data), expected)
    for split in data.splits.values():
        assert isinstance(split.inputs, torch.Tensor) and split.inputs.shape[1:] == (1, 8, 8)


def test_no_two_digits_are_equal_so_none_leaks_between_splits() -> None:
    parts = {name: {row.tobytes() for row in pixels(split)} for name, split in digits(batch_size=64).splits.items()}
    assert not (parts["train"] & parts["val"] or parts["train"] & parts["test"] or parts["val"] & parts["test"])


def test_each_class_has_its_share_of_each_digits_split_within_one_sample() -> None:
    of_all = np.bincount(load_digits().target)
    for split in digits(batch_size=64).splits.values():
        counts = np.bincount(split.labels.numpy(), minlength=10)
        assert np.abs(counts - of_all * len(split) / 1797).max() <= 1


def test_digits_are_split_the_same_at_each_call() -> None:
    np.random.seed(0)
    first = digits(batch_size=64)
    np.random.seed(1)
    torch.manual_seed(1)
    second = digits(batch_size=7)
    for name, split in first.splits.items():
        np.testing.assert_array_equal(pixels(split), pixels(second.splits[name]))
        assert torch.equal(split.labels, second.splits[name].labels)


@pytest.mark.parametrize("share", [0.25, 1 / 6, 0.5])
def test_two_stratified_parts_are_disjoint_sorted_and_have_the_same_class_proportions(share: float) -> None:
    labels = torch.tensor([0] * 60 + [1] * 24 + [2] * 36)[
        torch.randperm(120, generator=torch.Generator().manual_seed(0))
    ]
    first, second = stratified(labels, share=share)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(120))
    assert first.tolist() == sorted(first.tolist()) and second.tolist() == sorted(second.tolist())
    assert torch.bincount(labels[second]).tolist() == [round(60 * share), round(24 * share), round(36 * share)]


def test_a_dict_of_inputs_is_split_as_one() -> None:
    ids = torch.arange(50)
    splits = stratified_splits({"a": ids, "b": ids * 2}, ids % 5)
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "val": 10, "test": 10}
    seen = []
    for split in splits.values():
        assert isinstance(split.inputs, dict)
        assert torch.equal(split.inputs["b"], 2 * split.inputs["a"])
        assert torch.equal(split.labels, split.inputs["a"] % 5)
        assert torch.bincount(split.labels).unique().tolist() == [len(split) // 5]
        seen += split.inputs["a"].tolist()
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 28, 28), (300, 2)])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_idx_file_is_read_as_it_was_written(tmp_path: Path, shape: tuple[int, ...], compressed: bool) -> None:
    values = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    file = tmp_path / ("file.gz" if compressed else "file")
    file.write_bytes(gzip.compress(idx(values)) if compressed else idx(values))
    read = read_idx(file)
    assert read.dtype == torch.uint8
    np.testing.assert_array_equal(read.numpy(), values)


WHOLE = idx(np.arange(60, dtype=np.uint8).reshape(5, 12))
PACKED = gzip.compress(WHOLE, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut", WHOLE[:-1], "must hold 60 bytes of data for its shape (5, 12), but holds 59"),
        ("long", WHOLE + b"x", "but holds 61"),
        ("cut in its header", WHOLE[:9], "fetch it again"),
        ("empty", b"", "must be an IDX file of bytes"),
        ("magic", b"\x00\x00\x0d\x02" + WHOLE[4:], "but begins with '00 00 0d 02'"),
        ("page.html", b"<!DOCTYPE html><html></html>", "must be an IDX file of bytes"),
        ("no.gz", WHOLE, "must be a gzip file"),
        ("cut.gz", PACKED[:-9], "must be a gzip file"),
        ("cut in its header.gz", PACKED[:5], "must be a gzip file"),
        ("checksum.gz", PACKED[:-8] + b"\x00" * 8, "must be a gzip file"),
        ("damaged.gz", PACKED[:10] + b"\xff" * 8 + PACKED[18:], "must be a gzip file"),
        ("other.gz", gzip.compress(b"something else", mtime=0), "must be an IDX file of bytes"),
    ],
)
def test_a_damaged_idx_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_idx(file)
    assert message in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_fashion_mnist_is_read_from_four_files_and_a_sixth_of_it_validates(tmp_path: Path, compressed: bool) -> None:
    write_fashion(tmp_path, compressed=compressed)
    data = fashion_mnist(tmp_path, batch_size=16)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 50, "val": 10, "test": 20}
    ids = {name: (255 * pixels(split)).round().astype(int) for name, split in data.splits.items()}
    for name, split in data.splits.items():
        assert isinstance(split.inputs, torch.Tensor) and split.inputs.shape[1:] == (1, 28, 28)
        assert (ids[name] == ids[name][:, :1]).all() and (ids[name][:, 0] % 10 == split.labels.numpy()).all()
    assert sorted([*ids["train"][:, 0], *ids["val"][:, 0]]) == list(range(60))
    assert ids["test"][:, 0].tolist() == list(range(20))
    assert torch.bincount(data.splits["val"].labels).tolist() == [1] * 10
    assert data.batch_size == 16


@pytest.mark.parametrize("missing", FASHION_FILES)
def test_a_missing_file_of_fashion_mnist_is_reported_with_what_to_put_where(tmp_path: Path, missing: str) -> None:
    write_fashion(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        fashion_mnist(tmp_path, batch_size=16)
    message = str(caught.value)
    assert f"expected {missing} or {missing}.gz in {tmp_path}" in message
    assert all(name in message for name in FASHION_FILES) and "--data-dir" in message and "\n" not in message


def test_images_and_labels_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(59, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"as many 28x28 images as labels, but hold shapes \(60, 28, 28\) and \(59,\)"):
        fashion_mnist(tmp_path, batch_size=16)


def test_five_samples_of_each_class_can_be_split_and_a_class_with_fewer_is_named() -> None:
    labels = torch.tensor([2] * 5 + [0] * 5 + [1] * 7)
    splits = stratified_splits(torch.zeros(17, 3), labels)
    assert all(set(split.labels.tolist()) == {0, 1, 2} for split in splits.values())  # type: ignore[attr-defined]
    with pytest.raises(ValueError) as refused:
        stratified_splits(torch.zeros(21, 3), torch.tensor([0] * 10 + [1] * 10 + [2]))
    assert str(refused.value) == "stratified_splits must have at least 5 samples of each class, but class 2 has 1."
    with pytest.raises(ValueError, match="but class 0 has 2"):
        stratified_splits(torch.zeros(8, 3), torch.arange(8) % 4)
    with pytest.raises(TypeError, match=r"must be a tensor, but got ndarray: torch\.from_numpy makes one"):
        stratified_splits(torch.zeros(20, 3), np.arange(20) % 2)  # type: ignore[arg-type]


def test_samples_without_a_label_are_in_train_and_the_others_are_split_as_without_them() -> None:
    labels = torch.arange(50) % 2
    marked = labels.clone()
    marked[10:20] = -100
    inputs = torch.arange(50.0)[:, None]
    found, known = stratified_splits(inputs, marked), marked != -100
    expected = stratified_splits(inputs[known], marked[known])
    for name in ("val", "test"):
        assert torch.equal(found[name].inputs, expected[name].inputs)  # type: ignore[literal-required]
    train = found["train"]
    assert torch.equal(train.inputs[train.labels != -100], expected["train"].inputs)  # type: ignore[index, arg-type]
    assert (train.labels == -100).sum() == 10
