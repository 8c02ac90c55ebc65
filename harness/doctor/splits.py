"""Check for leakage: no sample may be in two splits."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict

import torch

from harness.doctor.check import Check, CheckFailed
from harness.doctor.context import CheckContext
from lightning_modules.data.tensors import Split

_SHOWN = 3


def check_splits_are_disjoint(context: CheckContext) -> str:
    """Check that no two splits share a sample, compared by the content of its inputs."""
    positions = {name: _by_content(split) for name, split in context.data.splits.items()}
    shared = []
    for (one, first), (other, second) in itertools.combinations(positions.items(), 2):
        both = [content for content in first if content in second]
        if both:
            places = [f"{one} {first[content][0]} is {other} {second[content][0]}" for content in both[:_SHOWN]]
            more = [".."] if len(both) > _SHOWN else []
            shared.append(f"{one} and {other} share {len(both):,} samples ({', '.join([*places, *more])})")
    if shared:
        raise CheckFailed("; ".join(shared))
    return "no sample is in two splits"


def _by_content(split: Split) -> dict[bytes, list[int]]:
    """Return positions by a hash of the inputs; labels are ignored, for a sample with another label leaks too."""
    found: dict[bytes, list[int]] = defaultdict(list)
    position = 0
    for inputs in split.all_inputs():
        parts = [inputs[name] for name in sorted(inputs)] if isinstance(inputs, dict) else [inputs]
        columns = [part.reshape(len(part), -1).contiguous().view(torch.uint8).numpy() for part in parts]
        for row in range(len(parts[0])):
            hasher = hashlib.blake2b(digest_size=16)
            for column in columns:
                hasher.update(column[row].data)
            found[hasher.digest()].append(position)
            position += 1
    return found


CHECKS = (
    Check(
        "splits",
        check_splits_are_disjoint,
        "drop copies before you split, and split by what samples come from (a patient, a page), not by sample",
        needs=("data",),
    ),
)
