"""The `initial` group of a space: what students start from, and whether a task hands them its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution

from harness.core.errors import did_you_mean
from harness.space_checks import TEACHER, keywords_of
from harness.task import Task, has_own_training
from lightning_modules.initial import LAYERS, OF_TEACHER, PRUNED, SCRATCH

START = "start"
"""The parameter of the group: what a student starts from."""
_FILE_END = ".safetensors"


def check_initial(group: Mapping[str, BaseDistribution], others: Iterable[str]) -> None:
    """Check the group of start weights.

    Args:
        group: As it is declared.
        others: Names of all other parameters.

    Raises:
        ValueError: If it holds another parameter than ``start``, or a start that is unknown.
    """
    for name, distribution in group.items():
        if name != START:
            raise ValueError(
                f"initial must name {START!r} alone, but got {name!r}, which would reach nothing"
                f"{did_you_mean(name, (START,), otherwise='.')}"
            )
        if name in others:
            raise ValueError(f"a parameter must stand in one group only, but got {START} in several.")
        if not isinstance(distribution, CategoricalDistribution):
            raise ValueError(f"{START} must be a CategoricalDistribution, but got {distribution!r}.")
        for choice in distribution.choices:
            if choice not in (SCRATCH, LAYERS, PRUNED) and not str(choice).endswith(_FILE_END):
                known = (SCRATCH, LAYERS, PRUNED)
                raise ValueError(
                    f"{START} must be one of {', '.join(known)}, or a file that ends in {_FILE_END}, but got {choice!r}"
                    f"{did_you_mean(str(choice), known, otherwise='.')}"
                )


def hands_teacher(task: Task) -> bool:
    """Return whether a task's ``student``, or ``module``, asks for the teacher."""
    return TEACHER in keywords_of(task.module if has_own_training(task) else task.student)


def starts_of(group: Mapping[str, BaseDistribution]) -> tuple[str, ...]:
    """Return what students may start from."""
    distribution = group.get(START)
    return tuple(map(str, distribution.choices)) if isinstance(distribution, CategoricalDistribution) else (SCRATCH,)


def needs_teacher(task: Task, group: Mapping[str, BaseDistribution]) -> bool:
    """Return whether the teacher's network is at hand when students are built."""
    return hands_teacher(task) or any(start in OF_TEACHER for start in starts_of(group))


def start_files(group: Mapping[str, BaseDistribution], space_file: Path | None) -> dict[str, Path]:
    """Return the files of start weights by the names that the space gives them, beside the space file or here.

    Args:
        group: The group.
        space_file: The space file, if there is one.
    """
    names = [str(start) for start in starts_of(group) if start not in (SCRATCH, *OF_TEACHER)]
    folder = Path() if space_file is None else space_file.resolve().parent
    return {name: beside if (beside := folder / name).exists() else Path(name) for name in names}
