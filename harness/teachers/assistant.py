"""A student of an earlier study as the teacher of another: the middle of a chain from large teacher to small student.

Where teacher and student are far apart, an assistant of a size between them may teach better than the teacher does
(Mirzadeh et al. 2020, arXiv:1902.03393).
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError, one_line
from harness.networks.students import named
from harness.space import SearchSpace
from harness.students.kept import DIGEST, SPACE, architecture_in, build_kept, read_metadata
from harness.training.tensor_file import load_state
from lightning_modules.data.tensors import TensorDataModule


def load_assistant(file: Path, space: SearchSpace, data: TensorDataModule, space_name: str) -> nn.Module:
    """Return the student in a file, as the task builds and deploys it.

    Args:
        file: A trial's ``student.safetensors``.
        space: Its task builds the architecture.
        data: Gives lazy layers their sizes.
        space_name: Name of the space that it must come from: in another one, the same names mean something else.

    Raises:
        HarnessError: If it is of another space, damaged, or no student that the task builds.
    """
    metadata = read_metadata(file)
    if metadata.get(SPACE) != space_name:
        raise HarnessError(
            f"--teacher {file} must be a student of the space {space_name!r} to teach there, but is one of "
            f"{metadata.get(SPACE)!r}; a study of {space_name!r} can train one."
        )
    state = load_file(file)
    if metadata.get(DIGEST) != tensors_digest(state):
        raise HarnessError(f"--teacher {file} must be as its trial left it, but its content does not match its hash.")
    architecture = architecture_in(metadata)
    if all(set(architecture) != set(group) for group in space.student_groups.values()):
        raise HarnessError(
            f"--teacher {file} must be a student of the space's parameters ({', '.join(sorted(space.student))}), but "
            f"is {named(architecture)}; train it again with this space."
        )
    try:
        student = build_kept(metadata, space, data)
        load_state(student, state)
    except Exception as error:
        raise HarnessError(
            f"--teacher {file} must be a student that the task builds, but its {named(architecture)} fails: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    return student
