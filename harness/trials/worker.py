"""A worker: claim a trial, run it, tell the study, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import room_on_disk
from harness.cost import budgets as budget
from harness.networks.students import LayerCheck
from harness.preparation.cost_table import costs_of, refusal
from harness.preparation.method_checks import student_layers
from harness.sampling.proposal import Proposer
from harness.settings import Settings
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.study import Study
from harness.tracking.mirror import Mirror, is_sent
from harness.tracking.spool import FINISHED_STATES, SPOOL, Spool
from harness.training.checkpoint import drop_checkpoints
from harness.trials.context import Display, TrialContext
from harness.trials.prospects import forecast_of, small_students
from harness.trials.pruning import Pruner, unprunable
from harness.trials.runner import Training, run
from harness.trials.trial import StudentJob, seed_of

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


@room_on_disk()
def work(context: TrialContext, display: Display) -> None:
    """Run trials until the study has as many as were asked for, or the time is up.

    Args:
        context: The budget, and what every trial stands on.
        display: Shows each trial.

    Raises:
        HarnessError: If a trial fails by an error that is no trial's own doing, or there is no room even for its log.
    """
    settings, space, study, prepared = context.settings, context.space, context.study, context.prepared
    study.retry.notifier.say = display.word
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
    claimant = TrialClaimer(study, proposer)
    pruner = None
    if settings.pruner == "pareto" and unprunable(study) is None:

        def costs(params: Mapping[str, Any]) -> dict[str, float]:
            return costs_of({name: params[name] for name in space.student}, space, study, prepared)

        pruner = Pruner(study, epochs=space.epochs, costs_of=costs, forecast=forecast)
    while (claim := _next(claimant, study, display, ends_at)) is not None:
        run(training_of(claim, settings), context, display, None if pruner is None else pruner.judge_of(claim))


def training_of(claim: Claim, settings: Settings) -> Training:
    """Return the training of a claimed trial, whose draws come from (study seed, trial number).

    Args:
        claim: The trial.
        settings: How the study is searched.
    """
    number = claim.trial.number
    tags = {"kd.role": "trial", "kd.trial": str(number)}
    return Training(
        number=number,
        title=f"trial {number}",
        run_name=f"trial-{number:04d}",
        folder=claim.folder,
        key=str(number),
        job=StudentJob(configuration=claim.configuration, seed=seed_of(settings, number), order_seed=settings.seed),
        hold=claim.lease,
        outcome=claim,
        resumed=claim.resumed,
        tags=tags if claim.recipe is None else tags | {"kd.recipe": claim.recipe},
    )


def _next(claimant: TrialClaimer, study: Study, display: Display, ends_at: float | None) -> Claim | None:
    """Return the next trial; ``None`` if there is no more, or no more time.

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
