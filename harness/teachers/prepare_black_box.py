"""Prepare a teacher that is no PyTorch network: what it learns is kept as a network's weights are, and it is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.studies.start import Start
from harness.teachers.black_box import BlackBoxTeacher, Ground
from harness.teachers.cache import ArtifactCache
from harness.tracking.autologging import switch_off_autologging
from harness.tracking.spool import Spool

WHAT = "teacher"
"""What is kept, in messages."""


def run_key_of(folder: Path) -> str:
    """Return what identifies a teacher's run on any machine: its folder is named after what it is made of."""
    return f"teacher/{folder.name}"


def prepare_black_box(
    given: BlackBoxTeacher,
    ground: Ground,
    teachers: Path,
    artifacts: ArtifactCache,
    begun: Callable[[Path], Spool],
    check: Callable[[BlackBoxTeacher], None],
) -> tuple[Start, Spool]:
    """Prepare a teacher, and return what identifies it and the log of its run.

    Args:
        given: The teacher.
        ground: What it stands on; its ``keep`` is set here.
        teachers: Folder of the teachers in the cache.
        artifacts: Finds what is kept, and keeps what is learnt.
        begun: Begins the log of a run in a folder.
        check: Raises if it can't teach, once it is prepared and before it is asked.

    Raises:
        HarnessError: If it can't teach.
    """
    kept: list[Path] = []

    def keep(key: str, name: str, load: Callable[[Path], None], make: Callable[[Path], None]) -> None:
        file = teachers / key / name

        def made(files: list[Path]) -> None:
            with contextlib.closing(begun(file.parent)) as spool:
                spool.set_state("RUNNING")
                make(files[0])

        artifacts.get_or_create(
            [file],
            lock=file.with_name("lock"),
            name=f"teacher {key}",
            what=WHAT,
            doing="fits the teacher",
            run_key=run_key_of(file.parent),
            run_folder=file.parent,
            load=load,
            make=made,
        )
        kept.append(file)

    switch_off_autologging()
    given.prepare(replace(ground, keep=keep))
    check(given)
    start = given.start(ground.data)
    folder = kept[0].parent if kept else teachers / start.digest
    spool = begun(folder)
    artifacts.share(kept, WHAT, folder)
    return start, spool
