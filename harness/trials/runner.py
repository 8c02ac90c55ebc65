"""Run one training to its end, whatever that is, and tell the study, the log and the person: trials and all others."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.core.addresses import redact
from harness.core.content import write_atomically
from harness.core.errors import HarnessError, Interrupted, LeaseLost, TrialFailed, TrialPruned, one_line
from harness.preparation.cost_table import costs_of
from harness.storage.access import STORAGE_ERRORS
from harness.storage.leases import Lease
from harness.studies.study import Study
from harness.tracking.spool import Spool
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.training.fit import EpochListener, check_losses
from harness.trials.context import Display, Notified, TrialContext
from harness.trials.trial import StudentJob, run_student

FAILURE = "failure.txt"
_DEATHS = 3  # of workers, no epoch being logged or kept between them, after which a training is given up


class Outcome(Protocol):
    """Where the study keeps how a training ended. Each method raises ``LeaseLost`` if another worker has it by now."""

    def complete(self, metrics: Mapping[str, float]) -> None:
        """Record that the student was trained to the end."""

    def prune(self, costs: Mapping[str, float], reason: str) -> None:
        """Record that the training was stopped early."""

    def fail(self, reason: str) -> None:
        """Record that the training failed by its own doing."""


class Judge(Protocol):
    """Who may stop a training after an epoch."""

    def recall(self, spool: Spool) -> None:
        """Take note of what a training that goes on has reached before."""

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        """Judge an epoch that ended.

        Raises:
            TrialPruned: If the training is to stop.
        """


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training in this worker's hand.

    Attributes:
        number: The display knows the training by it.
        title: Names it in messages, as in ``trial 3``.
        run_name: Name of its run.
        folder: Its own folder, with spool and checkpoints.
        key: Names its run within the study.
        job: What is trained.
        hold: This worker's until the training is over.
        outcome: Where its end is kept.
        resumed: Whether another process may have begun it.
        tags: Of its run.
        names: Parameters of its run beside those of its configuration.
    """

    number: int
    title: str
    run_name: str
    folder: Path
    key: str
    job: StudentJob
    hold: Lease
    outcome: Outcome
    resumed: bool
    tags: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)


def run(training: Training, context: TrialContext, display: Display, judge: Judge | None = None) -> None:
    """Run a training to its end and give it back; one that another worker has taken over is shown as cut.

    Args:
        training: The training.
        context: What it stands on.
        display: Shows it.
        judge: May stop it.

    Raises:
        HarnessError: If it fails by an error that is not its own doing.
        OSError: If the disk is full: every training after it would fail too.
    """
    try:
        with spool_of(training.folder, training.hold, context.mirror) as spool:
            begin_spool(spool, training, context.study)
            if judge is not None and training.resumed:
                judge.recall(spool)
            kept = spool.kept if training.resumed else None
            display.started(training.number, training.job.configuration.params(), kept)
            _run(training, spool, context, display, judge)
    except LeaseLost as taken:
        display.cut(training.number, one_line(taken))
    finally:
        training.hold.release()


def _run(training: Training, spool: Spool, context: TrialContext, display: Display, judge: Judge | None) -> None:
    number, outcome = training.number, training.outcome
    listeners: list[EpochListener] = [
        lambda epoch, metrics: training.hold.report_progress(epoch + 1),
        lambda epoch, metrics: spool.metrics(metrics, step=epoch),
        # Before it is judged: what has no loss may have an accuracy.
        lambda epoch, metrics: check_losses(epoch, metrics, context.prepared.data),
        lambda epoch, metrics: display.epoch(number, epoch),
        *([] if judge is None else [judge]),
    ]
    try:
        _check_deaths(spool)
        metrics = run_student(training.job, spool, training.hold, context, listeners)
    except TrialPruned as pruned:
        reason = one_line(pruned)
        outcome.prune(
            costs_of(training.job.configuration.student, context.space, context.study, context.prepared), reason
        )
        _end(spool, "PRUNED", reason)
        display.pruned(number, reason)
    except TrialFailed as failure:
        reason = one_line(failure)
        outcome.fail(reason)
        _end(spool, "FAIL", reason)
        display.failed(number, reason)
        if isinstance(failure.__cause__, OSError):  # a full disk: every training after it would fail too
            raise failure.__cause__ from None
    except (Interrupted, LeaseLost, *STORAGE_ERRORS):
        raise
    except Exception as error:
        reason, report = f"{type(error).__name__}: {one_line(error)}", training.folder / FAILURE
        told = redact(traceback.format_exc()).encode("utf-8", errors="replace")
        write_atomically(report, lambda path: path.write_bytes(told))
        outcome.fail(reason)
        _end(spool, "FAIL", reason)
        raise HarnessError(
            f"{training.title} failed: {reason} (traceback: {report}); the same command goes on with the rest."
        ) from error
    else:
        outcome.complete(metrics)
        spool.set_state("COMPLETE")
        drop_checkpoints(training.folder)
        display.finished(number, metrics)


@contextlib.contextmanager
def spool_of(folder: Path, hold: Lease, mirror: Notified) -> Iterator[Spool]:
    """Open the log of a training in hand. Where a signal or a lost storage cuts the training, the log says it waits."""
    with contextlib.closing(Spool(folder, mirror.notify, is_valid=hold.is_valid)) as spool:
        try:
            yield spool
        except (Interrupted, *STORAGE_ERRORS):
            if spool.begun and not hold.is_lost():
                spool.set_state("WAITING")  # no fault of the training's: it is resumed
            raise


def begin_spool(spool: Spool, training: Training, study: Study) -> None:
    """Say in a training's log that it runs."""
    spool.begin(
        training.run_name,
        tags={
            "kd.study": study.settings.study,
            "kd.run_key": f"{study.id}/{training.key}",
            **training.tags,
        },
        params={**training.job.configuration.params(), **training.names},
        parent=study.folder,
        taken_ms=training.hold.taken_ms if training.resumed and study.may_be_elsewhere else None,
    )
    spool.set_state("RUNNING", kept=epochs_kept(spool.folder))


def _check_deaths(spool: Spool) -> None:
    """Check that a training is not what its workers die of.

    Raises:
        TrialFailed: If one after the other did, and none got further than those before.
    """
    if spool.deaths >= _DEATHS:
        raise TrialFailed(f"its worker died {spool.deaths} times after {spool.epochs} epochs")


def _end(spool: Spool, state: str, reason: str) -> None:
    drop_checkpoints(spool.folder)  # first: where the disk is full, it makes room for the last words
    spool.tags({"kd.reason": reason})
    spool.set_state(state)
