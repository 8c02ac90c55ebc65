"""What glibc does with a large tensor's memory, seen by page faults in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

_FAULTS = """
import resource, sys, torch
from harness.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # what is kept is cut into small blocks too, until there are enough of those
    torch.ones(24 << 20)  # 96 MB
before = faults()
for _ in range(5):
    torch.ones(24 << 20)
print(faults() - before)
"""


def page_faults(how: str, **environment: str) -> int:
    command = [sys.executable, "-c", _FAULTS, how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return int(done.stdout)


def test_a_large_tensor_s_memory_is_kept_for_the_next() -> None:
    assert page_faults("as it is") > 5_000  # of 4 KB, or fewer where the system gives larger pages
    assert page_faults("kept") < 500


def test_who_has_told_glibc_otherwise_is_heeded() -> None:
    assert page_faults("kept", MALLOC_MMAP_THRESHOLD_="1000000") > 5_000
