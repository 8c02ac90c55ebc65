"""Views of table rows that lie between a row and its nearest neighbour (MUNGE), for teachers that know tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lightning_modules.batch import Inputs
from lightning_modules.data.views import Views, uniforms

_CHUNK = 2**24  # distances that are computed at once, 64 MB


@dataclass(frozen=True, eq=False, kw_only=True)
class MungedViews(Views):
    """Views of rows (N, D) whose attributes are drawn around those of the nearest other training row.

    Each attribute of a view is drawn with probability ``swap``, and is the row's own otherwise. A number is drawn from
    a normal distribution around the neighbour's, whose standard deviation is their distance in that attribute divided
    by ``sharpness``; a nominal attribute becomes the neighbour's. A teacher labels such rows in model compression. In
    the paper the neighbour changes at the same time, by what the row gave up; here each row has views of its own, which
    depend on (seed, row, view) alone.

    The view has no label of its own: the row's label stays. With ``labels`` the neighbour is the nearest row of the
    same label, so that it stays right, and controls on labels alone are fair. Without, the neighbour may have another
    label: the views mix samples, and no gain over labels alone is claimed.

    Attributes:
        samples: The inputs of the training split, shape (N, D), N at least 2.
        labels: Their class indices, shape (N,); ``None`` takes neighbours of any label.
        swap: Probability that an attribute is drawn, in (0, 1].
        sharpness: Above 0; a greater one draws nearer to the neighbour.
        nominal: Columns of attributes whose numbers are names.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Bucila, Caruana & Niculescu-Mizil (2006), Model compression, algorithm 1. doi:10.1145/1150402.1150464.
    """

    samples: Tensor
    labels: Tensor | None = None
    swap: float = 0.5
    sharpness: float = 1.0
    nominal: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples.ndim != 2 or len(self.samples) < 2:
            raise ValueError(
                f"samples must be rows of shape (N, D), N at least 2, but got {tuple(self.samples.shape)}."
            )
        if self.labels is not None and self.labels.shape != self.samples.shape[:1]:
            raise ValueError(
                f"labels must be of shape ({len(self.samples)},), one for each row, but got {tuple(self.labels.shape)}."
            )
        if not 0 < self.swap <= 1:
            raise ValueError(f"swap must lie in (0, 1], but got {self.swap=}.")
        if not self.sharpness > 0:
            raise ValueError(f"sharpness must be positive, but got {self.sharpness=}.")
        wrong = [column for column in self.nominal if not 0 <= column < self.samples.shape[1]]
        if wrong:
            raise ValueError(f"nominal must name columns from 0 to {self.samples.shape[1] - 1}, but got {wrong[0]}.")
        object.__setattr__(self, "mixes", self.labels is None)

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        """Return one view of some training rows, shape (B, D).

        Raises:
            ValueError: If the inputs are no rows of D attributes.
        """
        columns = self.samples.shape[1]
        if not isinstance(inputs, Tensor) or inputs.shape[1:] != (columns,):
            raise ValueError(f"inputs must be rows of {columns} attributes, as samples are.")
        other = self.samples[self.neighbours[ids.cpu()]].to(inputs)
        chosen, first, second = np.split(uniforms(self.seed, ids, view, draws=3 * columns), 3, axis=1)
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * math.pi * second)  # Box and Muller's transform
        noise = torch.from_numpy(normal).to(inputs) * (inputs - other).abs() / self.sharpness
        noise[:, list(self.nominal)] = 0
        return torch.where(torch.from_numpy(chosen < self.swap).to(inputs.device), other + noise, inputs)

    @cached_property
    def neighbours(self) -> Tensor:
        """Return the nearest other row of each, shape (N,): its own position where no other has its label.

        The squared distance is that of the numbers as they are, and 1 for each nominal attribute that differs.
        """
        rows = self.samples.float().cpu()
        is_nominal = torch.zeros(rows.shape[1], dtype=torch.bool)
        is_nominal[list(self.nominal)] = True
        numbers, names = rows[:, ~is_nominal], rows[:, is_nominal]
        labels = None if self.labels is None else self.labels.cpu()
        found = []
        for places in torch.arange(len(rows)).split(max(1, _CHUNK // len(rows))):
            distances = torch.cdist(numbers[places], numbers).square()
            for column in names.T:
                distances += column[places, None] != column
            if labels is not None:
                distances[labels[places, None] != labels] = torch.inf
            distances[torch.arange(len(places)), places] = torch.inf
            nearest = distances.min(1)
            found.append(torch.where(nearest.values < torch.inf, nearest.indices, places))
        return torch.cat(found)
