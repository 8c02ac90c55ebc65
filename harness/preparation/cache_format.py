"""The format of the cache: what another version of kd-harness made is made anew, with a message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.core.content import write_atomically

FORMAT = 4
"""Raised when files of the cache, or what their content keys are made of, change."""


def check_cache(cache_dir: Path, say: Callable[[str], None]) -> None:
    """Report once that a cache was made by another version of kd-harness, and note this one's format.

    Old files are not misread: content keys of another format name other files.

    Args:
        cache_dir: The cache.
        say: Called with a line of text.
    """
    file = cache_dir / "format"
    found = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    if found == str(FORMAT):
        return
    if any(cache_dir.glob("*/*")):
        say(
            f"cache     {cache_dir} was made by another version of kd-harness (format {found or 1}; this one makes "
            f"{FORMAT}): teachers, their outputs and costs are made anew, and what is old there can be deleted"
        )
    write_atomically(file, lambda path: path.write_text(f"{FORMAT}\n", encoding="utf-8"))
