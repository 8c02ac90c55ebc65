"""The faces: what the command lines take, and how they end. Imports nothing heavy before the answer is known."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from harness.addresses import redact
from harness.errors import HarnessError, Interrupted, interrupt, one_line
from harness.recipes import DEFAULT_RECIPES, RECIPES
from harness.settings import (
    AVERAGES,
    BUDGETED,
    DEFAULT_RUNS_DIR,
    DEFAULT_STORAGE,
    DEFAULT_TRACKING_URI,
    PRUNERS,
    SAMPLERS,
    Settings,
)

if TYPE_CHECKING:
    from harness.study import Study

_Value = TypeVar("_Value")
Add = Callable[..., object]
"""A parser's, or a group's, ``add_argument``."""

_NO_RECIPE = "none"

SPACES_DIR = Path(__file__).resolve().parent.parent / "search_spaces"

_SEARCH_HELP = """\
Search the students of a teacher: trains small students by knowledge
distillation and finds the trade-off between accuracy, latency and size, with
the temperature, the weight alpha and the width that reach it."""

_SEARCH_EXAMPLES = """\
examples:
  python search.py --trials 50                              again: it goes on
  python search.py --space fashion-mnist --trials 30        Fashion-MNIST
  python search.py --space my_space.py --teacher best.ckpt  your own task
  python search.py --fix alpha=0.5 --study half             hold a parameter
  python search.py --recipe hinton                          published settings
  python search.py --max parameters=2000 --study tiny       none over a budget
  python search.py --objectives accuracy,macs --study macs  another trade-off
  mlflow ui                                                 compare the trials
  python -m harness report --study digits                   the result again

loss = alpha * cross-entropy + (1 - alpha) * T^2 * KL
alpha weighs the true labels (other projects mean the opposite).
"""


_CONFIRM_HELP = """\
Train the picks of a study and their controls anew, with fresh seeds, and score
each once on the test split, which the search has never seen. Reports means with
95 % intervals and the gain of distillation, paired by seed. The same command
goes on where it was; more --seeds add to those that are there. To pick anew
after looking at this would be to select on the test split."""

_DOCTOR_HELP = """\
Check a task and its space: data and splits, teacher and what is stored of it,
students, losses and gradients, the metric, budgets. One line for each check,
and what to do about each that fails. Takes seconds and writes nothing.
Exit code: 0 all is well, 1 a check failed, 2 the command can't be run."""

