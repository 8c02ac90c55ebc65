"""How far a run's spool has been sent, in a file beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.core.content import write_atomically
from harness.tracking.spool import SPOOL

STATE_FILE = "mirror.json"


@dataclass
class SendProgress:
    """How far a run has been sent. A tracker adds fields of its own in a subclass.

    Attributes:
        store: The store it was sent to (``RunStore.identity``).
        offset: Bytes of the spool that were sent.
        state: The run's state there, in Optuna's words.
        may_exist: Whether the store may have the run though this file does not know: its creation was interrupted, or
            this file is damaged, or belongs to another store.
    """

    store: str
    offset: int = 0
    state: str | None = None
    may_exist: bool = False

    @classmethod
    def load(cls, folder: Path, store: str) -> Self:
        """Return the progress of a run to a store; that of a run of which nothing was sent if the file is no use."""
        try:
            found = cls(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(store)
        except (ValueError, TypeError):
            return cls(store, may_exist=True)
        return found if found.store == store and found.is_consistent() else cls(store, may_exist=True)

    def is_consistent(self) -> bool:
        """Return whether the fields can be used; where not, the whole run is sent again."""
        return True

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(vars(self))
        write_atomically(folder / STATE_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def is_sent(folder: Path, store: str, state: str) -> bool:
    """Return whether all of a run's spool was sent to ``store`` and ends in ``state``, judged by the files alone."""
    try:
        sent = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        size = (folder / SPOOL).stat().st_size
        return bool(sent["store"] == store and sent["state"] == state and sent["offset"] == size)
    except (FileNotFoundError, ValueError, KeyError):
        return False
