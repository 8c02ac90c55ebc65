"""Score a network on a split, batch by batch: the task's metrics, and agreement with the teacher."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.batch import Batch
from lightning_modules.outputs import Output


class SplitScores:
    """Scores of a network over the batches of a split.

    Args:
        output: What the network's output means.
        metrics: Metrics by name, updated with ``output.metric_inputs``; they are reset first.
    """

    def __init__(self, output: Output, metrics: Mapping[str, Metric]) -> None:
        self._output, self._metrics = output, metrics
        self._agreeing: list[Tensor] = []
        self._rows = 0
        for metric in metrics.values():
            metric.reset()

    def add(self, logits: Tensor, rows: Tensor, of_rows: Batch, target: Tensor) -> None:
        """Add a batch; one without any label counts in nothing.

        Args:
            logits: The network's output.
            rows: The rows of logits of the output.
            of_rows: The batch, with targets and teacher's logits of the same rows.
            target: The batch's targets as they are.
        """
        count = self._output.count_rows(target, rows)
        if not count:
            return
        self._rows += count
        scored = self._output.metric_inputs(logits, target)
        for metric in self._metrics.values():
            metric.update(*scored)
        theirs = of_rows.teacher.get("logits") if self._output.has_classes else None
        if theirs is not None:
            self._agreeing.append((rows.argmax(-1) == theirs.argmax(-1)).sum())

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, and ``agreement`` if the batches held the teacher's scores of classes."""
        values = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        if self._agreeing:
            values["agreement"] = float(torch.stack(self._agreeing).sum()) / self._rows
        return values
