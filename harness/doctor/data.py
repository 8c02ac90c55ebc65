"""Check the space file and its data."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import Tensor

from harness import task
from harness.core.content import tensors_digest
from harness.doctor.check import Check, CheckFailed, CheckWarning, describe_error
from harness.doctor.context import CheckContext, subsample
from harness.networks.logits import label_classes
from harness.preparation.steps import unlabelled_text
from harness.space import load_space
from harness.space_training import batch_sizes
from harness.task import load_data
from lightning_modules.data import tensors
from lightning_modules.data.tensors import TensorDataModule, not_finite
from lightning_modules.data.unlabelled import given_labels, unlabelled_count

_OF_SPLITS = Path(tensors.__file__).resolve().parent
_OF_TASK = Path(task.__file__).resolve()  # which checks the labels
_SHOWN = 10  # classes that are listed; there may be thousands


def check_space_file(context: CheckContext) -> str:
    """Check that the space file runs and declares a space."""
    context.space = load_space(context.settings.file_of_space, context.settings.epochs)
    return f"{type(context.space.task).__name__}: {', '.join(context.space.distributions)}"


def check_data_loads(context: CheckContext) -> str:
    """Check that the task returns splits of finite inputs and class indices."""
    try:
        data = load_data(context.space.task, context.settings.data_dir)
    except (TypeError, ValueError) as error:
        if not is_split_error(error):
            raise
        raise CheckFailed(describe_error(error, context, "data"), "fix the named line as the message says") from error
    for name, split in data.splits.items():
        for what, values in split.tensors().items():
            broken = not_finite(given_labels(data, name) if what == "labels" else values)
            if broken:
                raise CheckFailed(
                    f"{what} of {name} hold NaN or infinity in {len(broken)} of {len(split):,} samples "
                    f"({', '.join(map(str, broken[:3]))}{', ..' if len(broken) > 3 else ''})",
                    "fill or drop what is missing before it goes into a Split: one NaN makes every weight NaN",
                )
    context.data = data
    space = context.space
    context.classes = label_classes(data, space.task.output)
    largest = batch_sizes(space.task.training, space.varied_training, data.batch_size)[-1]
    context.sample = subsample(data, context.device, largest)
    context.sample.soft_targets = lambda target: space.task.output.soft_targets(target, context.classes)
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    told = f"{sizes}; {context.space.task.output}, {context.classes} by the labels; finite"
    alone = unlabelled_text(unlabelled_count(data), len(data.splits["train"]))
    return "; ".join([told, *filter(None, [alone]), *data.notes])


def is_split_error(error: Exception) -> bool:
    """Return whether the code of splits and data modules raised an error, whose message says what to do."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return raised_in == _OF_TASK or raised_in.parent in (_OF_SPLITS, _OF_SPLITS.parent)


def check_data_is_repeatable(context: CheckContext) -> str:
    """Check that a second call of ``data()`` returns the same samples in the same order."""
    again = load_data(context.space.task, context.settings.data_dir)
    for name, split in context.data.splits.items():
        if tensors_digest(split.tensors()) != tensors_digest(again.splits[name].tensors()):
            raise CheckFailed(f"a second call of data() gives other samples, or another order, in {name}")
    return "the same samples in the same order at each call"


def check_classes_in_splits(context: CheckContext) -> str:
    """Check that each split has samples of each class."""
    gaps, output = [], context.space.task.output
    if not output.may_exceed_labels:
        return _check_columns_vary(context)
    for name in context.data.splits:
        counts = output.counts(given_labels(context.data, name), context.classes)
        missing = (counts == 0).nonzero().flatten().tolist()
        if missing:
            more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
            gaps.append(f"{name} has no sample of class {', '.join(map(str, missing[:_SHOWN]))}{more}")
    if gaps:
        raise CheckWarning("; ".join(gaps))
    return f"all {context.classes} in each split"


def _check_columns_vary(context: CheckContext) -> str:
    """Check that each column of labels has more than one value in each split."""
    constant = [
        f"column {column} of the labels of {name} has one value"
        for name in context.data.splits
        for labels in [given_labels(context.data, name)]
        for column in (labels == labels[:1]).all(0).nonzero().flatten().tolist()
    ]
    if constant:
        more = f" and {len(constant) - _SHOWN:,} more" if len(constant) > _SHOWN else ""
        raise CheckWarning("; ".join(constant[:_SHOWN]) + more)
    return f"each column of labels varies in each split ({context.space.task.output})"


def check_views_are_repeatable(context: CheckContext) -> str:
    """Check that a view of a sample does not depend on its batch: teacher and student must see the same."""
    views, sample = context.data.views, context.sample
    if views is None:
        return "none: samples are used as they are"
    ids = torch.arange(min(16, len(sample.splits["train"])), device=sample.device)
    seen = []
    for view in views.examples:
        at_once, backwards = _view(sample, ids, view), _view(sample, ids.flip(0), view)
        alone = _view(sample, ids[3:4], view)
        for name, values in at_once.items():
            if not (torch.equal(values, backwards[name].flip(0)) and torch.equal(values[3:4], alone[name])):
                raise CheckFailed(f"view {view} of a sample changes when it is computed again, or in another batch")
        seen.append(tensors_digest(at_once))
    if len(views.examples) > 1 and len(set(seen)) == 1:
        raise CheckWarning(f"all {'fresh' if views.fresh else views.count} views of a sample are the same")
    return f"{views}, the same in any batch"


def _view(sample: TensorDataModule, ids: Tensor, view: int) -> dict[str, Tensor]:
    shown, targets = sample.shown(ids, view)
    named = shown if isinstance(shown, dict) else {"inputs": shown}
    return named if targets is None else {**named, "targets": targets}


CHECKS = (
    Check("space file", check_space_file, "fix the named line; the README shows a whole file"),
    Check(
        "data",
        check_data_loads,
        "give data(data_dir) a TensorDataModule of three Splits or a LightningDataModule; --data-dir says where its "
        "files are",
        needs=("space file",),
    ),
    Check(
        "data again",
        check_data_is_repeatable,
        "split with a fixed seed, and sort what a folder lists: stored teacher outputs are joined by position",
        needs=("data",),
    ),
    Check(
        "classes",
        check_classes_in_splits,
        "split by class (stratified_splits), and count classes from 0 without gaps",
        needs=("data",),
    ),
    Check(
        "views",
        check_views_are_repeatable,
        "let Views.of depend on (seed, sample, view) alone; lightning_modules.data.views.uniforms draws so",
        needs=("data",),
    ),
)
