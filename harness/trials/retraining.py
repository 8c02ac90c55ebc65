"""Retrain students of a study outside of the search: with another loss or another seed.

The search chooses its trials; retrainings are chosen among its results, to measure what they are worth: controls and
confirmations. A retraining runs to the last epoch, is resumable like a trial, and its result is stored with the study.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import room_on_disk
from harness.storage.access import asking_storage
from harness.storage.leases import Lease
from harness.studies.study import Study
from harness.tracking.spool import SPOOL, Spool, last_state
from harness.trials.context import Display, MirrorClient, TrialContext
from harness.trials.runner import TrainingRun, run_training
from harness.trials.trial import TrainingSpec


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A student to be retrained.

    Attributes:
        name: Path of its folder within the study's, and key of its result.
        title: Full name in messages.
        spec: What is trained.
        tags: Tags of its run.
        facts: Stored with its result.
        extra_params: Parameters of its run beside those of its configuration.
    """

    name: str
    title: str
    spec: TrainingSpec
    tags: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    extra_params: Mapping[str, str] = field(default_factory=dict)


@room_on_disk()
def retrain(retrainings: Sequence[Retraining], context: TrialContext, display: Display) -> None:
    """Run the retrainings that have no result and that no worker runs. Each worker of a pool calls this.

    Args:
        retrainings: The retrainings. The display identifies each by its index.
        context: What every training needs.
        display: Shows each training.

    Raises:
        HarnessError: If a training fails by an error that is not its own fault, or the disk has no room for its log.
    """
    study = context.study
    study.retry.notifier.say = display.message
    indices = {retraining.name: index for index, retraining in enumerate(retrainings)}
    pause_s = 0.05
    while left := [name for name in indices if name not in study.retrained()]:
        lease = study.acquire_lease(left)
        if lease is None:  # other workers run the remaining ones, and may lose one
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
            continue
        if lease.item in study.retrained():  # read again under the lease
            lease.release()
        else:
            index = indices[lease.item]
            run_training(retraining_run(index, retrainings[index], lease, study), context, display)


def retraining_run(index: int, retraining: Retraining, lease: Lease, study: Study) -> TrainingRun:
    """Return the training run of a retraining.

    Args:
        index: Its index in the list of retrainings.
        retraining: The retraining.
        lease: This worker's lease of it.
        study: Stores the result.
    """
    return TrainingRun(
        number=index,
        title=retraining.title,
        run_name=retraining.title,
        folder=study.folder / retraining.name,
        key=retraining.name,
        spec=retraining.spec,
        lease=lease,
        results=_RetrainingResult(retraining, lease, study),
        resumed=True,  # perhaps; its spool knows
        tags=retraining.tags,
        extra_params=retraining.extra_params,
    )


@dataclass(frozen=True)
class _RetrainingResult:
    """Result sink that stores the result of a retraining with the study, unless its lease is lost."""

    retraining: Retraining
    lease: Lease
    study: Study

    def complete(self, metrics: Mapping[str, float]) -> None:
        self._store(metrics=dict(metrics))

    def prune(self, costs: Mapping[str, float], reason: str) -> None:
        raise AssertionError("only trials are pruned")

    def fail(self, reason: str) -> None:
        self._store(reason=reason)

    def _store(self, **result: Any) -> None:
        def store() -> None:
            self.lease.verify()
            with asking_storage():
                self.study.store_retrained(self.retraining.name, {**self.retraining.facts, **result})

        self.study.retry.call(store)


def mark_waiting_runs(study: Study, mirror: MirrorClient) -> None:
    """Mark the run of each interrupted retraining that no worker runs as WAITING.

    A killed process can't mark its run; and a retraining that is no longer wanted (no controls, another pick) has no
    later worker that would.

    Args:
        study: The study.
        mirror: Notified of the changes.
    """
    if not study.owns_folder():
        return
    known = study.retrained()
    groups = [folder for folder in study.folder.iterdir() if folder.is_dir() and not folder.name.isdigit()]
    files = {str(file.parent.relative_to(study.folder)): file for group in groups for file in group.rglob(SPOOL)}
    with contextlib.closing(study.leases):
        for name in sorted(files.keys() - known.keys()):
            lease = study.acquire_lease([name]) if last_state(files[name]) == "RUNNING" else None
            if lease is None:
                continue
            if name not in study.retrained():  # read again under the lease
                spool = Spool(study.folder / name, mirror.notify, is_valid=lease.is_valid)
                if spool.state == "RUNNING":
                    spool.set_state("WAITING")
                spool.close()
            lease.release()
