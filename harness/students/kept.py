"""The student that a trial keeps in a file: what the file says of it, and how it is built again.

A student that was handed an assistant, a student of an earlier study, as its teacher is built beside one of the same
architecture. So the file says what that was, and what it was handed itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.cost.table import key_of
from harness.networks.handed_teacher import frozen
from harness.networks.students import build_student
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.task import deployed_network
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.initial import Origins

SPACE, DIGEST, ARCHITECTURE = "space", "digest", "architecture"
_OTHERS, _HANDED = "parameters", "handed"


def metadata_of(
    configuration: Configuration, space: SearchSpace, settings: Settings, state: Mapping[str, Tensor]
) -> dict[str, str]:
    """Return what the file of a student says: what it was built from, and a hash of its state.

    Args:
        configuration: The student's.
        space: Its task built the student.
        settings: Name the space, and the teacher.
        state: What is kept of the student.
    """
    architecture = configuration.student
    metadata = {SPACE: settings.space_name, ARCHITECTURE: key_of(architecture)}
    if others := {k: v for k, v in space.building(configuration.params()).items() if k not in architecture}:
        metadata[_OTHERS] = key_of(others)  # of what a student that trains itself was built with
    if space.hands_teacher and settings.teachers and is_student(settings.teachers[0]):
        of_it = read_metadata(settings.teachers[0])
        metadata[_HANDED] = json.dumps(
            {name: of_it[name] for name in (ARCHITECTURE, _OTHERS, _HANDED) if name in of_it}
        )
    return {**metadata, DIGEST: tensors_digest(dict(state))}


def is_student(file: Path) -> bool:
    """Return whether a file holds a trial's student; False if it can't be read."""
    try:
        return ARCHITECTURE in read_metadata(file)
    except (SafetensorError, OSError):
        return False


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a file of safetensors."""
    with safe_open(file, framework="pt") as reader:
        return reader.metadata() or {}


def architecture_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the architecture of a student by the metadata of its file."""
    found: dict[str, Any] = json.loads(metadata[ARCHITECTURE])
    return found


def build_kept(metadata: Mapping[str, str], space: SearchSpace, data: TensorDataModule) -> nn.Module:
    """Return a student as it is deployed, with fresh weights, by the metadata of its file.

    Args:
        metadata: Of its file.
        space: Its task builds the student.
        data: Gives lazy layers their sizes. What students of its own study are handed is not this one's.
    """
    own = copy.copy(data)
    handed = json.loads(metadata[_HANDED]) if _HANDED in metadata else None
    own.origins = Origins(None if handed is None else frozen(build_kept(handed, space, data)))
    others = json.loads(metadata.get(_OTHERS, "{}"))
    return deployed_network(space.task, build_student(space, {**architecture_in(metadata), **others}, own))
