"""What glibc does with a large tensor's memory, seen by page faults in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library"),
    pytest.mark.skipif(_PAGES.exists() and "[always]" in _PAGES.read_text(), reason="2 MB are one page fault here"),
]

_FAULTS = """
import resource, sys, torch
from harness.training.allocator import raise_malloc_thresholds
if sys.argv[1] == "kept":
    raise_malloc_thresholds()
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
    untold = {name: v for name, v in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**untold, **environment})
    return int(done.stdout)


def test_the_memory_of_a_large_tensor_is_reused_for_the_next() -> None:
    assert page_faults("as it is") > 50_000  # of 4 KB
    assert page_faults("kept") < 500


def test_an_environment_that_configures_malloc_is_respected() -> None:
    assert page_faults("kept", MALLOC_MMAP_THRESHOLD_="1000000") > 50_000
