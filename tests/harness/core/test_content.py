"""Keys, seeds, atomic files, and leases between real processes."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE_S, environment, is_free, wait_for

from harness.core.content import (
    FolderLock,
    LeaseLock,
    derived_seed,
    digest,
    exclusive,
    is_worked_on,
    tensors_digest,
    write_atomically,
)

HOLDER = """
import sys
import threading
from pathlib import Path
from harness.core.content import FolderLock, LeaseLock
leases = []
for line in sys.stdin:
    word, folder = line.split()
    if word == "release":
        leases.pop().release()
    else:
        lock = LeaseLock(Path(folder)) if word == "lease" else FolderLock(Path(folder), shared=word == "shared")
        leases.append(lock)
        print(leases[-1].acquire(), flush=True)
        continue
    print("released", flush=True)
"""


class Neighbour:
    """Another process, which takes leases as it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, word: str, folder: Path) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{word} {folder}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()  # SIGKILL
        self.process.communicate()


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    process = Neighbour()
    yield process
    process.end()


def test_a_digest_is_the_same_on_any_machine() -> None:
    # printf '["a", {"x": 1, "y": [1.5, null]}]' | sha256sum
    assert digest("a", {"y": [1.5, None], "x": 1}) == "e97d89d5fa6bd7ac"


def test_a_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    base = digest("a", {"x": 1, "y": [1, 2]})
    assert digest("a", {"y": [1, 2], "x": 1}) == base
    others = [
        digest("a", {"x": 1, "y": [2, 1]}),
        digest("a", {"x": 2, "y": [1, 2]}),
        digest("a", {"x": "1", "y": [1, 2]}),
        digest("a", {"x": 1}, {"y": [1, 2]}),
        digest("b", {"x": 1, "y": [1, 2]}),
        digest(["a", {"x": 1, "y": [1, 2]}]),
        digest({"x": 1, "y": [1, 2]}, "a"),
    ]
    assert len({base, *others}) == 8


def test_a_digest_of_tensors_depends_on_name_type_shape_and_every_bit() -> None:
    values = torch.arange(12, dtype=torch.float32)
    flipped = values.clone()
    flipped.view(torch.int32)[7] ^= 1  # the last bit of one number
    zero, minus_zero = torch.tensor([0.0]), torch.tensor([-0.0])
    different = [
        {"a": values},
        {"b": values},
        {"a": values.view(torch.int32)},
        {"a": values.view(3, 4)},
        {"a": values.view(4, 3)},
        {"a": flipped},
        {"a": values, "b": values},
        {"a": values[:6], "b": values[6:]},
        {"a": zero},
        {"a": minus_zero},
        {},
    ]
    assert len({tensors_digest(tensors) for tensors in different}) == len(different)


def test_a_digest_of_tensors_ignores_layout_order_and_gradients() -> None:
    values = torch.arange(12, dtype=torch.bfloat16).view(3, 4)
    base = tensors_digest({"a": values, "b": torch.tensor(True)})
    assert tensors_digest({"b": torch.tensor(True), "a": values.t().contiguous().t()}) == base
    assert tensors_digest({"a": values.clone().requires_grad_(), "b": torch.tensor(True)}) == base


def test_derived_seeds_are_in_range_and_unrelated_to_their_neighbours() -> None:
    seeds = {derived_seed(seed, "trial", number) for seed in range(30) for number in range(30)}
    assert len(seeds) == 900
    assert min(seeds) >= 0 and max(seeds) < 2**31
    assert max(seeds) > 2**30 and min(seeds) < 2**25  # the whole range is used
    assert derived_seed(1, 23) != derived_seed(12, 3) and derived_seed(1, 2) != derived_seed(2, 1)
    assert derived_seed(3, "draw", 4) == derived_seed(3, "draw", 4)


