"""Fingerprint of a study's code: its space file, the user's modules that it imports, this package's training code."""

from __future__ import annotations

import ast
import base64
import contextlib
import difflib
import importlib
import itertools
import json
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from harness.core.content import digest

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("harness", "lightning_modules")
_TRAINS = (
    "lightning_modules/**/*.py",
    "harness/space_training.py",
    "harness/training/batches.py",
    "harness/training/fit.py",
    "harness/trials/trial.py",
    "harness/trials/controls.py",
    "harness/teachers/make.py",
    "harness/teachers/outputs.py",
    "harness/teachers/untrained.py",
)
"""The files of this package on which a trial's numbers depend."""
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_KEPT_TEXT = 40_000  # characters of compressed sources that a study keeps in its storage
_WINDOW = 60  # characters that are shown of a line that differs

_folders: list[str] = []  # added to sys.path for the space file that was run last
_imported: set[str] = set()  # names of the modules that it imported


@dataclass(frozen=True)
class Code:
    """Sources, without comments, docstrings and layout.

    Attributes:
        files: Text of the space file and of each of the user's modules that it imports, by name.
        package: A content hash of each file of this package that trains.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    package: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return a content key of all sources."""
        return digest("code", {name: _digest(text) for name, text in self.files.items()}, dict(self.package))

    def to_json(self) -> dict[str, Any]:
        """Return the hashes of all sources, and the compressed texts unless they are too long."""
        texts = base64.b64encode(zlib.compress(json.dumps(dict(self.files)).encode(), 9)).decode()
        hashes = {name: _digest(text) for name, text in self.files.items()}
        return {
            "files": hashes,
            "package": dict(self.package),
            "texts": texts if len(texts) <= _KEPT_TEXT else "",
        }

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """Return the differences from code that ``to_json`` returned, a phrase for each file."""
        texts = json.loads(zlib.decompress(base64.b64decode(stored["texts"]))) if stored["texts"] else {}
        found = []
        was, now = stored["files"], {name: _digest(text) for name, text in self.files.items()}
        moved = {was[name] for name in was.keys() - now} & {now[name] for name in now.keys() - was}
        for name in sorted(was.keys() | now.keys()):
            if (name not in was or name not in now) and {was.get(name), now.get(name)} & moved:
                continue  # the file was renamed
            if name not in now:
                found.append(f"{name} is not imported any more")
            elif name not in was:
                found.append(f"{name} is imported too")
            elif was[name] != now[name]:
                found.append(_difference(name, texts.get(name), self.files[name]))
        package = stored["package"]
        ours = [name for name in sorted(package.keys() | self.package) if package.get(name) != self.package.get(name)]
        if ours:
            more = f" and {len(ours) - 1} more files" if len(ours) > 1 else ""
            found.append(f"kd-harness itself trains otherwise ({ours[0]}{more})")
        return found


def make_importable(file: Path) -> None:
    """Put a space file's folder first on ``sys.path``, as Python does for a script, also for a symbolic link.

    Modules that the space file before imported are unloaded: this folder may have others of the same name.
    """
    while _folders:
        with contextlib.suppress(ValueError):
            sys.path.remove(_folders.pop())
    for name in _imported:
        sys.modules.pop(name, None)
    _imported.clear()
    _folders.append(str(file.resolve().parent))
    sys.path.insert(0, _folders[0])
    # A script or a notebook may have imported them, and edited since; a package is unloaded whole, or it would be torn.
    packages = {name.partition(".")[0] for name in _modules(file, ())}
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        if _own_file(name) or _is_own_folder(name):
            del sys.modules[name]


@contextlib.contextmanager
def noting_imports() -> Iterator[None]:
    """Record which of the user's own modules a block imports."""
    before = set(sys.modules)
    try:
        yield
    finally:
        _imported.update(name for name in set(sys.modules) - before if _own_file(name) or _is_own_folder(name))


def code_of(file: Path, *, was_run: bool = True) -> Code:
    """Return the code behind a file of the user's, as it is on the disk.

    Modules are found by the import statements, wherever they stand, and by what was imported when the file was run.

    Args:
        file: The file.
        was_run: Whether it is the space file that was run last.
    """
    files = {file.name: _plain(file)}
    for name, path in _modules(file, _imported if was_run else ()).items():
        if path.resolve() != file.resolve() and path.is_file():
            end = f"/{path.name}" if path.stem == "__init__" else path.suffix
            files[f"{name.replace('.', '/')}{end}"] = _plain(path)  # not by its folder, in which machines may differ
    return Code(files, package_code())


