"""A worker: claim a trial, run it, tell the study, until the budget is spent."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness import budget
from harness.addresses import redact
from harness.content import write_atomically
from harness.errors import HarnessError, Interrupted, PieceTaken, TrialFailed, TrialPruned, one_line, room_on_disk
from harness.preparation.costs import costs_of, refusal
from harness.preparation.methods import student_layers
from harness.preparation.prepared import Prepared
from harness.preparation.students import LayerCheck
from harness.sampling.proposal import Proposer
from harness.settings import Settings
from harness.space import SearchSpace
from harness.storage.access import STORAGE_ERRORS
from harness.storage.claims import Hold
from harness.studies.claim import Claim
from harness.studies.claiming import Claimant
from harness.studies.study import Study
from harness.tracking.mirror import Mirror, is_sent
from harness.tracking.spool import FINISHED_STATES, SPOOL, Spool, curves
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.trials.prospects import forecast_of, small_students
from harness.trials.pruning import Pruner, unprunable
from harness.trials.trial import run_trial

FAILURE = "failure.txt"
_DEATHS = 3  # of workers, no epoch being logged or kept between them, after which a trial is given up
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


class Notified(Protocol):
    """Who sends spools to MLflow: the mirror, or what stands for it in another process."""

    def notify(self, folder: Path) -> None:
        """Say that a run's spool has news."""


class Display(Protocol):
    """Who shows what trials do: the terminal, or what stands for it in another process."""

    def started(self, number: int, params: dict[str, Any], resumed_after: int | None) -> None:
        """A trial begins, or goes on after ``resumed_after`` epochs."""

    def epoch(self, number: int, epoch: int) -> None:
        """An epoch of a trial ended."""

    def finished(self, number: int, metrics: dict[str, float]) -> None:
        """A trial was trained to the end."""

    def pruned(self, number: int, reason: str) -> None:
        """A trial was stopped because it has no chance of the front any more."""

    def failed(self, number: int, reason: str) -> None:
        """A trial failed by its own doing."""

    def cut(self, number: int, reason: str) -> None:
        """A trial's worker lost it; another one goes on with it."""

    def waiting(self, running: int) -> None:
        """There is nothing left to begin, but so many trials that other workers run, and may lose."""

    def word(self, text: str) -> None:
        """Something that lasts, and concerns no trial."""


@room_on_disk()
def work(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    prepared: Prepared,
    mirror: Notified,
    display: Display,
) -> None:
    """Run trials until the study has as many as were asked for, or the time is up.

    Args:
        settings: The budget.
        space: What varies, with what the person holds fixed.
        study: The study.
        prepared: What every trial stands on.
        mirror: Told of each trial's news.
        display: Shows each trial.

    Raises:
        HarnessError: If a trial fails by an error that is no trial's own doing, or there is no room even for its log.
    """
    study.patience.word.say = display.word
    ends_at = None if settings.timeout_s is None else time.monotonic() + settings.timeout_s
    narrowed = budget.within(space, settings.budgets, prepared.costs)
    forecast = forecast_of(settings, narrowed, study, prepared)
    has_layers = LayerCheck(space, prepared.data, student_layers(space))
    proposer = Proposer(
        narrowed,
        sampler=settings.sampler,
        seed=settings.seed,
        directions=study.directions,
        refusal=lambda architecture: (
            refusal(architecture, space, study, prepared)
            if has_layers(architecture)
            else "that lack a layer of the space's methods"
        ),
        recipes=settings.recipes,
        default_recipes=settings.default_recipes,
        forecast=forecast,
        small=small_students(settings, narrowed, study, prepared),
    )
    claimant = Claimant(study, proposer)
    prunes = settings.pruner == "pareto" and unprunable(study) is None

    def costs(params: Mapping[str, Any]) -> dict[str, float]:
        return costs_of({name: params[name] for name in space.student}, space, study, prepared)

    pruner = Pruner(study, epochs=space.epochs, costs_of=costs, forecast=forecast) if prunes else None

    while (claim := _next(claimant, study, display, ends_at)) is not None:
        number = claim.trial.number

        def on_epoch(epoch: int, metrics: dict[str, float], claim: Claim = claim) -> None:
            display.epoch(claim.trial.number, epoch)
            if pruner is not None:
                pruner.judge(claim, epoch, metrics)

        try:
            with spool_of(claim.folder, claim.hold, mirror) as spool:
                begin_spool(spool, claim, study)
                if pruner is not None and claim.resumed:
                    pruner.recall(claim, curves(claim.folder).get(f"val/{study.primary}", {}), spool.kept)
                display.started(number, claim.configuration.params(), spool.kept if claim.resumed else None)
                _run(
                    claim,
                    spool,
                    partial(
                        run_trial,
                        claim,
                        spool,
                        settings=settings,
                        space=space,
                        study=study,
                        prepared=prepared,
                        on_epoch=on_epoch,
                    ),
                    costs,
                    display,
                )
        except PieceTaken as taken:
            display.cut(number, one_line(taken))
        finally:
            claim.hold.release()


