"""The convolutional network: width reaches every layer."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks import ConvNet


@pytest.mark.parametrize(
    ("width", "size", "channels", "classes", "strided", "expected"),
    [
        # conv 9·c·w (25·c·w if strided), norm 2·w, conv 9·w·2w, norm 2·2w, linear 2w·(s/4)²·C + C
        (2, 8, 1, 10, False, 18 + 4 + 72 + 8 + 160 + 10),
        (8, 8, 1, 10, False, 72 + 16 + 1152 + 32 + 640 + 10),
        (64, 8, 1, 10, False, 576 + 128 + 73728 + 256 + 5120 + 10),
        (3, 28, 3, 5, False, 81 + 6 + 162 + 12 + 1470 + 5),
        (3, 28, 3, 5, True, 225 + 6 + 162 + 12 + 1470 + 5),
    ],
)
def test_parameters_are_those_counted_by_hand(
    width: int, size: int, channels: int, classes: int, strided: bool, expected: int
) -> None:
    network = ConvNet(width, size=size, channels=channels, classes=classes, strided=strided)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("width", [1, 5])
def test_each_image_gives_one_row_of_logits(width: int, strided: bool) -> None:
    network = ConvNet(width, size=12, channels=3, classes=7, strided=strided).eval()
    assert network(torch.zeros(4, 3, 12, 12)).shape == (4, 7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "strided"), [(7, False), (8, False), (15, True), (16, True)])
def test_the_memory_format_of_a_batch_does_not_change_its_logits(width: int, strided: bool, channels: int) -> None:
    torch.manual_seed(0)
    network = ConvNet(width, size=12, channels=channels, strided=strided).eval()
    images, layouts = torch.rand(5, 2 * channels, 12, 12)[:, ::2], []
    network.block1[0].register_forward_hook(
        lambda layer, given, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone)
    assert layouts == [False] * len(images) + [width in (8, 16)]


@pytest.mark.parametrize("strided", [False, True])
def test_every_weight_receives_a_gradient(strided: bool) -> None:
    torch.manual_seed(0)
    network = ConvNet(4, size=8, strided=strided)
    network(torch.rand(16, 1, 8, 8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network, images = ConvNet(8, size=8, dropout=0.5), torch.rand(8, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_without_dropout_no_random_number_is_drawn() -> None:
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
def test_a_size_that_is_not_a_multiple_of_4_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be a multiple of 4, but got size={size}"):
        ConvNet(2, size=size)


def test_pooling_before_relu_gives_what_pooling_after_it_gives_gradients_included() -> None:
    torch.manual_seed(0)
    network, images = ConvNet(3, size=8), torch.rand(16, 1, 8, 8)
    network(images).square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    conv, norm, pool, _, conv2, norm2, *_ = (*network.block1, *network.block2)
    flat, linear = network.flatten, network.classifier
    network.zero_grad()
    hidden = pool(torch.relu(norm(conv(images))))
    logits = linear(flat(pool(torch.relu(norm2(conv2(hidden))))))
    logits.square().sum().backward()
    for parameter, before in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, before)


@pytest.mark.parametrize(
    ("strided", "expected"),
    [
        # first 9·c·w at 28², second 9·w·2w at 14²; strided: 25·c·w at 14², 9·w·2w at 7²; linear 2w·7²·C
        (False, 9 * 16 * 28**2 + 9 * 16 * 32 * 14**2 + 32 * 49 * 10),
        (True, 25 * 16 * 14**2 + 9 * 16 * 32 * 7**2 + 32 * 49 * 10),
    ],
)
def test_a_strided_network_takes_a_third_of_the_multiplications(strided: bool, expected: int) -> None:
    with FlopCounterMode(display=False) as counter:
        ConvNet(16, size=28, strided=strided)(torch.rand(2, 1, 28, 28))
    assert counter.get_total_flops() == 2 * 2 * expected
