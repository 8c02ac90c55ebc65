"""Measure what the form of ``TopK`` loses of a teacher's outputs, before they are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.losses._numeric import kl_terms
from lightning_modules.outputs import Output
from lightning_modules.top_k import TopK, TopKLogits

_SAMPLES = 8


class TopKError(NamedTuple):
    """What is lost at a temperature.

    Attributes:
        temperature: T.
        tail: Mean share of the probability that is in the one bucket.
        error: Relative error of the divergence from a student that knows nothing, and gives each class the same:
            rounding, interpolation and draws are part of it.
    """

    temperature: float
    tail: float
    error: float


@torch.no_grad()
def top_k_error(
    network: nn.Module, data: TensorDataModule, output: Output, form: TopK, temperatures: Sequence[float]
) -> list[TopKError]:
    """Measure on a few validation samples what a form loses at some temperatures, each once."""
    split = data.splits["val"]
    few = split.at(torch.linspace(0, len(split) - 1, min(_SAMPLES, len(split))).long()).to(data.device)
    rows, _ = output.rows_of(call(network, few.inputs), few.labels)
    return [_error_at(one, rows.float(), form) for one in dict.fromkeys(temperatures)]


def _error_at(temperature: float, rows: Tensor, form: TopK) -> TopKError:
    even = torch.zeros_like(rows)
    whole = _divergence(even, rows, temperature)
    found = TopKLogits(form.pack(rows), form, rows.shape[1]).compared(even, temperature)
    tail = float((found.teacher / temperature).softmax(1)[:, -1].mean())
    told = _divergence(found.student, found.teacher, temperature) + float(found.within_tail().mean())
    return TopKError(temperature, tail, abs(1 - told / whole) if whole > 0 else math.nan)


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    sides = (torch.log_softmax(side / temperature, 1) for side in (student, teacher))
    return float(kl_terms(*sides).sum(1).mean())


def error_text(errors: Sequence[TopKError], form: TopK, classes: int, row_word: str) -> str:
    """Return what a form stores and loses, in one line.

    Args:
        errors: What is lost at some temperatures.
        form: The form.
        classes: Number of classes C.
        row_word: What a row is called.
    """
    told = " and ".join(
        f"{one.tail:.2%} of the probability at T = {one.temperature:.3g}, where what it teaches a student that knows "
        f"nothing is off by {one.error:.2%}"
        for one in errors
    )
    draws = f" and {form.draws} draws of the others" if form.draws else ""
    return (
        f"of each {row_word} the {form.largest} largest of {classes:,} logits{draws} are stored, in "
        f"{form.row_bytes(classes)} bytes; the others are one bucket, with {told}"
    )
