"""Search small students of a large teacher by knowledge distillation: ``from harness import search, load_study``.

The engine names no modality and no task. What stands here is imported when it is asked for, and not before.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.api import Result, load_study, search
    from harness.space import Method, SearchSpace
    from harness.space_families import Choice
    from harness.task import Task

__all__ = ["Choice", "Method", "Result", "SearchSpace", "Task", "load_study", "search"]

_PLACES = {
    "Choice": "harness.space_families",
    "Method": "harness.space",
    "Result": "harness.api",
    "SearchSpace": "harness.space",
    "Task": "harness.task",
    "load_study": "harness.api",
    "search": "harness.api",
}

# A GPU build of torch says on every machine without a GPU that it looked for a CUDA runtime to compile extensions with.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
