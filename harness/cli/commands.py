"""The face of ``kd-harness`` and ``python -m harness``: what their commands take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.cli import flags
from harness.cli.program import program
from harness.cli.search import SEARCH_HELP, add_search, search_examples, search_of
from harness.launchers.placement import Placement
from harness.settings import CONTROLS, Settings

_HELP = """\
Search the students of a teacher: check a task before its search, look at the
study, put what it found to the test, or move it. COMMAND --help says the rest."""

_CONFIRM_HELP = """\
Train the picks of a study and their controls anew, with fresh seeds, and score
each once on the test split, which the search has never seen. Reports means with
95 % intervals and the gain of distillation, paired by seed, over the control
whose training settings were tuned (--controls plain: over the plain one, with
the student's own settings). The same command
goes on where it was; more --seeds add to those that are there. To pick anew
after looking at this would be to select on the test split."""

_DOCTOR_HELP = """\
Check a task and its space: data and splits, teacher and what is stored of it,
students, losses and gradients, the metric, budgets. One line for each check,
and what to do about each that fails. Takes 5 to 25 s and writes nothing.
Exit code: 0 all is well, 1 a check failed, 2 the command can't be run."""

_MOVE_HELP = """\
Move a study to another storage, say from the file that it was begun on to a
server that many machines reach, or back: all its trials, with what is known of
them. Its runs folder stays, so what was cut is resumed and MLflow's runs go on.
Nobody may be at work on it. A move that was cut leaves the study where it was;
the same command does it again. Afterwards the old storage says where it went."""

_STATUS_HELP = """\
Show how a study stands, from any machine that reaches its storage: its workers
and what each is at, what is finished and failed, the pace, and the time left.
The pace is told by the clocks of the machines that work on it."""

_REPORT_HELP = """\
Show a study's front and its picks, at any time, also while it is searched;
write tables and plots, and log them to MLflow, with whatever it lacks of the
study's runs."""


def _examples() -> str:
    started = program()
    return flags.examples(
        (f"{started} doctor --space my_space.py", "before a search"),
        (f"{started} doctor --space my_space.py --max parameters=2000", ""),
        (f"{started} search --space my_space.py --trials 50", "again: it goes on"),
        (f"{started} status --study digits", "during it"),
        (f"{started} report --study digits", "after it"),
        (f"{started} confirm --study digits --seeds 5", "is it a gain?"),
        (f"{started} move --study digits --to postgresql+psycopg://me@host/kd", ""),
    )


def parse_command(arguments: Sequence[str] | None = None) -> tuple[str, Settings, Placement]:
    """Return the command that is asked for, its settings, and of a search where its workers run."""
    parser = flags.Parser(
        prog=program(),
        description=_HELP,
        epilog=_examples(),
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_doctor(commands)
    _add_search(commands)
    _add_status(commands)
    _add_report(commands)
    _add_confirm(commands)
    _add_move(commands)
    asked = parser.parse_args(arguments)
    command = commands.choices[asked.command]
    if asked.command == "search":
        return asked.command, *search_of(command, asked)
    settings = {
        "doctor": _doctor_settings,
        "status": _study_settings,
        "report": _study_settings,
        "confirm": _confirm_settings,
        "move": _move_settings,
    }[asked.command]
    return asked.command, settings(command, asked), Placement()


def _add_search(commands: argparse._SubParsersAction[flags.Parser]) -> None:
    command = commands.add_parser(
        "search",
        help="train students of a teacher, and find which are worth having",
        description=SEARCH_HELP,
        epilog=search_examples(f"{program()} search"),
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    add_search(command)


def _add_doctor(commands: argparse._SubParsersAction[flags.Parser]) -> None:
    command = commands.add_parser(
        "doctor",
        help="check a task of your own before it is searched",
        description=_DOCTOR_HELP,
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    add = command.add_argument_group("what is checked").add_argument
    flags.add_space(add)
    flags.add_budgets(add, "check that a student costs no more")
    flags.add_region(add)
    flags.add_sources(command, " (default: the one that a search has kept, or fresh weights)")
    flags.add_runs_dir(
        command.add_argument_group("where things are kept").add_argument, "where a kept teacher is looked for"
    )


def _doctor_settings(parser: flags.Parser, asked: argparse.Namespace) -> Settings:
    if len(asked.teacher) > 1:
        parser.error(f"--teacher must be one for the doctor, but got {len(asked.teacher)}")
    name, file = flags.space_of(parser, asked.space)
    return Settings(
        space_name=name,
        space_file=file,
        study=flags.study_of(name),
        runs_dir=asked.runs_dir,
        data_dir=asked.data_dir,
        teachers=tuple(flags.checkpoint(parser, path) for path in asked.teacher),
        budgets=flags.budgets_of(parser, asked),
        bound=flags.bound_of(parser, asked),
        accelerator=asked.accelerator,
    )


def _add_status(commands: argparse._SubParsersAction[flags.Parser]) -> None:
    command = commands.add_parser(
        "status",
        help="show how a study stands: workers, running trials, pace, time left",
        description=_STATUS_HELP,
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    flags.add_places(command, "name of the study (default: the only one; of several, list them)")


def _add_report(commands: argparse._SubParsersAction[flags.Parser]) -> None:
    command = commands.add_parser(
        "report",
        help="show a study's front and picks, and write tables and plots",
        description=_REPORT_HELP,
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    flags.add_places(command, "name of the study (default: the only one; of several, list them)")


def _study_settings(parser: flags.Parser, asked: argparse.Namespace) -> Settings:
    return Settings(
        space_name="",
        space_file=Path(),
        study="" if asked.study is None else flags.study_name(parser, asked.study),
        storage=asked.storage,
        tracking_uri=asked.tracking_uri,
        runs_dir=flags.writable(parser, asked.runs_dir),
    )


def _add_confirm(commands: argparse._SubParsersAction[flags.Parser]) -> None:
    command = commands.add_parser(
        "confirm",
        help="train the picks and their controls with fresh seeds, and score them on the test split",
        description=_CONFIRM_HELP,
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "--seeds",
        type=flags.at_least_two,
        default=5,
        metavar="N",
        help="fresh seeds for each pick and its controls, those of before included; at least 2, which say little "
        "(default: 5)",
    )
    flags.add_controls(command.add_argument, "beside each pick, ", CONTROLS[:2])
    command.add_argument(
        "--workers", type=flags.at_least_one, metavar="N", help="students at a time (default: the cores)"
    )
    command.add_argument(
        "--accelerator", default="auto", metavar="NAME", help="Lightning's accelerator (default: auto)"
    )
    add = command.add_argument_group("where it was searched (default: as then)").add_argument
    add("--space", metavar="NAME|FILE", help="the space, if it is a file of your own")
    add("--data-dir", type=flags.folder, metavar="DIR", help="the data, where it has moved")
    add(
        "--teacher",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="the teacher's checkpoint, where it has moved",
    )
    flags.add_accept_changes(add)
    flags.add_places(command, "name of the study", required=True)


def _confirm_settings(parser: flags.Parser, asked: argparse.Namespace) -> Settings:
    return replace(
        _study_settings(parser, asked),
        space_file=Path() if asked.space is None else flags.space_of(parser, asked.space)[1],
        seeds=asked.seeds,
        controls=asked.controls,
        data_dir=asked.data_dir,
        teachers=tuple(flags.checkpoint(parser, path) for path in asked.teacher),
        accept_changes=asked.accept_changes,
        accelerator=asked.accelerator,
        workers=asked.workers,
    )


def _add_move(commands: argparse._SubParsersAction[flags.Parser]) -> None:
    command = commands.add_parser(
        "move",
        help="take a study to another storage, and go on with it there",
        description=_MOVE_HELP,
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    add = command.add_argument_group("what is moved, and where to").add_argument
    add("--study", required=True, metavar="NAME", help="name of the study")
    flags.add_storage(add)
    add(
        "--to",
        type=flags.address,
        default=flags.variable("KD_TO", "") or None,
        required=not flags.variable("KD_TO", ""),
        metavar="ADDRESS",
        help="the storage that it is moved to, an address as of --storage; needed, unless it is in $KD_TO",
    )
    flags.add_runs_dir(add, "where its trials are kept, which stay there")


def _move_settings(parser: flags.Parser, asked: argparse.Namespace) -> Settings:
    return Settings(
        space_name="",
        space_file=Path(),
        study=flags.study_name(parser, asked.study),
        storage=asked.storage,
        to=asked.to,
        runs_dir=flags.writable(parser, asked.runs_dir),
    )
