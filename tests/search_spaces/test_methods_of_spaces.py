"""Shipped methods can be searched by name: spaces have them, and the tables of methods name them."""

from __future__ import annotations

import inspect
import re

import pytest
from conftest import README, ROOT

from harness.space import SearchSpace
from lightning_modules.methods import METHODS
from search_spaces import digits_methods, fashion_mnist_methods
from search_spaces._methods import all_methods

OF_CLASSES = {name for name, method in METHODS.items() if not method.needs_values}
TABLE = (ROOT / "search_spaces" / "README.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)`.*?\| .* \| (.*) \|[^|]*\|$", TABLE, re.MULTILINE))
"""Each method's cell of parameters in the table of methods."""


def test_every_shipped_method_of_classes_has_its_ranges() -> None:
    assert set(all_methods(student_layers=["a"], teacher_layers=["b"])) == OF_CLASSES


@pytest.mark.parametrize("space", [digits_methods.SPACE, fashion_mnist_methods.SPACE])
def test_the_spaces_of_methods_search_all_that_fit_classes(space: SearchSpace) -> None:
    assert set(space.methods) == OF_CLASSES


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_methods_has_each_with_its_parameters(method: str) -> None:
    taken = {name for name in inspect.signature(METHODS[method]).parameters if not name.endswith("_layer")}
    assert set(re.findall(r"`(\w+)`", ROWS[method])) == taken


def test_the_readme_names_every_method() -> None:
    section = README.partition("## Methods and recipes")[2].partition("\n## ")[0]
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", section))
