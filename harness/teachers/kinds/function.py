"""A Python function as the teacher: it may ask a server, a language model, or any library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core.content import digest
from harness.core.errors import Unfit
from harness.teachers.answers import KINDS, LABELS, LOGITS, OF_CLASSES, TOP_K, from_labels, to_logits, usable_kind
from harness.teachers.black_box import BlackBoxTeacher, Ground, Prepare, Query
from lightning_modules.batch import Inputs, first_of

_KINDS = tuple(kind for kind in KINDS if kind != TOP_K)


class FunctionTeacher(BlackBoxTeacher):
    """A function that answers batches of inputs. It has no costs.

    It is called once for every sample, and its answers are kept. Where epochs show fresh views, or samples are mixed,
    it is called about each batch of each trial: it must then answer alike each time, and stand at the top of a module,
    from where workers import it.

    Args:
        function: From what ``inputs`` gives of a batch to its answers, shape (B, C): a tensor, an array or lists.
        digest: Names what answers, such as ``"gpt-x, 2026-11"``. Answers are kept under this name and are not asked for
            again until it changes.
        kind: What it answers: ``"logits"``, ``"probabilities"``, ``"log_probabilities"``, or ``"labels"``: class
            indices (B,), or 0 or 1 for each of several labels (B, L). ``"values"`` of a regression. ``None`` is logits,
            or values where the task's output has them.
        inputs: Maps the inputs of a batch to what the function takes; by default they stay tensors.
    """

    who: ClassVar[str] = "the function that teaches"
    is_costed: ClassVar[bool] = False
    answers_live: ClassVar[bool] = True

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        digest: str,
        kind: str | None = None,
        inputs: Prepare | None = None,
    ) -> None:
        super().__init__(inputs)
        if not callable(function):
            raise ValueError(f"FunctionTeacher must get a function, but got {type(function).__name__}.")
        if not isinstance(digest, str) or not digest.strip():
            raise ValueError(f"digest must name what answers, such as 'model-x, 2026-11', but got {digest!r}.")
        if kind is not None and kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, but got {kind!r}.")
        self._function, self._digest, self._given_kind = function, digest, kind
        self._kind = kind or LOGITS  # until it is known what the numbers are of

    @property
    def content(self) -> str:
        """Return a digest of the name that the function was given."""
        return digest("function", self._digest, self._kind)

    def _prepare(self, ground: Ground) -> None:
        self._kind = usable_kind(self._given_kind, ground.numbers_of, self.who)

    def _ask(self, query: Query) -> Tensor:
        return self._answers(query.inputs, [f"{query.split} sample {row}" for row in query.rows.tolist()])

    def _call(self, inputs: Inputs) -> Tensor:
        return self._answers(inputs, [f"sample {place} of a batch" for place in range(len(first_of(inputs)))])

    def _answers(self, inputs: Inputs, rows: Sequence[str]) -> Tensor:
        """Return logits of samples, which have these names in messages."""
        found = self._function(self._inputs(inputs))
        try:
            answers = found.detach().cpu() if isinstance(found, Tensor) else torch.from_numpy(np.array(found))
        except (TypeError, ValueError, RuntimeError):
            raise Unfit(
                f"{self.who} must return a tensor, an array or lists of numbers, but returns a {type(found).__name__}",
                "return one row of numbers for each sample",
            ) from None
        if answers.ndim == 1 and self._classes == 1:
            answers = answers[:, None]
        if self._kind == LABELS and self._numbers_of == OF_CLASSES:
            return from_labels(self._labels(answers, len(rows)), self._classes)
        if answers.ndim != 2 or len(answers) != len(rows):
            raise Unfit(
                f"{self.who} must answer {len(rows)} samples with shape ({len(rows)}, {self._classes}), but gives "
                f"shape {tuple(answers.shape)}",
                "return one row of numbers for each sample",
            )
        return self._count_floored(to_logits(answers, self._kind, self.who, rows.__getitem__, self._numbers_of))

    def _labels(self, answers: Tensor, samples: int) -> Tensor:
        is_valid = answers.shape == (samples,) and not answers.is_floating_point()
        if not is_valid or int(answers.min()) < 0 or int(answers.max()) >= self._classes:
            raise Unfit(
                f"{self.who} must answer {samples} samples with as many class indices below {self._classes}, but gives "
                f"shape {tuple(answers.shape)} of {answers.dtype}",
                "return one class for each sample, counted from 0",
            )
        return answers.long()
