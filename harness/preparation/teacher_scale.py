"""Bring a teacher's outputs to the scale on which their output kind compares them, or refuse them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.core.errors import Unfit
from harness.teachers.outputs import Outputs
from lightning_modules.data.stored_top_k import StoredTopK
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import labelled_positions
from lightning_modules.outputs import Output

_LOGITS = "logits"


def check_scale(who: str, answers: Tensor, labels: Tensor, output: Output) -> None:
    """Check that a teacher's answers are on the scale of the labels.

    Args:
        who: The teacher's name in messages.
        answers: Its outputs for the samples of a split.
        labels: Their labels.
        output: The output kind.

    Raises:
        Unfit: If they are not, and the output does not say so.
    """
    if fault := output.teacher_fault(answers, labels):
        raise Unfit(f"{who} gives {fault.found}", fault.remedy)


def on_scale(
    who: str, outputs: Outputs, data: TensorDataModule, output: Output, note: Callable[[str], None]
) -> Outputs:
    """Return a teacher's outputs, mapped where the output kind says that they have a scale of their own.

    Args:
        who: The teacher's name in messages.
        outputs: By split and name. A map is fitted to those of the training split, which are absent where a teacher is
            asked live.
        data: The samples.
        output: The output kind.
        note: Called with a line of text about the map.

    Raises:
        Unfit: If they are on another scale than the labels, and the output does not say so.
    """
    if isinstance(outputs["val"][_LOGITS], StoredTopK):  # scores of classes have no scale of their own
        return outputs
    check_scale(who, outputs["val"][_LOGITS], data.splits["val"].labels, output)
    if "train" not in outputs:  # the teacher is asked live about what is trained on
        if output.teacher_map(outputs["val"][_LOGITS], data.splits["val"].labels) is not None:
            raise Unfit(
                f"{who} must have stored outputs, to which the map of its own scale is fitted, but is asked live",
                "take a number of views and no mix, or a teacher that answers in units of the target",
            )
        return outputs
    found = output.teacher_map(*training_answers(outputs, data))
    if found is None:
        return outputs
    note(f"its numbers have a scale of their own: a target is taken to be {found}, fitted to the training split")
    return mapped(outputs, found)


def training_answers(outputs: Outputs, data: TensorDataModule) -> tuple[Tensor, Tensor]:
    """Return a teacher's answers to all views of the labelled training samples, and a label for each."""
    answers, labels = outputs["train"][_LOGITS].float(), data.splits["train"].labels
    if (known := labelled_positions(data)) is not None:
        answers, labels = answers[known.to(answers.device)], labels[known.to(labels.device)]
    if data.views is None:
        return answers, labels
    return answers.flatten(0, 1), labels.repeat_interleave(data.views.count, 0)


def mapped(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """Return outputs whose answers are mapped; those of layers stay."""
    return {split: {**named, _LOGITS: change(named[_LOGITS].float())} for split, named in outputs.items()}
