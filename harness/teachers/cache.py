"""A cache of what all workers share: found on disk or on the tracking server, or made by one worker for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError

from harness.core.content import drop_unfinished, exclusive
from harness.core.errors import HarnessError
from harness.tracking.mirror import Mirror

_DAMAGE = (SafetensorError, OSError, ValueError, RuntimeError)
_Stamp = tuple[int, int] | None


class DistributedLock(Protocol):
    """A lock that excludes all other workers, on every machine."""

    def __call__(self, what: str, *, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Return a context in which the lock is held.

        Args:
            what: What is done meanwhile: one lock each.
            on_wait: Called if another worker holds it.
        """


class ArtifactCache:
    """Loads kept files, or has one worker make them for all that share the disk, the study or the tracking server.

    A file that is there already is read without a lock, for many workers may start at once.

    Args:
        lock: Excludes the workers on other machines; a locked file excludes those on this one.
        mirror: Asks the tracking server, if there is one.
        say: Called with a line of text.
    """

    def __init__(self, lock: DistributedLock, mirror: Mirror, say: Callable[[str], None]) -> None:
        self.say = say
        self._lock = lock
        self._mirror = mirror
        self._asks = mirror.shares_files

    def get_or_create(
        self,
        files: Sequence[Path],
        *,
        lock: Path,
        name: str,
        what: str,
        doing: str,
        run_key: str,
        run_folder: Path,
        load: Callable[[Path], None],
        make: Callable[[list[Path]], None],
    ) -> None:
        """Load files from the disk or the tracking server, and create those that are missing or damaged.

        Created files are uploaded before other workers go on, unless the server does not answer.

        Args:
            files: The files.
            lock: File on this machine's disk that is locked while they are made.
            name: Name of the distributed lock.
            what: What they are, in messages.
            doing: What a worker does that makes them, in messages.
            run_key: Identifies the run that has them as artifacts.
            run_folder: Folder of that run's spool, which ``make`` begins.
            load: Reads one; raises ``SafetensorError``, ``OSError``, ``ValueError`` or ``RuntimeError`` if it is
                damaged.
            make: Writes the files that it is given.

        Raises:
            HarnessError: If a file can't be read that was just written.
        """
        damaged: dict[Path, _Stamp] = {}

        def is_loaded(file: Path, where: str) -> bool:
            stamp = _stamp(file)
            if stamp is None:
                return False
            try:
                load(file)
            except _DAMAGE as error:
                self.say(f"the {where} {what} {file} can't be used: damaged ({error}); made again")
                damaged[file] = stamp
                return False
            return True

        def wait() -> None:
            self.say(f"another worker {doing}; waiting for it")

        made: list[Path] = []
        left = [file for file in files if not is_loaded(file, "kept")]
        while left:
            with exclusive(lock, on_wait=wait), self._lock(name, on_wait=wait):
                # The worker that held the lock may have made them; they are read once the lock is released.
                missing = [file for file in left if _stamp(file) == damaged.get(file)]
                fetched = [
                    file
                    for file in missing
                    if self._fetch(file, what, run_key, run_folder) and is_loaded(file, "tracking server's")
                ]
                left = [file for file in left if file not in fetched]
                made = [file for file in missing if file not in fetched]
                if made:
                    for file in made:
                        drop_unfinished(file)  # as large as what is made
                    make(made)
                    self.share(made, what, run_folder, anew=True)
            left = [file for file in left if not is_loaded(file, "kept")]
            if unreadable := [file for file in left if file in made]:
                raise HarnessError(f"{unreadable[0]} must be as it was written, but is not; see to the disk it is on.")

    def share(self, files: Sequence[Path], what: str, run_folder: Path, *, anew: bool = False) -> None:
        """Upload files to the tracking server, for machines that do not share this one's disk.

        Args:
            files: The files.
            what: What they are, in messages.
            run_folder: Folder of the spool, begun, of the run that has them as artifacts.
            anew: Whether files that were uploaded before are uploaded again.
        """
        for file in files if self._asks else ():
            problem = self._mirror.publish(file, run_folder, anew=anew)
            if problem is not None:
                self._give_up(f"other machines can't find the {what} there before the next start here", problem)
                return

    def _fetch(self, file: Path, what: str, run_key: str, run_folder: Path) -> bool:
        if not self._asks:
            return False
        found, problem = self._mirror.fetch(run_key, file, run_folder)
        if problem is not None:
            self._give_up(f"whether it has the {what} is not known", problem)
        elif found:
            self.say(f"{what:<9} found on the tracking server")
        return found

    def _give_up(self, consequence: str, problem: str) -> None:
        self._asks = False  # its timeout has passed once
        self.say(f"the tracking server does not answer ({problem}); {consequence}")


@contextlib.contextmanager
def null_lock(what: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold no lock: a ``DistributedLock`` for a study without workers on other machines."""
    yield


def outputs_file(cache_dir: Path, key: str) -> Path:
    """Return the file of a teacher's outputs by their key."""
    return cache_dir / "teacher_outputs" / f"{key}.safetensors"


def _stamp(file: Path) -> _Stamp:
    """Return what identifies a version of a file, its inode and modification time; ``None`` if there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
