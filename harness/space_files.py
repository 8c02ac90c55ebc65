"""Space files: run as modules, with errors that name the file and the line."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from harness.core.errors import HarnessError, Interrupted, one_line
from harness.core.sources import is_own, make_importable, noting_imports


def run_space_file(file: Path) -> ModuleType:
    """Run a space file as a module.

    Raises:
        HarnessError: If it fails, in whatever way it does.
    """
    name = f"kd_space_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    make_importable(file)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up here
    try:
        with noting_imports():
            spec.loader.exec_module(module)
    except Interrupted:  # a signal; it is not the file's doing
        raise
    except BaseException as error:  # sys.exit() too: what a space file does must not end the program in silence
        del sys.modules[name]
        raise HarnessError(f"space file {file}{line_of(error, file)}: {_message_of(error, file)}") from error
    return module


def _message_of(error: BaseException, file: Path) -> str:
    """Return the message of an error in a space file, and where it was raised, if in another file of the user's."""
    if _is_syntax_of(error, file):
        return f"{type(error).__name__}: {error.msg}"  # else it says file and line again
    said = str(error).strip() and one_line(error)
    if isinstance(error, SystemExit):
        said = f"it ends the program (exit code {error.code or 0}); it must set SPACE and return"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(Path(frame.filename))]
    place = ""
    if frames and Path(frames[-1].filename).resolve() != file.resolve():
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"{type(error).__name__}{said and ': '}{said}{place}"


def _is_users(file: Path) -> bool:
    """Return whether a file of a traceback is the user's, and not of this package nor of an installed one."""
    return is_own(file) and file.is_file() and not file.resolve().is_relative_to(Path(__file__).resolve().parent)


def _is_syntax_of(error: BaseException, file: Path) -> TypeGuard[SyntaxError]:
    if not isinstance(error, SyntaxError) or not error.filename:
        return False
    return Path(error.filename).resolve() == file.resolve()


def line_of(error: BaseException, file: Path) -> str:
    """Return where in a space file an error comes from, as ``", line 3"``; empty where it comes from elsewhere."""
    if _is_syntax_of(error, file):
        return f", line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == file.resolve()
    ]
    return f", line {lines[-1]}" if lines else ""
