"""Checks of the declaration and of its data."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import Tensor

from harness.core.content import tensors_digest
from harness.doctor.check import Check, CheckFailed, CheckWarning, told
from harness.doctor.context import CheckContext, some_samples
from harness.space import load_space
from lightning_modules.batch import Inputs, select
from lightning_modules.data import tensors
from lightning_modules.data.tensors import TensorDataModule, not_finite
from lightning_modules.data.views import show

_OF_SPLITS = Path(tensors.__file__).resolve().parent
_SHOWN = 10  # classes that are named; there may be thousands


def space_loads(context: CheckContext) -> str:
    """Check that the space file runs, and declares a space."""
    context.space = load_space(context.settings.file_of_space, context.settings.epochs)
    return f"{type(context.space.task).__name__}: {', '.join(context.space.distributions)}"


def data_can_be_had(context: CheckContext) -> str:
    """Check that the task gives splits of finite inputs and class indices."""
    try:
        data = context.space.task.data(context.settings.data_dir)
    except (TypeError, ValueError) as error:
        if not comes_from_a_split(error):
            raise
        raise CheckFailed(told(error, context, "data"), "mend the line that is named, as the message says") from error
    if not isinstance(data, TensorDataModule):
        raise CheckFailed(f"data() must give a TensorDataModule, but gave {type(data).__name__}")
    for name, split in data.splits.items():
        for what, values in split.tensors().items():
            broken = not_finite(values)
            if broken:
                raise CheckFailed(
                    f"{what} of {name} hold NaN or infinity in {len(broken)} of {len(split):,} samples "
                    f"({', '.join(map(str, broken[:3]))}{', ..' if len(broken) > 3 else ''})",
                    "fill or drop what is missing before it goes into a Split: one NaN makes every weight NaN",
                )
    context.data = data
    context.classes = 1 + max(int(split.labels.max()) for split in data.splits.values())
    context.sample = some_samples(data, context.device)
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    return f"{sizes}; {context.classes} classes; finite"


def comes_from_a_split(error: Exception) -> bool:
    """Return whether an error is of what makes and takes splits, which says itself what to do."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve().parent
    return raised_in in (_OF_SPLITS, _OF_SPLITS.parent)


def data_stays_the_same(context: CheckContext) -> str:
    """Another call of ``data()`` gives the same samples at the same places."""
    again = context.space.task.data(context.settings.data_dir)
    for name, split in context.data.splits.items():
        if tensors_digest(split.tensors()) != tensors_digest(again.splits[name].tensors()):
            raise CheckFailed(f"a second call of data() gives other samples, or another order, in {name}")
    return "the same samples at the same places, when asked twice"


def classes_are_everywhere(context: CheckContext) -> str:
    """Check that each split has samples of each class."""
    gaps = []
    for name, split in context.data.splits.items():
        counts = torch.bincount(split.labels, minlength=context.classes)
        missing = (counts == 0).nonzero().flatten().tolist()
        if missing:
            more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
            gaps.append(f"{name} has no sample of class {', '.join(map(str, missing[:_SHOWN]))}{more}")
    if gaps:
        raise CheckWarning("; ".join(gaps))
    return f"all {context.classes} in each split"


def views_can_be_repeated(context: CheckContext) -> str:
    """A view of a sample is the same however it is gathered: what the teacher saw is what the student sees."""
    views, sample = context.data.views, context.sample
    if views is None:
        return "none: samples are shown as they are"
    ids = torch.arange(min(16, len(sample.splits["train"])))
    train = sample.splits["train"].to(torch.device("cpu"))
    seen = []
    for view in range(views.count):
        at_once = _of(context, train.inputs, ids, view)
        backwards = _of(context, train.inputs, ids.flip(0), view)
        alone = _of(context, train.inputs, ids[3:4], view)
        for name, values in at_once.items():
            if not (torch.equal(values, backwards[name].flip(0)) and torch.equal(values[3:4], alone[name])):
                raise CheckFailed(f"view {view} of a sample is another one when it is gathered again, or with others")
        seen.append(tensors_digest(at_once))
    if views.count > 1 and len(set(seen)) == 1:
        raise CheckWarning(f"all {views.count} views of a sample are the same")
    return f"{views.count} of each sample, the same however they are gathered"


def _of(context: CheckContext, inputs: Inputs, ids: Tensor, view: int) -> dict[str, Tensor]:
    assert context.data.views is not None
    shown, targets = show(context.data.views, select(inputs, ids), ids, view)
    named = shown if isinstance(shown, dict) else {"inputs": shown}
    return named if targets is None else {**named, "targets": targets}


CHECKS = (
    Check("space file", space_loads, "mend the line that is named; the README shows a whole file"),
    Check(
        "data",
        data_can_be_had,
        "give data(data_dir) a TensorDataModule of three Splits; --data-dir says where its files are",
        needs=("space file",),
    ),
    Check(
        "data again",
        data_stays_the_same,
        "split with a fixed seed, and sort what a folder lists: stored teacher outputs are joined by position",
        needs=("data",),
    ),
    Check(
        "classes",
        classes_are_everywhere,
        "split by class (stratified_splits), and count classes from 0 without gaps",
        needs=("data",),
    ),
    Check(
        "views",
        views_can_be_repeated,
        "let Views.of depend on (seed, sample, view) alone; lightning_modules.data.views.uniforms draws so",
        needs=("data",),
    ),
)
