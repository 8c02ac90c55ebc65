"""The least and the most that a metric can be, against its formula and answers that are as wrong as can be."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, classification, regression
from torchmetrics.classification import MulticlassAccuracy, MulticlassCohenKappa, MulticlassMatthewsCorrCoef

from harness.preparation.metric_limits import Limits, limits_of
from lightning_modules.outputs import Classification

LABELS = torch.arange(60) % 3


class Percent(MulticlassAccuracy):
    """Inherits limits that it breaks."""

    def compute(self) -> Tensor:
        return 100 * super().compute()


class Ordinal(regression.KendallRankCorrCoef):
    """A metric of numbers, of the classes."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        super().update(logits.argmax(-1).float(), labels.float())


class Unheard(Metric):
    """Twice what is right less what is wrong, and says that it goes from 0 to 1."""

    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0.0))
        self.add_state("count", torch.tensor(0.0))

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.right += (logits.argmax(-1) == labels).sum()
        self.count += len(labels)

    def compute(self) -> Tensor:
        return 2 * self.right / self.count - 1


@pytest.mark.parametrize(
    ("metric", "limits"),
    [
        (MulticlassAccuracy(3), (0.0, 1.0)),
        (MulticlassMatthewsCorrCoef(3), (-1.0, 1.0)),
        (MulticlassCohenKappa(3), (-1.0, 1.0)),
        (classification.MulticlassHingeLoss(3), (0.0, None)),
        (Ordinal(), (-1.0, 1.0)),
        (Percent(3), (0.0, None)),
        (Unheard(), (None, 1.0)),
    ],
)
def test_limits_are_those_of_the_formula_and_none_that_an_answer_breaks(metric: Metric, limits: Limits) -> None:
    assert limits_of(metric, Classification(), LABELS, 3) == limits
    assert not metric.update_called  # it is as new


def of_two_classes_or_three() -> Iterator[tuple[Tensor, Tensor, int]]:
    """Labels and answers, some as wrong as can be, some drawn, some sure and some not."""
    draw = torch.Generator().manual_seed(0)
    for classes in (2, 3):
        for labels in (torch.arange(12) % classes, torch.randint(0, classes, (9,), generator=draw)):
            right = torch.nn.functional.one_hot(labels, classes).float()
            noise = torch.randn(len(labels), classes, generator=draw)
            for logits in (right, right.roll(1, 1), -right, noise, noise - 4 * right):
                for scale in (0.1, 100):
                    yield scale * logits, labels, classes


KINDS = [name for name in vars(classification) if name.startswith("Multiclass")]


@pytest.mark.parametrize("name", KINDS)
def test_no_answer_scores_beyond_the_limits_of_any_metric_of_classes(name: str) -> None:
    kind = getattr(classification, name)
    needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty and p.kind < 2]
    more = {"beta": 0.5, "min_precision": 0.5, "min_recall": 0.5, "min_sensitivity": 0.5, "min_specificity": 0.5}
    given = {parameter.name: more[parameter.name] for parameter in needed if parameter.name in more}
    for logits, labels, classes in of_two_classes_or_three():
        metric = kind(num_classes=classes, **given)
        low, high = limits_of(metric, Classification(), LABELS % classes, classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric.update(logits, labels)
            value = metric.compute()
        if isinstance(value, Tensor) and value.numel() == 1:
            assert low is None or float(value) >= low - 1e-6
            assert high is None or float(value) <= high + 1e-6
