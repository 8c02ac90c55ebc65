"""Sentences beside the tables of a result, the same at the terminal and in the summary."""

from __future__ import annotations

from harness.metrics import is_timed, metric_named
from harness.preparation.mixing import remedy_of
from harness.reporting.result import Result
from harness.reporting.trials_table import small_margin
from harness.screen.formatting import configuration_text
from harness.settings import FOLDS
from harness.space import is_own_control
from harness.training.predictions import PREDICTIONS
from harness.trials.confirm import FEW_SEEDS, Interval
from harness.trials.controls import PLAIN


def notes(result: Result) -> list[str]:
    """Return the notes on the front, one sentence or a few a line."""
    where = f"the mean over {result.folds} folds" if result.folds else "on the validation split"
    lines = [
        f"Latency measured on {result.conditions}; {result.primary} is the last epoch's, {where}.",
        *_spread_notes(result),
        region_note(result),
        *(f"Warning: {warning}." for warning in result.sanity_warnings),
        *(f"Warning: the trials are not all comparable: {change}." for change in result.changes),
    ]
    if result.ensemble:
        lines.append(_ensemble_note(result.ensemble))
    lines += _gain_notes(result)
    if len(result.front) and "small" not in result.picks:
        _, within = small_margin(result.primary_bounds, result.teacher[result.primary])
        lines.append(
            f"No student on the front is within {within} of the teacher's {result.primary}, so there is no small pick."
        )
    return lines + ended_early(result)


def _gain_notes(result: Result) -> list[str]:
    """Return what the gains are measured against, and how far to trust them."""
    lines, gains = [], result.compared["gain"]
    taught = [not is_own_control({"alpha": row.get("alpha")}) for _, row in result.front.iterrows()]
    if result.no_control:
        lines.append(
            f"No control possible: {result.no_control}; no gain is claimed. To get one, {remedy_of(result.no_control)}."
        )
    if result.unlabelled and not result.no_control:
        lines.append(
            f"{result.unlabelled:,} training samples are unlabelled: the teacher alone teaches them, and controls are "
            "trained on the labelled ones, in as many steps."
        )
    if len(gains):
        lines.append(
            f"Gain: improvement in {result.primary} over {_control(result)}; {(gains > 0).sum()} of {len(gains)} are "
            f"above 0. One seed does not prove a gain; {_how_to_prove(result)}"
        )
        lines += _tuned_notes(result)
    if 1 < len(gains) == sum(taught) and (gains < 0).all() and not result.confirmed:
        lines.append("Every control did better than its student: there is no evidence that this teacher helps.")
    if result.failed_controls:
        reasons = ", ".join(f"trial {number}: {why}" for number, why in result.failed_controls.items())
        lines.append(f"{len(result.failed_controls)} controls failed, so these gains are unknown ({reasons}).")
    return lines


def _ensemble_note(ensemble: str) -> str:
    """Describe several teachers: what is averaged of them, or that each fold has its own."""
    average, _, digests = ensemble.partition(" of ")
    if average == FOLDS:
        return (
            f"Each fold has a teacher of its own, {digests}, trained without the samples that validate it; the student "
            "that is kept, and whose answers are compared with its teacher's, is the first fold's."
        )
    return f"The teacher is the mean of the {ensemble}; its costs are those of all of them in turn."


def _spread_notes(result: Result) -> list[str]:
    """Return which students are on the front only by a difference that two measurements of one network can have."""
    numbers, spread = result.on_front_by_spread, result.conditions.spread
    if spread is None or not numbers:
        return []
    timed = [name for name in result.objectives if is_timed(name)]
    what = "throughput" if all(metric_named(name).is_maximized for name in timed) else "latency"
    which = f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    return [
        f"{len(numbers)} of {len(result.front)} students are on the front only by a {what} difference within the "
        f"measured spread of {round(100 * spread)} %: {which}."
    ]


def ended_early(result: Result) -> list[str]:
    """Return how many trials were pruned, and how many failed and why."""
    lines = []
    pruned = int((result.trials["state"] == "PRUNED").sum())
    if pruned:
        lines.append(
            f"{pruned} of {len(result.trials)} trials were pruned: they had little or no chance to reach the front."
        )
    failed = result.trials[result.trials["state"] == "FAIL"]
    if len(failed):
        reasons = ", ".join(f"trial {row['number']}: {row['reason']}" for _, row in failed.head(5).iterrows())
        lines.append(
            f"{len(failed)} of {len(result.trials)} trials failed ({reasons}{', …' if len(failed) > 5 else ''})."
        )
    return lines


def region_note(result: Result) -> str:
    """Return the region of interest, and how many students are outside it; if all are, what to do."""
    region = f"Region of interest: {result.region}."
    outside, complete = result.outside_region, result.complete
    if not len(outside):
        return region
    if len(outside) < len(complete):
        return f"{region} {len(outside)} of {len(complete)} fully trained students are outside it: not on the front."
    best = outside.iloc[0]
    bound = f"a {'lower --min' if result.primary_is_maximized else 'higher --max'} {result.primary}=VALUE"
    return (
        f"{region} None of {len(complete)} fully trained students is inside it; the best, trial {best['number']}, has "
        f"{result.primary} {best[result.primary]:.4g}. More --trials may reach it, or a new --study with more --epochs "
        f"or larger students. To include students that are trained already, give the same command {bound}, or "
        "--min none."
    )


def nothing_to_confirm(result: Result) -> str:
    """Return why a study without a pick has nothing to confirm, and what to do."""
    if not len(result.complete):
        return f"study {result.study!r} has no complete trial yet: there is nothing to confirm."
    return f"study {result.study!r} has nothing to confirm: no student is inside its region. {region_note(result)}"


