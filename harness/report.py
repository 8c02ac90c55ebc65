"""What a person reads of a result: a table at the terminal, files on disk, and the same in MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from harness import plots
from harness.answers import ANSWERS
from harness.confirm import confirmed_table
from harness.content import exclusive, write_atomically
from harness.controls import is_own_control
from harness.result import WITHIN_TEACHER, Result, collect
from harness.spool import Spool
from harness.study import Study
from harness.terminal import Terminal, configuration_text
from harness.transfer import Transfer, transfer_table
from harness.transfer_picture import transfer_picture

_HEADINGS = {
    "latency_p50_ms": "p50 ms",
    "latency_p95_ms": "p95 ms",
    "throughput_per_s": "samples/s",
    "size_mb": "MB",
    "compression": "smaller",
    "speedup": "faster",
    "agreement": "agrees",
    "temperature": "T",
    "alpha": "α",
    "learning_rate": "lr",
}
_DISPENSABLE = ["speedup", "compression", "control", "agreement"]


def show(result: Result, terminal: Terminal) -> None:
    """Print the front as a table, and what should be known beside it."""
    title = f"{result.study}: the Pareto front of {', '.join(_titles(result))}"
    # On a narrow terminal, what can be worked out from the rest gives way.
    dispensable = [name for name in _DISPENSABLE if name in _columns(result)]
    for drop in range(len(dispensable) + 1):
        table = _front_table(result, title, [name for name in _columns(result) if name not in dispensable[:drop]])
        if Console(width=1000).measure(table).maximum <= terminal.console.width:
            break
    terminal.show(table)
    if drop:
        left_out = ", ".join(_HEADINGS.get(name, name) for name in dispensable[:drop])
        terminal.say(f"Left out for want of width: {left_out}.")
    for line in (*notes(result), *transferred(result), *tested(result)):
        terminal.say(line)


def _front_table(result: Result, title: str, metrics: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Methods have parameters of their own: a column for each would leave no room for any.
    conditional = [name for name in result.parameters if result.trials[name].isna().any()]
    shared = [name for name in result.parameters if name not in conditional]
    for name in ("trial", *metrics, *shared, *(["with"] if conditional else []), "pick"):
        table.add_column(_HEADINGS.get(name, name), justify="left" if name in ("with", "pick") else "right")
    for _, row in result.front.iterrows():
        style = "bold" if row["pick"] else None
        cells = [_cell(name, row[name]) for name in (*metrics, *shared)]
        if conditional:
            cells.append(configuration_text({name: row[name] for name in conditional if not pd.isna(row[name])}))
        table.add_row(str(row["number"]), *cells, str(row["pick"]), style=style)
    table.add_section()
    table.add_row("teacher", *(_cell(name, result.teacher.get(name, math.nan)) for name in metrics), style="dim")
    return table


def notes(result: Result) -> list[str]:
    """What the table does not say, a sentence a line."""
    lines = [f"Latencies hold for {result.conditions}; {result.primary} is the last epoch's, on the validation split."]
    if result.ensemble:
        lines.append(
            f"The teacher is the mean of the {result.ensemble}; its costs are theirs, one run after the other."
        )
    taught = [not is_own_control({"alpha": row.get("alpha")}) for _, row in result.front.iterrows()]
    gains = result.front.loc[taught, "gain"].dropna()
    if len(gains):
        lines.append(
            f"Gain: {result.primary} beyond the control, which is the same student, seed and schedule on labels alone; "
            f"{(gains > 0).sum()} of {len(gains)} are above 0. One seed each proves no gain; several may: "
            f"python -m harness confirm --study {result.study}."
        )
    if result.failed_controls:
        told = ", ".join(f"of trial {number}: {why}" for number, why in result.failed_controls.items())
        lines.append(f"{len(result.failed_controls)} controls failed, and leave a gain unknown ({told}).")
    if "small" not in result.picks:
        lines.append(
            f"No student of the front is within {WITHIN_TEACHER} of the teacher's {result.primary}: no small pick."
        )
    pruned = int((result.trials["state"] == "PRUNED").sum())
    if pruned:
        lines.append(f"{pruned} of {len(result.trials)} trials were pruned: they could not reach the front any more.")
    failed = result.trials[result.trials["state"] == "FAIL"]
    if len(failed):
        reasons = ", ".join(f"trial {row['number']}: {row['reason']}" for _, row in failed.head(5).iterrows())
        lines.append(
            f"{len(failed)} of {len(result.trials)} trials failed ({reasons}{', …' if len(failed) > 5 else ''})."
        )
    return lines


def transferred(result: Result, *, whole: bool = False) -> list[str]:
    """What each pick keeps of the teacher's answers, a line each.

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
            f"their {ANSWERS} is not in this --runs-dir, or can't be read."
        )
    return lines


def tested(result: Result) -> list[str]:
    """What was confirmed on the test split, a line each, and which of today's picks was not; none before."""
    if not result.confirmed or result.tested_teacher is None:
        return []
    known = {confirmation.number for confirmation in result.confirmed}
    return [
        f"Confirmed on the test split, with fresh seeds, 95 % intervals; the teacher's {result.primary} there is "
        f"{result.tested_teacher[result.primary]:.4f}:",
        *(confirmation.sentence(result.primary, result.picked) for confirmation in result.confirmed),
        *(f"{pick} (trial {n}): not confirmed yet." for n, pick in result.picked.items() if n not in known),
    ]


