"""The embedded search spaces, by name and by file. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

SPACES_DIR = Path(__file__).resolve().parents[2] / "search_spaces"


def space_names() -> list[str]:
    """Return the names of the embedded spaces, which follow those of their files."""
    return sorted(path.stem.replace("_", "-") for path in SPACES_DIR.glob("[!_]*.py"))


def space_file(name: str) -> Path:
    """Return the file of an embedded space."""
    return SPACES_DIR / f"{name.replace('-', '_')}.py"


def space_argument(name: str, file: Path) -> str:
    """Return the value of ``--space`` for a space: an embedded name or a file, relative where it is below the cwd."""
    if name in space_names():
        return name
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
