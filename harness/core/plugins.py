"""Modules that are found by listing their folder: a new kind of something is one new file."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType


def modules_of(package: str) -> list[ModuleType]:
    """Import every module of a package, in the order of their names.

    Args:
        package: Its dotted name, as ``harness.cost.backends``.
    """
    folder = import_module(package).__path__
    return [import_module(f"{package}.{name}") for name in sorted(found.name for found in pkgutil.iter_modules(folder))]
