"""What a trial has beside its task's primary metric."""

from __future__ import annotations

from harness.cost import COSTS

METRICS = (*COSTS, "agreement", "teacher_kl", "ece", "compression", "speedup")
"""Their names."""

KNOWN_COSTS = tuple(name for name in METRICS if name not in ("agreement", "teacher_kl", "ece"))
"""Those of them that are known before a trial trains."""

TIMED = frozenset({"latency_p50_ms", "latency_p95_ms", "throughput_per_s", "speedup"})
"""Those of them that a clock measures, and no two measurements find alike."""

MAXIMIZED = frozenset({"throughput_per_s", "agreement", "compression", "speedup"})
"""Those of them that are better the higher they are."""
