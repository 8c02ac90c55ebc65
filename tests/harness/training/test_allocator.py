"""What glibc does with a large tensor's memory, seen by page faults in a process of its own."""

from __future__ import annotations

import os
import platform
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from forked import Partner

from harness.training.allocator import raise_malloc_thresholds

_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library"),
    pytest.mark.skipif(_PAGES.exists() and "[always]" in _PAGES.read_text(), reason="2 MB are one page fault here"),
]

_ELEMENTS = 24 << 20  # 96 MB in single precision


def count_faults(pipe: Connection) -> None:
    """Answer how many page faults five large tensors take, in an environment with these variables more."""
    (keeps, variables) = pipe.recv()
    os.environ.update(variables)
    if keeps:
        raise_malloc_thresholds()
    for _ in range(20):  # what is kept is cut into small blocks too, until there are enough of those
        torch.ones(_ELEMENTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(_ELEMENTS)
    pipe.send({"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before})


def page_faults(*, keeps: bool, **variables: str) -> int:
    partner = Partner(count_faults)
    partner.tell(keeps, variables)
    faults: int = partner.answer()["faults"]
    partner.end()
    return faults


def test_the_memory_of_a_large_tensor_is_reused_for_the_next() -> None:
    assert page_faults(keeps=False) > 50_000  # of 4 KB
    assert page_faults(keeps=True) < 500


def test_an_environment_that_configures_malloc_is_respected() -> None:
    assert page_faults(keeps=True, MALLOC_MMAP_THRESHOLD_="1000000") > 50_000
