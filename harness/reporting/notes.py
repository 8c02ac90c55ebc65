"""What a table does not say of a result, in sentences: the same at the terminal and in MLflow."""

from __future__ import annotations

from harness.metrics import METRICS, is_timed
from harness.preparation.mixing import REMEDY
from harness.reporting.result import Result, small_margin
from harness.screen.formatting import configuration_text
from harness.training.predictions import PREDICTIONS
from harness.trials.confirm import FEW_SEEDS, Interval
from harness.trials.controls import PLAIN, is_own_control


def notes(result: Result) -> list[str]:
    """Return what the table does not say, a sentence a line."""
    lines = [f"Latencies hold for {result.conditions}; {result.primary} is the last epoch's, on the validation split."]
    lines += _by_spread(result)
    lines.append(region_told(result))
    lines += [f"Warning: {warning}." for warning in result.sanity_warnings]
    lines += [f"Warning: its trials are not all of one kind: {change}." for change in result.changes]
    if result.ensemble:
        lines.append(
            f"The teacher is the mean of the {result.ensemble}; its costs are theirs, one run after the other."
        )
    taught = [not is_own_control(dict(row)) for _, row in result.front.iterrows()]
    gains = result.compared["gain"]
    if result.no_control:
        lines.append(f"No control possible: {result.no_control}; no gain is claimed. To have one, {REMEDY}.")
    if len(gains):
        lines.append(
            f"Gain: {result.primary} beyond {_control(result)}; {(gains > 0).sum()} of {len(gains)} are above 0. "
            f"One seed each proves no gain; {_several(result)}"
        )
        lines += _tuned(result)
    if 1 < len(gains) == sum(taught) and (gains < 0).all() and not result.confirmed:
        lines.append("Labels alone did better for each of them: this teacher is not seen to help any student.")
    if result.failed_controls:
        told = ", ".join(f"of trial {number}: {why}" for number, why in result.failed_controls.items())
        lines.append(f"{len(result.failed_controls)} controls failed, and leave a gain unknown ({told}).")
    if len(result.front) and "small" not in result.picks:
        _, within = small_margin(result.primary_bounds, result.teacher[result.primary])
        lines.append(f"No student of the front is within {within} of the teacher's {result.primary}: no small pick.")
    return lines + ended_early(result)


def _by_spread(result: Result) -> list[str]:
    """Say which students are on the front by no more than what two measurements of one network differ by."""
    numbers, spread = result.on_front_by_spread, result.conditions.spread
    if spread is None or not numbers:
        return []
    timed = [name for name in result.objectives if is_timed(name)]
    what = "Throughput" if all(METRICS[name].is_maximized for name in timed) else "Latency"
    which = f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    return [
        f"{what} alone, by less than its measured spread of {round(100 * spread)} %, puts {len(numbers)} of "
        f"{len(result.front)} students on the front: {which}."
    ]


def ended_early(result: Result) -> list[str]:
    """Say how many trials were pruned and failed, and why these did."""
    lines = []
    pruned = int((result.trials["state"] == "PRUNED").sum())
    if pruned:
        lines.append(
            f"{pruned} of {len(result.trials)} trials pruned: they had little or no chance of the front any more."
        )
    failed = result.trials[result.trials["state"] == "FAIL"]
    if len(failed):
        reasons = ", ".join(f"trial {row['number']}: {row['reason']}" for _, row in failed.head(5).iterrows())
        lines.append(
            f"{len(failed)} of {len(result.trials)} trials failed ({reasons}{', …' if len(failed) > 5 else ''})."
        )
    return lines


def region_told(result: Result) -> str:
    """Say which students count, and how many do not; where none does, what to do."""
    told = f"Region of interest: {result.region}."
    beyond, complete = result.beyond, result.complete
    if not len(beyond):
        return told
    if len(beyond) < len(complete):
        return (
            f"{told} {len(beyond)} of {len(complete)} students trained to the end lie beyond it: they are on no front."
        )
    best = beyond.iloc[0]
    return (
        f"{told} None of {len(complete)} students trained to the end is in it; the best, trial {best['number']}, has "
        f"{result.primary} {best[result.primary]:.4g}. More --trials may reach it, or a new --study of more --epochs "
        f"or larger students; the same command with {_bounding(result)} counts students that are there, and with "
        "--min none all."
    )


def _bounding(result: Result) -> str:
    return f"a {'lower --min' if result.primary_is_maximized else 'higher --max'} {result.primary}=VALUE"


def nothing_to_confirm(result: Result) -> str:
    """Say why a study without a pick has nothing to confirm, and what to do."""
    if not len(result.complete):
        return f"study {result.study!r} has no complete trial yet: there is nothing to confirm."
    return f"study {result.study!r} has nothing to confirm, for no student is in its region. {region_told(result)}"


def _control(result: Result) -> str:
    """Return what a gain is a gain over."""
    plain = "the plain control, which is the same student, seed and settings on labels alone"
    if not result.tuned_controls:
        return plain
    return f"the tuned control where there is one, else beyond {plain}"


