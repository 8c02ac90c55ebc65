"""Tensors that are cut to a student's width: a teacher whose other units are dead answers as before.

Nothing else is a test that can't lie: where one axis kept other units than the next, the answers would differ.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.initial import copy_from_teacher
from lightning_modules.units import state_of


def drawn(network: nn.Module) -> nn.Module:
    """A network in eval mode whose every number is drawn, statistics of norms too."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in state_of(network).items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=draw) + (0.5 if "running_var" in name else -0.5))
    return network.eval()


def kill(network: nn.Module, dead: Iterable[int], *axes: tuple[str, int]) -> None:
    """Set units to zero in each of some axes of tensors."""
    for name, axis in axes:
        state_of(network)[name].index_fill_(axis, torch.tensor(list(dead)), 0.0)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def test_units_of_the_largest_weights_are_kept_in_both_layers() -> None:
    student, teacher = mlp(2), mlp(3)
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 1]]))  # type: ignore[index]
        teacher[0].bias.copy_(torch.tensor([0.0, 1, 0]))  # type: ignore[index]
        teacher[2].weight.copy_(torch.tensor([[0.0, 1, 3], [1, 0, 3], [0, 0, 0]]))  # type: ignore[index]
    started = copy_from_teacher(student, teacher, torch.zeros(1, 4))  # 1 + 1 = 2, 4 + 1 + 1 = 6, 1 + 6 = 7
    assert student[0].weight.tolist() == [[2, 2, 0, 0], [0, 0, 0, 1]] and student[0].bias.tolist() == [1, 0]  # type: ignore[index]
    assert student[2].weight.tolist() == [[1, 3], [0, 3], [0, 0]]  # type: ignore[index]
    assert started.numbers == started.of_numbers == 2 * 4 + 2 + 3 * 2 + 3


def test_of_equal_units_the_first_are_kept() -> None:
    student, teacher = mlp(2), mlp(4)
    for value in state_of(teacher).values():
        value.fill_(1.0)
    teacher[0].bias.data.copy_(torch.tensor([2.0, 3.0, 3.0, 2.0]))  # type: ignore[index]
    state_of(teacher)["2.weight"].copy_(torch.tensor([[5.0, 4.0, 4.0, 5.0]] * 3) / 3)  # 4 + 2 + 5 = 4 + 3 + 4
    copy_from_teacher(student, teacher, torch.zeros(1, 4))
    assert student[0].bias.tolist() == [2, 3]  # type: ignore[index]


