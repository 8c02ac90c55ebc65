"""What a study's students are: their shape, and the weights that they start from."""

from __future__ import annotations

import torch

from harness.core.content import derived_seed, digest
from harness.core.errors import if_memory_suffices
from harness.cost.table import MOST_ARCHITECTURES
from harness.networks.digest import start_of
from harness.networks.shape import shape_of
from harness.networks.students import middle_architecture, named
from harness.preparation.user_code import middle_student, student_of, user_code
from harness.settings import Settings
from harness.space import SearchSpace
from harness.space_ranges import ends
from harness.studies.start import Start
from harness.task import deployed_network
from harness.training.fit import seed_draws
from lightning_modules.data.tensors import TensorDataModule

_HASHED_NUMBERS = 20_000_000  # of students' fresh weights, at most, by which a start is known: half a second


def students_digest(space: SearchSpace, data: TensorDataModule, settings: Settings) -> str:
    """Return a digest of the middle student's shape: kept costs hold for no other network."""
    student = middle_student(space, data, settings)
    with user_code("the task's deployed(student)", settings):
        return digest("student", shape_of(student), shape_of(deployed_network(space.task, student)))


def student_starts(space: SearchSpace, data: TensorDataModule, settings: Settings) -> dict[str, Start]:
    """Return the start weights of students under one seed: of all, or of the ends where they are many or large."""
    middle = middle_architecture(space)
    size = sum(value.numel() for value in middle_student(space, data, settings).state_dict().values())
    architectures = space.architectures(limit=MOST_ARCHITECTURES)
    if architectures is None or size * len(architectures) > _HASHED_NUMBERS:
        outer = [
            space.architecture_of(space.middle(family=family)) | {name: value}
            for family, group in space.student_groups.items()
            for name, distribution in group.items()
            for value in ends(distribution)
        ]
        architectures = [middle] if size * len(outer) > _HASHED_NUMBERS else outer
    starts = {}
    for architecture in architectures:
        seed_draws(derived_seed("start"), torch.device("cpu"))
        with if_memory_suffices():
            starts[named(architecture)] = start_of(student_of(space, architecture, data, settings))
    return starts
