"""Where the embedded tasks' data comes from: scikit-learn's digits, and Fashion-MNIST's IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from lightning_modules.batch import Inputs, select
from lightning_modules.tensors import Split, TensorDataModule
from lightning_modules.views import Views

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_LEAST_OF_EACH = 5  # samples of a class: one for each of the parts of 20 %
_SPLIT_SEED = 0  # splits are part of the dataset: no flag moves them


def digits(*, batch_size: int) -> TensorDataModule:
    """1,797 handwritten digits of 8x8 pixels in [0, 1], 10 classes; 60 / 20 / 20 % by class. Ships with scikit-learn.

    Reference: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI. doi:10.24432/C50P49.
    """
    source = load_digits()
    images = torch.from_numpy(source.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(source.target).long()
    return TensorDataModule(**stratified_splits(images, labels), batch_size=batch_size)


def fashion_mnist(data_dir: Path | None, *, batch_size: int, views: Views | None = None) -> TensorDataModule:
    """Fashion-MNIST: 50,000 / 10,000 / 10,000 images of 28x28 pixels in [0, 1], 10 classes, balanced.

    Args:
        data_dir: Folder of the four IDX files, each plain or ``.gz``. ``None`` takes Debian's folder, or else
            downloads through torchvision into ``~/.cache/kd-harness``.
        batch_size: Samples in a training batch.
        views: What is shown of the training images; ``None`` shows them as they are.

    Raises:
        FileNotFoundError: If there is no data and no way to get it; says what to put where.
        ValueError: If a file is damaged.

    Reference: Xiao, Rasul & Vollgraf (2017). arXiv:1708.07747.
    """
    folder = data_dir or _find_fashion_mnist()
    images, labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "t10k")
    train, val = stratified(labels, share=1 / 6)
    return TensorDataModule(
        train=Split(images[train], labels[train]),
        val=Split(images[val], labels[val]),
        test=Split(test_images, test_labels),
        batch_size=batch_size,
        views=views,
    )


class Splits(TypedDict):
    """The three parts of a dataset."""

    train: Split
    val: Split
    test: Split


def stratified_splits(inputs: Inputs, labels: Tensor) -> Splits:
    """The splits ``train``, ``val`` and ``test`` of 60, 20 and 20 %: the same mix of classes, the same samples always.

    Args:
        inputs: A tensor, or a dict of tensors, of first dimension N.
        labels: Class indices, shape (N,).

    Raises:
        TypeError: If the labels are no tensor.
        ValueError: If there are too few samples of a class: 20 % of five are one, and of five no class is too few.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels of stratified_splits must be a tensor, but got {type(labels).__name__}: torch.from_numpy makes "
            "one of an array, torch.tensor of a list."
        )
    try:
        rest, test = stratified(labels, share=0.2)
        train, val = stratified(labels[rest], share=0.25)
    except ValueError as error:
        if labels.ndim != 1 or labels.is_floating_point():
            raise
        classes, counts = labels.unique(return_counts=True)
        raise ValueError(
            f"stratified_splits must have at least {_LEAST_OF_EACH} samples of each class, but class "
            f"{int(classes[counts.argmin()])} has {int(counts.min())}."
        ) from error

    def part(ids: Tensor) -> Split:
        return Split(select(inputs, ids), labels[ids])

    return Splits(train=part(rest[train]), val=part(rest[val]), test=part(test))


def stratified(labels: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    """Positions of two disjoint parts with the same mix of classes, always the same ones.

    Args:
        labels: Class indices, shape (N,).
        share: Part of the samples that goes to the second part, in (0, 1).

    Returns:
        Positions of the first and of the second part, sorted, int64.
    """
    first, second = train_test_split(
        np.arange(len(labels)), test_size=share, stratify=labels.numpy(), random_state=_SPLIT_SEED
    )
    return torch.from_numpy(np.sort(first)), torch.from_numpy(np.sort(second))


def read_idx(path: Path) -> Tensor:
    """Return an IDX file of unsigned bytes, plain or gzipped, as a uint8 tensor of the shape that it states.

    Raises:
        ValueError: If it is no IDX file of bytes, or cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a gzip file, but can't be read: {error}; fetch it again.") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} must be an IDX file of bytes (00 00 08 ..), but begins with {raw[:4].hex(' ')!r}.")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise ValueError(f"{path} must be an IDX file, but ends in its header; fetch it again.")
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    if len(raw) != start + int(np.prod(shape)):
        raise ValueError(
            f"{path} must hold {int(np.prod(shape))} bytes of data for its shape {shape}, "
            f"but holds {len(raw) - start}; fetch it again."
        )
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).reshape(shape)


def _read_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = read_idx(_idx_file(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_idx_file(folder, f"{part}-labels-idx1-ubyte"))
    if images.ndim != 3 or images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise ValueError(
            f"{part} files of {folder} must hold as many 28x28 images as labels, but hold shapes "
            f"{tuple(images.shape)} and {tuple(labels.shape)}."
        )
    return images.float().unsqueeze(1) / 255, labels.long()


def _idx_file(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"expected {name} or {name}.gz in {folder}, but found neither; {_HOW_TO_GET}")


def _find_fashion_mnist() -> Path:
    if DEBIAN_FASHION_MNIST.is_dir():
        return DEBIAN_FASHION_MNIST
    try:
        cache = Path.home() / ".cache" / "kd-harness"
    except RuntimeError as error:  # no HOME, and a user whom nobody knows
        raise FileNotFoundError(
            f"Fashion-MNIST is not here, and there is no home to keep it in; {_HOW_TO_GET}"
        ) from error
    downloaded = cache / "FashionMNIST" / "raw"
    if not any(downloaded.glob("t10k-labels*")):
        try:
            from torchvision.datasets import FashionMNIST
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
            raise FileNotFoundError(
                f"Fashion-MNIST is neither in {DEBIAN_FASHION_MNIST} nor in {downloaded}, and torchvision, which "
                f"could download it, can't be imported ({error}); {_HOW_TO_GET}"
            ) from error
        try:
            FashionMNIST(cache, train=True, download=True)
        except (OSError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise FileNotFoundError(f"Fashion-MNIST is not here; {_HOW_TO_GET} Its download failed: {why}") from error
    return downloaded


_HOW_TO_GET = (
    "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
    "(each plain or .gz) into a folder and pass it as --data-dir, or apt-get install dataset-fashion-mnist, or, "
    "with a network, pip install torchvision."
)
