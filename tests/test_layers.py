"""Each layer imports only what stands below it."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, environment

BELOW = {
    "lightning_modules": {"lightning_modules"},
    "harness": {"harness", "lightning_modules"},
    "search_spaces": {"search_spaces", "harness", "lightning_modules"},
}
TRACKING = ROOT / "harness" / "tracking"
OF_MLFLOW = {*(TRACKING / "trackers" / "mlflow").glob("*.py"), TRACKING / "autologging.py"}
"""Its tracker; and what switches off what a space's own code logs to MLflow, whatever the tracker is."""
FILES = [path for layer in BELOW for path in sorted((ROOT / layer).glob("**/*.py"))]


@functools.cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path: Path) -> Iterator[str]:
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


def parts_imported(path: Path) -> Iterator[str]:
    for node in import_statements(path):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports(path)} & {*BELOW, "search", "tests", "benchmarks"}
    assert ours <= BELOW[layer]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_its_tracker_imports_mlflow_and_training_code_knows_no_optuna(path: Path) -> None:
    modules = {name.split(".")[0] for name in imports(path)}
    assert "mlflow" not in modules or path in OF_MLFLOW
    assert "optuna" not in modules or path.relative_to(ROOT).parts[0] != "lightning_modules"


def test_no_parts_of_the_engine_need_one_another() -> None:
    needs: dict[str, set[str]] = {}
    for path in (ROOT / "harness").glob("**/*.py"):
        part = path.relative_to(ROOT / "harness").with_suffix("").parts[0]  # a folder, or a file beside them
        # "from harness import a" names a part only in what it imports.
        named = [name.split(".") for name in imports(path)] + [["harness", name] for name in parts_imported(path)]
        needs.setdefault(part, set()).update(name[1] for name in named if name[0] == "harness" and name[1:])
        needs[part].discard(part)
    assert needs["searching"] >= {"trials", "reporting"} and "settings" in needs["cli"]
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError, which names them


@pytest.mark.parametrize(
    "path", sorted((ROOT / "harness").glob("**/*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_only_the_faces_import_the_command_line(path: Path) -> None:
    place = path.relative_to(ROOT / "harness")
    if place.parts[0] not in ("cli", "__main__.py"):
        assert not any(name.startswith("harness.cli") for name in imports(path))
        assert "cli" not in parts_imported(path)


def test_the_engine_names_no_space_and_no_dataset() -> None:
    for path in (ROOT / "harness").glob("**/*.py"):
        code = path.read_text().lower()
        if path.name != "api.py" and path.parent.name not in ("cli", "options"):  # the faces: examples, and the default
            assert "fashion" not in code and "digits" not in code.replace("hexadecimal digits", ""), path


def test_help_is_there_at_once_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['search.py', '--help']\n"
        "import search\n"
        "try: search.parse_search()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'pytorch_lightning', 'mlflow', 'optuna', 'pandas', 'numpy', 'sqlalchemy', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True, capture_output=True)


def test_the_mirror_is_ready_early_because_it_imports_no_torch() -> None:
    code = (
        "import sys, harness.tracking.mirror_process\n"
        "from harness.tracking.base import tracker_named\n"
        "assert 'mlflow' not in sys.modules\n"
        "tracker_named('MLflow').preload()\n"
        "assert 'mlflow' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True, capture_output=True)


def test_the_architecture_lists_every_file() -> None:
    listed = set(re.findall(r"^\| `([\w/.]+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE))
    kept = {"tensors.py", "datasets.py"}  # import paths of space files in use
    for package in ("harness", "lightning_modules"):
        for path in (ROOT / package).glob("**/*.py"):
            place = path.relative_to(ROOT / package)
            in_folder = place.as_posix() if package == "lightning_modules" else "/".join(place.parts[1:]) or place.name
            assert (
                path.name == "__init__.py" or place.name in kept or in_folder in listed or path.name == "__main__.py"
            ), f"{path.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_a_table_of_changes_names_exist(page: str) -> None:
    text = (ROOT / page).read_text().partition("## Every file")[0]
    named = set(re.findall(r"(?<![\w.-])(?:tests|harness|search_spaces|lightning_modules)/[\w/.]*\w", text))
    assert named and [name for name in named if not (ROOT / name).exists()] == []
