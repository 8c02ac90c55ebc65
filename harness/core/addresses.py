"""Storage and tracking addresses: parsed, normalised, and shown without passwords."""

from __future__ import annotations

import re
from pathlib import Path

_SQLITE = "sqlite:///"


def redact(text: object) -> str:
    """Replace the password of every address in a text by ``***``."""
    text = re.sub(r"(:/{1,2}[^:/\s]*):\S+@", r"\1:***@", str(text))  # a slash may be forgotten, a name may hold an @
    text = re.sub(r"(?i)(https?://)[^:/@\s]+@", r"\1***@", text)  # a name alone is a token there
    # In a query, in libpq's keywords, and in ODBC's, which a query has percent-encoded.
    return re.sub(r"(?i)((?:password|passwd|pwd|token)(?:=|%3d))(?:(?!%3b)[^&;\s])+", r"\1***", text)


def has_password(address: str) -> bool:
    """Return whether an address holds a password or a token."""
    return redact(address) != address


def is_showable(address: str) -> bool:
    """Return whether ``redact`` would find an address's password: that needs a scheme and no blank before it."""
    before_host, at, _ = address.rpartition("@")
    if not at or ":" not in before_host or Path(address).is_absolute() or sqlite_path(address) is not None:
        return True
    return "://" in before_host and not re.search(r"\s", before_host)


def place_of(address: str) -> str:
    """Return an address in the form that is stored and compared: absolute, without a password."""
    path = sqlite_path(address)
    if "://" not in address:  # a folder, to MLflow
        return str(Path(address).resolve())
    return redact(address) if path is None else f"{_SQLITE}{path.resolve()}"


def sqlite_path(address: str) -> Path | None:
    """Return the file of a SQLite address; ``None`` for other addresses and for a database in memory."""
    file = address.removeprefix(_SQLITE).split("?", 1)[0]
    return None if not address.startswith(_SQLITE) or file in ("", ":memory:") else Path(file)


def is_server(address: str) -> bool:
    """Return whether an address is that of a PostgreSQL server, whose studies workers of many machines share."""
    return re.match(r"postgresql(\+\w+)?://", address) is not None


def lock_of(address: str, runs_dir: Path) -> Path:
    """Return the lock file for opening a database: beside a SQLite file, which several runs folders may share."""
    path = sqlite_path(address)
    if path is None or not path.parent.is_dir():  # a lock makes no folder where an address is mistyped
        return runs_dir / ".opening.lock"
    return path.with_name(f".{path.name}.lock")
