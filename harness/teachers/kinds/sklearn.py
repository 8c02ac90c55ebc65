"""An estimator of scikit-learn, or with its interface, as the teacher: gradient boosting, forests, whole pipelines.

What an estimator says of rows that it was fitted on is close to their labels, and teaches little more than they do. So
an estimator that is fitted here answers training rows out of fold: each row by a copy that was fitted without it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core.content import digest
from harness.core.errors import HarnessError, Unfit, one_line
from harness.networks.digest import rounded_answers
from harness.teachers.answers import OF_CLASSES, OF_LABELS, OF_VALUES
from harness.teachers.black_box import BlackBoxTeacher, Ground, Prepare, Query, flat_inputs
from harness.teachers.estimator_answers import OfClasses, OfLabels, OfValues, Reading
from harness.teachers.estimator_file import Untrusted, load_estimators, save_estimators
from harness.teachers.estimators import SCORES, is_fitted, rows_of, seeded_copy
from lightning_modules.batch import Inputs, join, select
from lightning_modules.data.unlabelled import given_labels, labelled_positions

_FILE = "teacher.skops"
_VERSION = 1  # raised when estimators are fitted in another way
_ASKED = 4096  # rows of a split by which an estimator that came fitted is identified
_SHOWN = 3
_UNLABELLED = -1  # in place of a row's fold, where it has no label: no estimator is fitted on it


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


_READINGS: dict[str, type[Reading]] = {OF_CLASSES: OfClasses, OF_LABELS: OfLabels, OF_VALUES: OfValues}


class SklearnTeacher(BlackBoxTeacher):
    """A classifier or regressor of scikit-learn, or with its interface, as the teacher.

    A task of several labels needs a classifier that is fitted on them all, such as a forest or a
    ``MultiOutputClassifier``; one of values a regressor, which is asked for what it predicts.

    One that is not fitted is fitted once on the training split, and kept. What it says of training rows is then out of
    fold: the rows are split in ``folds`` parts, by class where each has one, and each part is answered by a copy fitted
    on the others. Rows without a label are answered by one that is fitted on all labelled ones. A ``random_state`` that
    is ``None`` is set from the study's seed.

    One that is fitted is asked as it is, of training rows too: whether it has seen them, nobody knows here.

    Args:
        estimator: The estimator. It is not changed: copies are fitted.
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
        self._reading: Reading = OfClasses(self.who, 0, scores)
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
        reading = _READINGS[ground.numbers_of]
        self._reading = reading(self.who, ground.classes, self._scores, ground.names)
        self._reading.check(self._given)
        if self.was_fitted:
            self._key = self._ask_fitted(ground)
        else:
            self._fit_or_load(ground)
        self.warnings += self._reading.warnings(self._whole, ground)

    def _fit_or_load(self, ground: Ground) -> None:
        import sklearn

        seeded, names = seeded_copy(self._given, ground.seed)
        folds = self._split(ground)
        self._key = digest(
            "fit", _VERSION, type(seeded).__module__, repr(seeded.get_params()), ground.dataset, len(self._part_of_row),
            folds, ground.seed, sklearn.__version__,
        )  # fmt: skip
        told = f"; {', '.join(names)} set from the seed" if names else ""
        fitted = int((self._part_of_row != _UNLABELLED).sum())
        others = len(self._part_of_row) - fitted
        alone = f"; the {others:,} without a label are asked of what is fitted on all of these" if others else ""

        def fit() -> list[Any]:
            ground.note(
                f"{type(seeded).__name__} is fitted on {fitted:,} training rows; what it says of these is out of fold, "
                f"{self._reading.folds_text(folds)}{told}{alone}"
            )
            train, parts = ground.data.splits["train"], self._part_of_row
            rows, labels = self._inputs(join(train.all_inputs())), train.labels.cpu().numpy()
            chosen = [np.flatnonzero((parts != part) & (parts != _UNLABELLED)) for part in range(folds)]
            return [self._fit(seeded, rows, labels, one) for one in [np.flatnonzero(parts != _UNLABELLED), *chosen]]

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
            return clone(estimator).fit(rows_of(rows, chosen), self._reading.targets(labels[chosen]))
        except Exception as error:
            raise Unfit(
                f"{self.who} can't be fitted: {type(error).__name__}: {one_line(error).rstrip('.')}",
                "let inputs= give what it takes: by default it gets an array (samples, features)",
            ) from error

    def _split(self, ground: Ground) -> int:
        """Assign each training row to a fold; return the number of folds."""
        labels = given_labels(ground.data).cpu().numpy()
        if len(labels) < self._folds:
            raise Unfit(
                f"{self.who} needs at least one training row a fold, but there are {len(labels)} rows for "
                f"{self._folds} folds",
                "name fewer folds",
            )
        known = labelled_positions(ground.data)
        self._part_of_row = np.full(len(ground.data.splits["train"]), _UNLABELLED)
        self._part_of_row[slice(None) if known is None else known.numpy()] = self._reading.split(
            labels, self._folds, ground
        )
        return self._folds

    def _ask(self, query: Query) -> Tensor:
        if query.split != "train" or not self._parts:
            return self._answer(self._whole, query.inputs)
        rows = query.rows.cpu().numpy()
        logits = torch.empty(len(rows), self._classes)
        for part in np.unique(self._part_of_row[rows]):
            chosen = torch.from_numpy(np.flatnonzero(self._part_of_row[rows] == part))
            asked = self._whole if part == _UNLABELLED else self._parts[int(part)]
            logits[chosen] = self._answer(asked, select(query.inputs, chosen))
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

        def asked(method: str) -> Any:
            try:
                return getattr(estimator, method)(given)
            except Exception as error:
                raise Unfit(
                    f"{self.who} can't answer: {type(error).__name__}: {one_line(error).rstrip('.')}",
                    "let inputs= give what it takes: by default it gets an array (samples, features)",
                ) from error

        found = self._count_floored(self._reading.read(estimator, asked))
        return self._checked(found, len(found))

    def _ask_fitted(self, ground: Ground) -> str:
        """Return a digest of what a fitted estimator says; warn that it may have been fitted on training rows."""
        reached, said = [], []
        for name in ("train", "val"):
            split = ground.data.splits[name]
            known = labelled_positions(ground.data, name)
            places = torch.arange(len(split)) if known is None else known
            chosen = places[torch.linspace(0, len(places) - 1, min(_ASKED, len(places))).long()].to(split.labels.device)
            answers = self._answer(self._given, select(split.inputs, chosen))
            reached.append(self._reading.quality(answers, split.labels[chosen].cpu()))
            said.append(rounded_answers(answers))
        self.warnings.append(
            f"came fitted, and {reached[0]} the training rows and {reached[1]} the validation rows: if it was fitted "
            "on these training rows, what it says of them is their labels, not what it would say of new ones; an "
            "estimator that is not fitted yet is asked out of fold"
        )
        return digest("fitted", self._reading.identity(self._given), said)
