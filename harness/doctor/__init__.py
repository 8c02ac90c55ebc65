"""Check a user's task before a search, and report what would make the search or its results fail."""

from __future__ import annotations

import warnings
from collections import Counter

import torch

from harness.doctor import data, distillation, labels, splits, student, teacher, training
from harness.doctor.check import STATES, Finding, run_checks
from harness.doctor.context import CheckContext
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.training.allocator import raise_malloc_thresholds
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
"""All checks, each after those that it needs."""


def diagnose(settings: Settings, terminal: Terminal) -> list[Finding]:
    """Run all checks and print the findings. Nothing is written, and no teacher is trained to the end.

    Args:
        settings: The space, its data and teacher, the budgets, and the cache that may hold a teacher.
        terminal: Where each finding is printed at once.

    Raises:
        HarnessError: If this machine lacks the requested device.
    """
    raise_malloc_thresholds()
    context = CheckContext(settings, device_of(settings.accelerator))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, threads wait for one another in each of a thousand small steps
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a search shows them; here they would interrupt the list of findings
            findings = run_checks(CHECKS, context, terminal)
    finally:
        torch.set_num_threads(threads)
    counts = Counter(finding.state for finding in findings)
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    terminal.say(f"{len(findings)} checks: {summary}")
    return findings
