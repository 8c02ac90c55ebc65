"""The report of a study: shown at the terminal, written to files, logged to the study's run."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from harness.core.content import exclusive, write_atomically
from harness.reporting import plots
from harness.reporting.agreement import TeacherAgreement, agreement_table
from harness.reporting.agreement_picture import draw_agreement
from harness.reporting.method_comparison import method_table
from harness.reporting.new_data_report import new_data_intro, new_data_lines
from harness.reporting.notes import (
    agreement_lines,
    caveats,
    confirmed_intro,
    confirmed_lines,
    ended_early,
    notes,
    region_note,
)
from harness.reporting.report_screen import show
from harness.reporting.result import Result, collect
from harness.screen.formatting import cell, parameter_texts, printable, signed
from harness.screen.terminal import Terminal
from harness.studies.study import Study
from harness.tracking.spool import NOTE_TAG, SPOOL, Spool, last_state, read_events
from harness.trials.confirm import confirmed_table
from harness.trials.new_data_scores import new_data_table

_OPTIONAL_FILES = (
    "front.html", "front.png", "curves.png", "confirm.csv", "new_data.csv", "transfer.csv", "transfer.png",
)  # fmt: skip
"""Files that a report may lack: there is no front any more under another region of interest."""


def write_report(result: Result, folder: Path) -> None:
    """Write tables, plots and the summary, each whole or not at all; delete files of an earlier report that this lacks.

    Args:
        result: The result.
        folder: Where to write ``trials.csv``, ``trials.parquet``, ``summary.md``, and, where there is something to
            report, ``front.html``, ``front.png``, ``curves.png``, ``transfer.csv``, ``transfer.png``, ``confirm.csv``,
            ``new_data.csv``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = _files(result)
    for name, write in files.items():
        write_atomically(folder / name, write)
    for name in _OPTIONAL_FILES:
        if name not in files:
            (folder / name).unlink(missing_ok=True)


def _files(result: Result) -> dict[str, Callable[[Path], Any]]:
    """Return the function that writes each file of the report, by its name."""
    files: dict[str, Callable[[Path], Any]] = {
        "trials.csv": lambda path: result.trials.to_csv(path, index=False),
        "trials.parquet": lambda path: _typed(result.trials).to_parquet(path, index=False),
        "summary.md": lambda path: path.write_text(summary(result), encoding="utf-8", errors="replace"),
    }
    if len(result.front):
        files |= {
            "front.html": lambda path: plots.front_page(result, path),
            "front.png": lambda path: plots.front_picture(result, path),
            "curves.png": lambda path: plots.curves_picture(result, path),
        }
    if result.confirmed:
        files["confirm.csv"] = lambda path: confirmed_table(result.confirmed, result.picked).to_csv(path, index=False)
    if result.new_data:
        files["new_data.csv"] = lambda path: new_data_table(result.new_data, result.picked).to_csv(path, index=False)
    if any(len(found.table) for found in result.agreements.values()):
        files["transfer.csv"] = lambda path: agreement_table(result.agreements, result.picked).to_csv(path, index=False)
    if columns := _pictured(result):
        title = f"{result.study}: agreement with the teacher on the validation split"
        files["transfer.png"] = lambda path: draw_agreement(columns, path, title=title)
    return files


def _pictured(result: Result) -> dict[str, TeacherAgreement]:
    """Return the picks whose answers are in the runs folder, by the title of their column in the picture of classes."""
    parameters = result.front.set_index("number")["parameters"]
    return {
        f"{pick} (trial {number}, {parameters[number]:,.0f} parameters)": found
        for number, pick in result.picked.items()
        if isinstance(found := result.agreements.get(number), TeacherAgreement)
    }


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one type for each column: choices of several types become text."""
    mixed = [name for name in frame if pd.api.types.infer_dtype(frame[name], skipna=True).startswith("mixed")]
    return frame.astype(dict.fromkeys(mixed, str))


def summary(result: Result) -> str:
    """Return the report in Markdown, which a tracker can show with the study's run."""
    states = result.trials["state"].value_counts().to_dict()
    shown = (*result.columns, *result.shared_parameters)
    own = result.own_parameters
    rows = []
    for _, row in result.front.iterrows():
        texts = parameter_texts((name, row[name]) for name in own)
        rows.append([row["pick"], str(row["number"]), *(result.cell(row, name) for name in shown), ", ".join(texts)])
    rows.append(["teacher", "", *(cell(name, result.teacher.get(name, math.nan)) for name in shown), ""])
    header = ["pick", "trial", *map(printable, shown), "with"]
    lines = [
        f"## {result.study}",
        "",
        f"{len(result.trials)} trials ({', '.join(f'{count} {state}' for state, count in states.items())}), "
        f"{len(result.front)} on the front of {_markdown(', '.join(result.titles))}.",
        "",
        *_table(*([row if own else row[:-1] for row in (header, *rows)])),
        "",
        *(f"- {_markdown(line)}" for line in notes(result)),
    ]
    if result.methods:
        titles, methods = method_table(result.methods, result.primary)
        lines += ["", "### Methods", "", *_table(titles, *methods)]
    if compared := agreement_lines(result, whole=True):
        lines += ["", "### Teacher-student agreement", "", *(f"- {_markdown(line)}" for line in compared)]
    if confirmed := confirmed_lines(result):
        lines += [
            "",
            "### Confirmed",
            "",
            _markdown(confirmed_intro(result)),
            "",
            *(f"- {_markdown(line)}" for line in confirmed),
        ]
        lines += [text for line in caveats(result) for text in ("", _markdown(line))]
    for one in result.new_data:
        told = new_data_lines(one, result.picked)
        lines += ["", "### New data", "", _markdown(new_data_intro(one, result.primary)), ""]
        lines += [f"- {_markdown(line)}" for line in told]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], *rows: Sequence[str]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(map(_cell, row))} |" for row in (header, ["---"] * len(header), *rows)]


