"""Networks of image classifiers by name: of timm and torchvision, with their pretrained weights or fresh ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

EXTRA = "pip install 'kd-harness[vision]'"
LIBRARIES = ("timm", "torchvision")
_SHOWN = 3  # names that may be meant


def network(name: str, *, classes: int, pretrained: bool = False) -> nn.Module:
    """Return a network of images (B, 3, H, W) that gives logits (B, C).

    Args:
        name: ``"timm:NAME"`` or ``"torchvision:NAME"``; ``"…@FILE.safetensors"`` takes weights from a file.
        classes: Number of classes C. A pretrained head for another number is replaced by a fresh one.
        pretrained: Whether to take the library's pretrained weights, from its cache or the network; a file of weights
            is taken anyway.

    Raises:
        ImportError: If the library is not installed.
        ValueError: If there is no such network or file, or the weights are not its own.
        OSError: If the weights can't be had.
    """
    library, model, file = parts_of(name)
    if file is None and pretrained:
        return _downloaded(library, model, classes)
    built = _built(library, model, classes)
    if file is not None:
        _load(built, file, name)
    return built


def parts_of(name: str) -> tuple[str, str, Path | None]:
    """Return the library, the model and the file of weights of a network's name.

    Raises:
        ValueError: If the name is of another form.
    """
    library, colon, rest = name.partition(":")
    model, at, file = rest.partition("@")
    if not colon or library not in LIBRARIES or not model or (at and not file):
        raise ValueError(
            f"a network must be named timm:NAME or torchvision:NAME, with @FILE.safetensors for weights, but got "
            f"{name!r}."
        )
    return library, model, Path(file) if at else None


def head_of(built: nn.Module) -> str:
    """Return the name of the last linear layer of a network, which gives the logits."""
    heads = [name for name, part in built.named_modules() if isinstance(part, nn.Linear)]
    return heads[-1] if heads else ""


def _built(library: str, model: str, classes: int) -> nn.Module:
    """Return a network with fresh weights."""
    if library == "timm":
        timm = _timm()
        if not timm.is_model(model):
            raise ValueError(_unknown(model, "timm", timm.list_models()))
        built: nn.Module = timm.create_model(model, num_classes=classes)
        return built
    models = _torchvision()
    if model not in models.list_models(models):
        raise ValueError(_unknown(model, "torchvision", models.list_models(models)))
    found: nn.Module = models.get_model(model, weights=None, num_classes=classes)
    return found


def _downloaded(library: str, model: str, classes: int) -> nn.Module:
    """Return a network with the library's pretrained weights, and a fresh head."""
    fresh = _built(library, model, classes)
    try:
        if library == "timm":
            if not _timm().is_model_pretrained(model):
                raise ValueError(
                    f"timm has no pretrained weights of {model}; give a file: timm:{model}@FILE.safetensors."
                )
            found: nn.Module = _timm().create_model(model, pretrained=True, num_classes=classes)
            return found
        state = _torchvision().get_model(model, weights="DEFAULT").state_dict()
    except OSError as error:
        raise OSError(
            f"the weights of {library}:{model} are neither in its cache nor to be had from the network "
            f"({str(error).splitlines()[0][:200]}); give a file: {library}:{model}@FILE.safetensors."
        ) from error
    _fill(fresh, state, f"{library}:{model}")
    return fresh


def _load(built: nn.Module, file: Path, name: str) -> None:
    """Load a file of weights into a network; a head of another size stays fresh.

    Raises:
        ValueError: If there is no such file, or it is of another network.
    """
    if not file.is_file():
        raise ValueError(f"{name} must name a file of weights, but there is no file {file}.")
    if file.suffix != ".safetensors":
        raise ValueError(
            f"{name} must name a .safetensors file, but got {file.name}; safetensors.torch.save_file makes one."
        )
    _fill(built, load_file(file), str(file))


def _fill(built: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state into a network; a head of another size stays fresh.

    Raises:
        ValueError: If anything but the head differs.
    """
    own, head = built.state_dict(), head_of(built)
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    odd = [
        key
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape and not (head and key.startswith(f"{head}."))
    ]
    if missing or unknown or odd:
        found = next(
            text
            for names, text in (
                (missing, f"has no {missing[:1]}"),
                (unknown, f"has {unknown[:1]} too"),
                (odd, f"has another shape of {sorted(odd)[:1]}"),
            )
            if names
        )
        raise ValueError(f"{source} must hold the weights of this network, but {found}.")
    built.load_state_dict({key: value if value.shape == own[key].shape else own[key] for key, value in state.items()})


def _unknown(model: str, library: str, names: list[str]) -> str:
    near = difflib.get_close_matches(model, names, n=_SHOWN)
    hint = f"did you mean {', '.join(near)}?" if near else f"{library}.list_models() lists {len(names):,}."
    return f"{library} must have a network of that name, but has no {model!r}; {hint}"


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"networks by name of timm need timm: {EXTRA}") from error
    return timm


def _torchvision() -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f"networks by name of torchvision need torchvision: {EXTRA}") from error
    return models
