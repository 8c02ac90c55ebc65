"""Networks that the embedded tasks use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Sequential):
    """A small convolutional classifier whose ``width`` scales every layer.

    Two 3x3 blocks of ``width`` and 2 · ``width`` channels, each with batch norm, ReLU and 2x2 max pooling, then one
    linear layer on the ``size`` / 4 squared positions. Parameters grow with the square of ``width``.

    On a CPU, batches go through it channels last from a width of 8: up to twice as fast, and the same numbers but for
    rounding. Narrower networks and single images are faster as they are.

    Args:
        width: Channels of the first block, at least 1.
        size: Height and width of the image in pixels, a multiple of 4.
        channels: Channels of the image.
        classes: Number of classes C.
        dropout: Share of the features dropped before the linear layer, in [0, 1).

    Shapes:
        Image (B, channels, size, size) to logits (B, C).

    Raises:
        ValueError: If ``width`` is below 1 or ``size`` is no multiple of 4.
    """

    def __init__(self, width: int, *, size: int, channels: int = 1, classes: int = 10, dropout: float = 0.0) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, but got {width=}.")
        if size % 4:
            raise ValueError(f"size must be a multiple of 4, but got {size=}.")
        super().__init__(
            *_block(channels, width),
            *_block(width, 2 * width),
            nn.Flatten(),
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Linear(2 * width * (size // 4) ** 2, classes),
        )
        self._width = width

    def forward(self, input: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, size, size)."""
        if len(input) > 1 and input.device.type == "cpu" and self._width >= 8:
            input = _channels_last(input)
        logits: Tensor = super().forward(input)
        return logits


def _channels_last(images: Tensor) -> Tensor:
    """The same images laid out channels last, which every layer behind them then keeps to."""
    images = images.contiguous(memory_format=torch.channels_last)
    if images.shape[1] > 1:
        return images
    # One channel lies in memory the same way either way: only its strides tell a convolution which one is meant.
    _, _, height, width = images.shape
    return images.as_strided(images.shape, (height * width, 1, width, 1))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    ]
