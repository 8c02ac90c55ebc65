"""The report at the terminal: tables that fit its width, with notes and caveats."""

from __future__ import annotations

import math

from harness.metrics import metrics_in_every_table
from harness.reporting.method_comparison import method_table
from harness.reporting.new_data_report import new_data_intro, new_data_lines, new_data_rows
from harness.reporting.notes import agreement_lines, caveats, confirmed_intro, notes
from harness.reporting.result import Result
from harness.screen.formatting import cell, heading, parameter_texts
from harness.screen.table import Column, Row, build_table
from harness.screen.terminal import Terminal
from harness.trials.confirm import Confirmation, Interval, pick_name


def show(result: Result, terminal: Terminal) -> None:
    """Print the front and the confirmed picks as tables, with notes and caveats."""
    terminal.say_wrapped(f"{result.study}: the Pareto front of {', '.join(result.titles)}")
    terminal.say("")
    if omitted := _show_table(*_front(result), terminal):
        terminal.say_wrapped(f"Columns omitted to fit the width: {', '.join(omitted)}; trials.csv has all.")
    for line in (*notes(result), *agreement_lines(result)):
        terminal.say_wrapped(line)
    if result.methods:
        terminal.say("")
        _show_table(*_methods(result), terminal)
    if head := confirmed_intro(result):
        terminal.say("")
        terminal.say_wrapped(head)
        terminal.say("")
        _show_table(*_confirmed(result), terminal)
        for line in caveats(result):
            terminal.say_wrapped(line)
    for one in result.new_data:
        terminal.say("")
        terminal.say_wrapped(new_data_intro(one, result.primary))
        terminal.say("")
        _show_table(*new_data_rows(one, result.picked), terminal)
        for line in new_data_lines(one, result.picked):
            terminal.say_wrapped(line)


def _show_table(columns: list[Column], rows: list[Row], terminal: Terminal) -> list[str]:
    """Print a table and a blank line; return the titles of omitted columns."""
    table, omitted = build_table(columns, rows, terminal.console.width)
    terminal.show(table)
    terminal.say("")
    return omitted


def _front(result: Result) -> tuple[list[Column], list[Row]]:
    shared, own = result.shared_parameters, result.own_parameters
    ranks = {name: rank for rank, name in enumerate(_omission_order(), 1) if name not in result.objectives}
    columns = [
        Column("trial"),
        *(Column(heading(name), omit_rank=ranks.get(name, 0)) for name in result.columns),
        *(Column(heading(name), is_text=name == result.method_column, folds=True) for name in shared),
        Column("pick", is_text=True),
    ]
    rows = [
        Row(
            [str(row["number"]), *(result.cell(row, name) for name in (*result.columns, *shared)), str(row["pick"])],
            parameter_texts((name, row[name]) for name in own),
            style="bold" if row["pick"] else None,
        )
        for _, row in result.front.iterrows()
    ]
    teacher = [cell(name, result.teacher.get(name, math.nan)) for name in result.columns]
    rows.append(Row(["teacher", *teacher, *[""] * len(shared), ""], style="dim", stands_apart=True))
    return columns, rows


def _omission_order() -> list[str]:
    """Return the columns that a narrow terminal omits, the last one first: costs, which follow from other columns."""
    scores = [metric.name for metric in metrics_in_every_table() if not metric.known_before_training]
    costs = [metric.name for metric in metrics_in_every_table() if metric.known_before_training]
    return [*scores, "tuned_control", "control", *costs]


def _methods(result: Result) -> tuple[list[Column], list[Row]]:
    (name, *numbers), rows = method_table(result.methods, result.primary)
    return [Column(name, is_text=True), *map(Column, numbers)], [Row(cells) for cells in rows]


def _confirmed(result: Result) -> tuple[list[Column], list[Row]]:
    columns = [
        Column("trial"),
        Column("pick", is_text=True),
        Column("seeds"),
        Column(result.primary, is_text=True),
        Column("control", is_text=True),
        *([Column(heading("tuned_control"), is_text=True)] if _has_tuned(result) else []),
        Column("gain", is_text=True),
        Column("verdict", is_text=True, folds=True),
    ]
    rows = [Row(_confirmed_cells(one, result), _failures(one)) for one in result.confirmed]
    known = {confirmation.number for confirmation in result.confirmed}
    missing = {number: pick for number, pick in result.picked.items() if number not in known}
    blank = [""] * (len(columns) - 3)
    rows += [Row([str(n), pick, *blank, "not confirmed yet"]) for n, pick in missing.items()]
    return columns, rows


def _has_tuned(result: Result) -> bool:
    return any(one.tuned is not None for one in result.confirmed)


def _confirmed_cells(one: Confirmation, result: Result) -> list[str]:
    pick = pick_name(one.number, one.pick, result.picked)
    scores = [one.student, one.control, *([one.tuned] if _has_tuned(result) else [])]
    gain = _interval(one.gain, sign="+")
    return [str(one.number), pick, str(one.seeds), *map(_interval, scores), gain, one.verdict]


def _interval(found: Interval | None, sign: str = "") -> str:
    return "" if found is None else found.with_margin(sign)


def _failures(one: Confirmation) -> list[str]:
    by_arm = {
        "of the student": one.student_failures,
        "of its control": one.control_failures,
        "of its tuned control": one.tuned_failures,
    }
    return [f"{arm}, {failures}" for arm, failures in by_arm.items() if failures.reasons]
