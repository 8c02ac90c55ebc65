"""The table of ``benchmarks/against_tuners.py``: every run, and its ratio to the harness of the same repeat."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from contenders import CONTENDERS
from provenance import provenance
from races import MOST_PARAMETERS, WHOLE, Race, Run

from harness.preparation.concurrency import usable_cores


def table(race: Race, runs: dict[str, list[Run]], *, seed: int, trials: int, limit_s: float) -> list[str]:
    """Return every run, and how many times as long each took as the harness of the same repeat, as Markdown."""
    goals = [f"{unit} to {goal}" for unit in ("wall s", "CPU s") for goal in race.goals]
    lines = [
        f"# {race.space}: whole commands to a hypervolume",
        "",
        provenance(),
        "",
        f"Students of width {race.widths[0]} to {race.widths[1]}, {race.epochs} epochs, {usable_cores()} cores. "
        f"Hypervolume of (validation accuracy above {WHOLE}, log10 of parameters below {MOST_PARAMETERS}) of the "
        f"students that were trained to the end; in the region of interest: accuracy above {race.floor}. Seconds "
        "since the command was started; CPU seconds of all its processes. ∞: not reached before the command was "
        "stopped, as the last columns say; the limit was "
        f"{limit_s:g} s and {trials:,} trials.",
        "",
        *_head(
            "command", ["seed", *goals, "stopped after, s", "CPU s", "students trained", "hypervolume", "in the region"]
        ),
    ]
    for name, done in runs.items():
        for repeat, each in enumerate(done):
            seconds = [seconds_text(value) for value in (*each.wall_s, *each.cpu_s, each.ran_s, each.used_s)]
            lines.append(
                _row(
                    [
                        CONTENDERS[name],
                        str(seed + repeat),
                        *seconds,
                        str(each.trained),
                        *(f"{volume:.3f}" for volume in each.volumes),
                    ]
                )
            )
    if "harness" not in runs:
        return lines
    lines += [
        "",
        "How many times as long as the harness: the median, and each pair. ≥: it never arrived, and had run so many "
        "times as long when it was stopped; ≤: the harness never arrived; –: neither did.",
        "",
        *_head("command", [goal.replace(" s to", " to") for goal in goals]),
    ]
    for name in [name for name in runs if name != "harness"]:
        pairs = list(zip(runs[name], runs["harness"], strict=True))
        places = range(len(race.goals))
        wall = [_ratio([(a.wall_s[goal], a.ran_s, b.wall_s[goal], b.ran_s) for a, b in pairs]) for goal in places]
        cpu = [_ratio([(a.cpu_s[goal], a.used_s, b.cpu_s[goal], b.used_s) for a, b in pairs]) for goal in places]
        lines.append(_row([CONTENDERS[name], *wall, *cpu]))
    return lines


def _head(name: str, columns: Sequence[str]) -> list[str]:
    return [_row([name, *columns]), "|---|" + "---:|" * len(columns)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def seconds_text(value: float) -> str:
    """Return seconds to a tenth; ∞ for what never came."""
    return "∞" if math.isinf(value) else f"{value:.1f}"


def _ratio(pairs: Sequence[tuple[float, float, float, float]]) -> str:
    """Their ratios; each pair is when the other arrived and when it was stopped, and the same of the harness."""
    shown, least = [], []
    for theirs, their_end, ours, our_end in pairs:
        if math.isinf(theirs) and math.isinf(ours):
            shown.append("–")
        elif math.isinf(ours):
            shown.append(f"≤ {theirs / our_end:.1f}")
        else:
            least.append(min(theirs, their_end) / ours)
            shown.append(f"{'≥ ' if math.isinf(theirs) else ''}{least[-1]:.1f}")
    if len(least) < len(pairs):
        return f"no median ({', '.join(shown)})"
    bound = "≥ " if any(math.isinf(theirs) for theirs, *_ in pairs) else ""
    return f"{bound}{statistics.median(least):.1f} ({', '.join(shown)})"