def test_a_file_is_written_whole_and_its_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file.json"
    write_atomically(file, lambda path: path.write_text("first"))
    write_atomically(file, lambda path: path.write_text("second"))
    assert file.read_text() == "second"
    assert [path.name for path in file.parent.iterdir()] == ["file.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        assert file.read_text() == "old"
        path.write_text("whole")

    with open(file) as reader:
        write_atomically(file, write)
        assert reader.read() == "old"  # whoever had it open reads on in the old one
    assert file.read_text() == "whole"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_exclusive_folder_lock_keeps_every_other_process_out(tmp_path: Path, neighbour: Neighbour) -> None:
    assert neighbour("exclusive", tmp_path) == "True"
    assert not FolderLock(tmp_path).acquire() and not FolderLock(tmp_path, shared=True).acquire()
    assert neighbour("release", tmp_path) == "released"
    mine = FolderLock(tmp_path)
    assert mine.acquire()
    assert neighbour("shared", tmp_path) == "False" and neighbour("exclusive", tmp_path) == "False"
    mine.release()
    assert neighbour("shared", tmp_path) == "True"


def test_shared_folder_locks_coexist_and_keep_an_exclusive_one_out(tmp_path: Path, neighbour: Neighbour) -> None:
    mine = FolderLock(tmp_path, shared=True)
    assert neighbour("shared", tmp_path) == "True" and mine.acquire()
    assert neighbour("exclusive", tmp_path) == "False" and not FolderLock(tmp_path).acquire()
    mine.release()
    assert not FolderLock(tmp_path).acquire()  # the neighbour's is still held


def test_trying_whether_a_folder_lock_is_free_does_not_keep_it(tmp_path: Path) -> None:
    lock, other = FolderLock(tmp_path), FolderLock(tmp_path)
    assert lock.is_free() and other.acquire() and not lock.is_free()


def test_a_folder_lock_is_free_when_its_process_is_killed(tmp_path: Path) -> None:
    victim, lease = Neighbour(), FolderLock(tmp_path)
    assert victim("exclusive", tmp_path) == "True" and not lease.acquire()
    victim.end()
    assert lease.acquire()
    lease.release()
    lease.release()  # once more is harmless


def test_a_lease_is_taken_at_once_though_others_try_all_the_time_whether_it_is_free(tmp_path: Path) -> None:
    lease, over = LeaseLock(tmp_path), threading.Event()

    def visit() -> None:
        visitor = LeaseLock(tmp_path)
        while not over.is_set():
            visitor.is_free()

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for _ in range(500):
        assert lease.acquire()
        lease.release()
    over.set()
    for visitor in visitors:
        visitor.join()


def test_a_lease_is_one_processs_and_not_free_meanwhile(tmp_path: Path, neighbour: Neighbour) -> None:
    lease = LeaseLock(tmp_path)
    assert lease.is_free() and neighbour("lease", tmp_path) == "True"
    assert not lease.is_free() and not lease.acquire() and is_worked_on(tmp_path)
    assert neighbour("release", tmp_path) == "released"
    assert not is_worked_on(tmp_path) and lease.acquire() and not lease.is_free() and is_worked_on(tmp_path)


def test_a_study_is_worked_on_while_a_process_shares_its_lock(tmp_path: Path, neighbour: Neighbour) -> None:
    assert not is_worked_on(tmp_path) and not list(tmp_path.iterdir())
    assert neighbour("shared", tmp_path) == "True"
    assert is_worked_on(tmp_path)
    assert neighbour("release", tmp_path) == "released"
    assert not is_worked_on(tmp_path)


def test_a_lock_is_held_within_its_block_and_free_after_it(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    with pytest.raises(RuntimeError, match="in the block"), exclusive(lock):
        assert not is_free(lock)
        raise RuntimeError("in the block")
    assert is_free(lock)


WAITS = """
import sys
import threading
from pathlib import Path
from harness.core.content import exclusive
with exclusive(Path(sys.argv[1]), on_wait=lambda: print("waits", flush=True)):
    pass
"""


def test_a_process_that_waits_for_a_long_lock_polls_it(tmp_path: Path) -> None:
    def wakes() -> int:
        status = Path(f"/proc/{waiting.pid}/status").read_text()
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]

    lock = tmp_path / "lock"
    with exclusive(lock):
        command = [sys.executable, "-c", WAITS, str(lock)]
        waiting = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None and waiting.stdout.readline() == "waits\n"
        first = wakes()
        wait_for(lambda: wakes() > first + 9)  # by which it is told from a process that hangs
    assert waiting.communicate(timeout=PATIENCE_S)[0] == "" and waiting.returncode == 0