class Convolutions(nn.Module):
    """Convolutions with norms, one of them depthwise, a sum around a layer, and a flattened end."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, first, 3, padding=1), nn.BatchNorm2d(first)
        self.depth, self.depth_norm = nn.Conv2d(first, first, 3, padding=1, groups=first), nn.BatchNorm2d(first)
        self.wide, self.wide_norm = nn.Conv2d(first, second, 1), nn.BatchNorm2d(second)
        self.head = nn.Linear(second * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = x + torch.relu(self.depth_norm(self.depth(x)))
        x = torch.max_pool2d(torch.relu(self.wide_norm(self.wide(x))), 2)
        return torch.as_tensor(self.head(x.flatten(1)))


def test_convolutions_with_norms_keep_the_same_channels() -> None:
    teacher, student, inputs = drawn(Convolutions(8, 6)), Convolutions(5, 4), torch.randn(3, 1, 4, 4)
    norms = [(f"{norm}.{name}", 0) for norm in ("stem_norm", "depth_norm") for name in ("weight", "bias")]
    convolutions = [("stem.weight", 0), ("stem.bias", 0), ("depth.weight", 0), ("depth.bias", 0), ("wide.weight", 1)]
    kill(teacher, [0, 3, 6], *norms, *convolutions)
    kill(teacher, [1, 5], ("wide.weight", 0), ("wide.bias", 0), ("wide_norm.weight", 0), ("wide_norm.bias", 0))
    kill(teacher, [4, 5, 6, 7, 20, 21, 22, 23], ("head.weight", 1))  # four places of each of the two channels
    before = {name: value.clone() for name, value in state_of(teacher).items()}
    started = copy_from_teacher(student, teacher, inputs[:1])
    assert started.unmatched == ()
    torch.testing.assert_close(student.eval()(inputs), teacher(inputs))
    assert all(torch.equal(value, before[name]) for name, value in state_of(teacher).items())


class Attention(nn.Module):
    """Attention whose inner width is not that of the stream."""

    def __init__(self, width: int, heads: int, of_head: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        inner = heads * of_head
        if fused:
            self.qkv = nn.Linear(width, 3 * inner)
        else:
            self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        three = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in three)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.as_tensor(self.out(mixed.transpose(1, 2).flatten(2)))


class Transformer(nn.Module):
    """A residual encoder: a stream that all blocks add to, with a learned place of each token."""

    def __init__(self, width: int, heads: int, hidden: int, *, fused: bool = False, of_head: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(5, width), nn.Parameter(torch.zeros(1, 6, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "first": nn.LayerNorm(width),
                    "attention": Attention(width, heads, of_head, fused=fused),
                    "second": nn.LayerNorm(width),
                    "up": nn.Linear(width, hidden),
                    "down": nn.Linear(hidden, width),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = x + block["attention"](block["first"](x))
            x = x + block["down"](nn.functional.gelu(block["up"](block["second"](x))))
        return torch.as_tensor(self.head(x.mean(1)))


@pytest.mark.parametrize("fused", [False, True])
def test_a_transformer_keeps_whole_heads_and_the_units_of_each_block_by_themselves(fused: bool) -> None:
    teacher, student = drawn(Transformer(8, 3, 6, fused=fused)), Transformer(8, 2, 4, fused=fused)
    for block, head, units in ((0, 1, (0, 5)), (1, 2, (2, 3))):
        prefix = f"blocks.{block}."
        rows = range(4 * head, 4 * head + 4)
        inner = [(f"{prefix}attention.{one}.{part}", 0) for one in "qkv" for part in ("weight", "bias")]
        if fused:
            inner = []
            three = [row + 12 * copy for row in rows for copy in range(3)]
            kill(teacher, three, (f"{prefix}attention.qkv.weight", 0), (f"{prefix}attention.qkv.bias", 0))
        kill(teacher, rows, *inner, (f"{prefix}attention.out.weight", 1))
        kill(teacher, units, (f"{prefix}up.weight", 0), (f"{prefix}up.bias", 0), (f"{prefix}down.weight", 1))
    inputs = torch.randn(4, 6, 5)
    started = copy_from_teacher(student, teacher, inputs[:1])
    assert started.unmatched == ()
    torch.testing.assert_close(student.eval()(inputs), teacher(inputs))


def test_the_stream_of_a_transformer_is_one_in_all_its_blocks() -> None:
    teacher, student = drawn(Transformer(8, 2, 4)), Transformer(5, 2, 4)
    live = [0, 2, 3, 6, 7]
    kill(teacher, [1, 4, 5], *_stream(teacher))
    assert copy_from_teacher(student, teacher, torch.randn(1, 6, 5)).unmatched == ()
    for name, axis in _stream(teacher):
        kept = state_of(teacher)[name].index_select(axis, torch.tensor(live))
        assert torch.equal(state_of(student)[name], kept), name


def _stream(network: nn.Module) -> list[tuple[str, int]]:
    """The axes that count the stream's channels."""
    takes = ("q.weight", "k.weight", "v.weight", "up.weight", "head.weight")
    gives = ("out.weight", "out.bias", "down.weight", "down.bias", "embed.weight", "embed.bias")
    norms = ("first.weight", "first.bias", "second.weight", "second.bias")
    found = [(name, 1) for name in state_of(network) if name.endswith(takes)]
    return [*found, *((name, 0) for name in state_of(network) if name.endswith((*gives, *norms))), ("place", 2)]


@pytest.mark.parametrize("start", ["layers", "pruned"])
@pytest.mark.parametrize("make", [lambda: Convolutions(4, 3), lambda: Transformer(8, 2, 6), lambda: mlp(5)])
def test_a_student_as_wide_as_its_teacher_answers_exactly_alike(make, start: str) -> None:  # type: ignore[no-untyped-def]
    teacher, student = drawn(make()), make()
    shape = {Convolutions: (2, 1, 4, 4), Transformer: (2, 6, 5)}.get(type(teacher), (2, 4))
    inputs = torch.randn(shape)
    copy_from_teacher(student, teacher, inputs if start == "pruned" else None)
    assert torch.equal(student.eval()(inputs), teacher(inputs))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.encoder(self.embed(x)).mean(1)))


