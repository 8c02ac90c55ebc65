"""Names of layers by family of students: checked where they are declared and in each family, and compared in trials."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import search
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

from harness import Choice
from harness.core.errors import HarnessError
from harness.networks.student_checks import Students, check_students
from harness.preparation.method_checks import check_student_layers, student_layers
from harness.space import SearchSpace
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import capture_features
from lightning_modules.networks import ConvNet
from search_spaces.digits import SPACE, Digits


class Two(Digits):
    """Two families whose layers have different names."""

    def student(self, *, family: str, **size: int) -> nn.Module:
        if family == "conv":
            return ConvNet(size["width"], size=8)
        hidden = [layer for _ in range(size["depth"]) for layer in (nn.LazyLinear(16), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.LazyLinear(10))


FAMILIES = Choice("family", conv={"width": IntDistribution(2, 6)}, dense={"depth": IntDistribution(1, 2)})
LAYERS = {"conv": {"late": "flatten", "early": "block1"}, "dense": {"late": "2", "early": "0"}}
METHODS: dict[str, Any] = {
    "soft_target": {"temperature": FloatDistribution(1, 20), "alpha": FloatDistribution(0, 1)},
    "similarity_preserving": {
        "similarity_weight": FloatDistribution(1, 10),
        "student_layer": CategoricalDistribution(["late", "early"]),
        "teacher_layer": CategoricalDistribution(["flatten"]),
    },
}


def of_families(layers: Any = LAYERS, **more: Any) -> SearchSpace:
    return replace(SPACE, **{"task": Two(), "student": FAMILIES, "distillation": METHODS, "layers": layers, **more})


def checked(space: SearchSpace) -> Students:
    generator = torch.Generator().manual_seed(0)
    few = Split(torch.rand(20, 1, 8, 8, generator=generator), torch.arange(20) % 10)
    data = TensorDataModule(train=few, val=few, test=few, batch_size=10)
    return check_students(space, data, lambda name: nullcontext(), layers=student_layers(space))


def test_a_method_captures_the_layer_of_the_students_family() -> None:
    space, inputs = of_families(), torch.rand(3, 1, 8, 8)
    params = {**space.middle("similarity_preserving", "dense"), "student_layer": "early"}
    criterion = space.criterion(space.configuration(params))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
    with capture_features(network, criterion.student_layers, criterion.layer_names) as features:
        network(inputs)
    assert list(features) == ["early"]
    torch.testing.assert_close(features["early"], inputs.flatten(1))


def test_layers_of_each_family_are_found_by_its_own_names() -> None:
    students = checked(of_families())
    assert not students.missing
    maps = {(2 * width * 2 * 2,) for width in range(2, 7)}  # block2 has twice the channels, of 2x2
    assert set(students.shapes["late"]) == maps | {(16,)}


def test_a_family_that_lacks_a_layer_is_named_in_one_line() -> None:
    for layers, lacking in (
        ({**LAYERS, "dense": {"late": "9", "early": "0"}}, "'9'"),
        ({"conv": LAYERS["conv"], "dense": {"early": "0"}}, "'late'"),
    ):
        space = of_families(layers)
        with pytest.raises(HarnessError) as caught:
            check_student_layers(space, checked(space))
        line = str(caught.value)
        assert "\n" not in line and f"but got {lacking}" in line
        assert "method 'similarity_preserving' can't be searched with student(family='dense', depth=" in line
        assert "or name it for its family: layers={…: {'late': …}}" in line


class Large(Two):
    """A family whose students have more weights than are checked together, before a family that lacks a layer."""

    def student(self, *, family: str, **size: int) -> nn.Module:
        if family == "conv":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 1 << 19), nn.Unflatten(1, (1 << 19, 1)), _First())
        return super().student(family=family, **size)


class _First(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :10, 0]


@pytest.mark.slow
def test_large_students_of_one_family_leave_no_other_unchecked() -> None:
    space = of_families({"conv": {"late": "1", "early": "1"}}, task=Large())
    students = checked(space)
    assert "family='dense'" in students.missing["late"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"cnv": {}}, r"layers must name families among conv, dense, but got 'cnv'; did you mean conv\?"),
        ({"conv": "block1"}, "layers of family 'conv' must be a dict of names, as .* but got 'block1'"),
        ({"conv": {"lat": "block1"}}, r"compares 'late', 'early', and got 'lat', .* did you mean late\?"),
    ],
)
def test_names_that_reach_no_layer_are_refused_where_they_are_declared(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_families(layers)


def test_layers_of_families_need_families_and_a_method_that_compares_layers() -> None:
    with pytest.raises(ValueError, match="layers must name layers of the families of a Choice, but the space has none"):
        replace(SPACE, layers=LAYERS)
    soft = {"temperature": FloatDistribution(1, 20), "alpha": FloatDistribution(0, 1)}
    with pytest.raises(ValueError, match="the space compares no layers, and got 'late', which would reach nothing"):
        of_families(distillation=soft)


def test_held_methods_and_families_leave_their_names_of_layers() -> None:
    space = of_families()
    assert space.fixed({"family": "dense"}).layers == {"dense": LAYERS["dense"]}
    assert space.fixed({"student_layer": "early"}).layers == {"conv": {"early": "block1"}, "dense": {"early": "0"}}
    assert space.fixed({"method": "soft_target"}).layers == {"conv": {}, "dense": {}}


def test_a_study_is_bound_to_the_names_of_layers() -> None:
    other = {**LAYERS, "conv": {"late": "block2", "early": "block1"}}
    assert of_families().declaration()["layers"] == LAYERS != of_families(other).declaration()["layers"]
    assert "layers" not in of_families({}).declaration()


FILE = """
from dataclasses import replace

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from harness import Choice, Method
from lightning_modules.methods import Criterion, Term
from lightning_modules.networks import ConvNet
from search_spaces.digits import SPACE as DIGITS, Digits


class Norms(Criterion):
    student_layers = ("middle",)

    def __init__(self, *, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, logits, batch, features=None):
        return {
            "hard_loss": Term(1.0, self.hard_loss(logits, batch)),
            "norm": Term(self.weight, features["middle"].square().mean()),
        }


class Two(Digits):
    teacher_epochs = 2

    def student(self, *, family, **size):
        if family == "conv":
            return ConvNet(size["width"], size=8)
        hidden = [layer for _ in range(size["depth"]) for layer in (nn.LazyLinear(16), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.LazyLinear(10))


SPACE = replace(
    DIGITS,
    task=Two(),
    student=Choice("family", conv={"width": IntDistribution(2, 6)}, dense={"depth": IntDistribution(1, 2)}),
    distillation={
        "similarity_preserving": {
            "similarity_weight": FloatDistribution(30, 1000, log=True),
            "student_layer": CategoricalDistribution(["middle"]),
            "teacher_layer": CategoricalDistribution(["block2"]),
        },
        "norms": Method(Norms, {"weight": FloatDistribution(1e-3, 1e-1, log=True)}),
    },
    layers={"conv": {"middle": "block1"}, "dense": {"middle": "2"}},
    epochs=2,
)
"""


@pytest.mark.slow
def test_each_family_is_taught_by_its_own_layer(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(FILE)
    flags = ("--space", "two.py", "--objectives", "accuracy,parameters", "--min", "none", "--controls", "none")
    output = search(tmp_path, *flags, "--trials", "8")
    assert "8/8 done" in output and "failed" not in output
    table = pd.read_csv(tmp_path / "mlruns" / "trials" / "two" / "report" / "trials.csv")
    assert set(table["family"]) == {"conv", "dense"} and set(table["method"]) == {"similarity_preserving", "norms"}
