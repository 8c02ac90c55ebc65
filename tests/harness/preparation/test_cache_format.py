"""A cache of another version of kd-harness."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.preparation.cache_format import FORMAT, check_cache


def told(cache_dir: Path) -> list[str]:
    lines: list[str] = []
    check_cache(cache_dir, lines.append)
    return lines


def test_a_new_cache_and_one_of_this_version_are_no_news(tmp_path: Path) -> None:
    assert told(tmp_path / "cache") == []
    (tmp_path / "cache" / "costs").mkdir()
    (tmp_path / "cache" / "costs" / "a.json").write_text("{}")
    assert told(tmp_path / "cache") == []


@pytest.mark.parametrize(("noted", "shown"), [(None, "format 1;"), ("9", "format 9;")])
def test_a_cache_of_another_version_is_told_once_with_what_becomes_of_it(
    noted: str | None, shown: str, tmp_path: Path
) -> None:
    (tmp_path / "teachers" / "0123").mkdir(parents=True)
    if noted is not None:
        (tmp_path / "format").write_text(noted)
    (line,) = told(tmp_path)
    assert shown in line and f"this one makes {FORMAT})" in line and "are made anew" in line and "\n" not in line
    assert told(tmp_path) == []