def _tuned(result: Result) -> list[str]:
    """Return which tuned controls there are, and why others are none."""
    front = result.front
    over_plain = front.loc[(front["gain_over"] == PLAIN) & (front["pick"] != ""), "number"].tolist()
    lines = []
    if told := [_tuned_text(result, number) for number in result.picked if number in result.tuned_controls]:
        lines.append(
            "A tuned control is the best of several trainings on labels alone at the architecture, each with training "
            f"settings of its own: {'; '.join(told)}. It was chosen on this split, as the student was."
        )
    if over_plain and not result.tuned_parameters:
        lines.append("No training setting varies in this space: the plain control is the tuned one.")
    elif over_plain:
        which = ", ".join(map(str, over_plain))
        lines.append(f"The gains of trials {which} are over plain controls: --controls tuned trains their tuned ones.")
    return lines


def _tuned_text(result: Result, number: int) -> str:
    found = result.tuned_controls[number]
    settings = configuration_text(dict(found.chosen.training))
    return f"of trial {number} {settings} ({found.chosen.name}, best of {found.tries})"


def _several(result: Result) -> str:
    """Return how to prove one, unless it was tried of all picks."""
    if set(result.picked) <= {confirmation.number for confirmation in result.confirmed}:
        return "what several show is told below."
    return f"several may: {result.confirm_command}"


def transferred(result: Result, *, whole: bool = False) -> list[str]:
    """Return what each pick keeps of the teacher's answers, a line each.

    Args:
        result: What was found.
        whole: Say too what their mistakes have in common with the teacher's, and the same of their controls.
    """
    lines = []
    for number, name in result.picked.items():
        kept = [(f"{name} (trial {number})", result.transfers.get(number))]
        if whole:
            kept.append((f"the control of trial {number}, on labels alone,", result.control_transfers.get(number)))
        for who, found in kept:
            if found is not None:
                lines.append(f"{who} {found.sentence()}{f' {found.mistakes()}' if whole else ''}")
    missing = sum(number not in result.transfers for number in result.front["number"])
    if missing:
        lines.append(
            f"What {missing} of the {len(result.front)} trials on the front keep of the teacher's answers is not told: "
            f"their {PREDICTIONS} is not in this --runs-dir, or can't be read."
        )
    return lines


def confirmed_head(result: Result) -> str:
    """Return what the rows of what was confirmed are; empty before anything was."""
    if not result.confirmed or result.tested_teacher is None:
        return ""
    return (
        "Confirmed on the test split, with fresh seeds: means with 95 % intervals (Student's t), gains paired by seed. "
        f"The teacher's {result.primary} there is {result.tested_teacher[result.primary]:.4f}."
    )


def tested(result: Result) -> list[str]:
    """Return what was confirmed on the test split, a line each, and which of today's picks was not; none before."""
    if not confirmed_head(result):
        return []
    known = {confirmation.number for confirmation in result.confirmed}
    return [
        *(confirmation.sentence(result.primary, result.picked) for confirmation in result.confirmed),
        *(f"{pick} (trial {n}): not confirmed yet." for n, pick in result.picked.items() if n not in known),
    ]


def caveats(result: Result) -> list[str]:
    """Return how far what was confirmed can be trusted, a line each."""
    lines, intervals = [], [one for one in result.confirmed if one.student is not None]
    few = [one for one in intervals if one.seeds < FEW_SEEDS]
    if few:
        lines.append(
            "Two seeds say little: the interval of two values reaches 13 standard errors to each side, so what is "
            "called no gain may be one that two can't show."
        )
    alike = [one for one in intervals if any(map(_is_without_width, (one.student, one.control, one.tuned, one.gain)))]
    if alike:
        told = ", ".join(f"trial {one.number}: {one.seeds} seeds" for one in alike)
        lines.append(
            f"An interval without width is no certainty: seeds happened to score alike on the test split ({told})."
        )
    if plain := [one for one in intervals if one.gain_over == PLAIN and one.number in result.tuned_controls]:
        which = ", ".join(str(one.number) for one in plain)
        lines.append(f"The gains of trials {which} are over plain controls; over tuned ones: {result.confirm_command}")
    if few or alike:
        seeds = max(5, *(2 * one.seeds for one in (*few, *alike)))
        lines.append(f"More seeds are added to those that are there: {result.confirm_command} --seeds {seeds}")
    low, high = result.primary_bounds
    shown = [found for one in intervals for found in (one.student, one.control, one.tuned) if found is not None]
    if any((low is not None and one.low < low) or (high is not None and one.high > high) for one in shown):
        limits = [f"{word} {end:g}" for word, end in (("below", low), ("above", high)) if end is not None]
        lines.append(
            f"An interval reaches {' or '.join(limits)}, where {result.primary} can't be: Student's t takes values for "
            "normal, and knows no bounds. It is a sign that seeds are few."
        )
    return lines


def _is_without_width(found: Interval | None) -> bool:
    return found is not None and f"{found.high - found.mean:.4f}" == "0.0000"
