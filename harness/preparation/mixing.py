"""Detection of views that mix samples, and of their targets: without mixed targets no control is fair.

A view may mix two samples (MixUp, CutMix). The teacher is asked about the mix, so a student learns both classes from
it; a control that keeps the label of the first one is trained on a wrong label, and the student seems to gain by the
teacher. So such a view must give the mixed targets too, for student and control alike, or no gain is claimed.

Three things show that a view mixes: its class says so (``Views.mixes``); what it shows of a sample depends on the
samples beside it; or it is a weighted sum of a training sample and another one of another class, or has values of
another one in place of its own. They do not show a mix of samples that were changed before or after (moved,
turned, normalised), of samples that are not in the training split, of fewer than two in ``PROBED`` views, or of fewer
than ``_LEAST_VALUES`` values; nor samples that were mixed before they came into the split.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.core.errors import HarnessError, one_line
from lightning_modules.batch import Inputs, select
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import labelled_positions
from lightning_modules.outputs import Output

PROBED = 32
"""Number of views that are checked, of evenly spaced samples."""

REMEDY = "let Views.of return (inputs, targets), the probabilities of the classes mixed as the inputs are"

MODULE_REMEDY = (
    "let module() take alpha, the weight of the true labels, and read batch.teacher only where it is below 1"
)
_OF_MODULE = "module("

_ANEW = "a view of a sample is another one each time that it is asked for"
_BESIDE = "a view of a sample depends on the samples beside it in a batch"
_ALONE = 4  # of them, asked about alone too
_HITS = 2  # views that hold another sample: one may be chance
_LEAST_VALUES = 16  # of a sample, or of a part that was replaced: fewer may be another sample's by chance
_VALUES = 8_000_000  # of the training samples, compared at a time
_COSINE2 = 0.999  # squared, above which what a view adds may be another sample
_RESIDUAL = 1e-3  # of what a view adds, that no weighted sum explains: rounding
_POSITIONS = 32  # of a replaced part, compared first


def remedy_of(no_control: str) -> str:
    """Return what to do about the reason why no control is possible."""
    return MODULE_REMEDY if no_control.startswith(_OF_MODULE) else REMEDY


def mixes_targets(data: TensorDataModule, classes: int, output: Output) -> bool:
    """Return whether training samples come with probabilities in place of the labels.

    Args:
        data: The data.
        classes: Number of classes C, labels or values of the output.
        output: The output kind.

    Raises:
        HarnessError: If views give other targets than the output kind takes.
    """
    if data.views is None:
        return False
    known = labelled_positions(data)
    ids = torch.arange(len(data.splits["train"])) if known is None else known
    ids = ids[:_ALONE].to(data.device)
    found = [data.shown(ids, view)[1] for view in data.views.examples]
    given = [targets for targets in found if targets is not None]
    labels = data.splits["train"].labels[ids]
    if data.views.mix is not None:
        try:
            inputs, _ = data.shown(ids, data.views.examples[0])
            data.views.mix(inputs, output.soft_targets(given[0] if given else labels, classes), (0,))
        except ValueError as error:
            raise HarnessError(one_line(error)) from error
    if not given:
        return data.views.mix is not None
    if len(given) < len(found):
        raise HarnessError(
            "all views must give targets, or none, but some of Views.of's answers are (inputs, targets)."
        )
    for targets in given:
        if fault := output.view_targets_fault(targets, labels, classes):
            raise HarnessError(f"targets of a view must be {fault}.")
    return data.views.mix is not None or any(output.are_mixed(targets) for targets in given)


def find_unrepeatable_view(data: TensorDataModule) -> str:
    """Return why a view changes from call to call or with the batch, in few words; empty where it does not.

    Args:
        data: The data.
    """
    if data.views is None:
        return ""
    ids = _probed(data)
    alone = ids[:: max(1, len(ids) // _ALONE)]
    for view in data.views.examples:
        batch, again = (_flat(data.shown(ids, view)[0]) for _ in range(2))
        if not torch.equal(batch, again):  # it draws anew each time, which is no mixing
            return _ANEW
        for place, one in enumerate(ids):
            if one in alone and not _close(_flat(data.shown(one[None], view)[0]), batch[place : place + 1]):
                return _BESIDE
    return ""


def no_control_reason(data: TensorDataModule, classes: int, output: Output) -> str:
    """Return why training on labels alone is no fair control, in one line; empty where it is fair.

    Args:
        data: The data.
        classes: Number of classes C, labels or values of the output.
        output: The output kind.

    Raises:
        HarnessError: If targets of views are no probabilities of the classes.
    """
    if data.views is None or mixes_targets(data, classes, output):
        return ""
    labelled = "and the labels are those of the first"
    if data.views.mixes:
        return f"the views mix samples, {labelled}"
    if find_unrepeatable_view(data) == _BESIDE:
        return f"{_BESIDE}, as a mix of them does, {labelled}"
    for sample, view, other in _mixed(data):
        return f"the views mix samples (view {view} of training sample {sample} holds sample {other}), {labelled}"
    return ""


def _probed(data: TensorDataModule) -> Tensor:
    assert data.views is not None
    size = len(data.splits["train"])
    count = min(size, max(_ALONE, PROBED // len(data.views.examples)))
    return torch.linspace(0, size - 1, count, device=data.device).long()


def _flat(inputs: Inputs) -> Tensor:
    """Return every value of each sample, shape (B, D), float32."""
    parts = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    return torch.cat([part.reshape(len(part), -1).float().cpu() for part in parts], dim=1)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def _mixed(data: TensorDataModule) -> Iterator[tuple[int, int, int]]:
    """Yield (sample, view, mixed-in sample of another class); none if fewer than ``_HITS`` views hold one."""
    assert data.views is not None
    if data.splits["train"].is_read:  # samples are not compared with all others: they may not fit in memory
        return
    train, ids, examples = data.splits["train"], _probed(data), data.views.examples
    own, labels = _flat(select(train.inputs, ids)), train.labels.cpu()
    shown = torch.cat([_flat(data.shown(ids, view)[0]) for view in examples])
    if shown.shape[1:] != own.shape[1:] or shown.shape[1] < _LEAST_VALUES:
        return
    found = []
    for place, held in _held(shown, own.repeat(len(examples), 1), data).items():
        view, sample = place // len(ids), int(ids[place % len(ids)])
        held.discard(sample)
        if held and not any(torch.equal(labels[other], labels[sample]) for other in held):
            found.append((sample, view, min(held)))
    yield from found if len(found) >= _HITS else ()


def _held(shown: Tensor, own: Tensor, data: TensorDataModule) -> dict[int, set[int]]:
    """Return, for each view by its position, the other training samples that it holds; several where they are equal."""
    train = data.splits["train"].inputs
    held: dict[int, set[int]] = {place: set() for place in range(len(shown))}
    replaced = {place: places for place in held if len(places := _replaced(shown[place], own[place]))}
    size = max(1, _VALUES // own.shape[1])
    for first in range(0, len(data.splits["train"]), size):
        rows = _flat(select(train, slice(first, first + size)))
        for place, other in _candidates_of_sums(shown, own, rows):
            if _is_sum(shown[place], own[place], rows[other]):
                held[place].add(first + other)
        for place, places in replaced.items():
            held[place] |= {first + other for other in _having(shown[place], places, rows)}
    return held


def _candidates_of_sums(shown: Tensor, own: Tensor, rows: Tensor) -> list[tuple[int, int]]:
    """Return (view, row) pairs where the part of a view orthogonal to its sample is parallel to that of the row."""
    square = (own * own).sum(1).clamp(min=1e-12)
    added = shown - ((shown * own).sum(1) / square)[:, None] * own
    is_changed = added.norm(dim=1) > _RESIDUAL * shown.norm(dim=1)
    common = (own @ rows.T) ** 2 / square[:, None]
    apart = (rows * rows).sum(1) - common
    cosine2 = (added @ rows.T) ** 2 / ((added * added).sum(1)[:, None] * apart).clamp(min=1e-12)
    near = (cosine2 > _COSINE2) & (apart > 1e-6 * common.clamp(min=1e-12)) & is_changed[:, None]
    return [(place, other) for place, other in near.nonzero().tolist()]


def _is_sum(shown: Tensor, own: Tensor, other: Tensor) -> bool:
    """Return whether a view is a weighted sum of two samples, both weights above 0 and neither of them blank."""
    if other.unique().numel() < 3:
        return False
    parts, whole = torch.stack([own, other], 1).double(), shown[:, None].double()
    weights = torch.linalg.lstsq(parts, whole).solution
    rest, share = (whole - parts @ weights).norm(), (weights[1] * other).norm()
    return bool(weights.min() > -1e-6) and bool(rest <= _RESIDUAL * share)


def _replaced(shown: Tensor, own: Tensor) -> Tensor:
    """Return the positions where a view differs from its sample; none where they are few, or constant."""
    places = (shown != own).nonzero().flatten()
    return places if len(places) >= _LEAST_VALUES and shown[places].unique().numel() >= 3 else places[:0]


def _having(shown: Tensor, places: Tensor, rows: Tensor) -> list[int]:
    """Return the rows that have a view's values at some positions."""
    few = places[torch.linspace(0, len(places) - 1, min(_POSITIONS, len(places))).long()]
    near = (rows[:, few] == shown[few]).all(1).nonzero().flatten().tolist()
    return [row for row in near if torch.equal(rows[row, places], shown[places])]
