"""An estimator of scikit-learn, or with its interface, as the teacher: gradient boosting, forests, whole pipelines.

What an estimator says of rows that it was fitted on is close to their labels, and teaches little more than they do. So
an estimator that is fitted here answers training rows out of fold: each row by a copy that was fitted without it.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core.content import derived_seed, digest
from harness.core.errors import HarnessError, Unfit, one_line
from harness.networks.digest import rounded_answers
from harness.teachers.answers import FLOOR, LOGITS, PROBABILITIES, to_logits
from harness.teachers.black_box import BlackBoxTeacher, Ground, Prepare, Query, flat_inputs
from harness.teachers.estimator_file import Untrusted, load_estimators, save_estimators
from harness.teachers.estimators import SCORES, check_answers, classes_of, is_fitted, rows_of, seeded_copy
from lightning_modules.batch import Inputs, join, select

_FILE = "teacher.skops"
_VERSION = 1  # raised when estimators are fitted in another way
_ASKED = 4096  # rows of a split by which an estimator that came fitted is identified
_SHOWN = 3


def recognizes(path: Path) -> bool:
    """Return whether a file is an estimator that skops saved."""
    return path.suffix == ".skops"


def load(path: Path, names: tuple[str, ...]) -> SklearnTeacher:
    """Return the estimator in a file.

    Raises:
        HarnessError: If it can't be read, holds types that are not trusted, or no fitted estimator.
    """
    try:
        (estimator,) = load_estimators(path)
    except (Untrusted, ValueError, OSError) as error:
        raise HarnessError(
            f"--teacher {path} must be an estimator that skops.io.dump saved, of trusted types alone, but "
            f"{one_line(error)}."
        ) from error
    teacher = SklearnTeacher(estimator)
    if not teacher.was_fitted:
        raise HarnessError(
            f"--teacher {path} must be a fitted estimator, but its {type(estimator).__name__} is not; return "
            "SklearnTeacher(estimator) from teacher() to have it fitted."
        )
    return teacher


class SklearnTeacher(BlackBoxTeacher):
    """A classifier of scikit-learn, or with its interface, as the teacher.

    One that is not fitted is fitted once on the training split, and kept. What it says of training rows is then out of
    fold: the rows are split in ``folds`` parts by class, and each part is answered by a copy fitted on the others. A
    ``random_state`` that is ``None`` is set from the study's seed.

    One that is fitted is asked as it is, of training rows too: whether it has seen them, nobody knows here.

    Args:
        estimator: The classifier. It is not changed: copies are fitted.
        inputs: Maps the inputs of a batch to what the estimator takes; by default an array (B, features).
        folds: Number of folds K of the training split, at least 2.
        scores: ``"predict_proba"``, or ``"decision_function"``, whose values are then taken as logits: only for
            estimators that give one for each class, on a scale where differences are log odds.
    """

    who: ClassVar[str] = "the estimator that teaches"
    runtime: ClassVar[str] = "scikit-learn"

    def __init__(
        self, estimator: Any, *, inputs: Prepare | None = None, folds: int = 5, scores: str = SCORES[0]
    ) -> None:
        super().__init__(inputs, flat_inputs)
        if not hasattr(estimator, "fit") or not hasattr(estimator, "get_params") or isinstance(estimator, type):
            found = "a class" if isinstance(estimator, type) else type(estimator).__name__
            raise ValueError(f"SklearnTeacher must get an estimator of scikit-learn, but got {found}.")
        if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
            raise ValueError(f"folds must be a whole number of at least 2, but got {folds!r}.")
        if scores not in SCORES:
            raise ValueError(f"scores must be one of {' or '.join(SCORES)}, but got {scores!r}.")
        self._given, self._folds, self._scores = estimator, folds, scores
        self.was_fitted = is_fitted(estimator)
        self._whole: Any = estimator
        self._parts: list[Any] = []
        self._part_of_row = np.zeros(0, dtype=np.int64)
        self._places: dict[int, Tensor] = {}
        self._key = ""

    @property
    def learns(self) -> bool:
        """Return whether the estimator is fitted here."""
        return not self.was_fitted

    @property
    def content(self) -> str:
        """Return a digest of the kind of estimator, its parameters and what it is fitted on."""
        return digest("sklearn", type(self._given).__name__, repr(self._given), self._scores, self._key)

    def _prepare(self, ground: Ground) -> None:
        check_answers(self._given, self._scores)
        self._places.clear()
        if self.was_fitted:
            self._key = self._ask_fitted(ground)
        else:
            self._fit_or_load(ground)
        self._note_missing(ground)

    def _fit_or_load(self, ground: Ground) -> None:
        import sklearn

        seeded, names = seeded_copy(self._given, ground.seed)
        folds = self._split(ground)
        self._key = digest(
            "fit", _VERSION, type(seeded).__module__, repr(seeded.get_params()), ground.dataset, len(self._part_of_row),
            folds, ground.seed, sklearn.__version__,
        )  # fmt: skip
        told = f"; {', '.join(names)} set from the seed" if names else ""

        def fit() -> list[Any]:
            ground.note(
                f"{type(seeded).__name__} is fitted on {len(self._part_of_row):,} training rows; what it says of these "
                f"is out of fold, {folds} folds by class{told}"
            )
            train = ground.data.splits["train"]
            rows, labels = self._inputs(join(train.all_inputs())), train.labels.cpu().numpy()
            chosen = [np.flatnonzero(self._part_of_row != part) for part in range(folds)]
            return [self._fit(seeded, rows, labels, one) for one in [np.arange(len(labels)), *chosen]]

        self._whole, *self._parts = self._kept(ground, fit) if ground.keep else fit()

    def _kept(self, ground: Ground, fit: Any) -> list[Any]:
        """Return the estimators from the cache, or fit and keep them."""
        assert ground.keep is not None
        found: list[Any] = []

        def read(file: Path) -> None:
            found[:] = load_estimators(file, self._key)

        def make(file: Path) -> None:
            found[:] = fit()
            save_estimators(found, file, self._key)

        try:
            ground.keep(self._key, _FILE, read, make)
        except Untrusted as error:
            if not found:
                found[:] = fit()
            ground.note(f"it is fitted again at each start, and not kept: {one_line(error)}")
        return found

    def _fit(self, estimator: Any, rows: Any, labels: np.ndarray, chosen: np.ndarray) -> Any:
        from sklearn.base import clone

        try:
            return clone(estimator).fit(rows_of(rows, chosen), labels[chosen])
        except Exception as error:
            raise Unfit(
                f"{self.who} can't be fitted: {type(error).__name__}: {one_line(error).rstrip('.')}",
                "let inputs= give what it takes: by default it gets an array (samples, features)",
            ) from error

    def _split(self, ground: Ground) -> int:
        """Assign each training row to a fold, by class; return the number of folds."""
        from sklearn.model_selection import StratifiedKFold

        labels = ground.data.splits["train"].labels.cpu().numpy()
        if len(labels) < self._folds:
            raise Unfit(
                f"{self.who} needs at least one training row a fold, but there are {len(labels)} rows for "
                f"{self._folds} folds",
                "name fewer folds",
            )
        counts = np.bincount(labels)
        rare = [place for place in np.flatnonzero(counts) if counts[place] < self._folds]
        if rare:
            shown = ", ".join(ground.named(int(place)) for place in rare[:_SHOWN])
            ground.note(
                f"{len(rare)} of the classes ({shown}) have fewer training rows than there are folds: a copy that has "
                "not seen one of them gives it the least probability"
            )
        if (counts >= self._folds).any():
            split = StratifiedKFold(
                self._folds, shuffle=True, random_state=derived_seed(ground.seed, "teacher", "folds")
            )
            self._part_of_row = np.zeros(len(labels), dtype=np.int64)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of rare classes, which are named above
                for part, (_, held_out) in enumerate(split.split(labels[:, None], labels)):
                    self._part_of_row[held_out] = part
            return self._folds
        raise Unfit(
            f"{self.who} needs a class with {self._folds} training rows or more for {self._folds} folds, but the "
            f"largest has {counts.max()}",
            "name fewer folds",
        )

    def _ask(self, query: Query) -> Tensor:
        if query.split != "train" or not self._parts:
            return self._answer(self._whole, query.inputs)
        rows = query.rows.cpu().numpy()
        logits = torch.empty(len(rows), self._classes)
        for part in np.unique(self._part_of_row[rows]):
            chosen = torch.from_numpy(np.flatnonzero(self._part_of_row[rows] == part))
            logits[chosen] = self._answer(self._parts[int(part)], select(query.inputs, chosen))
        return logits

    def _call(self, inputs: Inputs) -> Tensor:
        with self._threads.limit(limits=1):  # as students are measured
            return self._answer(self._whole, inputs)

    @cached_property
    def _threads(self) -> Any:
        """Return what limits the threads of the libraries that are loaded, once an estimator was asked."""
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController()

    def _answer(self, estimator: Any, inputs: Inputs) -> Tensor:
        """Return an estimator's logits, each class in its place."""
        given = self._inputs(inputs)
        try:
            found = np.asarray(getattr(estimator, self._scores)(given), dtype=np.float64)
        except Exception as error:
            raise Unfit(
                f"{self.who} can't answer: {type(error).__name__}: {one_line(error).rstrip('.')}",
                "let inputs= give what it takes: by default it gets an array (samples, features)",
            ) from error
        kind = PROBABILITIES if self._scores == SCORES[0] else LOGITS
        if kind == LOGITS and found.ndim == 1:
            found = np.stack([np.zeros_like(found), found], axis=1)  # two classes: log odds of the second
        places = self._places_of(estimator)
        if found.shape[1] != len(places):
            raise Unfit(
                f"{self.who} must give one value for each of its {len(places)} classes, but gives shape {found.shape}: "
                "a value for each pair of classes is no logit",
                "fit it with decision_function_shape='ovr', or calibrate it: CalibratedClassifierCV(estimator)",
            )
        told = to_logits(torch.from_numpy(found), kind, self.who, lambda row: f"row {row}")
        floor = float(np.log(FLOOR)) if kind == PROBABILITIES else float(found.min()) + float(np.log(FLOOR))
        logits = torch.full((len(found), self._classes), floor)
        logits[:, places] = self._count_floored(told)
        return logits

    def _places_of(self, estimator: Any) -> Tensor:
        """Return the label of each of an estimator's classes; those of the task by number, or by name."""
        return self._places.setdefault(id(estimator), torch.tensor([int(one) for one in self._labels_of(estimator)]))

    def _labels_of(self, estimator: Any) -> list[int]:
        return [self._label(one) for one in classes_of(estimator)]

    def _label(self, given: Any) -> int:
        text = str(given)
        if not isinstance(given, str) and float(given) == int(given) and 0 <= int(given) < self._classes:
            return int(given)
        if text in self._names:
            return self._names.index(text)
        known = f"the {self._classes} classes of the task" + (
            f" ({', '.join(self._names[:10])})" if self._names else ""
        )
        raise Unfit(
            f"{self.who} has a class {text!r}, which is none of {known}",
            "fit it on the task's labels, counted from 0, or on its class_names",
        )

    def _note_missing(self, ground: Ground) -> None:
        labelled = set(ground.data.splits["train"].labels.unique().tolist())
        missing = sorted(labelled - set(self._labels_of(self._whole)))
        if missing:
            shown = ", ".join(ground.named(place) for place in missing[:_SHOWN])
            self.warnings.append(
                f"has never seen {len(missing)} of the task's classes ({shown}), which it gives the least probability"
            )

    def _ask_fitted(self, ground: Ground) -> str:
        """Return a digest of what a fitted estimator says; warn that it may have been fitted on training rows."""
        right, said = [], []
        for name in ("train", "val"):
            split = ground.data.splits[name]
            chosen = torch.linspace(0, len(split) - 1, min(_ASKED, len(split))).long().to(split.labels.device)
            answers = self._answer(self._given, select(split.inputs, chosen))
            right.append(float((answers.argmax(1) == split.labels[chosen].cpu()).float().mean()))
            said.append(rounded_answers(answers))
        self.warnings.append(
            f"came fitted, and is right on {right[0]:.1%} of the training rows and {right[1]:.1%} of the validation "
            "rows: if it was fitted on these training rows, what it says of them is their labels, not what it would "
            "say of new ones; an estimator that is not fitted yet is asked out of fold"
        )
        return digest("fitted", [str(one) for one in classes_of(self._given)], said)
