"""Read what estimators with scikit-learn's interface answer: of classes, of several labels, or of values."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.content import derived_seed
from harness.core.errors import Unfit
from harness.teachers.answers import (
    FLOOR,
    LOGITS,
    OF_LABELS,
    OF_VALUES,
    PROBABILITIES,
    VALUES,
    Logits,
    to_logits,
)
from harness.teachers.black_box import Ground
from harness.teachers.estimators import SCORES, check_answers, classes_of
from lightning_modules.data.unlabelled import given_labels

_SHOWN = 3

Answers = Callable[[str], Any]
"""Calls a method of an estimator by name with the samples."""


@dataclass(frozen=True)
class Reading(ABC):
    """How the answers of an estimator are read.

    Attributes:
        who: The teacher's name in messages.
        size: Number of classes C, labels L or values V.
        scores: One of ``harness.teachers.estimators.SCORES``.
        names: Names of the classes in their order; empty where the task names none.
    """

    who: str
    size: int
    scores: str
    names: tuple[str, ...] = ()

    @abstractmethod
    def check(self, estimator: Any) -> None:
        """Check that an estimator can answer.

        Raises:
            Unfit: If it can't.
        """

    @abstractmethod
    def read(self, estimator: Any, answers: Answers) -> Logits:
        """Return an estimator's answers in the task's order, shape (N, ``size``)."""

    @abstractmethod
    def quality(self, answers: Tensor, labels: Tensor) -> str:
        """Return how good answers are, in words that "the training rows" may follow."""

    def split(self, labels: np.ndarray, folds: int, ground: Ground) -> np.ndarray:
        """Return the fold of each training row, at random by the seed."""
        from sklearn.model_selection import KFold

        return _parts(KFold(folds, shuffle=True, random_state=_seed(ground)).split(labels), len(labels))

    def folds_text(self, folds: int) -> str:
        """Return what the folds are, in messages."""
        return f"{folds} folds"

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Return labels as estimators are fitted on them."""
        return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels

    def identity(self, estimator: Any) -> list[str]:
        """Return the names of what an estimator tells apart."""
        return []

    def warnings(self, estimator: Any, ground: Ground) -> list[str]:
        """Return sanity warnings about a fitted estimator, a phrase each."""
        return []


class OfClasses(Reading):
    """Reads one class for each sample: probabilities, or values that are taken as logits."""

    def check(self, estimator: Any) -> None:
        check_answers(estimator, self.scores)

    def read(self, estimator: Any, answers: Answers) -> Logits:
        found = np.asarray(answers(self.scores), dtype=np.float64)
        kind = PROBABILITIES if self.scores == SCORES[0] else LOGITS
        if kind == LOGITS and found.ndim == 1:
            found = np.stack([np.zeros_like(found), found], axis=1)  # two classes: log odds of the second
        places = self._places(estimator)
        if found.shape[1] != len(places):
            raise Unfit(
                f"{self.who} must give one value for each of its {len(places)} classes, but gives shape {found.shape}: "
                "a value for each pair of classes is no logit",
                "fit it with decision_function_shape='ovr', or calibrate it: CalibratedClassifierCV(estimator)",
            )
        told = to_logits(torch.from_numpy(found), kind, self.who, _row)
        floor = float(np.log(FLOOR)) if kind == PROBABILITIES else float(found.min()) + float(np.log(FLOOR))
        logits = torch.full((len(found), self.size), floor)
        logits[:, places] = told.values
        return Logits(logits, told.floored)

    def quality(self, answers: Tensor, labels: Tensor) -> str:
        return f"is right on {float((answers.argmax(1) == labels).float().mean()):.1%} of"

    def folds_text(self, folds: int) -> str:
        return f"{folds} folds by class"

    def split(self, labels: np.ndarray, folds: int, ground: Ground) -> np.ndarray:
        """Return the fold of each training row, stratified by class."""
        from sklearn.model_selection import StratifiedKFold

        counts = np.bincount(labels)
        rare = [place for place in np.flatnonzero(counts) if counts[place] < folds]
        if rare:
            shown = ", ".join(ground.named(int(place)) for place in rare[:_SHOWN])
            ground.note(
                f"{len(rare)} of the classes ({shown}) have fewer training rows than there are folds: a copy that has "
                "not seen one of them gives it the least probability"
            )
        if not (counts >= folds).any():
            raise Unfit(
                f"{self.who} needs a class with {folds} training rows or more for {folds} folds, but the largest has "
                f"{counts.max()}",
                "name fewer folds",
            )
        split = StratifiedKFold(folds, shuffle=True, random_state=_seed(ground))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rare classes, which are named above
            return _parts(split.split(labels[:, None], labels), len(labels))

    def identity(self, estimator: Any) -> list[str]:
        return [str(one) for one in classes_of(estimator)]

    def warnings(self, estimator: Any, ground: Ground) -> list[str]:
        labelled = set(given_labels(ground.data).unique().tolist())
        missing = sorted(labelled - set(self._places(estimator)))
        if not missing:
            return []
        shown = ", ".join(ground.named(place) for place in missing[:_SHOWN])
        return [f"has never seen {len(missing)} of the task's classes ({shown}), which it gives the least probability"]

    def _places(self, estimator: Any) -> list[int]:
        """Return the label of each of an estimator's classes; those of the task by number, or by name."""
        return [self._label(one) for one in classes_of(estimator)]

    def _label(self, given: Any) -> int:
        text = str(given)
        if not isinstance(given, str) and float(given) == int(given) and 0 <= int(given) < self.size:
            return int(given)
        if text in self.names:
            return self.names.index(text)
        known = f"the {self.size} classes of the task" + (f" ({', '.join(self.names[:10])})" if self.names else "")
        raise Unfit(
            f"{self.who} has a class {text!r}, which is none of {known}",
            "fit it on the task's labels, counted from 0, or on its class_names",
        )


