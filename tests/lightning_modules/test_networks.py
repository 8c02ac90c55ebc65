"""The convolutional network: width reaches every layer."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks import ConvNet


@pytest.mark.parametrize(
    ("width", "size", "channels", "classes", "expected"),
    [
        # conv 9·c·w, norm 2·w, conv 9·w·2w, norm 2·2w, linear 2w·(s/4)²·C + C
        (2, 8, 1, 10, 18 + 4 + 72 + 8 + 160 + 10),
        (8, 8, 1, 10, 72 + 16 + 1152 + 32 + 640 + 10),
        (64, 8, 1, 10, 576 + 128 + 73728 + 256 + 5120 + 10),
        (3, 28, 3, 5, 81 + 6 + 162 + 12 + 1470 + 5),
    ],
)
def test_parameters_are_those_counted_by_hand(
    width: int, size: int, channels: int, classes: int, expected: int
) -> None:
    network = ConvNet(width, size=size, channels=channels, classes=classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("width", [1, 5])
def test_images_become_one_row_of_logits_each(width: int) -> None:
    network = ConvNet(width, size=12, channels=3, classes=7).eval()
    assert network(torch.zeros(4, 3, 12, 12)).shape == (4, 7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [7, 8])
def test_the_layout_of_a_batch_is_no_matter_of_its_logits(width: int, channels: int) -> None:
    torch.manual_seed(0)
    network, images = ConvNet(width, size=12, channels=channels).eval(), torch.rand(5, 2 * channels, 12, 12)[:, ::2]
    layouts = []
    network[0].register_forward_hook(
        lambda layer, given, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone)
    assert layouts == [False] * len(images) + [width >= 8]


def test_every_weight_receives_a_gradient() -> None:
    torch.manual_seed(0)
    network = ConvNet(4, size=8)
    network(torch.rand(16, 1, 8, 8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network, images = ConvNet(8, size=8, dropout=0.5), torch.rand(8, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_without_dropout_nothing_is_drawn() -> None:
    torch.manual_seed(0)
    network, images = ConvNet(8, size=8), torch.rand(8, 1, 8, 8)
    state = torch.get_rng_state()
    network(images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("width", [0, -1])
def test_a_width_below_one_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"width must be at least 1, but got width={width}"):
        ConvNet(width, size=8)


@pytest.mark.parametrize("size", [6, 27])
def test_a_size_that_two_poolings_cannot_halve_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be a multiple of 4, but got size={size}"):
        ConvNet(2, size=size)
