"""Content keys, derived seeds, atomic writes and file locks."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_POLL_S = 0.05  # of a lock that another process may hold for long
_VISIT_S = 0.001  # between attempts to take a lock that others try for a moment


def digest(*parts: Any) -> str:
    """Return a key of 16 hexadecimal digits for JSON-like values: equal values, equal keys, on any machine."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TensorHasher:
    """Hashes tensors in sequence: names, types, shapes and every byte."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Hash a named tensor; of a sparse one, the indices and the values."""
        import torch  # here: the mirror's process has no tensors, and would wait a second for the import

        tensor = tensor.detach().cpu()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_sparse_coo().coalesce()
            self.add(f"{name} {tuple(tensor.shape)} at", tensor.indices())
            tensor = tensor.values()
        tensor = tensor.contiguous()
        self._hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        self._hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def add_text(self, text: str) -> None:
        """Hash a text."""
        self._hasher.update(f"text {text} ".encode())

    def key(self) -> str:
        """Return a key of 16 hexadecimal digits for what was added so far."""
        return self._hasher.hexdigest()[:16]


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a key of 16 hexadecimal digits for named tensors; their order does not matter."""
    hasher = TensorHasher()
    for name in sorted(tensors):
        hasher.add(name, tensors[name])
    return hasher.key()


def derived_seed(*parts: Any) -> int:
    """Return a seed in [0, 2^31) that depends on all of ``parts``; neighbouring parts give unrelated seeds."""
    return int(digest("seed", *parts)[:8], 16) >> 1


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``: a reader sees the old file or the new one.

    Its mode follows the user's umask, even where a library would make a file that only its owner can read.
    """
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def drop_unfinished(path: Path) -> None:
    """Remove temporary files of ``path`` that killed processes left: those not written to for an hour."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(FileNotFoundError):
            if file.suffix[1:].isdigit() and time.time() - file.stat().st_mtime > 3600:
                file.unlink()


def inside(folder: Path, name: str) -> Path:
    """Return the path of an untrusted name within a folder.

    Raises:
        ValueError: If it leads out of the folder.
    """
    place = Path(os.path.normpath(folder / name))
    if not place.is_relative_to(os.path.normpath(folder)) or place == Path(os.path.normpath(folder)):
        raise ValueError(f"a name must lie within {folder}, but got {name!r}")
    return place


def end_of_last_line(file: int) -> int:
    """Return the offset behind the last whole line of an open file, whose last line may be torn."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        return os.pread(file, size, 0).rfind(b"\n") + 1
    return size


@contextlib.contextmanager
def exclusive(path: Path, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False) -> Iterator[None]:
    """Hold a file as an advisory lock (``flock``), which the kernel frees however the process ends.

    Args:
        path: The lock's file.
        on_wait: Called if another process holds it and is waited for.
        briefly: Whether the lock is held for a moment at most: then the kernel wakes a process that waits. Else the
            lock is polled, which tells a process that waits from one that hangs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        if not _locked(file):
            on_wait()
            while not briefly and not _locked(file):
                time.sleep(_POLL_S)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(file: IO[str]) -> bool:
    """Lock a file if no other process holds it; return whether it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


STUDY_LOCK = "study.lock"
"""Name of the lock in a study's folder that every process that works on the study shares."""


class FolderLock:
    """Shows that a living process works in a folder. The kernel frees the lock when the process ends, even by SIGKILL.

    Args:
        folder: The folder, which must exist.
        shared: Whether others may hold a shared lock beside this one.
        name: The lock's file there.
    """

    def __init__(self, folder: Path, *, shared: bool = False, name: str = STUDY_LOCK) -> None:
        self.name = name
        self._path = folder / name
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it is held now."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, self._mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def is_free(self) -> bool:
        """Return whether the lock can be taken: it is, for a moment."""
        free = self.acquire()
        self.release()
        return free

    @property
    def is_held(self) -> bool:
        """Return whether this very object holds the lock."""
        return self._descriptor is not None

    def is_sole(self) -> bool:
        """Return whether no one else holds the lock; for one that is held, and shared."""
        assert self._descriptor is not None and self._mode == fcntl.LOCK_SH
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # a failed attempt may have lost it
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LeaseLock(FolderLock):
    """Shows that one living process works in a folder, and keeps all others out.

    Others may try at any time whether the lock is free: they take a shared lock for a moment, by which ``acquire``
    tells them from an owner. So a search that goes on after a kill finds the lock of a cut trial free, though others
    look at it.

    Args:
        folder: The folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="lease")
        self._as_visitor = FolderLock(folder, shared=True, name=self.name)

    def acquire(self) -> bool:
        """Take the lock unless another process owns it; return whether it is held now."""
        while not super().acquire():
            if not self._as_visitor.is_free():
                return False
            time.sleep(_VISIT_S)
        return True

    def is_free(self) -> bool:
        """Return whether no process owns the lock."""
        return not self.is_held and self._as_visitor.is_free()


def is_worked_on(folder: Path) -> bool:
    """Return whether a living process works in the folder of a study or of a training."""
    locks = (LeaseLock(folder), FolderLock(folder))
    return not all(lock.is_free() for lock in locks if (folder / lock.name).exists())
