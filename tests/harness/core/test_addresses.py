"""Addresses: which place they mean, and that none is shown with its password."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from harness.core.addresses import has_password, is_showable, lock_of, place_of, redact, sqlite_path


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg://user:secret@host:5432/db", "postgresql+psycopg://user:***@host:5432/db"),
        ("postgresql+psycopg://user:p@ss@host/db", "postgresql+psycopg://user:***@host/db"),
        ("http://u:p@h", "http://u:***@h"),
        ("https://token@h:5000/x", "https://***@h:5000/x"),
        ("postgresql://h/db?sslpassword=secret&a=b", "postgresql://h/db?sslpassword=***&a=b"),
        ("https://h/?access_token=secret", "https://h/?access_token=***"),
        ("https://u:p:q@h:5000/path?x=1", "https://u:***@h:5000/path?x=1"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("mysql://u:p%40%2Fss@h/db", "mysql://u:***@h/db"),
        ("postgresql://me@server:secret@server/db", "postgresql://me@server:***@server/db"),
        ("postgresql:/me:secret@server/db", "postgresql:/me:***@server/db"),
        ("host=h user=u password=secret dbname=d", "host=h user=u password=*** dbname=d"),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dse%40t%3BA%3DB",
            "mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3D***%3BA%3DB",
        ),
        (
            "can't reach http://u:p@h: refused, nor http://v:q@i.",
            "can't reach http://u:***@h: refused, nor http://v:***@i.",
        ),
    ],
)
def test_redact_replaces_the_password_only(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert has_password(address) and not has_password(shown)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///optuna.db",
        "sqlite:////var/lib/a:b@c/optuna.db",
        "http://127.0.0.1:5000",
        "http://host:5000/path",
        "postgresql://user@host/db",
        "redis://host:6379/0",
        "folder",
        "no address: someone@example.org",
        "",
    ],
)
def test_redact_leaves_text_without_a_password_as_it_is(text: str) -> None:
    assert redact(text) == text and not has_password(text)
    assert is_showable(text) or " " in text  # which is no address


@pytest.mark.parametrize(
    "address", ["postgresql://u:se cret@h/db", "u:secret@h/db", "u:secret@h:5000", "postgresql;//u:secret@h/db"]
)
def test_an_address_whose_password_redact_would_miss_is_not_showable(address: str) -> None:
    assert "secret" in redact(address) or "cret" in redact(address)
    assert not is_showable(address)


def test_redact_takes_any_object() -> None:
    assert redact(ValueError("no answer from http://u:p@h")) == "no answer from http://u:***@h"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://user:hunter2@host/db",
        "postgresql+psycopg://user:hunter2/x@host/db",
        "postgresql+psycopg://user:hun/ter2@host/db",
    ],
)
def test_redact_hides_whatever_sqlalchemy_takes_for_a_password(address: str) -> None:
    password = make_url(address).password
    assert isinstance(password, str)
    assert "hunter2" in password.replace("/", "")
    assert not any(part in redact(address) for part in (password, "hunter2", "ter2"))


@pytest.mark.parametrize("query", ["password=hunter2", "user=u&password=hunter2", "password=hunter2&sslmode=require"])
def test_redact_hides_a_password_in_the_query(query: str) -> None:
    address = f"postgresql+psycopg://host/db?{query}"
    assert make_url(address).query["password"] == "hunter2"
    assert "hunter2" not in redact(address) and redact(address).startswith("postgresql+psycopg://host/db?")


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:///optuna.db", "optuna.db"),
        ("sqlite:////tmp/a b.db", "/tmp/a b.db"),
        ("sqlite:///a/b.db?timeout=5", "a/b.db"),
        ("sqlite:///", None),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://h/db", None),
        ("http://h", None),
        ("a/folder", None),
    ],
)
def test_the_file_of_a_sqlite_address_is_found(address: str, path: str | None) -> None:
    assert sqlite_path(address) == (None if path is None else Path(path))


def test_a_place_is_absolute_whatever_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    place = place_of("sqlite:///kept.db")
    assert place == f"sqlite:///{tmp_path}/kept.db"
    monkeypatch.chdir(tmp_path / "sub")
    assert place_of("sqlite:///../kept.db") == place == place_of(place)
    assert place_of("sqlite:///kept.db") != place


def test_a_place_has_no_password() -> None:
    assert place_of("postgresql://u:p@h/db") == "postgresql://u:***@h/db"
    assert place_of("http://h:5000") == "http://h:5000"


def test_the_place_of_a_folder_is_absolute_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("tracked") == str(tmp_path / "tracked")


def test_runs_of_several_folders_open_one_sqlite_file_under_one_lock(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/optuna.db"
    assert {lock_of(address, Path(runs)) for runs in ("a", "b")} == {tmp_path / ".optuna.db.lock"}
    for elsewhere in ("postgresql://h/kd", f"sqlite:///{tmp_path}/mistyped/optuna.db"):
        assert lock_of(elsewhere, Path("runs")) == Path("runs/.opening.lock")