def _control(result: Result) -> str:
    """Return the control that gains are measured against."""
    plain = "the plain control (the same student, seed and settings, trained on labels alone)"
    return f"the tuned control, or, where there is none, {plain}" if result.tuned_controls else plain


def _tuned_notes(result: Result) -> list[str]:
    """Return which picks have tuned controls, and why others have none."""
    front = result.front
    over_plain = front.loc[(front["gain_over"] == PLAIN) & (front["pick"] != ""), "number"].tolist()
    lines = []
    if texts := [_tuned_text(result, number) for number in result.picked if number in result.tuned_controls]:
        lines.append(
            "A tuned control is the best of several trainings of the architecture on labels alone, each with its own "
            f"training settings: {'; '.join(texts)}. Like the student, it is optimistically biased: both were selected "
            "on this split."
        )
    if over_plain and not result.tuned_parameters:
        lines.append("No training setting varies in this space, so the plain control is the tuned one too.")
    elif over_plain:
        which = ", ".join(map(str, over_plain))
        lines.append(f"The gains of trials {which} are over plain controls; --controls tuned trains tuned ones.")
    return lines


def _tuned_text(result: Result, number: int) -> str:
    found = result.tuned_controls[number]
    settings = configuration_text(dict(found.chosen.training))
    return f"trial {number}: {settings} ({found.chosen.name}, best of {found.tries})"


def _how_to_prove(result: Result) -> str:
    if set(result.picked) <= {confirmation.number for confirmation in result.confirmed}:
        return "for several seeds see below."
    return f"to train with several: {result.confirm_command}"


def agreement_lines(result: Result, *, whole: bool = False) -> list[str]:
    """Return how far the answers of each pick agree with the teacher's, a line each.

    Args:
        result: The result.
        whole: Whether to add the mistakes that a pick shares with the teacher, and the same lines for controls.
    """
    lines = []
    for number, name in result.picked.items():
        shown = [(f"{name} (trial {number})", result.agreements.get(number))]
        if whole:
            shown.append((f"the control of trial {number}, on labels alone,", result.control_agreements.get(number)))
        for who, found in shown:
            if found is not None:
                lines.append(f"{who} {found.sentence()} {found.mistakes() if whole else ''}".rstrip())
    # Not where the output kind says nothing of errors.
    compared = bool(result.trials["agreement"].notna().any()) or bool(result.agreements)
    missing = sum(number not in result.agreements for number in result.front["number"])
    if missing and compared:
        lines.append(
            f"Not compared with the teacher's answers: {missing} of the {len(result.front)} trials on the front, whose "
            f"{PREDICTIONS} is not in this --runs-dir, or can't be read."
        )
    return lines


def confirmed_intro(result: Result) -> str:
    """Return the introduction to the confirmed picks; empty before anything was confirmed."""
    if not result.confirmed or result.tested_teacher is None:
        return ""
    return (
        "Confirmed on the test split, with fresh seeds: means with 95 % intervals (Student's t), gains paired by seed. "
        f"The teacher's {result.primary} there is {result.tested_teacher[result.primary]:.4f}."
    )


def confirmed_lines(result: Result) -> list[str]:
    """Return each confirmed trial in a line, and each pick that was not confirmed; none before anything was."""
    if not confirmed_intro(result):
        return []
    known = {confirmation.number for confirmation in result.confirmed}
    return [
        *(confirmation.sentence(result.primary, result.picked) for confirmation in result.confirmed),
        *(f"{pick} (trial {n}): not confirmed yet." for n, pick in result.picked.items() if n not in known),
    ]


def caveats(result: Result) -> list[str]:
    """Return how far to trust what was confirmed, a line each."""
    lines, intervals = [], [one for one in result.confirmed if one.student is not None]
    few = [one for one in intervals if one.seeds < FEW_SEEDS]
    if few:
        lines.append(
            "Two seeds say little: the interval of two values extends 13 standard errors to each side, so no gain here "
            "may be a gain that two seeds can't show."
        )
    alike = [one for one in intervals if any(map(_has_zero_width, (one.student, one.control, one.tuned, one.gain)))]
    if alike:
        which = ", ".join(f"trial {one.number}: {one.seeds} seeds" for one in alike)
        lines.append(
            f"An interval of zero width is no certainty: the seeds happened to score alike on the test split ({which})."
        )
    if plain := [one for one in intervals if one.gain_over == PLAIN and one.number in result.tuned_controls]:
        which = ", ".join(str(one.number) for one in plain)
        lines.append(
            f"The gains of trials {which} are over plain controls; to measure them over tuned ones: "
            f"{result.confirm_command}"
        )
    if few or alike:
        seeds = max(5, *(2 * one.seeds for one in (*few, *alike)))
        lines.append(f"To add more seeds to these: {result.confirm_command} --seeds {seeds}")
    low, high = result.primary_bounds
    shown = [found for one in intervals for found in (one.student, one.control, one.tuned) if found is not None]
    if any((low is not None and one.low < low) or (high is not None and one.high > high) for one in shown):
        limits = [f"{word} {end:g}" for word, end in (("below", low), ("above", high)) if end is not None]
        lines.append(
            f"An interval extends {' or '.join(limits)}, where {result.primary} can't be: Student's t assumes normal "
            "values, which have no bounds. It is a sign of too few seeds."
        )
    return lines


def _has_zero_width(found: Interval | None) -> bool:
    return found is not None and f"{found.high - found.mean:.4f}" == "0.0000"