def _run(
    claim: Claim,
    spool: Spool,
    train: Callable[[], dict[str, float]],
    costs: Callable[[Mapping[str, Any]], dict[str, float]],
    display: Display,
) -> None:
    """Run a trial to its end, whatever that is, and tell the study, the log and the person.

    Raises:
        HarnessError: If it fails by an error that is not its own doing.
        PieceTaken: If it is another worker's by now.
    """
    number = claim.trial.number
    try:
        check_deaths(spool)
        metrics = train()
    except TrialPruned as pruned:
        reason = one_line(pruned)
        claim.prune(costs(claim.trial.params), reason)
        _end(claim, spool, "PRUNED", reason)
        display.pruned(number, reason)
    except TrialFailed as failure:
        reason = one_line(failure)
        _fail(claim, spool, reason)
        display.failed(number, reason)
        if isinstance(failure.__cause__, OSError):  # a full disk: every trial after it would fail too
            raise failure.__cause__ from None
    except (Interrupted, PieceTaken, *STORAGE_ERRORS):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        told = redact(traceback.format_exc()).encode("utf-8", errors="replace")
        write_atomically(claim.folder / FAILURE, lambda path: path.write_bytes(told))
        _fail(claim, spool, reason)
        raise HarnessError(
            f"trial {number} failed: {reason} (traceback: {claim.folder / FAILURE}); "
            "the same command goes on with the next trial."
        ) from error
    else:
        claim.complete(metrics)
        spool.set_state("COMPLETE")
        drop_checkpoints(claim.folder)
        display.finished(number, metrics)


def _next(claimant: Claimant, study: Study, display: Display, ends_at: float | None) -> Claim | None:
    """The next trial; ``None`` if there is no more, or no more time.

    Where others run the last ones, this worker waits: one of them may be lost, and is then taken up at once.
    """
    began_s, told = time.monotonic(), False
    while ends_at is None or time.monotonic() < ends_at:
        claim = claimant.claim()
        if claim is not None:
            return claim
        running = study.running()
        if not running or study.is_over:  # trials that were cut are left where fewer are asked for now
            return None
        if not told:
            told = True
            display.waiting(running)
        time.sleep(min(_LONGEST_WAIT_S, max(_SHORTEST_WAIT_S, (time.monotonic() - began_s) / 10)))
    return None


def check_deaths(spool: Spool) -> None:
    """See that a training is not what its workers die of.

    Raises:
        TrialFailed: If one after the other did, and none got further than those before.
    """
    if spool.deaths >= _DEATHS:
        raise TrialFailed(f"its worker died {spool.deaths} times after {spool.epochs} epochs")


@contextlib.contextmanager
def spool_of(folder: Path, hold: Hold, mirror: Notified) -> Iterator[Spool]:
    """The log of a training in hand. Where a signal or a lost storage cuts it, it says that the training waits."""
    with contextlib.closing(Spool(folder, mirror.notify, is_sure=hold.is_sure)) as spool:
        try:
            yield spool
        except (Interrupted, *STORAGE_ERRORS):
            if spool.begun and not hold.is_lost():
                spool.set_state("WAITING")  # no fault of the training's: it is resumed
            raise


def begin_spool(spool: Spool, claim: Claim, study: Study) -> None:
    """Say in a trial's log that it runs."""
    number = claim.trial.number
    tags = {
        "kd.role": "trial",
        "kd.study": study.settings.study,
        "kd.trial": str(number),
        "kd.run_key": f"{study.id}/{number}",
    }
    if claim.recipe is not None:
        tags["kd.recipe"] = claim.recipe
    spool.begin(
        f"trial-{number:04d}",
        tags=tags,
        params=claim.configuration.params(),
        parent=study.folder,
        taken_ms=claim.hold.taken_ms if claim.resumed and study.may_be_elsewhere else None,
    )
    spool.set_state("RUNNING", kept=epochs_kept(spool.folder))


def _fail(claim: Claim, spool: Spool, reason: str) -> None:
    claim.fail(reason)
    _end(claim, spool, "FAIL", reason)


def _end(claim: Claim, spool: Spool, state: str, reason: str) -> None:
    drop_checkpoints(claim.folder)  # first: where the disk is full, it makes room for the last words
    spool.tags({"kd.reason": reason})
    spool.set_state(state)


def catch_up(study: Study, mirror: Mirror) -> None:
    """Bring every run's log level with the study, after a cut or an outage; the mirror sends what it lacks.

    A trial is told to the study first and logged second. A cut between the two leaves a run that says RUNNING of a
    trial that is over; so it is with what was trained anew.
    """
    ends = [(study.trial_folder(t.number), t.state.name, t.user_attrs.get("reason")) for t in study.trials()]
    for name, result in study.retrained().items():
        ends.append((study.folder / name, "FAIL" if "reason" in result else "COMPLETE", result.get("reason")))
    folders: list[Path] = [study.folder]
    for folder, state, reason in ends:
        if not (folder / SPOOL).exists() or is_sent(folder, mirror.store, state):
            continue
        folders.append(folder)
        if state in FINISHED_STATES:
            spool = Spool(folder)
            if reason is not None and state != "COMPLETE":
                spool.tags({"kd.reason": reason})
            spool.set_state(state)
            spool.close()
            drop_checkpoints(folder)
    for folder in folders:
        mirror.notify(folder)
