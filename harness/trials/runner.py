"""Run one training to its end, and report the result to the study, the spool and the display."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from harness.core.addresses import redact
from harness.core.content import write_atomically
from harness.core.errors import HarnessError, Interrupted, LeaseLost, TrialFailed, TrialPruned, one_line
from harness.preparation.student_costs import costs_of
from harness.preparation.training_checks import fixed_training
from harness.storage.access import STORAGE_ERRORS
from harness.storage.leases import Lease
from harness.studies.study import Study
from harness.tracking.spool import Spool
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.training.fit import EpochListener, loss_check
from harness.trials.context import Display, MirrorClient, TrialContext
from harness.trials.trial import TrainingSpec, run_student
from lightning_modules.data.reading import unreadable_text

FAILURE = "failure.txt"
_MAX_DEATHS = 3  # deaths of workers without progress between them, after which a training fails


class ResultSink(Protocol):
    """Store of a training's result. Each method raises ``LeaseLost`` if another worker has taken the training over."""

    def complete(self, metrics: Mapping[str, float]) -> None:
        """Store the metrics of a student that was trained to the end."""

    def prune(self, costs: Mapping[str, float], reason: str) -> None:
        """Store the costs of a student whose training was pruned."""

    def fail(self, reason: str) -> None:
        """Store why a training failed by its own fault."""


