"""The code behind objects that are in no file of their own: a task that was declared in a script or in a notebook."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from harness.core.content import digest
from harness.core.sources import Code, code_of, is_own, package_code, plain

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def code_of_classes(classes: Iterable[type | Callable[..., Any]]) -> Code:
    """Return the code of classes, and of all of the user's own code that they reach by the names they use.

    Classes and functions are followed through their bases, globals and closures; a module of the user's own that they
    use counts whole. Where Python has kept no source, as of what was typed at its prompt, the compiled code stands for
    it, which differs between versions of Python.

    Args:
        classes: Classes, or functions, of the user's own, or of this package or installed ones, which say nothing.
    """
    files: dict[str, str] = {}
    waiting: list[Any] = list(classes)
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or not _is_own(one):
            continue
        seen.add(id(one))
        if isinstance(one, ModuleType):
            files |= code_of(Path(str(one.__file__)), was_run=False).files
            continue
        name = f"{one.__module__}.{one.__qualname__}"
        while name in files:  # two of one name, as a function's inner classes may be
            name += "'"
        files[name] = _text_of(one)
        waiting += one.__bases__ if isinstance(one, type) else []
        for function in _functions(one):
            waiting += _used_by(function)
    return Code(files, package_code())


def _is_own(one: Any) -> bool:
    if isinstance(one, ModuleType):
        return one.__name__ != "__main__" and bool(getattr(one, "__file__", None)) and is_own(Path(str(one.__file__)))
    if not isinstance(one, type | FunctionType):
        return False
    if one.__module__ == "__main__":
        return True
    if one.__module__.partition(".")[0] in ("builtins", "harness", "lightning_modules"):
        return False
    try:
        return is_own(Path(inspect.getfile(one)))
    except (OSError, TypeError):  # a class of a module that is in no file
        return False


def _functions(one: type | FunctionType) -> Iterator[FunctionType]:
    """Yield a function, or all that a class defines, under whatever decorator of Python's own they stand."""
    if isinstance(one, FunctionType):
        yield one
        return
    for value in vars(one).values():
        for found in (value, *(getattr(value, name, None) for name in ("fget", "fset", "__func__", "func"))):
            found = inspect.unwrap(found) if callable(found) else found
            if isinstance(found, FunctionType):
                yield found


def _used_by(function: FunctionType) -> Iterator[Any]:
    """Yield the values of the globals and of the enclosing names that a function uses."""
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has no value yet
            continue


def _names(code: CodeType) -> set[str]:
    inner = (_names(const) for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*inner)


def _text_of(one: type | FunctionType) -> str:
    """Return what a class or a function does, as text: its source where Python has one, and the constants it uses."""
    try:
        text = plain(textwrap.dedent(inspect.getsource(one)).encode())
    except (OSError, TypeError):
        text = "\n".join(_function_text(function) for function in _functions(one))
        if isinstance(one, type):
            text += f"\nbases = {[base.__qualname__ for base in one.__bases__]}"
            text += "".join(f"\n{name} = {value!r}" for name, value in vars(one).items() if _is_constant(value, name))
    used = {
        name: function.__globals__[name]
        for function in _functions(one)
        for name in sorted(_names(function.__code__))
        if _is_constant(function.__globals__.get(name), name)
    }
    return text + "".join(f"\n{name} = {value!r}" for name, value in used.items())


def _function_text(function: FunctionType) -> str:
    try:
        return plain(textwrap.dedent(inspect.getsource(function)).encode())
    except (OSError, TypeError):
        return f"{function.__name__} = {_bytecode(function.__code__)!r}"


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(one) if isinstance(one, CodeType) else _ordered(one) for one in code.co_consts]
    return digest("bytecode", code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames))


def _ordered(constant: Any) -> str:
    """Return a constant as text; a set, whose order is another one in each process, sorted."""
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _is_constant(value: Any, name: str) -> bool:
    """Return whether a value is plain, so that its text says all of it."""
    if name.startswith("__") or value is None:
        return False
    if isinstance(value, tuple | list):
        return all(isinstance(one, _CONSTANTS) for one in value)
    return isinstance(value, _CONSTANTS)