class OfLabels(Reading):
    """Reads any number of labels for each sample: the probability that each is present, or its log odds."""

    def check(self, estimator: Any) -> None:
        check_answers(estimator, self.scores)

    def read(self, estimator: Any, answers: Answers) -> Logits:
        kind = PROBABILITIES if self.scores == SCORES[0] else LOGITS
        found = answers(self.scores)
        if isinstance(found, list):  # an array (N, classes) for each label
            classes = estimator.classes_
            found = np.stack([_share_of(shares, known) for shares, known in zip(found, classes, strict=True)], 1)
        found = np.asarray(found, dtype=np.float64)
        if self.size == 1 and kind == PROBABILITIES:  # fitted on one column, as a classifier of two classes
            found = _share_of(found, estimator.classes_)[:, None]
        elif self.size == 1 and found.ndim == 1:
            found = found[:, None]
        if found.ndim != 2 or found.shape[1] != self.size:
            raise Unfit(
                f"{self.who} must give a value for each of the {self.size} labels, but gives shape {found.shape}",
                "fit it on labels (samples, labels), as MultiOutputClassifier(estimator) does",
            )
        return to_logits(torch.from_numpy(found), kind, self.who, _row, OF_LABELS)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return super().targets(labels).astype(np.int64)

    def quality(self, answers: Tensor, labels: Tensor) -> str:
        return f"is right on {float(((answers > 0) == labels.bool()).float().mean()):.1%} of the labels of"


class OfValues(Reading):
    """Reads numbers: what a regressor predicts."""

    def check(self, estimator: Any) -> None:
        from sklearn.base import is_classifier

        name = type(estimator).__name__
        if is_classifier(estimator) or not hasattr(estimator, "predict"):
            raise Unfit(f"the {name} that teaches must be a regressor, for the task's output has values", "take one")
        if self.scores != SCORES[0]:
            raise Unfit(
                f"the {name} that teaches is asked for what it predicts, but scores={self.scores!r} was given",
                "leave scores out",
            )

    def read(self, estimator: Any, answers: Answers) -> Logits:
        found = np.asarray(answers("predict"), dtype=np.float64)
        found = found[:, None] if found.ndim == 1 else found
        return to_logits(torch.from_numpy(found), VALUES, self.who, _row, OF_VALUES)

    def quality(self, answers: Tensor, labels: Tensor) -> str:
        return f"errs by {float((answers - labels).abs().mean()):.4g} on average on"


def _share_of(shares: Any, classes: Sequence[Any]) -> np.ndarray:
    """Return the probability that a label is present; 0 where it never was, in what an estimator was fitted on."""
    found = [place for place, one in enumerate(classes) if int(one) == 1]
    return np.asarray(shares)[:, found[0]] if found else np.zeros(len(shares))


def _parts(split: Any, rows: int) -> np.ndarray:
    parts = np.zeros(rows, dtype=np.int64)
    for part, (_, held_out) in enumerate(split):
        parts[held_out] = part
    return parts


def _seed(ground: Ground) -> int:
    return derived_seed(ground.seed, "teacher", "folds")


def _row(row: int) -> str:
    return f"row {row}"
