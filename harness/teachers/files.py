"""A teacher's weights from a checkpoint of any usual format; what can't be matched without doubt is refused."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.core.errors import HarnessError, one_line
from harness.training.tensor_file import with_tied

_STATE_KEYS = ("state_dict", "model_state_dict", "model")  # of Lightning, of torch's tutorials, of timm and DeiT
_SHOWN = 200  # characters of a checkpoint's keys
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_forward_module|_fsdp_wrapped_module)\.")  # torch.compile, Fabric, FSDP
_COUNTS = "num_batches_tracked"  # of a BatchNorm: files from before it was there lack it, and no answer depends on it
_BESIDE = re.compile(r"(^|_)(loss|losses|criterion|criteria|metrics?|acc|accuracy)(_|\d|$)")
"""Names of what a LightningModule has beside its network."""
_COMPUTED = re.compile(r"(^|\.)(inv_freq|masked_bias|attn_mask)$")  # that libraries saved once, and make anew by now
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_checkpoint(network: nn.Module, path: Path) -> list[str]:
    """Fill ``network`` from a file: safetensors, a ``state_dict``, or a checkpoint that has one, as Lightning's.

    It may be a folder with ``model.safetensors``, or its shards. Prefixes that wrappers (DDP, torch.compile, a
    LightningModule) add to names are removed, and one that the network's own names have is added; half precision is
    accepted.

    Returns:
        Names of the floating-point tensors that were left out, such as those of losses and metrics beside the network.

    Raises:
        HarnessError: If the file can't be read without running code from it, does not fit the network, holds further
            layers of it, several networks that fit, or NaN.
    """
    wanted = network.state_dict()
    state = _with_prefix_of(wanted, _state_of(path))
    fitting = {
        prefix: part for prefix in _prefixes(state, wanted) if (part := _part(network, state, prefix)) is not None
    }
    if not fitting:
        raise HarnessError(f"--teacher {path} must fit the task's teacher, {_misfit(network, state)}.")
    prefix, part = next(iter(fitting.items()))
    others = [other for other in list(fitting)[1:] if any(not torch.equal(fitting[other][n], part[n]) for n in part)]
    if others:
        raise HarnessError(
            f"--teacher {path} must hold one network that fits the task's teacher, but holds {prefix!r} and "
            f"{others[0]!r}; torch.save(network.state_dict(), FILE) makes one."
        )
    extra = [name for name in state if name.startswith(prefix) and name[len(prefix) :] not in wanted]
    extra = [name for name in extra if state[name].is_floating_point()]
    if unknown := [name for name in extra if _is_layer(name[len(prefix) :], wanted)]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise HarnessError(
            f"--teacher {path} must hold the task's teacher, but holds {unknown[0]!r}{more} too, which it has not: "
            "it is another network; let teacher() build that one."
        )
    for name, value in part.items():
        if value.is_floating_point() and (count := int(value.isnan().sum())):
            raise HarnessError(
                f"--teacher {path} must hold numbers, but its {name!r} is NaN in {count:,} of {value.numel():,} "
                "places; its training failed: take an earlier checkpoint."
            )
    network.load_state_dict(part)
    return extra


def _is_layer(name: str, wanted: Mapping[str, Tensor]) -> bool:
    """Return whether a tensor that the network lacks is of another network's layer: it lies where the own ones do."""
    own = [one.split(".") for one in wanted]
    levels = zip(*(one[:-2] for one in own), strict=False)  # of the modules that have modules
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    parts = name.split(".")
    is_within = parts[:shared] == own[0][:shared]
    return is_within and not _BESIDE.search(parts[min(shared, len(parts) - 1)]) and not _COMPUTED.search(name)


