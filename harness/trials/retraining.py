"""Students of a study trained anew, outside of the search: in another way, or with another seed.

What is tried is chosen by the search; what is trained here is chosen from what the search has found, to see what it is
worth. It is trained to the end, as a trial is, resumable, and its result is kept with the study.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.addresses import redact
from harness.content import write_atomically
from harness.errors import HarnessError, Interrupted, PieceTaken, TrialFailed, one_line, room_on_disk
from harness.preparation.prepared import Prepared
from harness.settings import Settings
from harness.space import Configuration, SearchSpace
from harness.storage.access import STORAGE_ERRORS, asking_storage
from harness.storage.claims import Hold
from harness.studies.study import Study
from harness.tracking.spool import SPOOL, Spool, last_state
from harness.training.checkpoint import drop_checkpoints, epochs_kept
from harness.trials.trial import run_student
from harness.trials.worker import FAILURE, Display, Notified, check_deaths, spool_of


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A student to be trained anew.

    Attributes:
        name: Names it within its study: the place of its folder there, and of its result.
        title: Names it to a person, in full.
        configuration: What it is, and how it is trained.
        seed: Seed of its weights and of what is drawn in an epoch.
        order_seed: Seed of the order of the data.
        split: The split that it is scored on; the metrics of any but ``val`` begin with its name.
        tags: Of its run.
        facts: What is kept with its result.
        names: Parameters of its run beside those of its configuration.
    """

    name: str
    title: str
    configuration: Configuration
    seed: int
    order_seed: int
    split: str = "val"
    tags: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@room_on_disk()
def retrain(
    retrainings: Sequence[Retraining],
    settings: Settings,
    space: SearchSpace,
    study: Study,
    prepared: Prepared,
    mirror: Notified,
    display: Display,
) -> None:
    """Train what nobody has trained yet and nobody is training. What workers do; see ``harness.trials.local``.

    Args:
        retrainings: What is to be trained. The display knows each by its place in it.
        settings: How the study is searched.
        space: Gives the students.
        study: Keeps the results.
        prepared: What every training stands on.
        mirror: Told of each training's news.
        display: Shows each training.

    Raises:
        HarnessError: If a training fails by an error that is not its own doing, or there is no room even for its log.
    """
    study.patience.word.say = display.word
    places = {retraining.name: place for place, retraining in enumerate(retrainings)}
    pause_s = 0.05
    while left := [name for name in places if name not in study.retrained()]:
        found = study.take(left)
        if found is None:  # others train what is left; one of them may be lost
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
            continue
        name, hold = found
        try:
            if name not in study.retrained():  # read with the piece in hand
                _train(places[name], retrainings[places[name]], hold, settings, space, study, prepared, mirror, display)
        except PieceTaken as taken:
            display.cut(places[name], one_line(taken))
        finally:
            hold.release()


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
    with contextlib.closing(study.claims):
        for name in sorted(files.keys() - known.keys()):
            found = study.take([name]) if last_state(files[name]) == "RUNNING" else None
            if found is None:
                continue
            _, hold = found
            if name not in study.retrained():  # read with the piece in hand
                spool = Spool(study.folder / name, mirror.notify, is_sure=hold.is_sure)
                if spool.state == "RUNNING":
                    spool.set_state("WAITING")
                spool.close()
            hold.release()


def _train(
    place: int,
    retraining: Retraining,
    hold: Hold,
    settings: Settings,
    space: SearchSpace,
    study: Study,
    prepared: Prepared,
    mirror: Notified,
    display: Display,
) -> None:
    with spool_of(study.folder / retraining.name, hold, mirror) as spool:
        _begin(spool, retraining, hold, study)
        _run(place, retraining, spool, hold, settings, space, study, prepared, display)
    drop_checkpoints(spool.folder)


def _run(
    place: int,
    retraining: Retraining,
    spool: Spool,
    hold: Hold,
    settings: Settings,
    space: SearchSpace,
    study: Study,
    prepared: Prepared,
    display: Display,
) -> None:
    """Train a student to its end, whatever that is, and tell the study, the log and the person.

    Raises:
        HarnessError: If it fails by an error that is not its own doing.
        PieceTaken: If it is another worker's by now.
    """
    display.started(place, retraining.configuration.params(), spool.kept or None)
    try:
        check_deaths(spool)
        metrics = run_student(
            retraining.configuration,
            spool,
            seed=retraining.seed,
            order_seed=retraining.order_seed,
            split=retraining.split,
            settings=settings,
            space=space,
            study=study,
            prepared=prepared,
            hold=hold,
            on_epoch=lambda epoch, metrics: display.epoch(place, epoch),
        )
    except TrialFailed as failure:
        reason = one_line(failure)
        _fail(retraining, spool, hold, study, reason)
        display.failed(place, reason)
        if isinstance(failure.__cause__, OSError):  # a full disk: whatever comes after it would fail too
            raise failure.__cause__ from None
    except (Interrupted, PieceTaken, *STORAGE_ERRORS):
        raise
    except Exception as error:
        reason, report = f"{type(error).__name__}: {one_line(error)}", spool.folder / FAILURE
        told = redact(traceback.format_exc()).encode("utf-8", errors="replace")
        write_atomically(report, lambda path: path.write_bytes(told))
        _fail(retraining, spool, hold, study, reason)
        raise HarnessError(
            f"{retraining.title} failed: {reason} (traceback: {report}); the same command goes on with the rest."
        ) from error
    else:
        _keep(retraining, hold, study, metrics=metrics)
        spool.set_state("COMPLETE")
        display.finished(place, metrics)


def _keep(retraining: Retraining, hold: Hold, study: Study, **outcome: Any) -> None:
    """Tell the study how a training ended, unless it is another worker's by now: its word stands.

    Raises:
        PieceTaken: If it is.
    """

    def keep() -> None:
        hold.prove()
        with asking_storage():
            study.keep_retrained(retraining.name, {**retraining.facts, **outcome})

    study.patience.ask(keep)


def _fail(retraining: Retraining, spool: Spool, hold: Hold, study: Study, reason: str) -> None:
    _keep(retraining, hold, study, reason=reason)
    drop_checkpoints(spool.folder)  # first: where the disk is full, it makes room for the last words
    spool.tags({"kd.reason": reason})
    spool.set_state("FAIL")


def _begin(spool: Spool, retraining: Retraining, hold: Hold, study: Study) -> None:
    tags = {"kd.study": study.settings.study, "kd.run_key": f"{study.id}/{retraining.name}", **retraining.tags}
    params = {**retraining.configuration.params(), **retraining.names}
    taken_ms = hold.taken_ms if study.may_be_elsewhere else None
    spool.begin(retraining.title, tags=tags, params=params, parent=study.folder, taken_ms=taken_ms)
    spool.set_state("RUNNING", kept=epochs_kept(spool.folder))