def write_report(result: Result, folder: Path) -> None:
    """Write tables, plots and the summary; each file is there whole or not at all.

    Args:
        result: What to report.
        folder: Gets ``trials.csv``, ``trials.parquet``, ``front.html``, ``front.png``, ``curves.png``, ``summary.md``,
            ``transfer.csv``, ``transfer.png``, ``confirm.csv``, each where there is something to be told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Callable[[Path], Any]] = {
        "trials.csv": lambda path: result.trials.to_csv(path, index=False),
        "trials.parquet": lambda path: _typed(result.trials).to_parquet(path, index=False),
        "summary.md": lambda path: path.write_text(summary(result)),
    }
    if len(result.front):
        files |= {
            "front.html": lambda path: plots.front_page(result, path),
            "front.png": lambda path: plots.front_picture(result, path),
            "curves.png": lambda path: plots.curves_picture(result, path),
        }
    if result.confirmed:
        files["confirm.csv"] = lambda path: confirmed_table(result.confirmed, result.picked).to_csv(path, index=False)
    if result.transfers:
        files["transfer.csv"] = lambda path: transfer_table(result.transfers, result.picked).to_csv(path, index=False)
    if columns := _pictured(result):
        title = f"{result.study}: what was transferred, on the validation split"
        files["transfer.png"] = lambda path: transfer_picture(columns, path, title=title)
    for name, write in files.items():
        write_atomically(folder / name, write)


def _pictured(result: Result) -> dict[str, Transfer]:
    """The picks whose answers are at hand, by what stands above them."""
    parameters = result.front.set_index("number")["parameters"]
    return {
        f"{pick} (trial {number}, {parameters[number]:,.0f} parameters)": result.transfers[number]
        for number, pick in result.picked.items()
        if number in result.transfers
    }


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with one type a column: choices of several types become text."""
    mixed = [name for name in frame if pd.api.types.infer_dtype(frame[name], skipna=True).startswith("mixed")]
    return frame.astype(dict.fromkeys(mixed, str))


def summary(result: Result) -> str:
    """The report in Markdown, as MLflow shows it on the parent run."""
    states = result.trials["state"].value_counts().to_dict()
    metrics = _columns(result)
    header = ["pick", "trial", *metrics, *result.parameters]
    lines = [
        f"## {result.study}",
        "",
        f"{len(result.trials)} trials ({', '.join(f'{count} {state}' for state, count in states.items())}), "
        f"{len(result.front)} on the front of {', '.join(_titles(result))}.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *(
            "| "
            + " | ".join(
                [str(row["pick"]), str(row["number"]), *(_cell(c, row[c]) for c in (*metrics, *result.parameters))]
            )
            + " |"
            for _, row in result.front.iterrows()
        ),
        "| teacher |  | "
        + " | ".join([*(_cell(c, result.teacher.get(c, math.nan)) for c in metrics), *("" for _ in result.parameters)])
        + " |",
        "",
        *(f"- {line}" for line in notes(result)),
    ]
    if told := transferred(result, whole=True):
        lines += ["", "### What was transferred", "", *(f"- {line}" for line in told)]
    if told := tested(result):
        lines += ["", "### Confirmed", "", *(f"- {line}" for line in told)]
    return "\n".join(lines) + "\n"


def report(study: Study, terminal: Terminal, spool: Spool | None = None) -> None:
    """Show the study's result, write it, and log it to the parent run.

    Args:
        study: The study; it has costs and a teacher.
        terminal: Where the table is shown.
        spool: The parent run's log; ``None`` logs nothing.
    """
    result = collect(study)
    folder = study.folder / "report"
    with exclusive(study.folder / "report.lock"):
        write_report(result, folder)
    if spool is not None:
        spool.artifact(folder)
        best = result.trials.loc[result.trials["front"], result.primary]
        counts = {
            f"trials_{str(state).lower()}": float(n) for state, n in result.trials["state"].value_counts().items()
        }
        spool.metrics(
            {
                "front_size": float(len(result.front)),
                **counts,
                **(
                    {
                        f"best_{result.primary}": float(
                            best.max() if study.primary_direction == "maximize" else best.min()
                        )
                    }
                    if len(best)
                    else {}
                ),
            }
        )
        spool.tags(
            {
                "mlflow.note.content": summary(result),
                "kd.picks": json.dumps({k: int(v["number"]) for k, v in result.picks.items()}),
            }
        )
    if len(result.front):
        show(result, terminal)
    else:
        terminal.say("no trial has been trained to the end yet: there is no front to show.")
    terminal.say(f"tables and plots are in {folder}")


def _columns(result: Result) -> list[str]:
    """What a table shows: primary metric, control and gain, objectives, and how they compare with the teacher."""
    gained = ["control", "gain"] if result.controls else []
    return list(dict.fromkeys([result.primary, *gained, *result.objectives, "agreement", "compression", "speedup"]))


def _titles(result: Result) -> list[str]:
    arrows = {"maximize": "↑", "minimize": "↓"}
    return [f"{name} {arrows[way]}" for name, way in zip(result.objectives, result.directions, strict=True)]


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""  # another method's parameter, or what was not trained
    if name == "gain":
        return f"{value:+.4f}"
    if name in ("parameters", "macs"):
        return f"{value:,.0f}"
    if name in ("compression", "speedup"):
        return f"{value:.1f}x"
    if name == "throughput_per_s":
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.4f}" if name not in ("temperature", "alpha") else f"{value:.3g}"
    return str(value)
