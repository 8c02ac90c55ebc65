"""Compare a student's predictions with its teacher's sample by sample at a trial's end, and store the comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.training.tensor_file import save_tensors
from lightning_modules.losses._numeric import kl_terms

PREDICTIONS = "answers.safetensors"
RANKED = 100
"""Number of wrong classes whose ranks are compared: the most likely ones by the teacher; the rest are negligible."""

_CHUNK = 2**22  # logits that are compared at once, 16 MB: the softmaxes take several times their memory


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """Predictions of a student and its teacher, sample by sample in the order of the split, all of shape (N,).

    Attributes:
        labels: True classes, int32.
        teacher: Classes that the teacher predicts, int32.
        student: Classes that the student predicts, int32.
        teacher_kl: KL(teacher ‖ student) at T = 1, nats, float32.
        rank_correlation: Spearman's ρ of their logits over the ``ranked`` wrong classes that are most likely by the
            teacher, in [-1, 1], float32: whether both rank the same mistakes as likely, whatever their confidence.
            Classes with a teacher logit of -inf are left out. 0 if the logits of one side are all equal; NaN if fewer
            than two classes are left.
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
        """Return the number of wrong classes whose ranks are compared: at most ``RANKED``."""
        return min(RANKED, self.classes - 1)


def compare_predictions(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Predictions:
    """Compare a student's logits with its teacher's.

    Args:
        student_logits: Logits of every sample in order, shape (N, C).
        teacher_logits: Logits of the same samples, shape (N, C).
        labels: True classes, shape (N,).
    """
    rows = max(1, _CHUNK // student_logits.shape[1])
    parts = zip(student_logits.split(rows), teacher_logits.split(rows), labels.split(rows), strict=True)
    compared = [_compare(student.float(), teacher.float(), true) for student, teacher, true in parts]
    student, teacher, divergence, correlation = (torch.cat(column).cpu() for column in zip(*compared, strict=True))
    return Predictions(
        labels=labels.int().cpu(),
        teacher=teacher,
        student=student,
        teacher_kl=divergence,
        rank_correlation=correlation,
        classes=student_logits.shape[1],
    )


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions to a file; equal predictions give equal bytes."""
    tensors = {name: value.contiguous() for name, value in vars(predictions).items() if isinstance(value, Tensor)}
    # One entry only: safetensors writes several in an order that differs from process to process.
    save_tensors(tensors, path, {"classes": str(predictions.classes)})


def load_predictions(path: Path) -> Predictions | None:
    """Return the predictions in a file; ``None`` if it is missing or can't be read."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return Predictions(classes=int(file.metadata()["classes"]), **tensors)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None


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
