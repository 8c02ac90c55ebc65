"""A teacher's checkpoint of any usual origin is loaded; what is not certainly its weights is refused in one line."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.teachers.files import load_checkpoint

State = dict[str, Tensor]


def net(hidden: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))


@pytest.fixture
def state() -> State:
    torch.manual_seed(3)
    return net().state_dict()


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


LOADED: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "DDP and compile": lambda s: prefixed(s, "module._orig_mod."),
    "a compiled part": lambda s: {name.replace("1.", "1._orig_mod."): value for name, value in s.items()},
    "Lightning": lambda s: {
        "state_dict": {**prefixed(s, "network."), "loss.weight": torch.ones(2)},
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}}],
    },
    "no counts of batches": lambda s: {name: value for name, value in s.items() if "num_batches" not in name},
    "half precision": lambda s: {n: v.bfloat16() if v.is_floating_point() else v for n, v in s.items()},
    "optimizer beside it": lambda s: {"model": s, "optimizer": {"state": {}}, "step": 4},
    "integers that libraries saved": lambda s: {
        **s,
        "1.position_ids": torch.arange(4),
        "9.num_batches_tracked": s["0.num_batches_tracked"],
    },
    "the same twice": lambda s: {**prefixed(s, "net."), **prefixed(s, "ema.")},
}


@pytest.mark.parametrize("origin", LOADED)
def test_checkpoints_of_usual_origins_are_loaded(origin: str, state: State, tmp_path: Path) -> None:
    torch.save(LOADED[origin](state), tmp_path / "t.ckpt")
    network = net()
    load_checkpoint(network, tmp_path / "t.ckpt")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-2, atol=1e-2)


def test_what_lies_beside_the_network_is_left_out_and_told(state: State, tmp_path: Path) -> None:
    network = nn.Module()
    network.net = net()
    own = prefixed(state, "net.")
    beside = {"criterion.weight": torch.ones(2), "mean": torch.ones(4), "val_acc.total": torch.tensor(3)}
    torch.save({"state_dict": own | beside}, tmp_path / "t.ckpt")
    assert load_checkpoint(network, tmp_path / "t.ckpt") == ["criterion.weight", "mean"]
    torch.save(state | {"loss_fn.weight": torch.ones(2)}, tmp_path / "t.ckpt")
    assert load_checkpoint(net(), tmp_path / "t.ckpt") == ["loss_fn.weight"]
    torch.save(own | {"net.4.weight": torch.ones(2)}, tmp_path / "t.ckpt")
    with pytest.raises(HarnessError, match=r"holds 'net\.4\.weight' too, .*: it is another network"):
        load_checkpoint(network, tmp_path / "t.ckpt")


def test_safetensors_with_metadata_are_loaded(state: State, tmp_path: Path) -> None:
    save_file(prefixed(state, "model."), tmp_path / "t.safetensors", metadata={"format": "pt"})
    network = net()
    load_checkpoint(network, tmp_path / "t.safetensors")
    assert torch.equal(network.state_dict()["1.weight"], state["1.weight"])


def with_nan(state: State) -> State:
    return {**state, "1.weight": state["1.weight"].index_fill(0, torch.tensor([0]), torch.nan)}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "a whole module": (lambda s: net(), "which is code, and none is run"),
    "an unknown key": (lambda s: {"epoch": 3, "net": s}, r"torch.save\(torch.load\(.*\)\['net'\], FILE\) makes one"),
    "NaN": (with_nan, "its '1.weight' is NaN in 4 of 12 places"),
    "another width": (
        lambda s: net(5).state_dict(),
        r"whose '1.weight' has shape \(3, 4\), but there it has shape \(5, 4\)",
    ),
    "another width under a prefix": (
        lambda s: prefixed(net(5).state_dict(), "net."),
        r"but there it has shape \(5, 4\)",
    ),
    "transposed": (lambda s: {**s, "1.weight": s["1.weight"].T}, r"but there it has shape \(4, 3\)"),
    "a missing layer": (
        lambda s: {n: v for n, v in s.items() if n[0] != "3"},
        r"'3.weight' .* but there it is missing",
    ),
    "a further layer": (lambda s: {**s, "4.weight": torch.ones(2)}, "holds '4.weight' too, which it has not"),
    "two networks": (
        lambda s: {**prefixed(s, "net."), **prefixed(net().state_dict(), "ema.")},
        "must hold one network that fits .*, but holds 'net.' and 'ema.'",
    ),
    "integers": (lambda s: {**s, "1.weight": s["1.weight"].to(torch.int8)}, "but there it is of torch.int8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_certainly_its_weights_is_refused(what: str, state: State, tmp_path: Path) -> None:
    make, words = REFUSED[what]
    torch.save(make(state), tmp_path / "t.pt")
    with pytest.raises(HarnessError, match=words) as caught:
        load_checkpoint(net(), tmp_path / "t.pt")
    assert "\n" not in str(caught.value)


def test_a_folder_of_weights_is_loaded_whole_or_in_shards(state: State, tmp_path: Path) -> None:
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    whole.mkdir(), sharded.mkdir()
    save_file(state, whole / "model.safetensors")
    names = list(state)
    index = {name: f"model-0000{1 + (place > 3)}-of-00002.safetensors" for place, name in enumerate(names)}
    for file in set(index.values()):
        save_file({name: state[name] for name in names if index[name] == file}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for folder in (whole, sharded):
        network = net()
        assert load_checkpoint(network, folder) == []
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    (sharded / index[names[-1]]).unlink()
    with pytest.raises(HarnessError, match=r"must have all shards .* but has no model-00002-of-00002\.safetensors"):
        load_checkpoint(net(), sharded)


def test_weights_of_the_module_within_the_teacher_are_loaded(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "body.safetensors")
    teacher = nn.Sequential(OrderedDict(body=net()))
    load_checkpoint(teacher, tmp_path / "body.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in teacher.body.state_dict().items())


def test_files_that_are_no_checkpoints_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    for name, words in [
        ("", "--teacher .*index.json must name the shards of the weights, but is damaged"),
        ("folder", "has neither; name the file in it"),
        ("empty.pt", "is empty"),
        ("none.pt", "there is no file"),
        ("model.safetensors.index.json", "is an index of weights, not the weights"),
    ]:
        with pytest.raises(HarnessError, match=words):
            load_checkpoint(net(), tmp_path / name)


def test_averaged_weights_beside_the_network_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    average = {f"module.{name}": value + 1 for name, value in state.items()} | {"n_averaged": torch.tensor(1)}
    file = tmp_path / "both.pt"
    torch.save({"model": state, "model_ema": average}, file)
    with pytest.raises(HarnessError, match=r"must hold one network, but holds 'model' and 'model_ema', which differ"):
        load_checkpoint(nn.Linear(2, 2), file)
    torch.save({"model": state, "state_dict": dict(state)}, file)
    load_checkpoint(nn.Linear(2, 2), file)
