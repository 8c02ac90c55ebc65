"""Compare a student's predictions with its teacher's sample by sample at a trial's end, and store the comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.training.tensor_file import save_tensors
from lightning_modules.losses._numeric import kl_terms
from lightning_modules.outputs import Errors

PREDICTIONS = "answers.safetensors"
RANKED = 100
"""Number of wrong classes whose ranks are compared: the most likely ones by the teacher; the rest are negligible."""

MOST_ROWS = 1_000_000
"""Number of rows of a split that are compared, or up to twice as many; of more, an even choice of about so many."""

_CLASSES, _ERRORS = "classes", "errors"  # entries of a file's metadata
_UNREADABLE = (OSError, SafetensorError, TypeError, KeyError, ValueError)
_CHUNK = 2**22  # logits that are compared at once, 16 MB: the softmaxes take several times their memory


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """Predictions of a student and its teacher, row by row in the order of the split, all of shape (N,).

    A row is a sample of a classifier; a pixel, a token or a label where samples have several.

    Attributes:
        labels: True classes, int32.
        teacher: Classes that the teacher predicts, int32.
        student: Classes that the student predicts, int32.
        teacher_kl: KL(teacher ‖ student) at T = 1, nats, float32.
        rank_correlation: Spearman's ρ of their logits over the ``ranked`` wrong classes that are most likely by the
            teacher, in [-1, 1], float32: whether both rank the same mistakes as likely, whatever their confidence.
            Classes with a teacher logit of -inf are left out. 0 if the logits of one side are all equal; NaN if fewer
            than two classes are left.
        classes: Number of classes that have a name of their own.
        choices: Number of classes that a row chooses among: fewer where each of several labels has two of its own.
        row_word: What a row is called.
        compares_overlap: Whether classes are compared by their intersection over union too.
    """

    labels: Tensor
    teacher: Tensor
    student: Tensor
    teacher_kl: Tensor
    rank_correlation: Tensor
    classes: int
    choices: int
    row_word: str = "sample"
    compares_overlap: bool = False

    @property
    def ranked(self) -> int:
        """Return the number of wrong classes whose ranks are compared: at most ``RANKED``."""
        return min(RANKED, self.choices - 1)


def compare_predictions(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    blocks: int = 1,
    row_word: str = "sample",
    compares_overlap: bool = False,
) -> Predictions:
    """Compare a student's logits with its teacher's.

    Args:
        student_logits: Rows of logits of every sample in order, shape (N, C).
        teacher_logits: Rows of the same samples, shape (N, C).
        labels: True classes, shape (N,).
        blocks: Number of classes of their own that each row in turn chooses among: 1, or the number of labels of a
            sample, each of which is absent or present.
        row_word: What a row is called.
        compares_overlap: Whether classes are compared by their intersection over union too.
    """
    if len(student_logits) > MOST_ROWS * 2:  # evenly chosen: a row for each pixel would take more than the student
        samples = torch.arange(0, len(student_logits) // blocks, len(student_logits) // MOST_ROWS)
        chosen = (samples[:, None] * blocks + torch.arange(blocks)).flatten().to(student_logits.device)
        student_logits, teacher_logits, labels = student_logits[chosen], teacher_logits[chosen], labels[chosen]
    rows = max(1, _CHUNK // student_logits.shape[1])
    parts = zip(student_logits.split(rows), teacher_logits.split(rows), labels.split(rows), strict=True)
    compared = [_compare(student.float(), teacher.float(), true) for student, teacher, true in parts]
    student, teacher, divergence, correlation = (torch.cat(column).cpu() for column in zip(*compared, strict=True))
    choices = student_logits.shape[1]
    first = torch.arange(len(teacher), dtype=torch.int32) % blocks * choices  # of the classes of each row
    return Predictions(
        labels=labels.int().cpu() + first,
        teacher=teacher + first,
        student=student + first,
        teacher_kl=divergence,
        rank_correlation=correlation,
        classes=choices * blocks,
        choices=choices,
        row_word=row_word,
        compares_overlap=compares_overlap,
    )


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions to a file; equal predictions give equal bytes."""
    tensors = {name: value.contiguous() for name, value in vars(predictions).items() if isinstance(value, Tensor)}
    kind = {name: value for name, value in vars(predictions).items() if name not in tensors}
    # One entry only: safetensors writes several in an order that differs from process to process.
    save_tensors(tensors, path, {_CLASSES: json.dumps(kind)})


def load_predictions(path: Path) -> Predictions | None:
    """Return the predictions in a file; ``None`` if it is missing, holds none, or can't be read."""
    try:
        tensors, kind = _read(path, _CLASSES)
        fields: dict[str, Any] = {**kind, **tensors}
        return Predictions(**fields)
    except _UNREADABLE:
        return None


def save_errors(errors: Errors, path: Path) -> None:
    """Write the errors of an output without classes to a file; equal ones give equal bytes."""
    told = {"sentence": errors.sentence, "details": errors.details, "table": errors.table}
    answers = {name: value.contiguous() for name, value in errors.answers.items()}
    save_tensors(answers, path, {_ERRORS: json.dumps(told)})


def load_errors(path: Path) -> Errors | None:
    """Return the errors in a file; ``None`` if it is missing, holds none, or can't be read."""
    try:
        answers, told = _read(path, _ERRORS)
        return Errors(answers=answers, **told)
    except _UNREADABLE:
        return None


def _read(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[what])


def _compare(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    divergence = kl_terms(student.log_softmax(-1), teacher.log_softmax(-1)).sum(-1)
    correlation = _rank_correlation(student, teacher, labels)
    return student.argmax(-1).int(), teacher.argmax(-1).int(), divergence, correlation


def _rank_correlation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    samples, classes = student.shape
    likely = teacher.topk(min(RANKED + 1, classes), dim=-1).indices  # one more, for the true class may be one
    is_wrong = likely != labels[:, None]
    is_wrong[:, -1] &= ~is_wrong[:, :-1].all(-1)
    chosen = likely[is_wrong].view(samples, -1)
    possible = teacher.gather(1, chosen) > -torch.inf
    ours, theirs = (_centred_ranks(logits.gather(1, chosen), possible) for logits in (student, teacher))
    lengths = (ours.square().sum(-1) * theirs.square().sum(-1)).sqrt()
    correlation = torch.where(lengths > 0, (ours * theirs).sum(-1) / lengths, 0)
    return correlation.masked_fill(possible.sum(-1) < 2, torch.nan)


def _centred_ranks(values: Tensor, included: Tensor) -> Tensor:
    """Return ranks of the included values along the last dimension, less their mean; 0 for the excluded ones."""
    ranks = _ranks(values.masked_fill(~included, torch.inf))  # ranked last, they leave the ranks of the others alone
    means = ranks.masked_fill(~included, 0).sum(-1, keepdim=True) / included.sum(-1, keepdim=True)
    return (ranks - means).masked_fill(~included, 0)


def _ranks(values: Tensor) -> Tensor:
    """Return ranks along the last dimension; equal values share their mean rank."""
    ordered = values.sort(-1).values
    values = values.contiguous()
    below, not_above = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (below + not_above).float() / 2
