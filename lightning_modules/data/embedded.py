"""Load the data of the embedded tasks: scikit-learn's digits, and Fashion-MNIST from its IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_modules.data.splits import stratified, stratified_splits
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""


def digits(*, batch_size: int) -> TensorDataModule:
    """Return 1,797 handwritten digits of 8x8 pixels in [0, 1], 10 classes; 60 / 20 / 20 %, stratified, in scikit-learn.

    Reference: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI. doi:10.24432/C50P49.
    """
    source = load_digits()
    images = torch.from_numpy(source.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(source.target).long()
    return TensorDataModule(**stratified_splits(images, labels), batch_size=batch_size)


def fashion_mnist(data_dir: Path | None, *, batch_size: int, views: Views | None = None) -> TensorDataModule:
    """Return Fashion-MNIST: 50,000 / 10,000 / 10,000 images of 28x28 pixels in [0, 1], 10 classes, balanced.

    Args:
        data_dir: Folder of the four IDX files, each plain or ``.gz``. ``None`` takes Debian's folder, or else
            downloads through torchvision into ``~/.cache/kd-harness``.
        batch_size: Samples in a training batch.
        views: Augmentation of the training images; ``None`` for none.

    Raises:
        FileNotFoundError: If there is no data and no way to get it; the message says what to put where.
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


def read_idx(path: Path) -> Tensor:
    """Return an IDX file of unsigned bytes, plain or gzipped, as a uint8 tensor of the shape that it states.

    Raises:
        ValueError: If it is not an IDX file of bytes, or truncated.
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
    except RuntimeError as error:  # no HOME, and a user without an entry in the password database
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
