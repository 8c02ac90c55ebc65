"""What is printed to be typed next has the form in which the program was started."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

import harness
from harness.cli.commands import parse_command
from harness.cli.program import command_line_here, program
from harness.hints import report_command
from harness.settings import StudyPlaces

MODULE = str(Path(harness.__file__).with_name("__main__.py"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an environment ``.venv`` in it whose programs no shell finds by their names."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "kd-harness"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(
    ("started", "report", "again"),
    [
        (["search.py", "--fix", "a=b c"], "python -m harness report", "python search.py --fix 'a=b c'"),
        ([MODULE, "search", "--trials", "3"], "python -m harness report", "python -m harness search --trials 3"),
        (["kd-harness", "search", "--trials", "3"], "kd-harness report", "kd-harness search --trials 3"),
    ],
)
def test_the_next_command_has_the_form_of_the_one_that_was_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, active: bool, started: list[str], report: str, again: str
) -> None:
    programs = folder / ".venv" / "bin"
    place = "" if active else ".venv/bin/"
    if active:
        monkeypatch.setenv("PATH", str(programs))
    if started[0] == "kd-harness":
        started = [str(programs / "kd-harness"), *started[1:]]  # as the kernel gives it to what the shell has found
    monkeypatch.setattr("sys.argv", started)
    _, (places, study) = parse_command(["report", "--study", "s"])
    assert report_command(StudyPlaces(**vars(places), study=study)) == f"{place}{report} --study s"
    assert command_line_here() == place + again
    assert report == f"{program()} report"


def test_a_console_script_that_was_typed_with_its_path_is_named_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a b").mkdir()
    (folder / "a b" / "kd-harness").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder / ".venv" / "bin"))
    monkeypatch.setattr("sys.argv", ["a b/kd-harness", "search"])
    assert shlex.split(command_line_here()) == ["a b/kd-harness", "search"]


def test_a_worker_that_a_console_script_spawns_names_it_too_and_does_not_run_it_again(tmp_path: Path) -> None:
    script = tmp_path / "kd-harness"
    script.write_text(
        "import multiprocessing, sys\n"
        "from harness.__main__ import kd_harness\n"  # as an installation writes it, but for what is run
        "if __name__ == '__main__':\n"
        "    code = 'from harness.cli.program import command_line_here; print(command_line_here())'\n"
        "    process = multiprocessing.get_context('spawn').Process(target=exec, args=(code,))\n"
        "    process.start()\n"
        "    process.join()\n"
        "    sys.exit(process.exitcode)\n"
    )
    command = [sys.executable, "kd-harness", "search", "--trials", "2"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout == "kd-harness search --trials 2\n"
