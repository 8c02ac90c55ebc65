"""The result of a preparation, on which workers train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.cost.table import CostTable
from harness.preparation.scoring import mean_of_folds, teacher_scores
from harness.space import SearchSpace
from lightning_modules.data.tensors import TensorDataModule


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What every trial of a study needs.

    Attributes:
        data: The data, on the device, with the teacher's outputs attached, in each of its folds.
        classes: Number of classes C.
        dataset: Fingerprint of the data.
        teacher_digest: Content hash of the teacher; of several, the kind of their average and the hash of each.
        costs: Costs of the teacher and of every architecture that the space can reach, as far as memory sufficed to
            measure them.
        states: Shapes and types of the deployed state of a fresh student, by architecture, filled in on demand.
        new: New data (``harness.preparation.new_data``), with the teacher's outputs, where it was asked for.
    """

    data: TensorDataModule
    classes: int
    dataset: str
    teacher_digest: str
    costs: CostTable
    states: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    new: TensorDataModule | None = None

    def epochs_of(self, space: SearchSpace) -> int:
        """Return the epochs of a training of a space, those of all folds together."""
        return space.epochs * len(self.data.folds)

    def teacher_scores(self, space: SearchSpace, split: str) -> dict[str, float]:
        """Return the scores of the teacher's outputs on a split; of folds, whose teachers differ, the means."""
        return mean_of_folds([teacher_scores(data, space, self.classes, split=split) for data in self.data.folds])