def _state_of(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name, without the prefixes of torch.compile and other wrappers."""
    if path.is_dir():
        return {name: value for file in _files_of(path) for name, value in _state_of(file).items()}
    if not path.is_file():
        raise HarnessError(f"--teacher must be a checkpoint file, but there is no file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise HarnessError(
            f"--teacher {path} must be a .safetensors file or a checkpoint of plain tensors, but "
            f"{_why_unreadable(path, error)}; torch.save(network.state_dict(), FILE) makes one."
        ) from error
    held = content if isinstance(content, dict) else {}
    state = next((held[key] for key in _STATE_KEYS if key in held), held)
    if not _is_state(state):
        keys = f" of {', '.join(map(repr, held))[:_SHOWN]}" if held else ""
        under = next(
            (f"torch.load({str(path)!r}, weights_only=True)[{key!r}]" for key in held if _is_state(held[key])), None
        )
        raise HarnessError(
            f"--teacher {path} must hold a state_dict of tensors, by itself or as one of {', '.join(_STATE_KEYS)}, but "
            f"holds a {type(content).__name__}{keys}; torch.save({under or 'network.state_dict()'}, FILE) makes one."
        )
    taken = next((key for key in held if held[key] is state), None)
    if rivals := [key for key in held if taken is not None and _rivals(held[key], state)]:
        raise HarnessError(
            f"--teacher {path} must hold one network, but holds {taken!r} and {rivals[0]!r}, which differ; "
            f"torch.save(torch.load({str(path)!r}, weights_only=True)[{rivals[0]!r}], FILE) makes a file of one."
        )
    return {_WRAPPERS.sub("", str(name)): value for name, value in state.items()}


def _files_of(folder: Path) -> list[Path]:
    """Return the files of safetensors that hold the weights of a folder: one, or the shards that an index names.

    Raises:
        HarnessError: If there are none, or a shard is missing.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise HarnessError(
            f"--teacher must be a checkpoint file, or a folder with {whole.name} or {index.name}, but {str(folder)!r} "
            "has neither; name the file in it."
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"--teacher {index} must name the shards of the weights, but is damaged.") from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise HarnessError(f"--teacher {folder} must have all shards that {index.name} names, but has no {missing[0]}.")
    return [folder / name for name in names]


def _rivals(other: Any, state: Mapping[str, Tensor]) -> bool:
    """Return whether another state has the same tensors with other values, such as averaged weights."""
    if not _is_state(other):
        return False
    bare = {str(name).removeprefix("module."): value for name, value in other.items()}
    own = {str(name).removeprefix("module."): value for name, value in state.items()}
    return own.keys() <= bare.keys() and any(not torch.equal(value, bare[name]) for name, value in own.items())


def _with_prefix_of(wanted: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state under the prefix that all names of a network have, where it was saved of the module below that."""
    prefix = next(iter(wanted), "").partition(".")[0] + "."
    is_below = all(name.startswith(prefix) for name in wanted) and all(name[len(prefix) :] in state for name in wanted)
    return {f"{prefix}{name}": value for name, value in state.items()} if is_below else state


def _prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return possible prefixes of the network's names, as "network." of a LightningModule's "network.0.weight"."""
    longer = (key[: -len(name)] for key in state for name in wanted if key.endswith(f".{name}"))
    return list(dict.fromkeys(["", *longer]))


def _part(network: nn.Module, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    """Return the network's state under a prefix; ``None`` if it does not fit."""
    wanted = network.state_dict()
    part = {name: state[prefix + name] for name in wanted if prefix + name in state}
    part = with_tied(network, part)  # a file of safetensors may hold what is tied once
    part |= {name: value for name, value in wanted.items() if name not in part and name.endswith(_COUNTS)}
    if part.keys() != wanted.keys() or not all(_fits(part[name], value) for name, value in wanted.items()):
        return None
    return part


def _fits(value: Tensor, wanted: Tensor) -> bool:
    is_number = value.dtype in _PRECISIONS or not wanted.is_floating_point()
    return value.shape == wanted.shape and is_number


def _misfit(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Describe what does not fit, under the prefix that matches most names."""
    wanted = network.state_dict()
    best = max(_prefixes(state, wanted), key=lambda prefix: sum(prefix + name in state for name in wanted))
    part = with_tied(network, {name: state[best + name] for name in wanted if best + name in state})
    name, value = next((n, v) for n, v in wanted.items() if n not in part or not _fits(part[n], v))
    found = "is missing"
    if name in part:
        is_other = part[name].shape == value.shape
        found = f"is of {part[name].dtype}" if is_other else f"has shape {tuple(part[name].shape)}"
    return f"whose {name!r} has shape {tuple(value.shape)}, but there it {found}"


def _why_unreadable(path: Path, error: Exception) -> str:
    """Return why a file of weights can't be loaded; torch's own messages describe none of these cases."""
    if isinstance(error, OSError):
        return f"can't be read: {one_line(error)}"
    with path.open("rb") as file:
        head = file.read(2)
    if not head:
        return "is empty"
    if path.suffix == ".json":
        return "is an index of weights, not the weights"
    if pickled := re.search(r"GLOBAL (\S+)", str(error)):
        return f"holds a {pickled[1]}, which is code, and none is run"
    if not zipfile.is_zipfile(path) and (head == b"PK" or path.suffix == ".safetensors"):
        return "is damaged or was cut short"
    return "can't be read as either"


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