def _cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return _markdown(text).replace("|", r"\|")


def _markdown(text: str) -> str:
    """Return a text with escapes, in which no name begins an HTML tag or code."""
    return text.replace("<", r"\<").replace("`", r"\`")


def report(study: Study, terminal: Terminal, spool: Spool | None = None, *, anew: bool = True) -> None:
    """Show the study's result, write it, and log it to the parent run.

    Args:
        study: The study; it has costs and a teacher.
        terminal: Where to show the tables.
        spool: The log of the study's run; ``None`` logs nothing.
        anew: Whether to write and log the report even if it is the same as the last one.
    """
    result = collect(study)
    folder = study.folder / "report"
    if len(result.front):
        show(result, terminal)
    elif len(result.complete):
        for line in (region_note(result), *ended_early(result)):
            terminal.say_wrapped(line)
    else:
        for line in ("no trial has been trained to the end yet: there is no front to show.", *ended_early(result)):
            terminal.say_wrapped(line)
    text = summary(result)
    if anew or spool is None or not _is_reported(text, spool, [folder / name for name in _files(result)]):
        with terminal.spinner("writing tables and plots …"), exclusive(study.folder / "report.lock"):
            write_report(result, folder)
        if spool is not None:
            _log(result, text, folder, spool)
    terminal.say(f"tables and plots are in {folder}")


def _is_reported(text: str, spool: Spool, files: Iterable[Path]) -> bool:
    """Return whether a report with this summary was written and logged last."""
    events = read_events(spool.folder / SPOOL)
    notes = [event["values"][NOTE_TAG] for event in events if event["event"] == "tags" and NOTE_TAG in event["values"]]
    return notes[-1:] == [text] and all(file.exists() for file in files)


def _log(result: Result, text: str, folder: Path, spool: Spool) -> None:
    spool.artifact(folder)
    states = result.trials["state"].value_counts()
    # All states each time: trials that were running at the last report may be over.
    values = {f"trials_{state.name.lower()}": float(states.get(state.name, 0)) for state in TrialState}
    values["front_size"] = float(len(result.front))
    best = result.trials.loc[result.trials["front"], result.primary]
    if len(best):
        values[f"best_{result.primary}"] = float(best.max() if result.primary_is_maximized else best.min())
    spool.metrics(values)
    _log_gains(result, folder.parent, spool)
    picks = {name: int(row["number"]) for name, row in result.picks.items()}
    no_control = {"kd.no_control": result.no_control} if result.no_control else {}
    spool.tags({NOTE_TAG: text, "kd.picks": json.dumps(picks), **no_control})  # last: see ``_is_reported``


def _log_gains(result: Result, folder: Path, spool: Spool) -> None:
    """Log the gain of each student on the front to its own run, if the log of that is in the study's folder."""
    for _, row in result.compared.iterrows():
        number, run_folder = int(row["number"]), folder / str(row["number"])
        if last_state(run_folder / SPOOL) != "COMPLETE":
            continue
        # Tags, because MLflow compares runs by metrics that all of them have.
        tags = {"kd.gain": signed(row["gain"]), "kd.gain_over": str(row["gain_over"])}
        if number in result.tuned_controls:
            tags["kd.tuned_control"] = result.tuned_controls[number].chosen.name
        with contextlib.closing(spool.beside(run_folder)) as log:
            log.tags(tags)
