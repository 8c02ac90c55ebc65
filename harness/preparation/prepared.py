"""What a study is prepared with, for its workers to train on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.cost.table import CostTable
from lightning_modules.data.tensors import TensorDataModule


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What every trial of a study stands on.

    Attributes:
        data: The data, on the device, with the teacher's outputs attached.
        classes: Number of classes C.
        dataset: Fingerprint of the data.
        teacher_digest: Content hash of the teacher's weights; of several, the kind of their average and each one's.
        costs: Costs of the teacher and of every architecture that the space can reach, as far as memory sufficed to
            measure them.
        states: Shapes and types of the state of what is deployed of a fresh student, by architecture, as far as they
            were asked for.
    """

    data: TensorDataModule
    classes: int
    dataset: str
    teacher_digest: str
    costs: CostTable
    states: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
