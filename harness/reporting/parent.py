"""The study's own run: the parent of its trials, and what it says the study stands on."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness.core.addresses import place_of
from harness.core.content import FolderLock
from harness.preparation.prepared import Prepared
from harness.settings import Settings
from harness.storage.access import STORAGE_ERRORS
from harness.studies.study import Study
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool

_MOST_OF_A_TAG = 4000  # characters; MLflow refuses a tag of more than 5000 on some stores
_PACKAGES = ("kd-harness", "torch", "pytorch-lightning", "optuna", "mlflow", "torchmetrics", "numpy")


class ParentRun:
    """A context that is open while a search works on its study; it ends COMPLETE, or WAITING if the study can go on.

    Args:
        study: The study.
        settings: How it is searched.
        mirror: Told of the run's news.
        controls_left: Whether controls are left to be trained; asked where the trials are over.
    """

    def __init__(
        self, study: Study, settings: Settings, mirror: Mirror, controls_left: Callable[[], object] = lambda: False
    ) -> None:
        self._study = study
        self._settings = settings
        self._mirror = mirror
        self._controls_left = controls_left
        study.join()
        self.spool = Spool(study.folder, mirror.notify)
        if study.finished():  # a first start has a run when all is prepared: one that is refused makes none
            self._begin()

    def __enter__(self) -> ParentRun:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            self._study.retry.set_deadline()  # a stopped search must end, even while its storage is away
        self._study.leave()
        last = FolderLock(self._study.folder)
        if self.spool.begun and last.acquire():  # else another process goes on with the study
            self.spool.set_state("COMPLETE" if self._is_over() else "WAITING")
        last.release()
        self.spool.close()

    def start(self, prepared: Prepared) -> None:
        """Say that the search runs, and with what: content hashes of what was prepared, and what it is measured on."""
        self._begin()
        settings = self._settings
        self.spool.tags(
            {
                "kd.trials": str(settings.trials),
                "kd.sampler": settings.sampler,
                "kd.pruner": settings.pruner,
                "kd.region": str(self._study.region),
                "kd.storage": place_of(settings.storage),
                "kd.dataset": prepared.dataset,
                "kd.teacher": prepared.teacher_digest,
                "kd.device": str(prepared.costs.conditions),
                **_versions(),
            }
        )
        self.spool.set_state("RUNNING")

    def _is_over(self) -> bool:
        try:
            return self._study.is_over and not self._controls_left()
        except STORAGE_ERRORS:
            return False  # what can't be reached can go on; whoever lost it says so

    def _begin(self) -> None:
        """Say what the study is, if it was not said. A study has one run, however many machines begin it at once."""
        if not self.spool.begun and self._study.is_shared and self._mirror.shares_files:
            with self._study.exclusive("run"):
                self._say_what_it_is()
                self._mirror.settle(self._study.folder)  # if the server is away, its runs are sent when it is back
        else:
            self._say_what_it_is()

    def _say_what_it_is(self) -> None:
        settings, identity = self._settings, self._study.attrs["kd.identity"]
        self.spool.begin(
            settings.study,
            tags={
                "kd.role": "study",
                "kd.study": settings.study,
                "kd.run_key": self._study.id,
                "mlflow.user": user_name(),
                "mlflow.source.name": Path(sys.argv[0]).name,
                "mlflow.source.type": "LOCAL",
            },
            params={
                "space": identity["space"],
                "objectives": ",".join(identity["objectives"]),
                "epochs": identity["epochs"],
                "seed": identity["seed"],
                "sampler": settings.sampler,
            },
        )
        if self._study.changes:
            self.spool.tags({"kd.changes": "; ".join(self._study.changes)[:_MOST_OF_A_TAG]})


def user_name() -> str:
    """Return the name of the user, or the number of one who has no name, as in a container; MLflow does the same."""
    with contextlib.suppress(OSError, KeyError):  # the latter before Python 3.13
        return getpass.getuser()
    return str(os.getuid())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    tags = {"kd.versions": json.dumps(found)}
    commit = _git_commit()
    return tags if commit is None else {**tags, "mlflow.source.git.commit": commit}


def _git_commit() -> str | None:
    """The commit of this program's checkout; ``None`` where it is none, as in a virtual environment in a repository."""
    try:
        asked = subprocess.run(
            # Whose PATH has another git has another python too.
            ["git", "rev-parse", "--show-toplevel", "HEAD"],  # nosec B607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    root, _, commit = asked.stdout.strip().rpartition("\n")
    return commit if Path(root) == Path(__file__).resolve().parents[2] else None
