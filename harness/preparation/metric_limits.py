"""Limits of a metric, by its formula: torchmetrics only knows limits for the axis of a plot."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric, classification, clustering, regression

from harness.preparation.chance import scored
from lightning_modules.outputs import Output

Limits = tuple[float | None, float | None]
"""Lower and upper limit; ``None`` where there is none, or it is not known."""

_CORRELATION: Limits = (-1.0, 1.0)
_LOSS: Limits = (0.0, None)
_LIMITS: dict[type[Metric], Limits] = {
    classification.BinaryCohenKappa: _CORRELATION,
    classification.MulticlassCohenKappa: _CORRELATION,
    classification.BinaryMatthewsCorrCoef: _CORRELATION,
    classification.MulticlassMatthewsCorrCoef: _CORRELATION,
    classification.MultilabelMatthewsCorrCoef: _CORRELATION,
    classification.BinaryHingeLoss: _LOSS,
    classification.MulticlassHingeLoss: _LOSS,
    classification.MultilabelCoverageError: _LOSS,
    regression.CosineSimilarity: (None, None),  # a sum over the samples, unless another reduction is asked for
    regression.ExplainedVariance: (None, 1.0),
    regression.KendallRankCorrCoef: _CORRELATION,
    clustering.AdjustedMutualInfoScore: (None, 1.0),
    clustering.NormalizedMutualInfoScore: (0.0, 1.0),
}
"""Metrics whose ``plot_lower_bound`` and ``plot_upper_bound`` (torchmetrics 1.9) are not their limits."""
_SAMPLES = 1_000  # that a metric is tried on, evenly chosen
_ROUNDING = 1e-6


def limits_of(metric: Metric, output: Output, labels: Tensor, classes: int) -> Limits:
    """Return the lower and the upper limit of a metric.

    A limit is taken from the table above, or else from the metric's ``plot_lower_bound`` and ``plot_upper_bound``, and
    dropped where right or wrong answers score beyond it: a user's own class may inherit one that does not hold.

    Args:
        metric: A new metric.
        output: The output kind.
        labels: The labels of a split, first dimension N.
        classes: Number of classes C, labels or values of the output.
    """
    known = next((limits for kind, limits in _LIMITS.items() if isinstance(metric, kind)), None)
    low, high = known or (metric.plot_lower_bound, metric.plot_upper_bound)
    found = _extremes(metric, output, labels[:: max(1, len(labels) // _SAMPLES)], classes)
    if low is not None and any(score < low - _ROUNDING for score in found):
        low = None
    if high is not None and any(score > high + _ROUNDING for score in found):
        high = None
    return low, high


def _extremes(metric: Metric, output: Output, labels: Tensor, classes: int) -> list[float]:
    """Return the scores of three answers: right ones, wrong ones, and the opposite of right ones."""
    answers = (
        lambda part: output.perfect(part, classes),
        lambda part: output.wrong(part, classes),
        lambda part: -output.perfect(part, classes),
    )
    return [scored(metric, answer, output, labels, classes) for answer in answers]
