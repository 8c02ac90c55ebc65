"""Options are read alike from a command line's text and from Python's values; an error names what the person wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.cli.parsing import flag
from harness.options import values
from harness.options.commands import search_settings
from harness.options.given import Given, InvalidOption
from harness.settings import Bound, Settings


def settings_of(**keywords: object) -> Settings:
    return search_settings(Given(keywords, program="kd-harness"), "mine", Path("mine.py"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_python_values_and_text_give_the_same_settings() -> None:
    text = settings_of(
        trials="7",
        seed="3",
        timeout="1.5",
        objectives="accuracy,macs",
        fix=("alpha=0.5", "act=relu"),
        max=("macs=2000",),
        min=("accuracy=0.9",),
        recipe=("hinton",),
        runs_dir="runs",
    )
    python = settings_of(
        trials=7,
        seed=3,
        timeout=1.5,
        objectives=["accuracy", "macs"],
        fix={"alpha": 0.5, "act": "relu"},
        max={"macs": 2000},
        min={"accuracy": 0.9},
        recipe="hinton",
        runs_dir=Path("runs"),
    )
    assert text == python
    assert python.bound == Bound("--min", "accuracy", 0.9) and python.budgets == {"macs": 2000.0}
    assert python.program == "kd-harness" and Path("runs").is_dir()


def test_what_was_left_out_has_its_default() -> None:
    nothing = settings_of(trials=None, teacher=(), recipe=[], accept_changes=False, no_such_option=1)
    assert nothing == settings_of() == Settings(space_name="mine", space_file=Path("mine.py"), study="mine")


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"trials": 0}, "{trials} must be a whole number of at least 1, but got 0"),
        ({"trials": True}, "{trials} must be a whole number of at least 1, but got True"),
        ({"min_share": 98}, "{min_share} must be a share above 0 and at most 1, as 0.98, but got 98"),
        ({"pruner": "paretto"}, "{pruner} must be one of pareto, none, but got 'paretto'; did you mean pareto?"),
        ({"min": "accuracy=1", "max": "mae=2"}, "but got {min} accuracy=1 and {max} mae=2"),
        ({"fix": ("a=1", "a=2")}, "{fix} must name each parameter once"),
        ({"ensemble": "logits"}, "{ensemble} needs several teachers: give {teacher} more than once, or {teachers}"),
        ({"storage": " "}, "{storage} must be an address, but got ' '; leave it out for the default"),
    ],
)
@pytest.mark.parametrize("spell", [str, flag])
def test_an_error_names_the_option_as_the_person_wrote_it(keywords: dict, said: str, spell: type[str]) -> None:
    names = {name: spell(name) for name in re.findall(r"{(\w+)}", said)}
    with pytest.raises(InvalidOption, match=re.escape(said.format(**names))):
        search_settings(Given(keywords, spell=spell, program=""), "mine", Path("mine.py"))


def test_a_variable_stands_in_for_an_option_and_is_checked_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given({}, spell=flag, program="")
    monkeypatch.setenv("KD_TO", "sqlite:///there.db")
    assert given.read_required("to", values.address, "KD_TO") == "sqlite:///there.db"
    monkeypatch.setenv("KD_TO", "kd:s3cret@h/kd")
    with pytest.raises(InvalidOption, match=r"^--to must be an address with") as refused:
        given.read_required("to", values.address, "KD_TO")
    assert "s3cret" not in str(refused.value)
    monkeypatch.setenv("KD_TO", "")
    with pytest.raises(InvalidOption, match=r"^--to is required, or \$KD_TO$"):
        given.read_required("to", values.address, "KD_TO")
