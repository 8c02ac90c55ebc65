"""Names of classes in pictures, tables and pages: as they are, whatever their characters mean to a renderer."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from test_agreement import answers

from harness.reporting.agreement import TeacherAgreement, agreement_table
from harness.reporting.agreement_picture import draw_agreement
from harness.reporting.picture_text import text_of
from harness.screen.formatting import parameter_text, printable
from harness.screen.table import Column, Row, build_table
from harness.screen.terminal import Terminal

NAMES = {
    "a formula": ("$10_to_$20_", "more $ than_{"),
    "markup": ("animal:cat:tabby [/bold]", "<b>&amp;</b>"),
    "another script": ("猫|犬", "🐱"),
    "lines": ("two\nlines", "a\ttab\x1b[31m"),
    "long": ("x" * 300, "y" * 300),
    "alike": ("same", "same"),
    "empty": ("", " "),
}


def of_two(names: tuple[str, str]) -> TeacherAgreement:
    """Ten answers of two classes so called: of class 0 the student loses three, to class 1."""
    labels = [0] * 5 + [1] * 5
    return TeacherAgreement(answers(labels, labels, [0, 0, 1, 1, 1] + [1] * 5, classes=2), names)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_any_names_are_drawn_without_a_warning_and_written_as_they_are(names: tuple[str, str], tmp_path: Path) -> None:
    draw_agreement({"a pick": of_two(names)}, tmp_path / "transfer.png", title="s")  # a warning is an error here
    assert agreement_table({0: of_two(names)}, {})["class"].tolist() == list(names)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (NAMES["markup"], "class animal:cat:tabby [/bold] (3 of 5, 3 as <b>&amp;</b>)"),
        (NAMES["lines"], "class two lines (3 of 5, 3 as a tab [31m)"),
        (NAMES["long"], f"class {'x' * 59}… (3 of 5, 3 as {'y' * 59}…)"),
        (NAMES["alike"], "class same (0) (3 of 5, 3 as same (1))"),
        (NAMES["empty"], "class  (0) (3 of 5, 3 as  (1))"),
    ],
)
def test_a_sentence_says_a_name_in_one_line_and_tells_it_from_others(names: tuple[str, str], told: str) -> None:
    assert of_two(names).sentence().endswith(f"it loses most in {told}.")


def test_a_name_in_a_picture_is_no_formula_and_what_no_font_has_is_told_otherwise() -> None:
    assert text_of("$x$") == r"\$x\$"
    assert text_of("\N{LINEAR B SYLLABLE B008 A}b", otherwise="class 3") == "class 3"
    assert text_of("\N{LINEAR B SYLLABLE B008 A}b") == "□b"


def test_a_line_of_the_terminal_is_what_was_said() -> None:
    written = StringIO()
    Terminal(Console(file=written, width=80)).say("class :cat: [/bold] [red]猫")
    assert written.getvalue() == "class :cat: [/bold] [red]猫\n"


def test_what_breaks_a_line_is_a_blank_in_names_and_values() -> None:
    assert printable("a\r\nb\x00c\u2028\ud800d ") == "a b c d"
    assert parameter_text("ke\nrnel", "gl\nu") == "ke rnel gl u"


def test_columns_stand_below_one_another_where_characters_are_wide() -> None:
    rows = [Row(["猫猫", "1"]), Row(["ab", "2"])]
    table, _ = build_table([Column("name", is_text=True), Column("n")], rows, width=80)
    written = StringIO()
    Terminal(Console(file=written, width=80)).show(table)
    assert written.getvalue().splitlines()[2:] == [" 猫猫  1", " ab    2"]


def test_classes_beyond_the_names_go_by_their_numbers(tmp_path: Path) -> None:
    labels = [0] * 6 + [1] * 4
    agreement = TeacherAgreement(
        answers(labels, labels, [4, 4, 4, 3, 0, 0, 1, 1, 1, 1], classes=5), ("cat", "dog", "3")
    )
    assert agreement.by_class["class"].tolist() == ["cat", "dog", "3", "3", "4"]
    assert agreement.by_class["lost_to"].tolist() == ["4", "", "", "", ""]
    assert agreement.sentence().endswith("it loses most in class cat (4 of 6, 3 as 4).")
    assert agreement.name(2) == "3 (2)" and agreement.name(3) == "3 (3)"  # two that are called so
    draw_agreement({"a pick": agreement}, tmp_path / "transfer.png", title="s")
