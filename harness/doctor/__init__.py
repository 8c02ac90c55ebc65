"""A task of one's own, looked over: what would spoil a search, or its result, is said before it begins."""

from __future__ import annotations

import warnings
from collections import Counter

import torch

from harness.doctor import data, distillation, labels, splits, student, teacher, training
from harness.doctor.check import STATES, Finding, examine
from harness.doctor.context import CheckContext
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.training.allocator import keep_freed_memory
from harness.training.fit import device_of

CHECKS = (
    *data.CHECKS,
    *splits.CHECKS,
    *teacher.CHECKS,
    *student.CHECKS,
    *labels.TARGET_CHECKS,
    *teacher.TRAINED_CHECKS,
    *labels.CHECKS,
    *student.DETAILED_CHECKS,
    *distillation.CHECKS,
    *training.CHECKS,
)
"""In the order in which they stand on one another."""


def diagnose(settings: Settings, terminal: Terminal) -> list[Finding]:
    """Go through all checks, and say what each found. Nothing is written, and no teacher is trained to the end.

    Args:
        settings: The space, its data and teacher, the budgets, and where a teacher may be kept.
        terminal: Where each finding is said, as soon as it is there.

    Raises:
        HarnessError: If the device can't be had.
    """
    keep_freed_memory()
    context = CheckContext(settings, device_of(settings.accelerator))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other work, threads wait for one another at each of a thousand small steps
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a search says them where they matter; here they would tear the list apart
            findings = examine(CHECKS, context, terminal)
    finally:
        torch.set_num_threads(threads)
    counts = Counter(finding.state for finding in findings)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    terminal.say(f"{len(findings)} checks: {told}")
    return findings
