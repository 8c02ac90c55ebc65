"""Space files: what is wrong with one is said in one line, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import HarnessError
from harness.options.spaces import SPACES_DIR
from harness.space import SearchSpace, load_space

GOOD = """
from optuna.distributions import FloatDistribution, IntDistribution
from harness.space import SearchSpace
from search_spaces.digits import Digits

class Mine(Digits):
    teacher_epochs = 3

SPACE = SearchSpace(
    task=Mine(),
    student={"width": IntDistribution(2, 4)},
    distillation={"temperature": FloatDistribution(1, 2), "alpha": FloatDistribution(0, 1)},
    epochs=5,
)
"""


def error_of(file: Path) -> str:
    with pytest.raises(HarnessError) as caught:
        load_space(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["digits", "digits_methods", "fashion_mnist", "fashion_mnist_methods", "fashion_mnist_shifted"]
)
def test_the_embedded_spaces_load(name: str) -> None:
    assert isinstance(load_space(SPACES_DIR / f"{name}.py"), SearchSpace)


def test_a_file_of_one_s_own_loads(tmp_path: Path) -> None:
    file = tmp_path / "good_space.py"
    file.write_text(GOOD)
    space = load_space(file)
    assert space.epochs == 5 and space.task.teacher_epochs == 3 and list(space.student) == ["width"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.py").endswith(f"there is no file {str(tmp_path / 'none.py')!r}.")


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "syntax_space.py"
    file.write_text("import math\n\nSPACE = (\n")
    assert error_of(file) == f"space file {file}, line 3: SyntaxError: '(' was never closed"


def test_an_exception_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "raising_space.py"
    file.write_text("import math\n\ndef f():\n    return math.sqrt(-1)\n\nSPACE = f()\n")
    message = error_of(file)  # the innermost line of the file: the one of the mistake
    assert message.startswith(f"space file {file}, line 4: ValueError: ")


def test_a_space_that_is_refused_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "refused_space.py"
    file.write_text(GOOD.replace('"alpha"', '"lambda"'))
    message = error_of(file)
    assert message.startswith(f"space file {file}, line 9: ValueError: distillation must name some of")
    assert "'lambda'" in message


def test_a_relative_path_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relative_space.py").write_text("x = 1\ny = x / 0\n")
    assert error_of(Path("relative_space.py")).startswith("space file relative_space.py, line 2: ZeroDivisionError: ")


def test_a_syntax_error_in_another_file_is_not_given_a_line_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_helper.py").write_text("\n" * 40 + "def f(:\n")
    file = tmp_path / "importing_space.py"
    file.write_text("x = 1\nimport broken_helper\n")
    message = error_of(file)
    assert message.startswith(f"space file {file}, line 2: SyntaxError: ")
    assert "broken_helper.py" in message


@pytest.mark.parametrize(
    ("text", "found"), [("", "sets none"), ("SPACE = 3\n", "SPACE is 3"), ("space = 1\n", "sets none")]
)
def test_a_file_without_a_space_is_refused(tmp_path: Path, text: str, found: str) -> None:
    file = tmp_path / "empty_space.py"
    file.write_text(text)
    assert error_of(file) == f"space file {file} must set SPACE to a SearchSpace, but {found}."


@pytest.mark.parametrize("folder", ["one", "two"])
def test_a_file_imports_its_neighbours_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    for epochs, name in enumerate(("one", "two", "here"), start=1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour_of_a_space.py").write_text(f"EPOCHS = {epochs}\n")
    file = tmp_path / folder / "space.py"
    file.write_text(f"from neighbour_of_a_space import EPOCHS\n{GOOD.replace('epochs=5', 'epochs=EPOCHS')}")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "here")
    assert load_space(file).epochs == {"one": 1, "two": 2}[folder]


@pytest.mark.parametrize(
    ("leaves", "code"), [("sys.exit()", 0), ("sys.exit(3)", 3), ("raise SystemExit('bye')", "bye")]
)
def test_a_file_that_ends_the_program_is_told_with_its_line(tmp_path: Path, leaves: str, code: Any) -> None:
    file = tmp_path / "leaving_space.py"
    file.write_text(f"import sys\n{leaves}\n")
    assert error_of(file) == (
        f"space file {file}, line 2: SystemExit: it ends the program (exit code {code}); it must set SPACE and return"
    )


def test_what_happens_in_a_neighbour_is_told_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "leaving_neighbour.py").write_text("\n\nraise KeyboardInterrupt\n")
    file = tmp_path / "importing_space.py"
    file.write_text("x = 1\nimport leaving_neighbour\n")
    assert error_of(file) == f"space file {file}, line 2: KeyboardInterrupt (leaving_neighbour.py, line 3)"


def test_a_file_that_is_no_text_and_a_folder_are_told_for_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "latin_space.py"
    file.write_bytes(b"x = 1\nname = 'caf\xe9'\n")
    assert error_of(file).startswith(f"space file {file}, line ") and "utf-8" in error_of(file)
    assert error_of(tmp_path).endswith(f"must be a name or a Python file, but {str(tmp_path)!r} is a folder.")


def test_a_link_to_a_file_finds_the_neighbours_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "far_neighbour.py").write_text("EPOCHS = 7\n")
    (tmp_path / "far" / "space.py").write_text(
        f"from far_neighbour import EPOCHS\n{GOOD.replace('epochs=5', 'epochs=EPOCHS')}"
    )
    (tmp_path / "linked.py").symlink_to(tmp_path / "far" / "space.py")
    assert load_space(tmp_path / "linked.py").epochs == 7
