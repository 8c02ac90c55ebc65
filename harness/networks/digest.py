"""Identity of a network, as a digest of its layers, weights, other attributes, and answers.

What a teacher knows need not be in tensors: it may be an estimator behind a module, a table, a number in its code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from joblib.hashing import NumpyHasher  # what joblib.hash is made of; it has no way to say how tensors are hashed
from torch import Tensor, nn

from harness.core.content import derived_seed, digest, tensors_digest
from harness.networks.shape import shape_of
from harness.studies.start import Start
from harness.training.fit import seed_draws
from lightning_modules.batch import Inputs, call
from lightning_modules.data.tensors import TensorDataModule

_ASKED = 32  # samples of each split, at most
_MOST_OF_SAMPLE = 2**18  # numbers of a sample's answer that are compared: their projections take 8 times the memory
_KEPT = 512  # numbers of a network's answers that are compared
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))

_steady: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()
"""For each network that was called: a hash of each attribute that the first call did not change."""


def samples_of(data: TensorDataModule, device: torch.device | None = None) -> list[Inputs]:
    """Return the batches that networks are compared on: a few samples of the training and the validation split.

    Args:
        data: The data.
        device: Device of the samples; ``None`` takes that of the data.
    """
    batches = []
    for name in ("train", "val"):
        split = data.splits[name]
        ids = torch.linspace(0, len(split) - 1, min(_ASKED, len(split))).long().to(split.labels.device)
        batches.append(split.at(ids).to(device or data.device).inputs)
    return batches


def network_digest(network: nn.Module, answers: Tensor) -> str:
    """Return a content hash of a network, 16 hexadecimal digits; the same at each start on one machine.

    Answers are rounded, so that differences of last bits hardly ever change it.

    Args:
        network: The network.
        answers: Its answers, from ``answers_of``.
    """
    held = _steady[network] if network in _steady else _attributes(network)
    return digest(repr(network), weights_digest(network), held, rounded_answers(answers))


def rounded_answers(answers: Tensor) -> list[Any]:
    """Return what tells answers from others though their last bits differ: shape, norm, and two random projections."""
    unit = answers.double().flatten()
    size = float(unit.norm())
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal((2, len(unit))))
    shares = [round(float(share), 2) + 0.0 for share in drawn @ (unit / size)] if size else []
    return [list(answers.shape), round(math.log(size), 2) if size else None, shares]


def weights_digest(network: nn.Module) -> str:
    """Return a content hash of all tensors of a network, including buffers that it does not save."""
    return tensors_digest(_tensors(network))


@torch.no_grad()
def answers_of(network: nn.Module, samples: Sequence[Inputs]) -> Tensor:
    """Return finite logits of some samples in eval mode, on the CPU; the network's modes are restored.

    Of more numbers a sample than 262,144, as of tokens of a large vocabulary, an even choice is returned, shape (B, S).
    """
    modes = {module: module.training for module in network.modules()}
    before = None if network in _steady else _attributes(network)
    seed_draws(derived_seed("answers"), torch.device("cpu"))
    network.eval()
    try:
        logits = torch.cat([_thinned(call(network, inputs).detach()).float().cpu() for inputs in samples])
    finally:
        for module, mode in modes.items():
            module.training = mode
    if before is not None:
        after = _attributes(network)
        _steady[network] = {name: value for name, value in before.items() if after.get(name) == value}
    return logits.nan_to_num(0.0, 1e4, -1e4)


def _thinned(answers: Tensor) -> Tensor:
    """Return an even choice of the numbers of each sample, shape (B, S), where there are many; else all as they are."""
    apart = -(-answers[0].numel() // _MOST_OF_SAMPLE)
    return answers if apart <= 1 else answers.flatten(1)[:, ::apart]


def sampled_answers(answers: Tensor) -> tuple[float, ...]:
    """Return the part of a network's answers that a study stores: 512 of them, evenly spaced."""
    flat = answers.flatten()
    chosen = flat[torch.linspace(0, len(flat) - 1, min(_KEPT, len(flat))).long()]
    return tuple(float(f"{value:.6g}") for value in chosen.tolist())


def start_of(network: nn.Module) -> Start:
    """Return what a fresh network starts from: its shape, its integers exactly, its floats by norm and projection.

    Each floating-point tensor adds the logarithm of its norm, and its projection on a random direction at unit norm,
    so that a large tensor hides no small one.
    """
    exact: list[Any] = []
    sizes = shares = 0.0
    for place, (name, tensor) in enumerate(sorted(_tensors(network).items())):
        whole = tensor.detach().cpu()
        if not (whole.is_floating_point() or whole.is_complex()):
            exact.append(tensors_digest({name: whole}))
            continue
        values = (torch.view_as_real(whole.resolve_conj()) if whole.is_complex() else whole).flatten().double().numpy()
        finite = np.isfinite(values)
        kept = np.where(finite, values, 0.0)
        size = float(np.linalg.norm(kept))
        odd = [] if finite.all() else [str(value) for value in values[~finite]]
        exact.append([digest(np.packbits(finite).tobytes().hex(), odd) if odd else "", size > 0])
        if size > 0:
            drawn = np.random.default_rng(place).standard_normal(1 + len(kept))
            sizes += float(drawn[0]) * math.log(size)
            shares += float(kept @ drawn[1:]) / size
    begun = digest(shape_of(network), exact)
    return Start(begun, (sizes, shares), begun)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all tensors of a network by name, including buffers that it does not save."""
    named = {**dict(network.named_buffers()), **network.state_dict()}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _attributes(network: nn.Module) -> dict[str, str]:
    """Return a hash of each attribute of a network's modules beside tensors and submodules, by its name.

    An attribute that can't be hashed counts by the name of its type: its effect shows in the answers.
    """
    found = {}
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _OF_EVERY_MODULE:
                try:
                    found[f"{name}.{attribute}"] = str(_Hasher(hash_name="sha1").hash(value))
                except Exception:  # whatever an object's own pickling raises
                    found[f"{name}.{attribute}"] = type(value).__qualname__
    return found


class _Hasher(NumpyHasher):  # type: ignore[misc]
    """Hashes tensors and sets by their content: their pickles depend on memory addresses and on order."""

    def save(self, obj: Any) -> None:
        if isinstance(obj, Tensor):
            obj = ("tensor", tensors_digest({"": obj}))
        elif isinstance(obj, set | frozenset):
            members = sorted(str(_Hasher(hash_name="sha1").hash(member)) for member in obj)
            obj = (type(obj).__qualname__, members)
        super().save(obj)
