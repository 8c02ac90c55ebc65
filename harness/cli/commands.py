"""The command line of ``kd-harness`` and ``python -m harness``: each command's options. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.cli.options import (
    ACCELERATOR,
    ACCEPT_CHANGES,
    DATA_DIR,
    MIN,
    MIN_SHARE,
    PLACES,
    SOURCES,
    STORAGE,
    controls_option,
    max_option,
    places,
    runs_dir_option,
    space_option,
    teacher_option,
)
from harness.cli.parsing import Command, Group, examples, option, parse
from harness.cli.program import program
from harness.cli.search import search_command
from harness.options.commands import confirm_settings, doctor_settings, move_settings, places_of
from harness.settings import CONFIRM_CONTROLS, ConfirmSettings

_ABOUT = """\
Search the students of a teacher: check a task before its search, search it,
look at the study, confirm its result on the test split, or move it to another
storage. COMMAND --help says more."""

_CONFIRM = """\
Train the picks of a study and their controls again with fresh seeds, and score
each once on the test split, which the search has never seen. Reports means with
95 % intervals and the gain of distillation, paired by seed, over the control
whose training settings were tuned (--controls plain: over the plain one, with
the student's own settings). The same command resumes; more --seeds add to those
that are there. Don't pick again after seeing these scores: that would select on
the test split. --on says how much each loses on new data, beside its teacher."""

_DOCTOR = """\
Check a task and its space: data and splits, teacher and its stored outputs,
students, losses and gradients, the metric, budgets. Prints one line for each
check, and what to do about each that fails. Takes 5 to 25 s and writes nothing.
Exit code: 0 all is well, 1 a check failed, 2 the command can't be run."""

_MOVE = """\
Move a study to another storage, with all its trials and what is known of them:
from the file where it began to a server that many machines reach, or back. Its
runs folder stays, so interrupted trials resume and tracked runs continue. No
process may be working on the study. An interrupted move leaves the study where
it was, and the same command repeats it. Afterwards the old storage says where
the study went."""

_STATUS = """\
Show how a study stands, from any machine that reaches its storage: its workers
and what each is doing, what is finished and failed, the pace, and the time
left. The pace is measured by the clocks of the machines that work on it."""

_REPORT = """\
Show a study's front and its picks, at any time, also during the search; write
tables and plots, and log them to the tracker, with those of the study's runs
that it lacks."""

_STUDY = "name of the study (default: the only one; several are listed)"


def parse_command(arguments: Sequence[str] | None = None) -> tuple[str, tuple[Any, ...]]:
    """Return the command that is asked for, and the arguments of the function that does its work."""
    name, asked = parse(_program(), program(), arguments)
    return name, asked


def _program() -> Group:
    started = program()
    return Group(
        [_doctor(), search_command(f"{started} search"), _status(), _report(), _confirm(), _move()],
        about=_ABOUT,
        examples=examples(
            (f"{started} doctor --space my_space.py", "before a search"),
            (f"{started} doctor --space my_space.py --max parameters=2000", ""),
            (f"{started} search --space my_space.py --trials 50", "again: it resumes"),
            (f"{started} status --study digits", "during it"),
            (f"{started} report --study digits", "after it"),
            (f"{started} confirm --study digits --seeds 5", "is it a gain?"),
            (f"{started} confirm --study photos --on photos2/", "and elsewhere?"),
            (f"{started} move --study digits --to postgresql+psycopg://me@host/kd", ""),
        ),
    )


def _doctor() -> Command:
    return Command(
        "doctor",
        groups={
            "What is checked": [space_option(), max_option("check that a student costs no more"), MIN, MIN_SHARE],
            SOURCES: [
                teacher_option(" (default: the one that a search has trained, or fresh weights)"),
                DATA_DIR,
                ACCELERATOR,
            ],
            PLACES: [runs_dir_option("folder that may hold a trained teacher")],
        },
        read=lambda given: (doctor_settings(given),),
        about=_DOCTOR,
        short="check a task of your own before it is searched",
    )


def _status() -> Command:
    return Command(
        "status",
        groups={PLACES: places(_STUDY)},
        read=places_of,
        about=_STATUS,
        short="show how a study stands: workers, running trials, pace, time left",
    )


def _report() -> Command:
    return Command(
        "report",
        groups={PLACES: places(_STUDY)},
        read=places_of,
        about=_REPORT,
        short="show a study's front and picks, and write tables and plots",
    )


def _confirm() -> Command:
    return Command(
        "confirm",
        groups={
            "What is trained": [
                option(
                    "--seeds",
                    "N",
                    "fresh seeds for each pick and its controls, those of earlier runs included; at least 2, "
                    f"which say little (default: {ConfirmSettings.seeds})",
                ),
                controls_option("with each pick", CONFIRM_CONTROLS),
                option(
                    "--on",
                    "FOLDER|FILE",
                    "score them, and the teacher, on new data too: of the same classes, or of the same columns; the "
                    "students are kept, so further data trains nothing",
                ),
                option("--workers", "N", "students at a time (default: the cores)"),
                option("--accelerator", "NAME", "Lightning's accelerator (default: auto)"),
            ],
            "Where it was searched (default: as then)": [
                option("--space", "NAME|FILE", "the space, if it is a file of your own"),
                option("--data-dir", "DIR", "the data, where it has moved"),
                option("--teacher", "FILE", "the teacher's checkpoint, where it has moved", repeated=True),
                ACCEPT_CHANGES,
            ],
            PLACES: places("name of the study"),
        },
        read=lambda given: (confirm_settings(given),),
        about=_CONFIRM,
        short="train the picks and their controls with fresh seeds; score them on the test split",
    )


def _move() -> Command:
    return Command(
        "move",
        groups={
            "What is moved, and where to": [
                option("--study", "NAME", "name of the study"),
                STORAGE,
                option(
                    "--to",
                    "ADDRESS",
                    "the storage that it moves to, an address like that of --storage; required, unless $KD_TO is set",
                ),
                runs_dir_option("folder of its trials, which stay there"),
            ]
        },
        read=move_settings,
        about=_MOVE,
        short="move a study to another storage, and continue it there",
    )
