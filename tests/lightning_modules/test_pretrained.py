"""Networks by name: their classes, their weights from a file, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules import pretrained
from lightning_modules.pretrained import head_of, network, parts_of

timm = pytest.importorskip("timm", reason="pip install 'kd-harness[vision]'")
pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")
SMALL = "timm:test_efficientnet"


def weights(folder: Path, *, classes: int = 1000) -> Path:
    torch.manual_seed(5)
    file = folder / "weights.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=classes).state_dict(), file)
    return file


@pytest.mark.parametrize("name", [SMALL, "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small"])
def test_a_network_by_name_gives_a_logit_for_each_class(name: str) -> None:
    assert network(name, classes=3).eval()(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_weights_of_a_file_are_loaded_and_a_head_of_another_size_is_fresh(tmp_path: Path) -> None:
    file = weights(tmp_path)
    found, fresh = network(f"{SMALL}@{file}", classes=3), network(SMALL, classes=3)
    kept = timm.create_model("test_efficientnet", num_classes=1000)
    kept.load_state_dict(load_file(file))
    state, own = found.state_dict(), fresh.state_dict()
    for name, value in kept.state_dict().items():
        if name.startswith("classifier."):
            assert state[name].shape == own[name].shape != value.shape
        else:
            assert torch.equal(state[name], value)
    whole = network(f"{SMALL}@{weights(tmp_path, classes=3)}", classes=3)
    assert torch.equal(whole.state_dict()["classifier.weight"], load_file(file)["classifier.weight"])


def test_names_have_a_library_a_model_and_perhaps_a_file() -> None:
    assert parts_of("timm:resnet18") == ("timm", "resnet18", None)
    assert parts_of("torchvision:resnet18@a/b@c.safetensors") == ("torchvision", "resnet18", Path("a/b@c.safetensors"))
    for name in ("resnet18", "keras:resnet18", "timm:", "timm:resnet18@"):
        with pytest.raises(ValueError, match="must be named timm:NAME or torchvision:NAME"):
            parts_of(name)


def test_the_head_is_the_last_linear_layer() -> None:
    assert head_of(timm.create_model("test_efficientnet")) == "classifier"
    assert head_of(torch.nn.ReLU()) == ""


def test_what_is_no_network_or_no_weights_of_it_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no 'resnet19'; did you mean .*resnet1"):
        network("timm:resnet19", classes=2)
    with pytest.raises(ValueError, match=r"torchvision must have a network of that name, but has no 'resnet17'"):
        network("torchvision:resnet17", classes=2)
    with pytest.raises(ValueError, match="there is no file"):
        network(f"{SMALL}@{tmp_path / 'none.safetensors'}", classes=2)
    (tmp_path / "weights.pt").touch()
    with pytest.raises(ValueError, match=r"must name a \.safetensors file"):
        network(f"{SMALL}@{tmp_path / 'weights.pt'}", classes=2)
    with pytest.raises(ValueError, match=r"must hold the weights of this network, but has no \["):
        network(f"timm:test_resnet@{weights(tmp_path)}", classes=2)


def test_weights_that_can_not_be_had_are_one_line_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(*arguments: object, pretrained: bool = False, **options: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("no route to host\nmore")
        return torch.nn.Flatten()

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(OSError, match=r"neither in its cache nor .*\(no route to host\); give a file: timm:resnet18@F"):
        network("timm:resnet18", classes=2, pretrained=True)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"need timm: pip install 'kd-harness\[vision\]'"):
        network("timm:resnet18", classes=2)
    assert pretrained.LIBRARIES == ("timm", "torchvision")
