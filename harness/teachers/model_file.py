"""A model of another framework in a file, as the teacher: what ONNX and Keras have in common."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.content import digest
from harness.core.errors import HarnessError, Unfit, one_line
from harness.teachers.answers import (
    LOGITS,
    OF_LABELS,
    PROBABILITIES,
    SCORED,
    VALUES,
    are_shares,
    to_logits,
    usable_kind,
)
from harness.teachers.black_box import BlackBoxTeacher, Ground, Prepare, Query, numpy_inputs
from lightning_modules.batch import Inputs

_PROBED = 16  # samples by which it is seen whether a model gives probabilities
_HASHED_BYTES = 2**20  # at once


class ModelFile(BlackBoxTeacher):
    """A model in a file, which answers arrays with an array (B, C).

    Args:
        path: The file or folder.
        inputs: Maps the inputs of a batch to what the model takes: an array, or a dict of arrays by the names of its
            inputs. By default they are those of the data as NumPy arrays.
        kind: What it answers: ``"logits"``, ``"probabilities"`` or ``"log_probabilities"``, or ``"values"`` of a
            regression; ``None`` looks whether its answers to some samples are probabilities.
        output: Name of the output that is wanted, of a model that has several.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        inputs: Prepare | None = None,
        kind: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(inputs, numpy_inputs)
        if kind is not None and kind not in (*SCORED, VALUES):
            raise ValueError(f"kind must be one of {', '.join((*SCORED, VALUES))}, but got {kind!r}.")
        self._path, self._given_kind, self._output = Path(path), kind, output
        self._kind = kind or LOGITS  # until it is asked
        self._content = ""

    @property
    def content(self) -> str:
        """Return a digest of every byte of the model, and of how it is asked."""
        return digest(type(self).__name__, self._content, self._kind, self._output)

    @abstractmethod
    def _open(self, ground: Ground) -> None:
        """Load the model.

        Raises:
            HarnessError: If it can't be used.
        """

    @abstractmethod
    def _run(self, given: Any) -> np.ndarray:
        """Return the model's answers to what ``inputs`` gave, shape (B, C).

        Raises:
            Unfit: If it does not take that.
        """

    def _prepare(self, ground: Ground) -> None:
        if not self._path.exists():
            raise HarnessError(f"a model that teaches must be in a file that exists, but there is no {self._path}.")
        self._kind = usable_kind(self._given_kind, ground.numbers_of, self.who)
        self._content = _content_of(self._path)
        self._open(ground)
        answers = self._answers(ground.data.splits["val"].few(_PROBED).inputs)
        if self._given_kind is None and are_shares(answers, ground.numbers_of):
            self._kind = PROBABILITIES
            stored = "log odds" if ground.numbers_of == OF_LABELS else "logarithms"
            ground.note(f"{self._path.name} answers with probabilities: their {stored} are stored as its logits")

    def _ask(self, query: Query) -> Tensor:
        return self._call(query.inputs)

    def _call(self, inputs: Inputs) -> Tensor:
        name = "sample {} of a batch".format
        told = to_logits(self._answers(inputs), self._kind, self.who, name, self._numbers_of)
        return self._count_floored(told)

    def _answers(self, inputs: Inputs) -> Tensor:
        try:
            found = self._run(self._inputs(inputs))
        except HarnessError:
            raise
        except Exception as error:
            raise Unfit(
                f"{self.who} can't answer: {type(error).__name__}: {one_line(error).rstrip('.')}",
                "let inputs=, or the task's teacher_inputs(), give what it takes, as x.permute(0, 2, 3, 1).numpy() "
                "where channels are last",
            ) from error
        if found.ndim == 1 and self._classes == 1:
            found = found[:, None]
        if found.ndim != 2:
            raise Unfit(
                f"{self.who} must answer with one row of numbers for each sample, but gives shape {found.shape}",
                "name its output of shape (B, C) by output=",
            )
        return torch.from_numpy(found.astype(np.float32))


def refuse_shape(who: str, name: str, wanted: Any, given: tuple[int, ...]) -> Unfit:
    """Return the error that a model does not take the shape of the data, with advice for channels that are last.

    Args:
        who: The teacher's name in messages.
        name: Name of the input.
        wanted: The shape that it takes, with ``None`` or a text for a free size.
        given: The shape of the data.
    """
    shown = f"({', '.join('*' if not isinstance(one, int) else str(one) for one in wanted)})"
    rest = tuple(wanted[1:])
    last = len(given) == 4 and (given[2], given[3], given[1]) == rest
    remedy = "let inputs=, or the task's teacher_inputs(), give what it takes"
    if last:
        remedy = (
            "its channels are last: inputs=lambda x: x.permute(0, 2, 3, 1).numpy(), or the same from the task's "
            "teacher_inputs()"
        )
    return Unfit(f"{who} takes {name!r} of shape {shown}, but is given {given}", remedy)


def _content_of(path: Path) -> str:
    """Return a hash of a file, of the weights beside it that are named after it, or of a folder's files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        files = [path, *sorted(path.parent.glob(f"{path.name}[._]data"))]
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(f"{file.relative_to(path.parent)} {file.stat().st_size} ".encode())
        with file.open("rb") as opened:
            while part := opened.read(_HASHED_BYTES):
                hasher.update(part)
    return hasher.hexdigest()[:16]
