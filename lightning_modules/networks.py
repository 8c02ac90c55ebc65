"""Define the networks of the embedded tasks."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class ConvNet(nn.Sequential):
    """A small convolutional classifier whose ``width`` scales every layer.

    Two blocks, ``block1`` and ``block2``, of ``width`` and 2 · ``width`` channels, each a 3x3 convolution, batch norm,
    2x2 max pooling and ReLU (the same numbers as after ReLU, for a quarter of the work), then one linear layer on the
    ``size`` / 4 squared positions. Parameters grow with the square of ``width``.

    With ``strided``, strided convolutions, 5x5 and 3x3, halve the image in place of pooling (Springenberg et al. 2015,
    arXiv:1412.6806): a third of the multiplications at a width of 16, for a point of accuracy or less.

    On a CPU, batches are converted to channels last from a width of 8, or of 16 if strided: up to twice as fast, with
    equal numbers but for rounding. Narrower networks and single images are faster without it.

    Args:
        width: Channels of the first block, at least 1.
        size: Height and width of the image in pixels, a multiple of 4.
        channels: Channels of the image.
        classes: Number of classes C.
        dropout: Share of the features dropped before the linear layer, in [0, 1).
        strided: Whether convolutions halve the image, not pooling.

    Shapes:
        Image (B, channels, size, size) to logits (B, C).

    Raises:
        ValueError: If ``width`` is below 1 or ``size`` is no multiple of 4.
    """

    def __init__(
        self,
        width: int,
        *,
        size: int,
        channels: int = 1,
        classes: int = 10,
        dropout: float = 0.0,
        strided: bool = False,
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, but got {width=}.")
        if size % 4:
            raise ValueError(f"size must be a multiple of 4, but got {size=}.")
        first, second = (
            (_strided_block(channels, width, kernel=5), _strided_block(width, 2 * width, kernel=3))
            if strided
            else (_pooled_block(channels, width), _pooled_block(width, 2 * width))
        )
        super().__init__(
            OrderedDict(
                block1=first,
                block2=second,
                flatten=nn.Flatten(),
                dropout=nn.Dropout(dropout) if dropout else nn.Identity(),
                classifier=nn.Linear(2 * width * (size // 4) ** 2, classes),
            )
        )
        self._goes_channels_last = width >= (16 if strided else 8)

    def forward(self, input: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, channels, size, size)."""
        if len(input) > 1 and input.device.type == "cpu" and self._goes_channels_last:
            input = _channels_last(input)
        logits: Tensor = super().forward(input)
        return logits


def _channels_last(images: Tensor) -> Tensor:
    """Return the images in channels-last memory format, which the layers preserve."""
    images = images.contiguous(memory_format=torch.channels_last)
    if images.shape[1] > 1:
        return images
    # With one channel, both formats have the same memory: only the strides tell a convolution which one it is.
    _, _, height, width = images.shape
    return images.as_strided(images.shape, (height * width, 1, width, 1))


def _pooled_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )


def _strided_block(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