_COMMAND_EXAMPLES = """\
examples:
  python -m harness doctor --space my_space.py              before a search
  python -m harness doctor --space my_space.py --max parameters=2000
  python -m harness report --study digits                   after it
  python -m harness confirm --study digits --seeds 5        is it a gain?
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(118, shutil.get_terminal_size((120, 24)).columns - 2))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {redact(message)} (see {self.prog} --help)\n")


def parse_search(arguments: Sequence[str] | None = None) -> Settings:
    """The settings that ``search.py``'s command line asks for."""
    parser = _Parser(
        prog="search.py",
        description=_SEARCH_HELP,
        epilog=_SEARCH_EXAMPLES,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("what is searched").add_argument
    _add_space(add)
    add(
        "--trials",
        type=_at_least_one,
        default=50,
        metavar="N",
        help="trials of the whole study, those of earlier runs included (default: 50)",
    )
    add("--epochs", type=_at_least_one, metavar="N", help="epochs of a trial (default: the space's)")
    add(
        "--objectives",
        type=_names,
        metavar="A,B,..",
        help="what spans the front (default: accuracy,latency_p50_ms,parameters; also latency_p95_ms, "
        "throughput_per_s, macs, size_mb, agreement, teacher_kl, ece, compression, speedup)",
    )
    add(
        "--fix",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="hold a parameter at a value; may be repeated",
    )
    _add_budgets(add, "train no student that costs more")
    add(
        "--recipe",
        action="append",
        default=[],
        choices=(*RECIPES, _NO_RECIPE),
        metavar="NAME",
        help=f"published settings to try first; may be repeated ({', '.join(RECIPES)}; {_NO_RECIPE}: not even those "
        f"that are tried unasked, {', '.join(DEFAULT_RECIPES)})",
    )
    add("--sampler", choices=SAMPLERS, default="tpe", help="Optuna's sampler (default: tpe)")
    add(
        "--pruner",
        choices=PRUNERS,
        default="pareto",
        help="pareto: stop students that can't reach the front any more; none: train all to the end (default: pareto)",
    )
    add(
        "--controls",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="at the end, train each student on the front on labels alone too: what the teacher gained (default: on)",
    )
    add("--seed", type=_seed, default=0, metavar="N", help="decides every draw (default: 0)")
    add("--workers", type=_at_least_one, metavar="N", help="trials at a time (default: the cores; 1 on a GPU)")
    add("--timeout", type=_seconds, metavar="SECONDS", help="start no further trial after this time")
    add_source = _add_sources(parser, "train one, once")
    add_source(
        "--teachers", type=_at_least_one, metavar="N", help="train so many, of different seeds, that teach as one"
    )
    add_source(
        "--ensemble",
        choices=AVERAGES,
        help="what is averaged of several teachers: their probabilities, or their centred logits (default: "
        "probabilities)",
    )
    _add_places(parser, "name of the study (default: the space's; my_space.py makes my-space)")
    asked = parser.parse_args(arguments)
    name, file = _space(parser, asked.space)
    if asked.workers is not None and asked.workers > asked.trials:
        parser.error(f"--workers must be at most the {asked.trials} --trials, but got {asked.workers}")
    if asked.teacher and asked.teachers is not None:
        parser.error("--teachers trains teachers and --teacher gives them; one of the two must be left out")
    if asked.ensemble is not None and max(len(asked.teacher), asked.teachers or 1) < 2:
        parser.error("--ensemble needs several teachers: give --teacher more than once, or --teachers")
    fixed = _each_once(parser, "--fix", "parameter", asked.fix)
    budgets = _each_once(parser, "--max", "cost", asked.max)
    return Settings(
        space_name=name,
        space_file=file,
        study=_study_name(parser, asked.study or name),
        trials=asked.trials,
        storage=asked.storage,
        tracking_uri=asked.tracking_uri,
        runs_dir=_writable(parser, asked.runs_dir),
        data_dir=asked.data_dir,
        teachers=tuple(_checkpoint(parser, path) for path in asked.teacher),
        trained_teachers=asked.teachers or 1,
        average=asked.ensemble or AVERAGES[0],
        epochs=asked.epochs,
        objectives=asked.objectives,
        sampler=asked.sampler,
        recipes=tuple(name for name in dict.fromkeys(asked.recipe) if name != _NO_RECIPE),
        default_recipes=_NO_RECIPE not in asked.recipe,
        pruner=asked.pruner,
        seed=asked.seed,
        fixed=fixed,
        budgets=budgets,
        timeout_s=asked.timeout,
        controls=asked.controls,
        accelerator=asked.accelerator,
        workers=asked.workers,
    )


def parse_command(arguments: Sequence[str] | None = None) -> tuple[str, Settings]:
    """The command that ``python -m harness`` is asked for, and its settings."""
    parser = _Parser(
        prog="python -m harness",
        description="Check a task before its search, look at studies, and put what they found to the test.",
        epilog=_COMMAND_EXAMPLES,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_doctor(commands)
    _add_report(commands)
    _add_confirm(commands)
    asked = parser.parse_args(arguments)
    settings = {"doctor": _doctor_settings, "report": _report_settings, "confirm": _confirm_settings}[asked.command]
    return asked.command, settings(parser, asked)


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "doctor",
        help="check a task of your own in seconds, before it is searched",
        description=_DOCTOR_HELP,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    add = command.add_argument_group("what is checked").add_argument
    _add_space(add)
    _add_budgets(add, "check that a student costs no more")
    _add_sources(command, "the one that a search has kept, or fresh weights")
    _add_runs_dir(
        command.add_argument_group("where things are kept").add_argument, "where a kept teacher is looked for"
    )


def _doctor_settings(parser: _Parser, asked: argparse.Namespace) -> Settings:
    if len(asked.teacher) > 1:
        parser.error(f"--teacher must be one for the doctor, but got {len(asked.teacher)}")
    name, file = _space(parser, asked.space)
    return Settings(
        space_name=name,
        space_file=file,
        study=name,
        runs_dir=asked.runs_dir,
        data_dir=asked.data_dir,
        teachers=tuple(_checkpoint(parser, path) for path in asked.teacher),
        budgets=_each_once(parser, "--max", "cost", asked.max),
        accelerator=asked.accelerator,
    )


def _report_settings(parser: _Parser, asked: argparse.Namespace) -> Settings:
    return Settings(
        space_name="",
        space_file=Path(),
        study=_study_name(parser, asked.study),
        storage=asked.storage,
        tracking_uri=asked.tracking_uri,
        runs_dir=_writable(parser, asked.runs_dir),
    )


def _add_confirm(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "confirm",
        help="train the picks and their controls with fresh seeds, and score them on the test split",
        description=_CONFIRM_HELP,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "--seeds",
        type=_at_least_two,
        default=5,
        metavar="N",
        help="fresh seeds for each, those of before included (default: 5)",
    )
    command.add_argument("--workers", type=_at_least_one, metavar="N", help="trainings at a time (default: the cores)")
    add = command.add_argument_group("where it was searched (default: as then)").add_argument
    add("--space", metavar="NAME|FILE", help="the space, where its file has moved")
    add("--data-dir", type=Path, metavar="DIR", help="the data, where it has moved")
    add(
        "--teacher",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="the teacher's checkpoint, where it has moved",
    )
    add("--accelerator", default="auto", metavar="NAME", help="Lightning's accelerator (default: auto)")
    _add_places(command, "name of the study", required=True)


def _confirm_settings(parser: _Parser, asked: argparse.Namespace) -> Settings:
    return replace(
        _report_settings(parser, asked),
        space_file=Path() if asked.space is None else _space(parser, asked.space)[1],
        seeds=asked.seeds,
        data_dir=asked.data_dir,
        teachers=tuple(_checkpoint(parser, path) for path in asked.teacher),
        accelerator=asked.accelerator,
        workers=asked.workers,
    )


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "report",
        help="show a study's front and picks, and write tables and plots",
        description="Show a study's front and picks, at any time; write tables and plots, and log them to MLflow.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    _add_places(command, "name of the study", required=True)


def run(main: Callable[[], None]) -> None:
    """Run a command to its end, and end as its outcome asks: one line for a mistake, 130 or 143 after a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        main()
    except HarnessError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal_number)


def next_steps(settings: Settings, study: Study, experiment_id: str) -> str:
    """The exact commands for looking at the runs and for going on.

    Args:
        settings: How the study was searched.
        study: The study.
        experiment_id: MLflow's number of its experiment.
    """
    address = redact(settings.tracking_uri)
    server = address if address.startswith("http") else "http://127.0.0.1:5000"
    query = {
        # Without it, the page opens on traces of language models; sorted, MLflow shows the trials beside one another.
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.kd.study = '{settings.study}'",
        "orderByKey": f"metrics.`{study.primary}`",
        "orderByAsc": "false",
    }
    page = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"
    python, mlflow = _program("python"), _program("mlflow")
    command = f"{mlflow} ui" + (
        "" if address == DEFAULT_TRACKING_URI else f" --backend-store-uri {shlex.quote(address)}"
    )
    lines = ["next:", *([] if address.startswith("http") else [f"  compare  {command}"]), f"           {page}"]
    places = [
        ("--storage", redact(settings.storage), DEFAULT_STORAGE),
        ("--tracking-uri", address, DEFAULT_TRACKING_URI),
        ("--runs-dir", str(settings.runs_dir), str(DEFAULT_RUNS_DIR)),
    ]
    moved = "".join(f" {flag} {shlex.quote(value)}" for flag, value, default in places if value != default)
    lines.append(f"  report   {python} -m harness report --study {settings.study}{moved}")
    again = redact(f"{python} {shlex.join(sys.argv)}")
    if study.finished() < settings.trials:
        lines.append(f"  go on    {again}")
    else:
        lines.append(f"  go on    {re.sub(r' --trials[ =][0-9]+', '', again)} --trials {2 * study.finished()}")
    return "\n".join(lines)


def _program(name: str) -> str:
    """What to type for a program of this environment, which may not be the active one."""
    here = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not here.exists() or found == str(here):
        return name
    return shlex.quote(str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here))


def space_names() -> list[str]:
    """The embedded spaces, by the names of their files."""
    return sorted(path.stem.replace("_", "-") for path in SPACES_DIR.glob("[!_]*.py"))


def _add_places(parser: argparse.ArgumentParser, study_help: str, *, required: bool = False) -> None:
    add = parser.add_argument_group("where things are kept").add_argument
    add("--study", required=required, metavar="NAME", help=study_help)
    add(
        "--storage",
        default=os.environ.get("KD_STORAGE", DEFAULT_STORAGE),
        metavar="ADDRESS",
        help="Optuna's storage: a database's URL, redis://.., or a journal file's path "
        f"(default: $KD_STORAGE or {DEFAULT_STORAGE})",
    )
    add(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING_URI),
        metavar="ADDRESS",
        help=f"MLflow's tracking store or server (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})",
    )
    _add_runs_dir(add, "caches, checkpoints and artifacts")


def _add_space(add: Add) -> None:
    add(
        "--space",
        default="digits",
        metavar="NAME|FILE",
        help=f"a space ({', '.join(space_names())}) or a Python file that sets SPACE (default: digits)",
    )


def _add_budgets(add: Add, what: str) -> None:
    add(
        "--max",
        action="append",
        default=[],
        type=_budget,
        metavar="COST=VALUE",
        help=f"{what}; may be repeated ({', '.join(BUDGETED)})",
    )


def _add_sources(parser: argparse.ArgumentParser, without_a_teacher: str) -> Add:
    add = parser.add_argument_group("teacher and data").add_argument
    add(
        "--teacher",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="checkpoint of the teacher: safetensors, state_dict or Lightning, or a student of an earlier study of the "
        f"space; if repeated, all teach as one (default: {without_a_teacher})",
    )
    add("--data-dir", type=Path, metavar="DIR", help="where the data is (default: where the task finds it by itself)")
    add(
        "--accelerator",
        default="auto",
        metavar="NAME",
        help="Lightning's accelerator: auto, cpu, gpu, mps, .. (default: auto)",
    )
    return add


def _add_runs_dir(add: Add, what: str) -> None:
    add(
        "--runs-dir",
        type=Path,
        default=Path(os.environ.get("KD_RUNS_DIR", DEFAULT_RUNS_DIR)),
        metavar="DIR",
        help=f"{what} (default: $KD_RUNS_DIR or {DEFAULT_RUNS_DIR})",
    )


def _space(parser: argparse.ArgumentParser, asked: str) -> tuple[str, Path]:
    if asked.endswith(".py"):
        file = Path(asked)
        if not file.is_file():
            parser.error(f"--space must be a Python file that exists, but got {asked!r}")
        return file.stem.replace("_", "-"), file
    if asked not in space_names():
        parser.error(f"--space must be one of {', '.join(space_names())} or a Python file, but got {asked!r}")
    return asked, SPACES_DIR / f"{asked.replace('-', '_')}.py"


def _checkpoint(parser: argparse.ArgumentParser, path: Path) -> Path:
    if not path.is_file():
        parser.error(f"--teacher must be a checkpoint file, but there is no file {str(path)!r}")
    return path


def _study_name(parser: argparse.ArgumentParser, name: str) -> str:
    # It becomes a folder's name: nothing in it may lead out of the runs.
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", name, re.ASCII):
        parser.error(
            f"--study must be letters, digits and . _ + -, at most 100, a letter or digit first, but got {name!r}"
        )
    return name


def _writable(parser: argparse.ArgumentParser, folder: Path) -> Path:
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        parser.error(f"--runs-dir must be a folder that can be written, but {str(folder)!r} can't: {error.strerror}")
    return folder


def _at_least_one(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return int(text)


def _at_least_two(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 2, for an interval, but got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2147483647, but got {text!r}")
    return int(text)


def _positive(text: str) -> float | None:
    """A finite number above zero; ``None`` if the text is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _seconds(text: str) -> float:
    seconds = _positive(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, but got {text!r}")
    return seconds


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise argparse.ArgumentTypeError(f"must be different names joined by commas, but got {text!r}")
    return names


def _each_once(parser: _Parser, flag: str, what: str, pairs: Sequence[tuple[str, _Value]]) -> dict[str, _Value]:
    named = dict(pairs)
    if len(named) < len(pairs):
        parser.error(f"{flag} must name each {what} once")
    return named


def _budget(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    if name not in BUDGETED:
        raise argparse.ArgumentTypeError(f"must name one of {', '.join(BUDGETED)}, but got {text!r}")
    value = _positive(number)
    if value is None:
        raise argparse.ArgumentTypeError(f"must give {name} a positive number, but got {text!r}")
    return name, value


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, but got {text!r}")
    return name, value
