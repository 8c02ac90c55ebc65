"""What students of a study start from: found before anything trains, and replaced by the trained teacher later."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError, Unfit, one_line
from harness.networks.architectures import corners
from harness.networks.handed_teacher import check_is_network, check_state_suffices, frozen
from harness.networks.students import build_student, middle_architecture, named, probe_samples
from harness.settings import Settings
from harness.space import SearchSpace
from harness.space_initial import start_files, starts_of
from harness.studies.start import Start
from harness.teachers.ensemble import number_of_teachers
from harness.teachers.make import Teacher
from harness.teachers.untrained import build_teacher
from harness.training.fit import seed_draws
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.initial import OF_TEACHER, SCRATCH, Origins, Started, start_from
from lightning_modules.random_states import random_states_restored

_TRIED = 3  # architectures that start from the teacher before anything trains: middle, lowest, highest


def find_origins(space: SearchSpace, data: TensorDataModule, settings: Settings) -> Origins:
    """Return what students start from before the teacher is trained: it has the structure of the trained one.

    Args:
        space: Says what students start from, and whether they are handed the teacher.
        data: Gives lazy layers their sizes.
        settings: Name the space file, and the teacher's checkpoint.

    Raises:
        HarnessError: If a file can't be read, or there is no single PyTorch network that teaches.
    """
    files = {name: _tensors_of(file, name) for name, file in start_files(space.initial, settings.space_file).items()}
    if not space.needs_teacher:
        return Origins(files=files)
    if number_of_teachers(settings) > 1:
        asks = "student(…, teacher) is handed" if space.hands_teacher else "students start from"
        raise HarnessError(
            f"{asks} one teacher, but there are {number_of_teachers(settings)}; search with one, or "
            f"{'leave the keyword out' if space.hands_teacher else 'hold start=scratch'}."
        )
    with random_states_restored():
        teacher = build_teacher(space, data, settings)
    check_is_network(teacher, space)
    assert isinstance(teacher, torch.nn.Module)
    return Origins(frozen(teacher), files)


def trained_origins(origins: Origins, teacher: Teacher) -> Origins:
    """Return what students start from once the teacher is made; as before where they do not need it."""
    if origins.teacher is None:
        return origins
    assert teacher.network is not None  # it was seen to be a network
    return replace(origins, teacher=frozen(teacher.network))


def _tensors_of(file: Path, name: str) -> Mapping[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise HarnessError(
            f"start={name} must be a file of safetensors, beside the space file or in the current folder, but "
            f"{file.resolve()} can't be read: {one_line(error)}."
        ) from error


def file_starts(origins: Origins) -> dict[str, Start]:
    """Return what identifies the files that students start from: a study is bound to their content."""
    digests = {name: tensors_digest(dict(tensors)) for name, tensors in origins.files.items()}
    return {f"start={name}": Start(content, (), content) for name, content in digests.items()}


def check_starts(space: SearchSpace, data: TensorDataModule) -> Iterator[str]:
    """Check that students can start from what the space says, and yield a line of text about each start.

    Raises:
        Unfit: If one can't, or keeps of the teacher what is not in its state.
    """
    if space.hands_teacher:
        _check_handed(space, data)
    for start in starts_of(space.initial):
        if start == SCRATCH:
            continue
        architectures = [*islice(corners(space), _TRIED if start in OF_TEACHER else None)]
        architectures += [space.architecture_of(space.middle(family=family)) for family in space.student_groups]
        told = [_tried(space, data, architecture, start) for architecture in architectures]
        kept = f"; its {told[0].unmatched[0]} is drawn" if len(told[0].unmatched) == 1 else ""
        if len(told[0].unmatched) > 1:
            kept = f"; its {told[0].unmatched[0]} and {len(told[0].unmatched) - 1} more are drawn"
        yield f"{start}: of {named(middle_architecture(space))} {told[0]}{kept}"


def _tried(space: SearchSpace, data: TensorDataModule, architecture: Mapping[str, Any], start: str) -> Started:
    with random_states_restored():
        student = build_student(space, architecture, data)
        try:
            return start_from(student, start, data.origins, data.one_sample())
        except ValueError as error:
            raise Unfit(f"{named(architecture)} can't begin with start={start}: {one_line(error)}", _REMEDY) from error


_REMEDY = "hold another start, as --fix start=scratch, or narrow the student group"


def _check_handed(space: SearchSpace, data: TensorDataModule) -> None:
    architecture, teacher = middle_architecture(space), data.origins.teacher
    assert teacher is not None

    def build(one: torch.nn.Module) -> torch.nn.Module:
        seed_draws(0, torch.device("cpu"))
        own = copy.copy(data)
        own.origins = Origins(one)
        return build_student(space, architecture, own).to(data.device)

    with random_states_restored(data.device):
        check_state_suffices(named(architecture), build, teacher, probe_samples(data).inputs)
