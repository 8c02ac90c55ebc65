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
from lightning_modules.outputs import Errors
from lightning_modules.top_k import TopKLogits, divergence_of_rows

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
        top_k: Number of the teacher's largest logits that are known; ``None`` where all are. All other classes have no
            rank then, and ``teacher_kl`` is an estimate from draws of them.
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
    top_k: int | None = None

    @property
    def ranked(self) -> int:
        """Return the number of wrong classes whose ranks are compared: at most ``RANKED``."""
        return min(RANKED, (self.top_k or self.choices) - 1)


class Comparer:
    """Compares a student's logits with its teacher's, some rows at a time.

    Args:
        rows: Number of rows of all.
        blocks: Number of classes of their own that each row in turn chooses among: 1, or the number of labels of a
            sample, each of which is absent or present.
        row_word: What a row is called.
        compares_overlap: Whether classes are compared by their intersection over union too.
    """

    def __init__(self, rows: int, *, blocks: int = 1, row_word: str = "sample", compares_overlap: bool = False) -> None:
        self._blocks, self._row_word, self._compares_overlap = blocks, row_word, compares_overlap
        # Evenly chosen: a row for each pixel would take more than the student.
        self._apart = rows // MOST_ROWS if rows > MOST_ROWS * 2 else 1
        self._samples, self._choices = 0, 0
        self._top_k: int | None = None
        self._found: list[tuple[Tensor, ...]] = []

    def add(self, student_logits: Tensor, teacher_logits: Tensor | TopKLogits, labels: Tensor) -> None:
        """Compare rows of whole samples.

        Args:
            student_logits: Rows of logits, shape (R, C).
            teacher_logits: Rows of the same samples, shape (R, C).
            labels: True classes, shape (R,).
        """
        if self._apart > 1:
            samples = torch.arange(-self._samples % self._apart, len(labels) // self._blocks, self._apart)
            chosen = (samples[:, None] * self._blocks + torch.arange(self._blocks)).flatten()
            self._samples += len(labels) // self._blocks
            chosen = chosen.to(labels.device)
            student_logits, teacher_logits, labels = student_logits[chosen], teacher_logits[chosen], labels[chosen]
        self._choices = student_logits.shape[1]
        if isinstance(teacher_logits, TopKLogits):
            self._top_k = teacher_logits.form.largest
        size = max(1, _CHUNK // self._choices)
        for first in range(0, len(labels), size):
            part = slice(first, first + size)
            compared = _compare(student_logits[part].float(), teacher_logits[part], labels[part])
            self._found.append(tuple(one.cpu() for one in (*compared, labels[part].int())))

    def result(self) -> Predictions:
        """Return the comparison of all rows that were added."""
        student, teacher, divergence, correlation, labels = (torch.cat(one) for one in zip(*self._found, strict=True))
        first = torch.arange(len(teacher), dtype=torch.int32) % self._blocks * self._choices  # of each row's classes
        return Predictions(
            labels=labels + first,
            teacher=teacher + first,
            student=student + first,
            teacher_kl=divergence,
            rank_correlation=correlation,
            classes=self._choices * self._blocks,
            choices=self._choices,
            row_word=self._row_word,
            compares_overlap=self._compares_overlap,
            top_k=self._top_k,
        )


def compare_predictions(
    student_logits: Tensor,
    teacher_logits: Tensor | TopKLogits,
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
    comparer = Comparer(len(labels), blocks=blocks, row_word=row_word, compares_overlap=compares_overlap)
    comparer.add(student_logits, teacher_logits, labels)
    return comparer.result()


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


def _compare(student: Tensor, teacher: Tensor | TopKLogits, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if isinstance(teacher, Tensor):
        teacher = teacher.float()
    correlation = _rank_correlation(student, *_likely(teacher), labels)
    return student.argmax(-1).int(), teacher.argmax(-1).int(), divergence_of_rows(student, teacher), correlation


def _likely(teacher: Tensor | TopKLogits) -> tuple[Tensor, Tensor]:
    """Return the teacher's likeliest classes in their order, and its logits of them: one more than are ranked."""
    if isinstance(teacher, TopKLogits):
        parts = teacher.parts()
        logits, order = parts.logits.sort(1, descending=True)
        return parts.classes.gather(1, order)[:, : RANKED + 1], logits[:, : RANKED + 1]
    found = teacher.topk(min(RANKED + 1, teacher.shape[1]), dim=-1)  # the true class may be one
    return found.indices, found.values


def _rank_correlation(student: Tensor, likely: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
    is_wrong = likely != labels[:, None]
    is_wrong[:, -1] &= ~is_wrong[:, :-1].all(-1)
    chosen, values = (one[is_wrong].view(len(likely), -1) for one in (likely, theirs))
    possible = values > -torch.inf
    ours, others = (_centred_ranks(logits, possible) for logits in (student.gather(1, chosen), values))
    lengths = (ours.square().sum(-1) * others.square().sum(-1)).sqrt()
    correlation = torch.where(lengths > 0, (ours * others).sum(-1) / lengths, 0)
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
