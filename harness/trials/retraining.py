"""Students of a study trained anew, outside of the search: in another way, or with another seed.

What is tried is chosen by the search; what is trained here is chosen from what the search has found, to see what it is
worth. It is trained to the end, as a trial is, resumable, and its result is kept with the study.
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
from harness.trials.context import Display, Notified, TrialContext
from harness.trials.runner import Training, run
from harness.trials.trial import StudentJob


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A student to be trained anew.

    Attributes:
        name: Names it within its study: the place of its folder there, and of its result.
        title: Names it to a person, in full.
        job: What is trained.
        tags: Of its run.
        facts: What is kept with its result.
        names: Parameters of its run beside those of its configuration.
    """

    name: str
    title: str
    job: StudentJob
    tags: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@room_on_disk()
def retrain(retrainings: Sequence[Retraining], context: TrialContext, display: Display) -> None:
    """Train what nobody has trained yet and nobody is training. What workers do; see ``harness.trials.local``.

    Args:
        retrainings: What is to be trained. The display knows each by its place in it.
        context: What every training stands on.
        display: Shows each training.

    Raises:
        HarnessError: If a training fails by an error that is not its own doing, or there is no room even for its log.
    """
    study = context.study
    study.retry.notifier.say = display.word
    places = {retraining.name: place for place, retraining in enumerate(retrainings)}
    pause_s = 0.05
    while left := [name for name in places if name not in study.retrained()]:
        lease = study.acquire_lease(left)
        if lease is None:  # others train what is left; one of them may be lost
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
            continue
        if lease.item in study.retrained():  # read again under the lease
            lease.release()
        else:
            place = places[lease.item]
            run(training_of(place, retrainings[place], lease, study), context, display)


def training_of(place: int, retraining: Retraining, hold: Lease, study: Study) -> Training:
    """Return the training of a student that is trained anew.

    Args:
        place: Its place in the list that the display knows.
        retraining: What is trained.
        hold: This worker's.
        study: Keeps the result.
    """
    return Training(
        number=place,
        title=retraining.title,
        run_name=retraining.title,
        folder=study.folder / retraining.name,
        key=retraining.name,
        job=retraining.job,
        hold=hold,
        outcome=_KeptResult(retraining, hold, study),
        resumed=True,  # perhaps; its log knows
        tags=retraining.tags,
        names=retraining.names,
    )


@dataclass(frozen=True)
class _KeptResult:
    """Keeps how a training ended with the study, unless the training is another worker's by now: its result stands."""

    retraining: Retraining
    hold: Lease
    study: Study

    def complete(self, metrics: Mapping[str, float]) -> None:
        self._keep(metrics=dict(metrics))

    def prune(self, costs: Mapping[str, float], reason: str) -> None:
        raise AssertionError("only trials are pruned")

    def fail(self, reason: str) -> None:
        self._keep(reason=reason)

    def _keep(self, **outcome: Any) -> None:
        def keep() -> None:
            self.hold.verify()
            with asking_storage():
                self.study.store_retrained(self.retraining.name, {**self.retraining.facts, **outcome})

        self.study.retry.call(keep)


def let_wait(study: Study, mirror: Notified) -> None:
    """Let the run of each training that was cut, and that nobody is at, say that it waits.

    A process that is killed can't; and what is not wanted any more (no controls, another pick) has no other to say it.

    Args:
        study: The study.
        mirror: Told of the news.
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
