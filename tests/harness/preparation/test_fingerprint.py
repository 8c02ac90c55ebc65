"""The fingerprint of data: every tensor of every split, whatever its name, and every view of every sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.preparation.fingerprint import fingerprint
from lightning_modules.batch import Inputs
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views

LABELS = torch.arange(6) % 2
X = torch.arange(12.0).reshape(6, 2)


def data(inputs: Inputs = X, labels: Tensor = LABELS, views: Views | None = None) -> TensorDataModule:
    split = Split(inputs, labels)
    return TensorDataModule(train=split, val=split, test=split, views=views)


def test_whatever_inputs_are_called_they_are_part_of_it() -> None:
    ones, tens = torch.ones(6), torch.full((6,), 10.0)
    found = [
        fingerprint(data(inputs))
        for inputs in (
            X,
            {"x": X},
            {"inputs": X},
            *({"x": X, name: values} for name in ("labels", "targets", "x.labels", "y") for values in (ones, tens)),
            {"x": X, "labels": LABELS},
            {"labels": X, "x": LABELS},
        )
    ]
    assert len(set(found)) == len(found) == 13


def test_labels_types_and_shapes_are_part_of_it_and_equal_data_are_equal() -> None:
    others = [data(), data(labels=1 - LABELS), data(X.half()), data(X.reshape(6, 1, 2)), data(X.int())]
    assert len({fingerprint(one) for one in others}) == 5
    assert fingerprint(data({"a": X, "b": -X})) == fingerprint(data({"b": -X.clone(), "a": X.clone()}))


@dataclass(frozen=True)
class OneOff(Views):
    """Views that show one sample of thousands otherwise."""

    odd: int = 0

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        assert isinstance(inputs, Tensor)
        return torch.where((ids == self.odd)[:, None], inputs + 1, inputs)


def test_a_view_of_one_sample_of_many_is_part_of_it() -> None:
    many = Split(torch.zeros(10_000, 1), torch.arange(10_000) % 2)
    found = set()
    for odd in (0, 4_095, 4_096, 7_777, 9_999):
        found.add(fingerprint(TensorDataModule(train=many, val=many, test=many, views=OneOff(count=1, odd=odd))))
    assert len(found) == 5