def _modules(file: Path, imported: Iterable[str]) -> dict[str, Path]:
    """Return the source of each of the user's own modules that a file imports, or one of these, by its name.

    Args:
        file: The file.
        imported: Names of modules that it is known to have imported.
    """
    importlib.invalidate_caches()
    roots = [path or "." for path in sys.path if is_own(Path(path))]
    found = {name: path for name in imported if (path := _own_file(name)) is not None}
    waiting = [("", file), *found.items()]
    while waiting:
        for imported in _imports(*waiting.pop()):
            new = {name: path for name, path in _sources(imported, roots) if name not in found}
            found |= new
            waiting += new.items()
    return found


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the absolute names in a module's import statements: of modules, or of objects in them."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):  # never imported, or a compiled module
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # a relative import beyond its package
                source = resolve_name("." * node.level + (node.module or ""), package)
                yield from (f"{source}.{one.name}" for one in node.names)


def _sources(name: str, folders: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Find each part of a dotted name that is a module in some folders, not importing it; yield name and file."""
    parts = name.split(".")
    if parts[0] in _PACKAGES:
        return
    for place, part in enumerate(parts):
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return
        if spec.has_location and spec.origin:  # a folder without __init__.py has none
            yield ".".join(parts[: place + 1]), Path(spec.origin)
        folders = list(spec.submodule_search_locations or ())


@cache
def package_code() -> dict[str, str]:
    """Return a content hash of each file of this package that a trial's numbers depend on, by its path."""
    files = sorted(file for pattern in _TRAINS for file in _ROOT.glob(pattern))
    return {file.relative_to(_ROOT).as_posix(): _digest(_plain(file)) for file in files}


def is_own(file: Path) -> bool:
    """Return whether a file or folder is the user's own, not of the standard library or an installed package."""
    place = file.resolve()
    if {"site-packages", "dist-packages"} & set(place.parts) or place.suffix == ".zip":
        return False
    return not any(place.is_relative_to(folder) for folder in _INSTALLED)


def _own_file(module: str) -> Path | None:
    """Return the source file of one of the user's own modules; ``None`` for other modules."""
    found = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(found, str) or module.partition(".")[0] in _PACKAGES or not is_own(Path(found)):
        return None
    return Path(found)


def _is_own_folder(module: str) -> bool:
    """Return whether a module is a namespace package (no ``__init__.py``) of the user's own."""
    found = sys.modules.get(module)
    if getattr(found, "__file__", None) is not None:
        return False
    return any(is_own(Path(path)) for path in getattr(found, "__path__", ()))


def _plain(file: Path) -> str:
    """Return a file's source as Python sees it; of what is no Python source, a hash."""
    return plain(file.read_bytes())


def plain(content: bytes) -> str:
    """Return a source as Python sees it; of what is no Python source, a hash."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # never imported, or a compiled module
        return f"sha {digest(content.hex())}"
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(statement: ast.AST) -> bool:
    """Return whether a statement is a docstring, or another constant without effect."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _digest(text: str) -> str:
    """Return a hash of a source's syntax tree, the same under any Python version, unlike one of ``ast.dump``."""
    try:
        return digest("code", _structure(ast.parse(text)))
    except (SyntaxError, ValueError):
        return digest("code", text)


def _structure(node: Any) -> Any:
    """Return a syntax tree as lists, without empty fields, in which versions differ."""
    if isinstance(node, list):
        return [_structure(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment"))
    return [type(node).__name__, *([name, _structure(value)] for name, value in fields if value not in (None, []))]


def _difference(name: str, was: str | None, now: str) -> str:
    """Describe the difference between two sources: the first line, and how many more differ."""
    if was is None:
        return f"{name} differs"
    gone, come = [], []
    for line in difflib.unified_diff(was.splitlines(), now.splitlines(), n=0, lineterm=""):
        if line.startswith("-") and not line.startswith("---"):
            gone.append(line[1:].strip())
        elif line.startswith("+") and not line.startswith("+++"):
            come.append(line[1:].strip())
    more = max(len(gone), len(come)) - 1
    told = f" (and {more} more lines)" if more > 1 else " (and 1 more line)" if more else ""
    if not gone:
        return f"{name} has `{_cut(come[0], 0)}` too{told}"
    if not come:
        return f"{name} has no `{_cut(gone[0], 0)}` any more{told}"
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(gone[0], come[0], strict=False))
    start = len(list(same))
    return f"{name} has `{_cut(come[0], start)}` where `{_cut(gone[0], start)}` stood{told}"


def _cut(line: str, start: int) -> str:
    """Cut a line to the width that is shown, around the place where it differs."""
    first = max(0, min(start - _WINDOW // 3, len(line) - _WINDOW))
    shown = line[first : first + _WINDOW]
    return f"{'…' if first else ''}{shown}{'…' if first + _WINDOW < len(line) else ''}"
