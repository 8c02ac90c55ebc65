"""Train in bfloat16 where the device has it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch

_CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, and of ARM


@functools.cache
def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 itself; elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(set(_CPU_FLAGS) & _cpu_flags())


def used_precision(precision: str, device: torch.device) -> str:
    """Return the precision that a training on a device has, given the one that is set."""
    return precision if precision == "32" or has_bfloat16(device) else "32"


def _cpu_flags() -> set[str]:
    """Return the flags of the processor; none where the system does not tell them."""
    if platform.system() != "Linux":
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
