"""Content keys, seeds, and files that are there whole or not at all."""

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

_ASKED_AGAIN_S = 0.05  # a lock that somebody else may hold for long


def digest(*parts: Any) -> str:
    """Return a key of 16 hexadecimal digits for JSON-like values: equal values, equal keys, on any machine."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TensorHasher:
    """Hashes tensors one after the other: names, types, shapes and every byte."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Hash a named tensor; of a sparse one, where its values are and what they are."""
        import torch  # whoever has tensors has it; the mirror's process has none, and would wait a second for it

        tensor = tensor.detach().cpu()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_sparse_coo().coalesce()
            self.add(f"{name} {tuple(tensor.shape)} at", tensor.indices())
            tensor = tensor.values()
        tensor = tensor.contiguous()
        self._hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        self._hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def key(self) -> str:
        """Return a key of 16 hexadecimal digits for what was added so far."""
        return self._hasher.hexdigest()[:16]


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a key of 16 hexadecimal digits for named tensors, in whatever order."""
    hasher = TensorHasher()
    for name in sorted(tensors):
        hasher.add(name, tensors[name])
    return hasher.key()


def derived_seed(*parts: Any) -> int:
    """Return a seed in [0, 2^31) that depends on all of ``parts`` and is unlike that of any neighbour."""
    return int(digest("seed", *parts)[:8], 16) >> 1


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place: a reader sees the old file or the new one.

    Its mode is what the user's umask makes of a new file, even where a library would keep it from all others.
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
    """Remove what processes that were killed left of ``path`` beside it: what nobody has written to for an hour."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(FileNotFoundError):
            if file.suffix[1:].isdigit() and time.time() - file.stat().st_mtime > 3600:
                file.unlink()


def inside(folder: Path, name: str) -> Path:
    """Return a place within a folder, by a name from outside.

    Raises:
        ValueError: If it leads out of the folder.
    """
    place = Path(os.path.normpath(folder / name))
    if not place.is_relative_to(os.path.normpath(folder)) or place == Path(os.path.normpath(folder)):
        raise ValueError(f"a name must lie within {folder}, but got {name!r}")
    return place


def end_of_last_line(file: int) -> int:
    """Return the byte behind the last whole line of an open file, which a cut may have torn since."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        return os.pread(file, size, 0).rfind(b"\n") + 1
    return size


@contextlib.contextmanager
def exclusive(path: Path, *, on_wait: Callable[[], None] = lambda: None, briefly: bool = False) -> Iterator[None]:
    """Hold ``path`` as a lock; wait for whoever holds it. The kernel frees it however its process ends.

    Args:
        path: The lock's file.
        on_wait: Called if somebody holds it.
        briefly: Whether it is held for a moment at most: then the kernel wakes whoever waits. Who waits long asks again
            and again instead, by which it is told from a process that hangs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        if not _locked(file):
            on_wait()
            while not briefly and not _locked(file):
                time.sleep(_ASKED_AGAIN_S)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(file: IO[str]) -> bool:
    """Lock a file if nobody holds it; whether it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FolderLock:
    """Says that a living process works in a folder. Freed by the kernel when the process ends, ``kill -9`` included.

    Args:
        folder: The folder, which must exist.
        shared: Whether others may hold a shared lease beside this one.
        name: The lease's file there.
    """

    def __init__(self, folder: Path, *, shared: bool = False, name: str = "lease") -> None:
        self.name = name
        self._path = folder / name
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lease if it is free; whether it is held now."""
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

    @property
    def is_held(self) -> bool:
        """Return whether it is held by this very lease."""
        return self._descriptor is not None

    def is_sole(self) -> bool:
        """Return whether nobody else holds a lease of the folder. Asked of one that is held, and shared."""
        assert self._descriptor is not None and self._mode == fcntl.LOCK_SH
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # an attempt in vain may have lost it
        return True

    def release(self) -> None:
        """Give the lease back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
