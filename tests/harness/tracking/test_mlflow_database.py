"""MLflow's local database: whole, made anew where it is half made and empty, and never changed where it holds runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.core.errors import HarnessError
from harness.tracking.trackers.mlflow.database import prepare_database


@pytest.fixture
def file(tmp_path: Path, empty_store: Path) -> Path:
    """A database with MLflow's tables, which nobody is at work on."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def run(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()
    os.utime(file, (0, 0))


def nothing(text: str) -> None:
    pytest.fail(text)


def test_one_of_this_version_is_left_as_it_is(file: Path) -> None:
    before = file.read_bytes()
    prepare_database(file, nothing)
    assert file.read_bytes() == before and os.listdir(file.parent) == ["mlflow.db"]


def test_one_that_was_cut_in_its_migrations_is_made_anew_and_it_is_said(file: Path) -> None:
    file.unlink()
    run(file, "create table guardrails (id)")  # with which every later start said that it exists already
    said: list[str] = []
    prepare_database(file, said.append)
    assert said == [f"{file} was half made, and empty: it is made anew"] and os.listdir(file.parent) == ["mlflow.db"]
    assert MlflowClient(f"sqlite:///{file}").create_experiment("mine") == "1"


@pytest.mark.parametrize(
    "cut", ["update alembic_version set version_num = 'f5a4f2784254'", "drop table alembic_version"]
)
def test_one_with_an_experiment_is_never_changed_and_the_command_is_named(file: Path, cut: str) -> None:
    MlflowClient(f"sqlite:///{file}").create_experiment("mine")
    run(file, cut)
    before = file.read_bytes()
    with pytest.raises(HarnessError, match=f"take a copy of it, then: mlflow db upgrade sqlite:///{file}$"):
        prepare_database(file, nothing)
    assert file.read_bytes() == before and os.listdir(file.parent) == ["mlflow.db"]


def test_one_of_a_newer_mlflow_asks_for_it(file: Path) -> None:
    MlflowClient(f"sqlite:///{file}").create_experiment("mine")
    run(file, "update alembic_version set version_num = 'of tomorrow'")
    with pytest.raises(HarnessError, match=r"of a newer MLflow.*upgrade MLflow, or name another file"):
        prepare_database(file, nothing)
