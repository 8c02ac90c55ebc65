"""Define outputs of many classes for each sample: one for each pixel, or for each token."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lightning_modules.batch import UNLABELLED, Batch
from lightning_modules.outputs.base import CategoricalOutput, Metrics, batch_of_rows
from lightning_modules.top_k import TopKLogits


class _DenseOutput(CategoricalOutput):
    """Base class of outputs with a class for each place of a sample, some of which may have no label.

    Args:
        classes: Number of classes C; ``None`` reads it from the labels.
        ignore_index: Label of a place that has none.
        class_weights: As of ``CategoricalOutput``.
    """

    def __init__(
        self,
        classes: int | None = None,
        *,
        ignore_index: int,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        super().__init__(classes, class_weights=class_weights)
        self.ignore_index = ignore_index

    may_be_blank = True

    @property
    def unlabelled_text(self) -> str:  # type: ignore[override]
        """Return what marks a sample that the teacher alone labels."""
        return f"{self.ignore_index} in each place"

    def is_labelled(self, labels: Tensor) -> Tensor:
        """Return which samples have a label in some place, shape (N,), bool."""
        return (labels.reshape(len(labels), -1) != self.ignore_index).any(1)

    def labels_fault(self, labels: Tensor) -> str | None:
        """Return why labels are no class indices; ``None`` if they are."""
        found = f"shape {tuple(labels.shape)} and {labels.dtype}"
        if labels.ndim != self._axes or labels.dtype != torch.int64:
            return f"{found}{': call .long()' if labels.ndim == self._axes else ''}"
        valid = self._valid(labels)
        if not len(valid):
            return f"nothing but {self.ignore_index}, which is no label"
        if valid.min() < 0:
            return f"{int(valid.min())}; what has no label must be {self.ignore_index} (ignore_index)"
        if self.size is not None and valid.max() >= self.size:
            return (
                f"{int(valid.max())}, but there are {self.size} classes; what has no label must be "
                f"{self.ignore_index} (ignore_index)"
            )
        return None

    @property
    @abstractmethod
    def _axes(self) -> int:
        """Return the number of axes of labels."""

    def size_of(self, labels: Tensor) -> int:
        """Return the number of classes in the labels, which count from 0."""
        return int(self._valid(labels).max()) + 1

    def _valid(self, labels: Tensor) -> Tensor:
        flat = labels.flatten()
        return flat[flat != self.ignore_index]

    def as_rows(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Return the rows of places that have a label.

        A batch without any gets one row of zeros, which adds nothing to a gradient: the mean over no row is no number.
        """
        rows, target = self.rows_of(logits, batch.target)
        given = batch.teacher.get("logits")
        theirs = None if given is None else self.rows_of(given, batch.target)[0]
        if not len(rows):
            rows, target = (self._flat(logits)[:1] * 0).nan_to_num(0.0), batch.target.new_zeros(1)
            theirs = None if given is None else rows.detach()
        return rows, batch_of_rows(batch, target, theirs)

    def taught_rows(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Return the rows of places that have a label, and all places of samples without any.

        Places of padding are left out: where ``batch.mask`` or an input ``attention_mask`` of the labels' shape is 0.
        """
        alone = ~self.is_labelled(batch.target)
        if not bool(alone.any()):
            return self.as_rows(logits, batch)
        has_label = (batch.target != self.ignore_index).flatten()
        taught = (alone.view(-1, *[1] * (batch.target.ndim - 1)) & _is_no_padding(batch)).flatten()
        kept, given = has_label | taught, batch.teacher.get("logits")
        target = batch.target.flatten().masked_fill(~has_label, UNLABELLED)[kept]
        theirs = None if given is None else self._flat(given)[kept]
        return self._flat(logits)[kept], batch_of_rows(batch, target, theirs)

    def count_rows(self, target: Tensor, rows: Tensor) -> int:
        """Return the number of places that have a label: 0 where ``as_rows`` gives a row of zeros."""
        return len(rows) if len(rows) > 1 else int((target != self.ignore_index).sum())

    def number_of_rows(self, labels: Tensor) -> int:
        """Return the number of places that have a label."""
        return len(self._valid(labels))

    def rows_of(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of places that have a label."""
        flat = labels.flatten()
        valid = flat != self.ignore_index
        return self._flat(logits)[valid], flat[valid]

    def _flat(self, logits: Tensor) -> Tensor:
        """Return logits of all places, shape (places, C)."""
        if isinstance(logits, TopKLogits):
            return logits.rows()
        return logits.movedim(self.size_axis, -1).flatten(0, -2)

    def perfect(self, labels: Tensor, size: int) -> Tensor:
        """Return a logit of 10 for the true class, and 0 for the others."""
        known = labels.where(labels != self.ignore_index, 0)
        return 10 * torch.nn.functional.one_hot(known, size).float().movedim(-1, self.size_axis)

    def wrong(self, labels: Tensor, size: int) -> Tensor:
        """Return a logit of 10 for the class after the true one, and 0 for the others."""
        return self.perfect(torch.where(labels != self.ignore_index, (labels + 1) % size, self.ignore_index), size)


def _is_no_padding(batch: Batch) -> Tensor:
    """Return where samples are, of the labels' shape; everywhere where nothing says so."""
    mask = batch.mask
    if mask is None and isinstance(batch.inputs, dict):
        mask = batch.inputs.get("attention_mask")
    is_one = mask is not None and mask.shape == batch.target.shape
    return mask.bool() if mask is not None and is_one else torch.ones_like(batch.target, dtype=torch.bool)


class Segmentation(_DenseOutput):
    """One class for each pixel: labels are masks (N, H, W) of class indices, outputs are logits (B, C, H, W).

    The primary metric is ``miou``, the mean intersection over union of the classes; ``pixel_accuracy`` is logged too.

    Args:
        classes: Number of classes C; ``None`` reads it from the labels.
        ignore_index: Label of a pixel that has none.
        class_weights: As of ``CategoricalOutput``.
    """

    metric_directions: ClassVar[Mapping[str, Literal["maximize", "minimize"]]] = {
        "miou": "maximize",
        "pixel_accuracy": "maximize",
    }
    shape = "(B, C, H, W)"
    labels_text = "masks of class indices from 0, shape (N, H, W) and dtype int64"
    size_axis = -3
    row_word = "pixel"
    compares_overlap = True
    _axes = 3

    def __init__(
        self,
        classes: int | None = None,
        *,
        ignore_index: int = 255,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        super().__init__(classes, ignore_index=ignore_index, class_weights=class_weights)

    def output_shape(self, labels: Tensor, size: int) -> tuple[int, ...]:
        """Return (N, C, H, W)."""
        return (len(labels), size, *labels.shape[1:])

    def metrics(self, size: int) -> Metrics:
        """Return mean intersection over union, and the accuracy of pixels."""
        ignored = self.ignore_index
        overlap = MulticlassJaccardIndex(size, average="macro", ignore_index=ignored, validate_args=False)
        accuracy = MulticlassAccuracy(size, average="micro", ignore_index=ignored, validate_args=False)
        return {"miou": (overlap, "maximize"), "pixel_accuracy": (accuracy, "maximize")}

    def _everywhere(self, row: Tensor, labels: Tensor) -> Tensor:
        return row[:, None, None].expand(-1, *labels.shape[1:])


class Tokens(_DenseOutput):
    """One class for each token: labels are class indices (N, L), outputs are logits (B, L, C).

    For tagging, and for next tokens, whose labels are shifted by one place already. The primary metric is ``accuracy``
    of the tokens; ``perplexity`` is logged too, and ``bits_per_byte`` where the bytes of tokens are given, in which
    networks of different vocabularies can be compared. Metrics are updated with rows of valid tokens, (R, C) and (R,).

    Args:
        classes: Number of classes C; ``None`` reads it from the labels.
        ignore_index: Label of a token that has none, as padding.
        class_weights: As of ``CategoricalOutput``.
        class_bytes: How many bytes of text each class stands for, C whole numbers, 0 for one that is no text, as the
            end of a text; ``None`` where that is not known.

    Raises:
        ValueError: If an argument is out of its range.
    """

    shape = "(B, L, C)"
    labels_text = "class indices from 0, shape (N, L) and dtype int64"
    row_word = "token"
    _axes = 2

    def __init__(
        self,
        classes: int | None = None,
        *,
        ignore_index: int = -100,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        class_bytes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(classes, ignore_index=ignore_index, class_weights=class_weights)
        self.class_bytes = None if class_bytes is None else _checked_bytes(class_bytes, classes)

    @property
    def metric_directions(self) -> Mapping[str, Literal["maximize", "minimize"]]:  # type: ignore[override]
        """Return the names of the metrics with their directions."""
        known: dict[str, Literal["maximize", "minimize"]] = {"accuracy": "maximize", "perplexity": "minimize"}
        return known if self.class_bytes is None else {**known, "bits_per_byte": "minimize"}

    def output_shape(self, labels: Tensor, size: int) -> tuple[int, ...]:
        """Return (N, L, C)."""
        return (*labels.shape, size)

    def metrics(self, size: int) -> Metrics:
        """Return the accuracy of tokens, the perplexity, and the bits per byte where the bytes of tokens are given.

        Raises:
            ValueError: If bytes are given of other classes.
        """
        accuracy = MulticlassAccuracy(num_classes=size, average="micro", validate_args=False)
        found: Metrics = {"accuracy": (accuracy, "maximize"), "perplexity": (_RowPerplexity(), "minimize")}
        if self.class_bytes is None:
            return found
        if len(self.class_bytes) != size:
            raise ValueError(
                f"class_bytes must hold a number for each of the {size} classes, but hold {len(self.class_bytes)}."
            )
        return {**found, "bits_per_byte": (_BitsPerByte(self.class_bytes), "minimize")}

    def metric_inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of valid tokens."""
        return self.rows_of(logits, labels)

    def _everywhere(self, row: Tensor, labels: Tensor) -> Tensor:
        return row.expand(*labels.shape[1:], -1)


class _RowPerplexity(Metric):
    """Perplexity, updated with rows of logits (R, C) and labels (R,).

    torchmetrics' own takes the logarithm of a softmax, which a wrong token of a probability below 1e-38 makes infinite.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 1.0
    loss: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        self.loss += F.cross_entropy(logits.float(), target, reduction="sum").double()
        self.rows += len(target)

    def compute(self) -> Tensor:
        return (self.loss / self.rows).exp()


class _BitsPerByte(Metric):
    """Bits of information per byte of text, updated with rows of logits (R, C) and labels (R,).

    The sum of -log2 of the labels' probabilities, by the sum of their bytes; NaN where they stand for no byte.

    Args:
        class_bytes: How many bytes each class stands for.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    bits: Tensor
    bytes: Tensor
    class_bytes: Tensor

    def __init__(self, class_bytes: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("class_bytes", torch.tensor(class_bytes))
        self.add_state("bits", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("bytes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        self.bits += F.cross_entropy(logits.float(), target, reduction="sum").double() / math.log(2)
        self.bytes += self.class_bytes[target].sum()

    def compute(self) -> Tensor:
        return self.bits / self.bytes if self.bytes else torch.tensor(math.nan)


def _checked_bytes(given: Sequence[int], classes: int | None) -> tuple[int, ...]:
    found = tuple(int(one) for one in given)
    if not found or min(found) < 0 or not any(found) or any(a != b for a, b in zip(found, given, strict=True)):
        raise ValueError("class_bytes must be whole numbers of at least 0, and not all 0, one for each class.")
    if classes is not None and len(found) != classes:
        raise ValueError(f"class_bytes must hold a number for each of the {classes} classes, but hold {len(found)}.")
    return found
