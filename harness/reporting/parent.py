"""The run of the study, the parent of its trials' runs: parameters, versions, and digests of what was prepared."""

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
from harness.tracking.spool import COMMIT_TAG, SOURCE_TAG, USER_TAG, Spool

_LONGEST_TAG = 4000  # characters; MLflow refuses a tag of more than 5000 on some stores
_PACKAGES = ("kd-harness", "torch", "pytorch-lightning", "optuna", "mlflow", "torchmetrics", "numpy")


class ParentRun:
    """A context for the search of a study; at its end the run is COMPLETE, or WAITING if the study can go on.

    Args:
        study: The study.
        settings: How it is searched.
        mirror: Notified of new events of the run.
        controls_left: Returns whether controls are left to be trained; called when the trials are over.
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
        if study.finished():  # a first start creates the run when all is prepared, so that a refused one has none
            self._begin()

    def __enter__(self) -> ParentRun:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            self._study.retry.set_deadline()  # a stopped search must end even while its storage is away
        self._study.leave()
        last = FolderLock(self._study.folder)
        if self.spool.begun and last.acquire():  # else another process goes on with the study
            self.spool.set_state("COMPLETE" if self._is_over() else "WAITING")
        last.release()
        self.spool.close()

    def start(self, prepared: Prepared) -> None:
        """Log that the search runs: its settings, digests of what was prepared, device and versions."""
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
            return False  # an unreachable study can go on; the caller reports the lost connection

    def _begin(self) -> None:
        """Log what the study is, unless it is logged. A study has one run, however many machines begin it at once."""
        if not self.spool.begun and self._study.is_shared and self._mirror.shares_files:
            with self._study.exclusive("run"):
                self._log_identity()
                self._mirror.settle(self._study.folder)  # a server that is away gets the run when it is back
        else:
            self._log_identity()

    def _log_identity(self) -> None:
        settings, identity = self._settings, self._study.attrs["kd.identity"]
        self.spool.begin(
            settings.study,
            tags={
                "kd.role": "study",
                "kd.study": settings.study,
                "kd.run_key": self._study.id,
                USER_TAG: user_name(),
                SOURCE_TAG: Path(sys.argv[0]).name,
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
            self.spool.tags({"kd.changes": "; ".join(self._study.changes)[:_LONGEST_TAG]})


def user_name() -> str:
    """Return the user's name, or the user's number if there is no name, as in a container."""
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
    return tags if commit is None else {**tags, COMMIT_TAG: commit}


def _git_commit() -> str | None:
    """Return the commit of this program's checkout; ``None`` if it is installed, even within another repository."""
    try:
        asked = subprocess.run(
            # Whoever can put another git on the PATH can put another python there too.
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
