"""New data of a study's form, on which confirmed students are scored beside the test split."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import HarnessError, Unfit, one_line
from harness.networks.logits import label_classes
from harness.task import Task, load_data
from harness.teachers.ensemble import averaged
from harness.teachers.outputs import Outputs
from lightning_modules.batch import Inputs
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.outputs import Output

NEW = "new"
"""Name of the split that new samples are."""


def load_new_data(task: Task, path: Path, data: TensorDataModule) -> TensorDataModule:
    """Return samples from elsewhere as the split ``NEW`` of a data module, on the device of the study's data.

    A kind of data that knows how reads them (``TensorDataModule.new_samples``); of others these are the test split of
    ``Task.data(path)``.

    Args:
        task: The task.
        path: The folder or the file that has them.
        data: The study's data.

    Raises:
        HarnessError: If they can't be read, are of another form, or are those of the study.
    """
    try:
        split = data.new_samples(path)
    except (ValueError, OSError) as error:
        raise HarnessError(f"--on {path}: {one_line(error)}") from error
    if split is None:
        given = load_data(task, path)
        _check_names(given.class_names, data.class_names)
        split = given.splits["test"]
    _check_form(split, data, task.output)
    for name, part in data.splits.items():
        if part.fingerprint == split.fingerprint:
            raise Unfit(
                f"--on {path} must give samples that the study has not, but these are its samples of {name}",
                "see that the task's data(data_dir) reads that folder, or name another",
            )
    found = copy.copy(data)
    found.splits, found.teacher_outputs = {NEW: split.to(data.device)}, {}
    return found


def attach_new(new: TensorDataModule, outputs: Sequence[Outputs], average: str, output: Output) -> list[Outputs]:
    """Join what teachers say of new samples to these, and return the other outputs.

    Args:
        new: The new data.
        outputs: The outputs of each teacher, of ``NEW`` among others.
        average: One of ``harness.settings.AVERAGES``.
        output: The kind of the teachers' outputs.
    """
    new.attach(averaged([{NEW: one[NEW]} for one in outputs], average, output))
    return [{split: named for split, named in one.items() if split != NEW} for one in outputs]


def _check_names(found: Sequence[str], known: Sequence[str]) -> None:
    """Check that new data has the classes that were trained on, in their order."""
    if tuple(found) == tuple(known):
        return
    odd = sorted({*found} ^ {*known})
    what = f"{odd[0]!r} is not in both" if odd else "they are in another order"
    raise Unfit(
        f"new data must have the {len(known)} classes that were trained on, but has {len(found)}, and {what}",
        "name the same classes",
    )


def _check_form(split: Split, data: TensorDataModule, output: Output) -> None:
    """Check that new samples have the inputs and the labels that networks were trained on."""
    known = data.splits["test"]
    expected, got = _form(known.few(1).inputs), _form(split.few(1).inputs)
    if expected != got:
        raise Unfit(f"inputs of new data must be {expected}, as in training, but are {got}", "bring them to that form")
    if fault := output.labels_fault(split.labels):
        raise Unfit(f"labels of new data must be {output.labels_text}, but got {fault}", "bring them to that form")
    needs, has = output.size_of(split.labels), label_classes(data, output)
    if needs > has or (needs != has and not output.may_exceed_labels):
        raise Unfit(
            f"labels of new data must be of the {has} classes or columns that were trained on, but need {needs}",
            "count them as the study's data does",
        )


def _form(inputs: Inputs) -> str:
    """Return shape and type of a sample's inputs, as text."""
    named = inputs.items() if isinstance(inputs, dict) else [("", inputs)]
    texts = [f"{name} {tuple(one.shape[1:])} {str(one.dtype).removeprefix('torch.')}" for name, one in named]
    return ", ".join(sorted(text.strip() for text in texts))
