"""Tests that the ``RunStore`` of any tracker must pass: subclass ``StoreContract`` in a class named Test…"""

from __future__ import annotations

import fcntl
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from harness.core.content import exclusive
from harness.tracking.base import MIRROR_LOCK, RunStore
from harness.tracking.progress import STATE_FILE, SendProgress
from harness.tracking.spool import Spool

KEY = "a-study/3"
BOTH = [("loss", 0, 0.5), ("loss", 1, 0.25)]
_MOST_SAVES = 8  # more than a store saves its progress in one call


class Killed(BaseException):
    """Stands for a signal that no handler sees."""


class StoreContract(ABC):
    """What ``RunStore`` promises of calls that are repeated, of processes that are killed, and of its lock."""

    @abstractmethod
    def open_store(self, place: Path) -> RunStore:
        """Open the store in a folder, as a fresh process does."""

    @abstractmethod
    def points(self, store: RunStore, name: str) -> list[tuple[str, int, float]]:
        """Return name, step and value of each point of a metric of all runs, doubled ones twice, in order of steps."""

    @abstractmethod
    def states(self, store: RunStore) -> list[str]:
        """Return the last state of each run, in words of ``harness.tracking.spool.STATES``."""

    def test_to_send_twice_adds_nothing(self, tmp_path: Path) -> None:
        store, folder = self.open_store(tmp_path), begun(tmp_path)
        for _ in range(2):
            store.send(folder)
            assert (self.points(store, "loss"), self.states(store)) == (BOTH[:1], ["RUNNING"])
        goes_on(folder)
        for _ in range(2):
            store.send(folder)
            assert (self.points(store, "loss"), self.states(store)) == (BOTH, ["COMPLETE"])

    @pytest.mark.parametrize("grows", [False, True])
    def test_what_was_sent_before_a_kill_is_not_sent_again(
        self, grows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for count in range(_MOST_SAVES):
            place = tmp_path / str(count)
            place.mkdir()
            folder = begun(place)
            with monkeypatch.context() as patched:
                _kill_at_save(patched, count)
                try:
                    self.open_store(place).send(folder)
                except Killed:
                    was_killed = True
                else:
                    was_killed = False
            if grows:
                goes_on(folder)
            store = self.open_store(place)
            store.send(folder)
            expected = (BOTH, ["COMPLETE"]) if grows else (BOTH[:1], ["RUNNING"])
            assert (self.points(store, "loss"), self.states(store)) == expected
            if not was_killed:
                break
        assert count > 0 and not was_killed  # each save was tried

    def test_progress_that_is_lost_adds_nothing(self, tmp_path: Path) -> None:
        store, folder = self.open_store(tmp_path), begun(tmp_path)
        store.send(folder)
        (folder / STATE_FILE).write_text("{")
        self.open_store(tmp_path).send(folder)
        assert (self.points(store, "loss"), self.states(store)) == (BOTH[:1], ["RUNNING"])

    def test_a_run_is_marked_as_interrupted_once_and_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, folder = self.open_store(tmp_path), begun(tmp_path)
        store.send(folder)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            _kill_at_save(patched, 0)
            _mark(store, folder)
        for _ in range(2):
            _mark(store, folder)
            store.send(folder)
            assert (self.points(store, "loss"), self.states(store)) == (BOTH[:1], ["WAITING"])
        goes_on(folder)
        store.send(folder)
        _mark(store, folder)
        assert (self.points(store, "loss"), self.states(store)) == (BOTH, ["COMPLETE"])

    def test_the_lock_of_a_run_is_held_while_its_progress_is_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, folder, save, held = self.open_store(tmp_path), begun(tmp_path), SendProgress.save, []

        def watched(progress: SendProgress, of: Path) -> None:
            held.append(_is_locked(of / MIRROR_LOCK))
            save(progress, of)

        monkeypatch.setattr(SendProgress, "save", watched)
        store.send(folder)
        assert held and all(held) and not _is_locked(folder / MIRROR_LOCK)


def begun(place: Path) -> Path:
    """Write the spool of a run that has logged an epoch; return its folder."""
    spool = Spool(place / "3")
    spool.begin("trial-0003", tags={"kd.run_key": KEY, "kd.role": "trial"}, params={"width": 8})
    spool.set_state("RUNNING")
    spool.metrics({"loss": 0.5}, step=0)
    spool.close()
    return spool.folder


def goes_on(folder: Path) -> None:
    """Add an epoch to a run, and its end."""
    spool = Spool(folder)
    spool.set_state("RUNNING")
    spool.metrics({"loss": 0.25}, step=1)
    spool.set_state("COMPLETE")
    spool.close()


def _mark(store: RunStore, folder: Path) -> None:
    with exclusive(folder / MIRROR_LOCK):
        store.mark_interrupted(folder)


def _kill_at_save(patched: pytest.MonkeyPatch, count: int) -> None:
    """Kill the process in place of its save number ``count``, from 0."""
    save, saves = SendProgress.save, iter(range(_MOST_SAVES))

    def killed(progress: SendProgress, folder: Path) -> None:
        if next(saves) == count:
            raise Killed
        save(progress, folder)

    patched.setattr(SendProgress, "save", killed)


def _is_locked(path: Path) -> bool:
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
