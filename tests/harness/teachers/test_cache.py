"""What is prepared: made once, awaited, found on a tracking server; and what is damaged or foreign there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Silent

from harness.teachers.cache import ArtifactCache, null_lock


class Server(Silent):
    """A tracking server's files, by name; away if there is a problem."""

    shares_files = True

    def __init__(self, problem: str | None = None) -> None:
        self.files: dict[str, str] = {}
        self.problem = problem
        self.asked: list[str] = []

    def publish(self, file: Path, folder: Path, *, anew: bool) -> str | None:
        self.asked.append("publish")
        if self.problem is None and (anew or file.name not in self.files):
            self.files[file.name] = file.read_text()
        return self.problem

    def fetch(self, run_key: str, file: Path, folder: Path) -> tuple[bool, str | None]:
        self.asked.append("fetch")
        found = self.problem is None and file.name in self.files
        if found:
            file.write_text(self.files[file.name])
        return found, self.problem


class Machine:
    """Keeps one file, ``what``, that must say ``right``; counts how often it is made."""

    def __init__(self, folder: Path, server: Server, makes: str = "right") -> None:
        self.file = folder / "what"
        self.server, self.makes = server, makes
        self.said: list[str] = []
        self.made = 0
        folder.mkdir()

    def load(self, file: Path) -> None:
        if file.read_text() != "right":
            raise ValueError(f"it says {file.read_text()}")

    def make(self, files: list[Path]) -> None:
        self.made += 1
        for file in files:
            file.write_text(self.makes)

    def get_or_create(self, alone: Callable = null_lock) -> None:
        artifacts = ArtifactCache(alone, self.server, self.said.append)
        folder = self.file.parent
        artifacts.get_or_create(
            [self.file],
            lock=folder / "lock",
            name="a thing",
            what="thing",
            doing="makes the thing",
            run_key="a run",
            run_folder=folder,
            load=self.load,
            make=self.make,
        )
        artifacts.share([self.file], "thing", folder)


def test_what_one_machine_has_made_another_finds_on_the_server(tmp_path: Path) -> None:
    server = Server()
    first, second = Machine(tmp_path / "1", server), Machine(tmp_path / "2", server)
    first.get_or_create()
    second.get_or_create()
    assert (first.made, first.said) == (1, [])
    assert (second.made, second.said) == (0, ["thing     found on the tracking server"])
    assert second.file.read_text() == "right"


def test_what_is_on_disk_is_loaded_without_a_lock_and_shared(tmp_path: Path) -> None:
    @contextmanager
    def never(what: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
        raise AssertionError("nobody needs to be kept out")
        yield

    machine = Machine(tmp_path / "1", Server())
    machine.file.write_text("right")
    machine.get_or_create(never)
    assert (machine.made, machine.server.files) == (0, {"what": "right"})


def test_a_file_of_the_server_that_is_damaged_is_said_and_made_and_sent_anew(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "1", Server())
    machine.server.files["what"] = "wrong"
    machine.get_or_create()
    assert machine.made == 1 and machine.server.files == {"what": "right"}
    (word,) = [line for line in machine.said if "damaged" in line]
    assert "the tracking server's thing" in word and "it says wrong" in word


def test_a_server_that_is_away_is_waited_for_once_and_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "1", Server(problem="no route to it"))
    machine.get_or_create()
    assert (machine.made, machine.server.asked) == (1, ["fetch"])
    (word,) = machine.said
    assert "the tracking server does not answer (no route to it)" in word


def test_of_two_processes_of_one_machine_one_makes_and_the_other_waits_with_a_word(tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "1", Server()), Machine(tmp_path / "2", Server())
    second.file = first.file
    begun, waits = threading.Event(), threading.Event()

    def make(files: list[Path]) -> None:
        begun.set()
        assert waits.wait(10)
        Machine.make(first, files)

    def say(text: str) -> None:
        second.said.append(text)
        waits.set()

    first.make = make  # type: ignore[method-assign]
    thread = threading.Thread(target=first.get_or_create)
    thread.start()
    assert begun.wait(10)
    artifacts = ArtifactCache(null_lock, Silent(), say)
    artifacts.get_or_create(
        [second.file], lock=first.file.parent / "lock", name="a thing", what="thing", doing="makes the thing",
        run_key="a run", run_folder=tmp_path, load=second.load, make=second.make,
    )  # fmt: skip
    thread.join()
    assert (first.made, second.made) == (1, 0)
    assert second.said == ["another worker makes the thing; waiting for it"]


def test_what_can_not_be_read_though_it_was_just_made_ends_the_search(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "1", Server(), makes="wrong")
    with pytest.raises(ValueError, match="must be as it was written"):
        machine.get_or_create()
    assert machine.made == 1


def test_what_processes_that_were_killed_left_unfinished_is_gone_when_it_is_made(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "1", Server())
    left = machine.file.with_name(f".{machine.file.name}.4711")
    others = machine.file.with_name(f".{machine.file.name}.lock"), machine.file.with_name(".whatever.4711")
    for file in (left, *others):
        file.write_text("half")
        os.utime(file, (0, 0))
    others = (*others, machine.file.with_name(f".{machine.file.name}.4712"))
    others[-1].write_text("half")  # and perhaps written to still
    machine.get_or_create()
    assert not left.exists() and all(file.exists() for file in others)
