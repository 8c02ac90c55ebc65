"""Run a worker: claim a trial, run it, report its result, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import room_on_disk
from harness.cost import budgets as budget
from harness.networks.student_checks import LayerCheck
from harness.preparation.method_checks import student_layers
from harness.preparation.student_costs import costs_of, refusal
from harness.sampling.first_trials import InitialTrials
from harness.sampling.forecast import Forecast
from harness.sampling.proposal import Proposer
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.claim import Claim
from harness.studies.claiming import TrialClaimer
from harness.studies.study import Study
from harness.tracking.mirror import Mirror
from harness.tracking.progress import is_sent
from harness.tracking.spool import FINISHED_STATES, SPOOL, Spool
from harness.training.checkpoint import drop_checkpoints
from harness.trials.context import Display, TrialContext
from harness.trials.forecasting import make_forecast, small_architectures
from harness.trials.pruning import Pruner, why_no_pruning
from harness.trials.runner import TrainingRun, run_training
from harness.trials.trial import TrainingSpec, seed_of

_MIN_POLL_S, _MAX_POLL_S = 0.05, 2.0


@room_on_disk()
def run_trials(context: TrialContext, display: Display) -> None:
    """Run trials until the study has as many as requested, or the time is up. Each worker of a pool calls this.

    Args:
        context: The budget, and what every trial needs.
        display: Shows each trial.

    Raises:
        HarnessError: If a trial fails by an error that is not its own fault, or the disk has no room for its log.
    """
    settings, space, study, prepared = context.settings, context.space, context.study, context.prepared
    study.retry.notifier.say = display.message
    ends_at = None if settings.timeout_s is None else time.monotonic() + settings.timeout_s
    narrowed = budget.within(space, settings.budgets, prepared.costs)
    forecast = make_forecast(settings, narrowed, study, prepared)
    claimer = TrialClaimer(study, _proposer(context, narrowed, forecast))
    pruner = _pruner(context, forecast)
    while (claim := _next_claim(claimer, study, display, ends_at)) is not None:
        listener = None if pruner is None else pruner.listener_for(claim)
        run_training(trial_run(claim, settings), context, display, listener)


def _proposer(context: TrialContext, narrowed: SearchSpace, forecast: Forecast | None) -> Proposer:
    """Return the proposer of a study's trials.

    Args:
        context: The settings, and what every trial needs.
        narrowed: The space within the budgets.
        forecast: The forecast, if the sampler is ``front``.
    """
    settings, space, study, prepared = context.settings, context.space, context.study, context.prepared
    has_layers = LayerCheck(space, prepared.data, student_layers(space))

    def why_refused(architecture: Mapping[str, Any]) -> str | None:
        if not has_layers(architecture):
            return "that lack a layer of the space's methods"
        return refusal(architecture, space, study, prepared)

    return Proposer(
        narrowed,
        sampler=forecast or settings.sampler,
        seed=settings.seed,
        directions=study.directions,
        refusal=why_refused,
        initial=InitialTrials(
            recipes=settings.recipes,
            default_recipes=settings.default_recipes,
            small=small_architectures(settings, narrowed, study, prepared),
        ),
    )


def _pruner(context: TrialContext, forecast: Forecast | None) -> Pruner | None:
    """Return the pruner of a study's trials; ``None`` if none is requested, or the objectives do not allow it."""
    space, study, prepared = context.space, context.study, context.prepared
    if context.settings.pruner != "pareto" or why_no_pruning(study) is not None:
        return None

    def costs(params: Mapping[str, Any]) -> dict[str, float]:
        return costs_of(space.architecture_of(params), space, study, prepared)

    return Pruner(study, epochs=space.epochs, costs_of=costs, forecast=forecast)


def trial_run(claim: Claim, settings: Settings) -> TrainingRun:
    """Return the training run of a claimed trial, whose draws are seeded by (study seed, trial number).

    Args:
        claim: The claimed trial.
        settings: How the study is searched.
    """
    number = claim.trial.number
    tags = {"kd.role": "trial", "kd.trial": str(number)}
    return TrainingRun(
        number=number,
        title=f"trial {number}",
        run_name=f"trial-{number:04d}",
        folder=claim.folder,
        key=str(number),
        spec=TrainingSpec(configuration=claim.configuration, seed=seed_of(settings, number), order_seed=settings.seed),
        lease=claim.lease,
        results=claim,
        resumed=claim.resumed,
        tags=tags if claim.recipe is None else tags | {"kd.recipe": claim.recipe},
    )


def _next_claim(claimer: TrialClaimer, study: Study, display: Display, ends_at: float | None) -> Claim | None:
    """Claim the next trial; return ``None`` if none is left, or the time is up.

    While other workers run the last trials, this worker polls: if one of them is lost, it resumes that trial at once.
    """
    began_s, has_told = time.monotonic(), False
    while ends_at is None or time.monotonic() < ends_at:
        claim = claimer.claim()
        if claim is not None:
            return claim
        running = study.running()
        if not running or study.is_over:  # interrupted trials stay RUNNING if fewer are requested now
            return None
        if not has_told:
            has_told = True
            display.waiting(running)
        time.sleep(min(_MAX_POLL_S, max(_MIN_POLL_S, (time.monotonic() - began_s) / 10)))
    return None


def sync_spools(study: Study, mirror: Mirror) -> None:
    """Synchronize every run's spool with the study after a crash or an outage; the mirror sends what MLflow lacks.

    A result is stored in the study first and logged second. A crash between the two leaves a spool in state RUNNING of
    a trial or a retraining that is over.
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
