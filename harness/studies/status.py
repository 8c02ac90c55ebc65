"""Describe a study from any machine: its workers, running and finished trials, pace, and time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from harness.core.content import LeaseLock
from harness.screen.formatting import duration_text
from harness.storage.leases import Worker
from harness.storage.study_lock import ExclusiveStudyLock
from harness.studies.study import Study
from harness.tracking.spool import curves
from harness.training.checkpoint import epochs_kept

_RECENT = 20  # finished trials from which the pace is computed


def status(study: Study) -> Iterator[str]:
    """Yield the state of a study, line by line.

    Args:
        study: The study, which is not changed.
    """
    trials, asked = study.trials(), study.sources.get("trials")
    states = Counter(trial.state for trial in trials)
    finished = study.finished()
    found = [f"{states[state]} {word}" for state, word in _WORDS.items() if states[state]]
    of = "" if asked is None else f" of {asked}"
    yield f"study     {study.settings.study}: {finished}{of} trials finished{_listed(found)}, {_begun(states, asked)}"
    workers, retrained = study.leases.workers(), study.retrained()
    if retrained:
        failed = sum("reason" in result for result in retrained.values())
        students = "1 student" if len(retrained) == 1 else f"{len(retrained)} students"
        yield f"retrained {students}, as controls or to confirm{f', {failed} failed' if failed else ''}"
    if study.is_exhausted and finished == len(trials):
        yield "finished  its space is exhausted"
    elif asked is not None and finished >= asked:
        yield "finished  all trials that were asked for"
    elif (rate := pace_per_h(trials)) is not None:
        if not _is_worked_on(study, workers):
            left = "; nobody is at work"
        else:
            left = "" if asked is None else f", {duration_text((asked - finished) / rate * 3600)} left"
        # Optuna stores an end by the clock of the machine that ran the trial; now is by this one's.
        clocks = "; by the machines' own clocks, each as right as it is set" if study.is_shared else ""
        yield f"pace      {rate:,.0f} trials an hour, by the last {min(finished, _RECENT)}{left}{clocks}"
    epochs = study.attrs["kd.identity"]["epochs"]
    for worker in workers:
        yield f"worker    {_described(worker, epochs)}"
    items = {worker.item for worker in workers}
    for trial in trials:
        if trial.state == TrialState.RUNNING and str(trial.number) not in items:
            yield f"trial     {trial.number}: {_from_folder(study, trial, epochs)}"


_WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def _listed(found: Sequence[str]) -> str:
    return f" ({', '.join(found)})" if found else ""


def _begun(states: Counter[TrialState], asked: int | None) -> str:
    running = states[TrialState.RUNNING]
    if asked is None:
        return f"{running} begun"
    finished = sum(states[state] for state in _WORDS)
    return f"{running} begun, {max(0, asked - finished - running)} to begin"


def pace_per_h(trials: Sequence[FrozenTrial]) -> float | None:
    """Return how many trials are finished an hour, by the last ones; ``None`` if there are too few.

    Args:
        trials: In any state and order.
    """
    ends = sorted(trial.datetime_complete for trial in trials if trial.datetime_complete is not None)[-_RECENT:]
    if len(ends) < 2 or ends[-1] <= ends[0]:
        return None
    # Up to now, not to the last end: the pace of a study without workers falls.
    seconds = (max(datetime.now(), ends[-1]) - ends[0]).total_seconds()
    return (len(ends) - 1) / seconds * 3600


def _is_worked_on(study: Study, workers: Sequence[Worker]) -> bool:
    """Return whether a process works on a study; ``True`` where that can't be told from here."""
    if study.is_shared:
        return any(not worker.is_silent for worker in workers)
    if not study.owns_folder():
        return True
    lock = ExclusiveStudyLock(study.settings)
    is_idle = lock.acquire()
    lock.release()
    return not is_idle


def _described(worker: Worker, epochs: int) -> str:
    if worker.item is None:
        work = "has nothing to do"
    else:
        item = f"trial {worker.item}" if worker.item.isdigit() else worker.item
        work = f"{item}, {worker.epochs or 0}/{epochs} epochs"
    sign = f"silent for {worker.silent_s:.0f} s" if worker.is_silent else f"heard of {worker.silent_s:.0f} s ago"
    return f"{worker.host}, process {worker.pid}: {work}; {sign}"


def _from_folder(study: Study, trial: FrozenTrial, epochs: int) -> str:
    """Describe a trial that no known worker has, by its folder where that is on this machine."""
    folder = study.trial_folder(trial.number)
    if not (study.owns_folder() and folder.is_dir()):
        return "nobody is at it"
    is_cut = LeaseLock(folder).is_free()
    done = len(curves(folder).get("train/loss", {}))
    if not is_cut:
        return f"{done}/{epochs} epochs, running"
    kept = epochs_kept(folder)
    again = f"goes on with it after epoch {kept}, its last checkpoint" if kept else "begins it again"
    return f"{done}/{epochs} epochs, cut; the same command {again}"
