"""The package: what it imports is declared; wheel and sdist hold what they must, and the wheel runs by itself."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, ROOT, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("harness", "lightning_modules", "search_spaces", "search")
UNNAMED = {"pyarrow"}
"""Declared, and imported by another library for us."""


def normal(name: str) -> str:
    """The name of a distribution as all that compare names write it (PEP 503), whatever its build is for."""
    return re.sub(r"[-_.]+", "-", name).lower().removesuffix("-cpu")


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


REQUIRED = declared(PROJECT["dependencies"])
EXTRAS = ("text", "vision", "postgres", "slurm", "ray", "keras", "onnx", "sklearn")
OPTIONAL = {extra: declared(PROJECT["optional-dependencies"][extra]) for extra in EXTRAS}


def imported(*places: Path) -> Iterator[str]:
    """Top-level modules of others that files import, or the files of folders."""
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [str(node.module)]
                yield from (top for name in names if (top := name.split(".")[0]) not in sys.stdlib_module_names)


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    known = importlib.metadata.packages_distributions()
    modules = set(imported(*(ROOT / name for name in OURS[:3]), ROOT / "search.py")) - set(OURS)
    assert {"torch", "scipy", "alembic"} <= modules
    allowed = REQUIRED.union(*OPTIONAL.values())
    used = set()
    for module in modules:
        # A module of an extra that is not installed has the name of its distribution; TensorFlow has one without GPUs.
        distributions = {normal(name).removesuffix("-cpu") for name in known.get(module, [module])}
        assert distributions & allowed, f"{module}, of {distributions}, is not declared"
        used |= distributions & allowed
    assert REQUIRED - used == UNNAMED
    assert used - REQUIRED == set().union(*OPTIONAL.values()) - OPTIONAL["postgres"]  # psycopg: by SQLAlchemy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree, and the wheel that is built from it."""
    tree, folder = tmp_path_factory.mktemp("tree") / "kd-harness", tmp_path_factory.mktemp("built")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "mlruns", "*.db*")
    shutil.copytree(ROOT, tree, ignore=left_out)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(tree, sys.executable, "-c", build)
    (sdist,) = folder.glob("*.tar.gz")
    pip(folder, "wheel", "--no-build-isolation", "--no-deps", "--no-index", str(sdist))
    return folder


def run(folder: Path, *command: str, **variables: str) -> str:
    """What a command prints that ends well. This checkout is not on its path."""
    kept = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def pip(folder: Path, *arguments: str) -> None:
    run(folder, sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments)


@pytest.mark.slow
def test_the_sdist_has_the_tests_and_what_the_readme_links_to(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    expected = {
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/harness/cli/test_search_flags.py",
    }
    assert expected | {*links} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("mlruns", "."))]


@pytest.mark.slow
def test_the_wheel_has_its_license_its_types_and_every_module_and_nothing_beside_them(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (meta,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = archive.read(f"{meta}/METADATA").decode()
    modules = {path.relative_to(ROOT).as_posix() for name in OURS[:3] for path in (ROOT / name).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == {*modules, "search.py"}
    assert {f"{name}/py.typed" for name in OURS[:3]} <= names
    assert f"{meta}/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {*OURS[:3], "search.py", meta}
    assert "\nLicense-Expression: Apache-2.0\n" in metadata and "\nProject-URL: Changelog, " in metadata


@pytest.mark.slow
def test_the_wheel_searches_and_reports_from_an_empty_folder(built: Path, tmp_path: Path, empty_store: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    pip(folder, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    variables = {"PYTHONPATH": str(site), "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    found = run(folder, sys.executable, "-c", f"import {', '.join(OURS)}; print(harness.__file__)", **variables)
    assert Path(found.strip()) == site / "harness" / "__init__.py"
    assert "\n  confirm " in run(folder, "kd-harness", "--help", **variables) and not list(folder.iterdir())
    shutil.copy(empty_store, folder)
    flags = ("--trials", "2", "--epochs", "1", "--workers", "2", "--min", "none", "--no-controls")
    told = run(folder, "kd-harness", "search", *flags, **variables)
    assert "2/2 done" in told
    assert "\n  report   kd-harness report --study digits\n" in told
    assert f"\n  go on    kd-harness search {' '.join(flags[2:])} --trials 4\n" in told
    told = run(folder, "kd-harness", "report", **variables)
    assert "digits: the Pareto front" in told and (folder / "mlruns/trials/digits/report/trials.csv").exists()
