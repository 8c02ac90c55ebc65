"""Multiply-accumulates, against formulas worked by hand; and that what has no formula is named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.cost.macs import count_macs, macs_of

T, N, H = 7, 5, 3  # steps, inputs, hidden units
L, D, FF = 6, 8, 20  # positions, width of an encoder, units of its feed-forward layer

PROJECTIONS = 4 * L * D * D
SCORES = 2 * L * L * D  # queries with keys, and weights with values
FEED_FORWARD = 2 * L * D * FF
LAYER = PROJECTIONS + SCORES + FEED_FORWARD


class Called(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.function(*inputs, *named.values())


def macs(network: nn.Module, *inputs: Tensor) -> int | None:
    """Of a network in eval mode, called with some inputs."""
    given = inputs[0] if len(inputs) == 1 else {str(place): value for place, value in enumerate(inputs)}
    return count_macs(Called(network, network).eval(), given)


def sequence(batch: int = 1) -> Tensor:
    return torch.zeros(batch, T, N)


@pytest.mark.parametrize(
    ("network", "by_hand"),
    [
        (nn.LSTM(N, H, batch_first=True), T * 4 * H * (N + H)),
        (nn.LSTM(N, H, 2, batch_first=True), T * 4 * H * (N + H) + T * 4 * H * (H + H)),
        (nn.LSTM(N, H, bidirectional=True, batch_first=True), 2 * T * 4 * H * (N + H)),
        # The second layer reads both directions of the first.
        (
            nn.LSTM(N, H, 2, bidirectional=True, batch_first=True),
            2 * T * 4 * H * (N + H) + 2 * T * 4 * H * (2 * H + H),
        ),
        (nn.LSTM(N, H, proj_size=2, batch_first=True), T * 4 * H * (N + 2) + T * H * 2),
        (nn.LSTM(N, H, bias=False, batch_first=True), T * 4 * H * (N + H)),
        (nn.GRU(N, H, batch_first=True), T * 3 * H * (N + H)),
        (nn.GRU(N, H, 2, bidirectional=True, batch_first=True), 2 * T * 3 * H * (N + H) + 2 * T * 3 * H * (2 * H + H)),
        (nn.RNN(N, H, batch_first=True), T * H * (N + H)),
        (nn.RNN(N, H, nonlinearity="relu", batch_first=True), T * H * (N + H)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_recurrent_layers_cost_a_product_with_each_weight_a_step(network: nn.Module, by_hand: int, batch: int) -> None:
    assert macs(network, sequence(batch)) == batch * by_hand


@pytest.mark.parametrize(
    ("cell", "by_hand"),
    [(nn.LSTMCell(N, H), 4 * H * (N + H)), (nn.GRUCell(N, H), 3 * H * (N + H)), (nn.RNNCell(N, H), H * (N + H))],
)
def test_a_cell_costs_a_step(cell: nn.Module, by_hand: int) -> None:
    assert macs(cell, torch.zeros(1, N)) == by_hand


def test_a_packed_sequence_costs_the_steps_that_it_has() -> None:
    lstm = nn.LSTM(N, H, batch_first=True)

    def network(values: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(values, torch.tensor([T, 2]), batch_first=True)
        return lstm(packed)[0].data  # type: ignore[no-any-return]

    assert macs(Called(network, lstm), sequence(2)) == (T + 2) * 4 * H * (N + H)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": torch.ones(L, L).tril().bool()}])
def test_attention_costs_scores_and_sums_masked_or_not(options: dict[str, Any]) -> None:
    def network(values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(values, values, values, **options)

    assert macs(Called(network), torch.zeros(1, 2, L, D // 2)) == SCORES


def test_attention_with_few_heads_of_keys_costs_what_all_heads_of_queries_do() -> None:
    def network(query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    assert macs(Called(network), torch.zeros(1, 4, L, 2), torch.zeros(1, 2, L, 2)) == SCORES


def test_attention_over_other_positions_costs_by_both_lengths() -> None:
    attention = nn.MultiheadAttention(D, 2, batch_first=True)
    projections = 2 * L * D * D + 2 * 9 * D * D
    network = Called(lambda one, other: attention(one, other, other)[0], attention)
    assert macs(network, torch.zeros(1, L, D), torch.zeros(1, 9, D)) == projections + 2 * L * 9 * D


@pytest.mark.parametrize("training", [False, True])
def test_encoders_cost_the_same_in_both_modes(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(D, 2, FF, dropout=0.0, batch_first=True)
    for network, layers in ((layer, 1), (nn.TransformerEncoder(layer, 3), 3)):
        assert count_macs(network.train(training), torch.zeros(1, L, D)) == layers * LAYER


def test_an_encoder_pays_for_padding_too() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, FF, batch_first=True), 2)
    padding = torch.tensor([[False] * (L - 2) + [True] * 2])
    network = Called(lambda values: encoder(values, src_key_padding_mask=padding), encoder)
    assert macs(network, torch.zeros(1, L, D)) == 2 * LAYER


def test_a_decoder_attends_twice() -> None:
    decoder = nn.TransformerDecoderLayer(D, 2, FF, batch_first=True)
    across = 2 * L * D * D + 2 * 9 * D * D + 2 * L * 9 * D
    assert macs(decoder, torch.zeros(1, L, D), torch.zeros(1, 9, D)) == LAYER + across
    whole = nn.Transformer(D, 2, 1, 1, FF, batch_first=True)
    assert macs(whole, torch.zeros(1, L, D), torch.zeros(1, L, D)) == 2 * LAYER + PROJECTIONS + SCORES


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flexible_attention_costs_what_attention_does() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    network = Called(lambda values: flex_attention(values, values, values))
    assert macs(network, torch.zeros(1, 1, 16, 16)) == 2 * 16 * 16 * 16


def test_what_is_looked_up_costs_nothing() -> None:
    numbers = torch.tensor([[1, 2, 3]])
    assert macs(nn.Embedding(10, 4), numbers) == 0
    assert macs(nn.EmbeddingBag(10, 4), numbers) == 0
    assert macs(nn.Sequential(nn.EmbeddingBag(10, 4, mode="sum"), nn.Linear(4, 2)), numbers) == 8


@pytest.mark.parametrize(
    ("network", "shape", "by_hand"),
    [
        # Each output meets a kernel of in / groups channels.
        (nn.Conv1d(4, 6, 3), (4, 10), 8 * 6 * 4 * 3),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), (4, 8, 8), 16 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 8, 8), 36 * 6 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 8, 8), 36 * 4 * 9),
        (nn.Conv2d(4, 6, 3, dilation=2), (4, 8, 8), 16 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, (1, 3), padding="same", padding_mode="circular"), (4, 8, 8), 64 * 6 * 4 * 3),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 27 * 3 * 2 * 8),
        # Each input meets one of out / groups channels.
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 10), 10 * 4 * 6 * 3),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 25 * 4 * 3 * 9),
        (nn.ConvTranspose3d(1, 2, 3), (1, 4, 4, 4), 64 * 2 * 27),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_convolutions_cost_a_kernel_a_position(
    network: nn.Module, shape: tuple[int, ...], by_hand: int, batch: int
) -> None:
    assert macs(network, torch.zeros(batch, *shape)) == batch * by_hand


@pytest.mark.parametrize(
    ("function", "shapes", "by_hand"),
    [
        (lambda a, b: a @ b, [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda a, b: a @ b, [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (lambda a, b: a @ b, [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (lambda a, b: a @ b, [(3, 4), (4,)], 3 * 4),
        (lambda a, b: a @ b, [(4,), (4,)], 4),
        (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (torch.addmv, [(3,), (3, 4), (4,)], 3 * 4),
        (lambda a, b, c: a.clone().addmm_(b, c), [(3, 5), (3, 4), (4, 5)], 3 * 4 * 5),
        (lambda a, b: torch.einsum("bik,bjk->bij", a, b), [(2, 3, 4), (2, 5, 4)], 2 * 3 * 4 * 5),
        (lambda a, b: torch.tensordot(a, b, dims=2), [(3, 4, 5), (4, 5, 6)], 3 * 20 * 6),
        (torch.linalg.multi_dot, None, 3 * 4 * 5 + 3 * 5 * 6),
        (torch.cdist, [(3, 4), (5, 4)], 3 * 5 * 4),
        (torch.cdist, [(3, 4), (64, 4)], 3 * 64 * 4),  # more than 25 rows: another kernel
        (torch.cdist, [(2, 30, 4), (2, 5, 4)], 2 * 30 * 5 * 4),
        (lambda a, b: torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist"), [(3, 4), (5, 4)], 3 * 5 * 4),
        (F.pdist, [(5, 4)], 10 * 4),
        (lambda a: torch.cov(a), [(3, 8)], 3 * 3 * 8),
        # Each position, as (x, y, 1), meets the parameters of its sample.
        (lambda theta: F.affine_grid(theta, [2, 4, 8, 9], align_corners=False), [(2, 2, 3)], 2 * 8 * 9 * 2 * 3),
        (lambda theta: F.affine_grid(theta, [1, 1, 2, 3, 4], align_corners=False), [(1, 3, 4)], 24 * 3 * 4),
        # A complex product is four real ones.
        (lambda a, b: a.cfloat() @ b.cfloat(), [(3, 4), (4, 5)], 4 * 3 * 4 * 5),
        (lambda a, b: a * b + F.cosine_similarity(a, b).sum(), [(3, 4), (3, 4)], 0),
    ],
)
def test_products_cost_their_terms(function: Any, shapes: Any, by_hand: int) -> None:
    if shapes is None:
        matrices = [torch.zeros(3, 4), torch.zeros(4, 5), torch.zeros(5, 6)]
        assert macs(Called(lambda *parts: function(parts)), *matrices) == by_hand
    else:
        assert macs(Called(function), *map(torch.zeros, shapes)) == by_hand


def test_linear_layers_cost_their_weights() -> None:
    assert macs(nn.Linear(20, 30), torch.zeros(4, 20)) == 4 * 600
    # x1 with the weights of each output, and what comes of it with x2.
    assert macs(nn.Bilinear(3, 4, 5), torch.zeros(2, 3), torch.zeros(2, 4)) == 2 * (5 * 3 * 4 + 5 * 4)
    assert macs(nn.utils.parametrizations.weight_norm(nn.Linear(20, 30)), torch.zeros(1, 20)) == 600


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_sparse_matrix_costs_what_it_stores() -> None:
    adjacency = torch.eye(6).to_sparse()
    for matrix in (adjacency, adjacency.to_sparse_csr()):
        assert macs(Called(lambda values, matrix=matrix: matrix @ values), torch.zeros(6, 5)) == 6 * 5


def test_a_fourier_transform_costs_by_the_convention_of_fftw() -> None:
    # 5 N log2 N flops are 2.5 N log2 N MACs, half of it for real values.
    assert macs(Called(lambda x: torch.fft.fft(x.cfloat())), torch.zeros(3, 8)) == 3 * 2.5 * 8 * math.log2(8)
    assert macs(Called(torch.fft.rfft2), torch.zeros(4, 4)) == 1.25 * 16 * math.log2(16)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning", "ignore:.torch.jit.trace:FutureWarning")
def test_scripted_and_traced_networks_cost_what_they_are_made_of() -> None:
    network = nn.Sequential(nn.Conv1d(T, 4, 2), nn.ReLU(), nn.Linear(4, 3), nn.LSTM(3, H)).eval()
    by_hand = 4 * 4 * T * 2 + 4 * 4 * 3 + 4 * 4 * H * (3 + H)
    scripted = torch.jit.script(network)
    for _ in range(3):  # its executor profiles the first calls, and rewrites the code after them
        assert macs(scripted, sequence()) == by_hand
        scripted(sequence())
    traced = torch.jit.trace(network[:3], sequence())
    assert macs(traced, sequence()) == by_hand - 4 * 4 * H * (3 + H)


def test_compiled_networks_cost_what_they_are_compiled_of() -> None:
    assert macs(torch.compile(nn.Linear(20, 30)), torch.zeros(1, 20)) == 600  # type: ignore[arg-type]


def test_counting_changes_nothing_else() -> None:
    before = (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)
    network = Called(lambda values: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the network's own error
        macs_of(network, torch.zeros(1))
    after = (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)
    assert after == before and torch.backends.cuda.flash_sdp_enabled()


def uncounted(function: Callable[..., Any], *inputs: Tensor) -> tuple[str, ...]:
    given = inputs[0] if len(inputs) == 1 else {str(place): value for place, value in enumerate(inputs)}
    found = macs_of(Called(function), given)
    assert (count_macs(Called(function), given) is None) == bool(found.uncounted)
    return found.uncounted


def test_an_operation_of_ones_own_is_named() -> None:
    @torch.library.custom_op("own::product", mutates_args=())
    def product(one: Tensor, other: Tensor) -> Tensor:
        return one @ other

    assert uncounted(product, torch.zeros(2, 3), torch.zeros(3, 4)) == ("own.product",)


def test_decompositions_and_quantized_layers_are_named() -> None:
    matrix = torch.eye(3)
    assert uncounted(lambda x: torch.linalg.solve(matrix, x), torch.zeros(3, 2)) == ("aten._linalg_solve_ex",)
    assert uncounted(lambda x: torch.linalg.svd(x)[1], torch.zeros(3, 2)) == ("aten._linalg_svd",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), dtype=torch.qint8)
    assert uncounted(quantized, torch.zeros(1, 8)) == ("quantized.linear_dynamic",)
    scale, zero = torch.tensor(0.1), torch.tensor(0)
    packed = torch.ops._quantized._wrapped_linear_prepack(torch.ones(4, 8), scale, zero, torch.zeros(4))

    def prepacked(x: Tensor) -> Any:
        return torch.ops._quantized._wrapped_quantized_linear_prepacked(x, scale, zero, packed, scale, zero, 4)

    assert uncounted(prepacked, torch.zeros(1, 8)) == ("_quantized._wrapped_quantized_linear_prepacked",)


@pytest.mark.parametrize("leave", [lambda x: x.numpy(), np.asarray, lambda x: np.array(x.tolist(), dtype=np.float32)])
def test_what_leaves_torch_is_named(leave: Callable[[Tensor], Any]) -> None:
    (name,) = uncounted(lambda x: torch.from_numpy(leave(x) * 2), torch.zeros(2, 3))
    assert name in ("Tensor.numpy", "Tensor.__array__", "Tensor.tolist")
    assert uncounted(lambda x: x[: x.long().sum().tolist()], torch.ones(2, 3)) == ()  # lengths may


def test_ordinary_networks_raise_no_alarm() -> None:
    image, steps = torch.zeros(2, 4, 8, 8), torch.zeros(2, L, D)
    for network in (
        nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LocalResponseNorm(2)),
        nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
        nn.Sequential(nn.PixelShuffle(2), nn.ReflectionPad2d(1), nn.Unfold(2), nn.Softmax(-1), nn.Dropout()),
        nn.Sequential(nn.PReLU(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Softplus(), nn.GLU(), nn.CELU()),
        Called(lambda x: F.grid_sample(x, torch.zeros(2, 8, 8, 2), align_corners=True)),
    ):
        assert macs(network, image) == 0
    sorting = Called(lambda x: x.sort(1).values.topk(2).values.cumsum(0) + torch.linalg.vector_norm(x))
    for network in (nn.Sequential(nn.LayerNorm(D), nn.RMSNorm(D)), sorting, Called(lambda x: x.gather(1, x.long()))):
        assert macs(network, steps) == 0