class PruningListener(Protocol):
    """Epoch listener that may prune a training."""

    def restore(self, spool: Spool) -> None:
        """Restore the intermediate values of a resumed training from its spool."""

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        """Decide after an epoch whether the training continues.

        Raises:
            TrialPruned: If it does not.
        """


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training that this worker holds the lease of.

    Attributes:
        number: Identifies the training to the display.
        title: Name in messages, such as ``trial 3``.
        run_name: Name of its MLflow run.
        folder: Folder of its spool and checkpoints.
        key: Identifies its run within the study.
        spec: What is trained.
        lease: This worker's lease of the training.
        results: Where its result is stored.
        resumed: Whether another process may have begun it.
        tags: Tags of its run.
        extra_params: Parameters of its run beside those of its configuration.
    """

    number: int
    title: str
    run_name: str
    folder: Path
    key: str
    spec: TrainingSpec
    lease: Lease
    results: ResultSink
    resumed: bool
    tags: Mapping[str, str]
    extra_params: Mapping[str, str] = field(default_factory=dict)


def run_training(
    training: TrainingRun, context: TrialContext, display: Display, pruner: PruningListener | None = None
) -> None:
    """Run a training to its end and release its lease; if another worker has taken it over, show it as interrupted.

    Args:
        training: The training.
        context: What every training needs.
        display: Shows the training.
        pruner: May prune the training.

    Raises:
        HarnessError: If it fails by an error that is not its own fault.
        OSError: If the disk is full: every later training would fail too.
    """
    try:
        with open_spool(training.folder, training.lease, context.mirror) as spool:
            begin_spool(spool, training, context.study, fixed_training(context.space, context.prepared.data.device))
            if pruner is not None and training.resumed:
                pruner.restore(spool)
            kept = spool.kept if training.resumed else None
            display.started(training.number, training.spec.configuration.params(), kept)
            _run(training, spool, context, display, pruner)
    except LeaseLost as lost:
        display.interrupted(training.number, one_line(lost))
    finally:
        training.lease.release()


def _run(
    training: TrainingRun, spool: Spool, context: TrialContext, display: Display, pruner: PruningListener | None
) -> None:
    """Train, and report the result to the study first, the spool second and the display third."""
    number, results = training.number, training.results
    try:
        _check_deaths(spool)
        metrics = run_student(
            training.spec,
            spool,
            training.lease,
            context,
            lambda fold: _epoch_listeners(fold, training, spool, context, display, pruner),
        )
    except TrialPruned as pruned:
        reason = one_line(pruned)
        architecture = training.spec.configuration.student
        results.prune(costs_of(architecture, context.space, context.study, context.prepared), reason)
        _close_run(spool, "PRUNED", reason)
        display.pruned(number, reason)
    except TrialFailed as failure:
        reason = one_line(failure)
        results.fail(reason)
        _close_run(spool, "FAIL", reason)
        display.failed(number, reason)
        if isinstance(failure.__cause__, OSError):  # a full disk: every later training would fail too
            raise failure.__cause__ from None
    except (Interrupted, LeaseLost, *STORAGE_ERRORS):
        raise
    except Exception as error:
        if (fault := unreadable_text(error)) is not None:
            if not training.lease.is_lost():
                spool.set_state("WAITING")  # not the training's fault: it is resumed
            raise HarnessError(
                f"{training.title} waits, for its data can't be read: {fault.rstrip('.')}; once they can, the same "
                "command goes on where it was."
            ) from error
        reason, report = f"{type(error).__name__}: {one_line(error)}", training.folder / FAILURE
        text = redact(traceback.format_exc()).encode("utf-8", errors="replace")
        write_atomically(report, lambda path: path.write_bytes(text))
        results.fail(reason)
        _close_run(spool, "FAIL", reason)
        raise HarnessError(
            f"{training.title} failed: {reason} (traceback: {report}); the same command goes on with the rest."
        ) from error
    else:
        results.complete(metrics)
        spool.set_state("COMPLETE")
        drop_checkpoints(training.folder)
        display.finished(number, metrics)


def _epoch_listeners(
    fold: int,
    training: TrainingRun,
    spool: Spool,
    context: TrialContext,
    display: Display,
    pruner: PruningListener | None,
) -> list[EpochListener]:
    """Return what is called after each epoch of a fold, in this order: lease, log, loss check, display, pruner.

    The curves of the first fold decide whether a trial is pruned; those of later ones are logged by other names.
    """
    data, before = context.prepared.data.folds[fold], fold * context.space.epochs
    prefix = f"fold_{fold + 1}/" if fold else ""
    return [
        lambda epoch, metrics: training.lease.report_progress(epoch + 1),
        lambda epoch, metrics: spool.metrics({f"{prefix}{k}": v for k, v in metrics.items()}, step=epoch),
        loss_check(data),  # before the pruner: a student whose loss is NaN may have an accuracy
        lambda epoch, metrics: display.epoch(training.number, before + epoch),
        *([] if pruner is None or fold else [pruner]),
    ]


@contextlib.contextmanager
def open_spool(folder: Path, lease: Lease, mirror: MirrorClient) -> Iterator[Spool]:
    """Open the spool of a training whose lease is held; mark the run as WAITING if a signal or an outage interrupts."""
    with contextlib.closing(Spool(folder, mirror.notify, is_valid=lease.is_valid)) as spool:
        try:
            yield spool
        except (Interrupted, *STORAGE_ERRORS):
            if spool.begun and not lease.is_lost():
                spool.set_state("WAITING")  # not the training's fault: it is resumed
            raise


def begin_spool(
    spool: Spool, training: TrainingRun, study: Study, settings: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Log the start of a run: its tags, parameters and the state RUNNING.

    Args:
        spool: The spool of the run.
        training: The training.
        study: The study.
        settings: What its task sets of all trainings alike, by name; logged as ``training.name``.
    """
    spool.begin(
        training.run_name,
        tags={
            "kd.study": study.settings.study,
            "kd.run_key": f"{study.id}/{training.key}",
            **training.tags,
        },
        params={
            **training.spec.configuration.params(),
            **{f"training.{name}": value for name, value in settings.items()},
            **training.extra_params,
        },
        parent=study.folder,
        taken_ms=training.lease.taken_ms if training.resumed and study.may_be_elsewhere else None,
    )
    spool.set_state("RUNNING", kept=epochs_kept(spool.folder))


def _check_deaths(spool: Spool) -> None:
    """Check that a training does not kill its workers.

    Raises:
        TrialFailed: If several workers in a row died of it, and none got further than the one before.
    """
    if spool.deaths >= _MAX_DEATHS:
        raise TrialFailed(f"its worker died {spool.deaths} times after {spool.epochs} epochs")


def _close_run(spool: Spool, state: str, reason: str) -> None:
    """Log the end of a run that did not complete."""
    drop_checkpoints(spool.folder)  # first: on a full disk, it makes room for the last events
    spool.tags({"kd.reason": reason})
    spool.set_state(state)
