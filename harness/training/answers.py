"""What teacher and student answered on each validation sample: compared once, at a trial's end, and kept beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.training.tensor_file import save_tensors
from lightning_modules.losses._numeric import divergences

ANSWERS = "answers.safetensors"
RANKED = 100
"""Wrong classes whose order is compared, those that the teacher finds most likely; the others are never near."""

_CHUNK = 2**22  # logits that are compared at a time, 16 MB: the softmaxes take several times their memory


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """A student beside its teacher, sample by sample: in the order of the split, all of shape (N,).

    Attributes:
        labels: The true classes, int32.
        teacher: The classes that the teacher answers, int32.
        student: The classes that the student answers, int32.
        teacher_kl: KL(teacher ‖ student) at T = 1, nats, float32.
        rank_correlation: Spearman's ρ of their logits over the ``ranked`` classes that the teacher finds most likely
            of those that are not the true one, in [-1, 1], float32: whether they hold the same mistakes to be the
            likely ones, however sure they are of it. Classes that the teacher holds impossible (-inf) are left out. 0
            where one of them tells none apart; NaN where there are fewer than two such classes.
        classes: Number of classes C.
    """

    labels: Tensor
    teacher: Tensor
    student: Tensor
    teacher_kl: Tensor
    rank_correlation: Tensor
    classes: int

    @property
    def ranked(self) -> int:
        """Number of wrong classes whose order is compared: ``RANKED``, or all of fewer."""
        return min(RANKED, self.classes - 1)


def compare(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Answers:
    """Return what a student answers beside its teacher.

    Args:
        student_logits: Of every sample in order, shape (N, C).
        teacher_logits: Of the same samples, shape (N, C).
        labels: The true classes, shape (N,).
    """
    rows = max(1, _CHUNK // student_logits.shape[1])
    parts = zip(student_logits.split(rows), teacher_logits.split(rows), labels.split(rows), strict=True)
    compared = [_compare(student.float(), teacher.float(), true) for student, teacher, true in parts]
    answered, taught, divergence, correlation = (torch.cat(column).cpu() for column in zip(*compared, strict=True))
    return Answers(
        labels=labels.int().cpu(),
        teacher=taught,
        student=answered,
        teacher_kl=divergence,
        rank_correlation=correlation,
        classes=student_logits.shape[1],
    )


def keep_answers(answers: Answers, path: Path) -> None:
    """Write ``answers``: equal ones, equal bytes."""
    tensors = {name: value.contiguous() for name, value in vars(answers).items() if isinstance(value, Tensor)}
    # One entry only: safetensors writes several in an order that differs from process to process.
    save_tensors(tensors, path, {"classes": str(answers.classes)})


def read_answers(path: Path) -> Answers | None:
    """Return the answers that were kept; ``None`` if there are none, or they can't be read."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return Answers(classes=int(file.metadata()["classes"]), **tensors)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None


def _compare(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    divergence = divergences(student.log_softmax(-1), teacher.log_softmax(-1)).sum(-1)
    correlation = _rank_correlation(student, teacher, labels)
    return student.argmax(-1).int(), teacher.argmax(-1).int(), divergence, correlation


def _rank_correlation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    samples, classes = student.shape
    likely = teacher.topk(min(RANKED + 1, classes), dim=-1).indices  # one more, for the true class may be among them
    is_wrong = likely != labels[:, None]
    is_wrong[:, -1] &= ~is_wrong[:, :-1].all(-1)
    chosen = likely[is_wrong].view(samples, -1)
    counts = teacher.gather(1, chosen) > -torch.inf
    ours, theirs = (_centred_ranks(logits.gather(1, chosen), counts) for logits in (student, teacher))
    lengths = (ours.square().sum(-1) * theirs.square().sum(-1)).sqrt()
    correlation = torch.where(lengths > 0, (ours * theirs).sum(-1) / lengths, 0)
    return correlation.masked_fill(counts.sum(-1) < 2, torch.nan)


def _centred_ranks(values: Tensor, counts: Tensor) -> Tensor:
    """Return ranks of the values that count along the last dimension, less their mean; 0 for those that do not."""
    ranks = _ranks(values.masked_fill(~counts, torch.inf))  # beyond the others, whose ranks are those among themselves
    means = ranks.masked_fill(~counts, 0).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)
    return (ranks - means).masked_fill(~counts, 0)


def _ranks(values: Tensor) -> Tensor:
    """Return ranks along the last dimension, equal values sharing the mean of theirs."""
    ordered = values.sort(-1).values
    values = values.contiguous()
    below, not_above = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (below + not_above).float() / 2
