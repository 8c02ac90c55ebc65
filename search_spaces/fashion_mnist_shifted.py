"""Fashion-MNIST, its training images moved by up to two pixels: four stored views of each, seen in turn."""

from dataclasses import replace
from pathlib import Path

from lightning_modules.data.embedded import fashion_mnist
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.views import ShiftedViews
from search_spaces import fashion_mnist as plain


class ShiftedFashionMNIST(plain.FashionMNIST):
    """The same teacher and students; an epoch shows both sides the same view of each image."""

    def data(self, data_dir: Path | None) -> TensorDataModule:
        return fashion_mnist(data_dir, batch_size=128, views=ShiftedViews(count=4, most=2))


SPACE = replace(plain.SPACE, task=ShiftedFashionMNIST())
