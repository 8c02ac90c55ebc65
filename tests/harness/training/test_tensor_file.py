"""Weights in a file: what is tied is written once, and is tied again when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.cost.counting import count_costs
from harness.training.tensor_file import cpu_state, load_state, save_tensors


class Tied(nn.Module):
    """Embedding and head are one matrix, and a layer is used twice."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 6)])
        self.layers.append(self.layers[0])
        self.head = nn.Linear(6, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(3))

    def forward(self, numbers: Tensor) -> Tensor:
        hidden = self.embedding(numbers).mean(1)
        for layer in self.layers:
            hidden = layer(hidden).relu()
        return self.head(hidden)  # type: ignore[no-any-return]


def test_tied_tensors_are_written_once_and_tied_again(tmp_path: Path) -> None:
    network, fresh = Tied(), Tied()
    save_tensors(cpu_state(network), tmp_path / "tied", {})
    written = load_file(tmp_path / "tied")
    assert sorted(written) == ["embedding.weight", "layers.0.bias", "layers.0.weight", "scale"]
    load_state(fresh, written)
    assert fresh.head.weight is fresh.embedding.weight and fresh.layers[0] is fresh.layers[1]
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_tied_tensors_count_once(tmp_path: Path) -> None:
    network = Tied().eval()
    counts = count_costs(network, torch.zeros(1, 4, dtype=torch.int64))
    assert counts.parameters == counts.trainable_parameters == 20 * 6 + 6 * 6 + 6
    assert counts.macs == 2 * 6 * 6 + 6 * 20
    save_file(cpu_state(network), tmp_path / "tied")
    held = 4 * (counts.parameters + 3)
    assert held < (tmp_path / "tied").stat().st_size == round(counts.size_mb * 1e6) < held + 1000


def test_a_state_of_a_network_with_more_ties_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        load_state(Tied(tied=False), cpu_state(Tied()))
    load_state(Tied(), cpu_state(Tied(tied=False)) | {"head.weight": torch.zeros(20, 6)})


def test_different_views_of_one_memory_are_different_tensors() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(12.0).view(3, 4)
            for name, value in {"whole": whole, "first": whole[0], "turned": whole.T, "flat": whole.view(-1)}.items():
                self.register_buffer(name, value)
            for name in ("nothing", "nothing_else"):
                self.register_buffer(name, torch.empty(0))

    state = cpu_state(Views())
    assert len(state) == 6 and state["turned"].tolist() == Views().turned.tolist()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
def test_a_scripted_network_keeps_its_ties() -> None:
    scripted = torch.jit.script(Tied())
    assert len(cpu_state(scripted)) == 4
    assert count_costs(scripted.eval(), torch.zeros(1, 4, dtype=torch.int64)).parameters == 20 * 6 + 6 * 6 + 6
    load_state(torch.jit.script(Tied()), cpu_state(scripted))


def test_a_state_entry_that_is_not_a_tensor_is_named() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    with pytest.raises(TypeError, match="must hold tensors alone, but '_extra_state' is a dict"):
        cpu_state(Extra(2, 3))