def test_torch_s_own_encoder_is_cut_by_heads() -> None:
    teacher, student = drawn(Encoder(16, 4, 12)), Encoder(8, 2, 10)
    for layer in range(2):
        rows = [row + 16 * copy for row in (*range(0, 4), *range(8, 12)) for copy in range(3)]
        attention = f"encoder.layers.{layer}.self_attn."
        kill(teacher, rows, (f"{attention}in_proj_weight", 0), (f"{attention}in_proj_bias", 0))
        kill(teacher, [0, 1, 2, 3, 8, 9, 10, 11], (f"{attention}out_proj.weight", 1))
    assert copy_from_teacher(student, teacher, torch.randn(1, 6, 5)).unmatched == ()
    bias = state_of(student)["encoder.layers.1.self_attn.in_proj_bias"]
    live = [row + 16 * copy for copy in range(3) for row in (*range(4, 8), *range(12, 16))]
    assert torch.equal(bias, state_of(teacher)["encoder.layers.1.self_attn.in_proj_bias"][live])


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        (lambda: Transformer(8, 4, 6), lambda: Transformer(8, 4, 6, of_head=2)),
        (lambda: Encoder(16, 4, 8), lambda: Encoder(8, 4, 8)),
        (lambda: Transformer(8, 4, 6, fused=True), lambda: Transformer(8, 4, 6, fused=True, of_head=2)),
    ],
)
def test_heads_of_another_width_are_refused_in_words(teacher, student) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must keep whole heads of attention, but the student's 4 heads"):
        copy_from_teacher(student(), drawn(teacher()), torch.randn(1, 6, 5))


def test_what_can_not_be_followed_keeps_its_fresh_weights() -> None:
    class Hidden(nn.Module):
        """Its first layer is multiplied by hand, so that no layer is seen to take its units."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, width), nn.Parameter(torch.randn(width, 3))
            self.last = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.last(self.first(x) @ self.second))

    student = Hidden(2)
    started = copy_from_teacher(student, Hidden(5).eval(), torch.randn(1, 4))
    assert set(started.unmatched) == {"first.weight", "first.bias", "second"}


def test_a_student_that_is_wider_draws_its_wider_layers() -> None:
    started = copy_from_teacher(mlp(6), mlp(4).eval(), torch.randn(1, 4))
    assert set(started.unmatched) == {"0.weight", "0.bias", "2.weight"}


def test_a_network_that_can_not_be_called_so_is_refused_in_words() -> None:
    class Strict(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if x.isnan().any():
                raise RuntimeError("no number")
            return torch.as_tensor(self.last(x))

    with pytest.raises(ValueError, match=r"its forward fails on it \(RuntimeError\); hold start=layers"):
        copy_from_teacher(Strict(2), Strict(3), torch.randn(1, 4))


class RootMeanSquare(nn.Module):
    """A norm of a person's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class LanguageModel(nn.Module):
    """A decoder of today: grouped queries, a gated layer, norms of its own, and one matrix at both ends."""

    def __init__(self, width: int, groups: int, of_group: int, hidden: int) -> None:
        super().__init__()
        self.of_group = of_group
        self.embed, self.last = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        self.last.weight = self.embed.weight
        sizes = {"q": groups * of_group * 4, "k": groups * 4, "v": groups * 4, "gate": hidden, "up": hidden}
        self.takes = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name, size in sizes.items()})
        self.out, self.down = nn.Linear(sizes["q"], width, bias=False), nn.Linear(hidden, width, bias=False)
        self.first, self.second = RootMeanSquare(width), RootMeanSquare(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (self.takes[one](self.first(x)).unflatten(-1, (-1, 4)).transpose(1, 2) for one in "qkv")
        k, v = (one.repeat_interleave(self.of_group, 1) for one in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.second(x)
        return torch.as_tensor(
            self.last(x + self.down(nn.functional.silu(self.takes["gate"](y)) * self.takes["up"](y)))
        )


def test_grouped_queries_are_kept_with_their_keys_and_values() -> None:
    teacher, student, tokens = drawn(LanguageModel(8, 3, 2, 6)), LanguageModel(8, 2, 2, 4), torch.tensor([[1, 4, 9, 2]])
    kill(teacher, range(8, 16), ("takes.q.weight", 0), ("out.weight", 1))  # both queries of the second group
    kill(teacher, range(4, 8), ("takes.k.weight", 0), ("takes.v.weight", 0))
    kill(teacher, (0, 5), ("takes.gate.weight", 0), ("takes.up.weight", 0), ("down.weight", 1))
    assert copy_from_teacher(student, teacher, tokens).unmatched == ()
    torch.testing.assert_close(student.eval()(tokens), teacher(tokens))


def test_groups_of_other_queries_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="must keep whole heads of attention"):  # as many keys, and half the queries
        copy_from_teacher(LanguageModel(8, 3, 1, 6), drawn(LanguageModel(8, 3, 2, 6)), torch.tensor([[1, 4]]))
