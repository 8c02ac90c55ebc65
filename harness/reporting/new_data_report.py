"""Report what confirmed students scored on new data (``confirm --on``): sentences, and a table at the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from harness.screen.formatting import printable, signed
from harness.screen.table import Column, Row
from harness.trials.confirm import FEW_SEEDS, pick_name
from harness.trials.new_data_scores import Drop, Generalisation, NewDataResult

_VERDICTS = {
    "loses more": "it generalises worse than its teacher",
    "loses less": "it generalises better than its teacher",
    "as the teacher": "no difference from its teacher is shown",
}


def new_data_intro(result: NewDataResult, primary: str) -> str:
    """Return the introduction to what was scored on one set of new data.

    Args:
        result: What came out.
        primary: Name of the primary metric.
    """
    return (
        f"On {printable(result.path)}, {result.samples:,} new samples: {primary} there beside the test split, and the "
        "drop, with 95 % intervals over the seeds of the confirmation. The teacher, one network, goes from "
        f"{result.teacher_test:.4f} to {result.teacher_new:.4f}, a drop of {result.teacher_drop:.4f}."
    )


def new_data_lines(result: NewDataResult, picked: Mapping[int, str]) -> list[str]:
    """Return the verdict on each pick in a line, and how far to trust it.

    Args:
        result: What came out.
        picked: Name of each current pick by the trial's number.
    """
    lines = [_sentence(one, result.teacher_drop, picked) for one in result.picks]
    if any(one.student.seeds < FEW_SEEDS for one in result.picks):
        lines.append("Two seeds say little: more --seeds narrow these intervals.")
    return lines


def new_data_rows(result: NewDataResult, picked: Mapping[int, str]) -> tuple[list[Column], list[Row]]:
    """Return a table with a row for each arm of each pick, and one for the teacher."""
    words = ("trial", "pick", "network", "seeds", "test", "new data", "drop", "vs teacher", "verdict")
    columns = [Column(word, is_text=word not in ("trial", "seeds"), folds=word == "verdict") for word in words]
    rows = []
    for one in result.picks:
        for place, drop in enumerate(one.drops):
            names = ["", ""] if place else [str(one.number), pick_name(one.number, one.pick, picked)]
            rows.append(Row([*names, *_cells(drop), "" if place else one.verdict]))
    shown = [f"{value:.4f}" for value in (result.teacher_test, result.teacher_new, result.teacher_drop)]
    rows.append(Row(["", "", "teacher", "", *shown, "", ""], style="dim", stands_apart=True))
    return columns, rows


def _cells(drop: Drop) -> list[str]:
    scores = [one.with_margin() for one in (drop.test, drop.new, drop.drop)]
    return [drop.arm, str(drop.seeds), *scores, drop.beyond_teacher.with_margin("+")]


def _sentence(one: Generalisation, teacher_drop: float, picked: Mapping[int, str]) -> str:
    student, more = one.student, one.student.beyond_teacher
    name = pick_name(one.number, one.pick, picked)
    told = (
        f"{name} (trial {one.number}): drop {student.drop.mean:.4f}, its teacher's {teacher_drop:.4f}, "
        f"difference {signed(more.mean)} [{signed(more.low)}, {signed(more.high)}]"
    )
    if one.failed:
        return f"{told}; {one.failed} of its seeds failed, so it is unproven."
    told = f"{told}; {_VERDICTS[one.verdict]}."
    if one.beyond_control is None:
        return told
    beside = one.beyond_control
    return (
        f"{told} Beside its {one.control} control: {signed(beside.mean)} [{signed(beside.low)}, {signed(beside.high)}]."
    )
