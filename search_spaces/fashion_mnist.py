"""Fashion-MNIST: 70,000 photographs of clothes in 28x28 pixels, 10 classes."""

from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution

from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.embedded import fashion_mnist
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.networks import ConvNet


class FashionMNIST(Task):
    """28x28 photographs; a convolutional teacher of width 32 that pools, and narrower students that stride."""

    teacher_epochs = 5
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip

    def data(self, data_dir: Path | None) -> TensorDataModule:
        return fashion_mnist(data_dir, batch_size=128)

    def teacher(self) -> ConvNet:
        return ConvNet(32, size=28, dropout=0.3)

    def student(self, *, width: int) -> ConvNet:
        return ConvNet(width, size=28, strided=True)


SPACE = SearchSpace(
    task=FashionMNIST(),
    student={"width": IntDistribution(2, 24, log=True)},  # channels of the first block
    distillation={
        "temperature": FloatDistribution(1.0, 20.0, log=True),
        "alpha": FloatDistribution(0.0, 1.0),  # weight of the hard-label loss
    },
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=6,
)
