"""The face of a search: what its command line takes, and how a command ends. Imports nothing heavy before that."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from harness.cli import flags
from harness.cli.program import command_line_here, executable, program, program_here
from harness.core.addresses import has_password, redact
from harness.core.argv import VARIABLES, hide_passwords
from harness.core.errors import HarnessError, Interrupted, interrupt, one_line, resend_dropped_signals, room_on_disk
from harness.core.names import logged_name
from harness.launchers.placement import Placement, add_placement, placement_of
from harness.metrics import DEFAULT_OBJECTIVES, METRICS
from harness.recipes import DEFAULT_RECIPES, RECIPES
from harness.settings import (
    AVERAGES,
    CONTROLS,
    DEFAULT_RUNS_DIR,
    DEFAULT_STORAGE,
    DEFAULT_TRACKING_URI,
    PRUNERS,
    SAMPLERS,
    Settings,
)

if TYPE_CHECKING:
    from harness.studies.study import Study

_NO_RECIPE = "none"

SEARCH_HELP = """\
Search the students of a teacher: trains small students by knowledge
distillation and finds the trade-off between accuracy, latency and size, with
the temperature, the weight alpha and the width that reach it."""

_LOSS = """
loss = alpha * cross-entropy + (1 - alpha) * T^2 * KL
alpha weighs the true labels (other projects mean the opposite).
"""


def search_examples(search: str) -> str:
    """Return the examples in the help of a search.

    Args:
        search: What starts it.
    """
    shown = flags.examples(
        (f"{search} --trials 50", "digits; again: it goes on"),
        (f"{search} --space fashion-mnist --trials 30", "Fashion-MNIST"),
        (f"{search} --space my_space.py --teacher best.ckpt", "your own task"),
        (f"{search} --fix alpha=0.5 --study half", "hold a parameter"),
        (f"{search} --recipe hinton", "published settings"),
        (f"{search} --max parameters=2000 --study tiny", "none over a budget"),
        (f"{search} --min accuracy=0.95 --study good", "none below counts"),
        (f"{search} --launcher slurm --nodes 2 --workers 4", "on a cluster"),
        (f"{search} --objectives accuracy,macs --study macs", "another trade-off"),
        ("mlflow ui", "compare the trials"),
        (f"{program()} report --study digits", "the result again"),
    )
    return shown + _LOSS


def parse_search(arguments: Sequence[str] | None = None) -> tuple[Settings, Placement]:
    """Return what ``search.py``'s command line asks for: what is searched, and where the workers run."""
    parser = flags.Parser(
        prog="search.py",
        description=SEARCH_HELP,
        epilog=search_examples("python search.py"),
        formatter_class=flags.Formatter,
        allow_abbrev=False,
    )
    add_search(parser)
    return search_of(parser, parser.parse_args(arguments))


def add_search(parser: flags.Parser) -> None:
    """Add the flags of a search."""
    add = parser.add_argument_group("what is searched").add_argument
    flags.add_space(add)
    add(
        "--trials",
        type=flags.at_least_one,
        default=50,
        metavar="N",
        help="trials of the whole study, those of earlier runs included (default: 50)",
    )
    add("--epochs", type=flags.at_least_one, metavar="N", help="epochs of a trial (default: the space's)")
    add(
        "--objectives",
        type=flags.names,
        metavar="A,B,..",
        help=f"what spans the front (default: {','.join(('accuracy', *DEFAULT_OBJECTIVES))}; also "
        f"{', '.join(name for name in METRICS if name not in DEFAULT_OBJECTIVES)})",
    )
    add(
        "--fix",
        action="append",
        default=[],
        type=flags.assignment,
        metavar="NAME=VALUE",
        help="hold a parameter at a value; may be repeated",
    )
    flags.add_budgets(add, "train no student that costs more")
    flags.add_region(add)
    add(
        "--recipe",
        action="append",
        default=[],
        choices=(*RECIPES, _NO_RECIPE),
        metavar="NAME",
        help=f"published settings to try first, before those that are tried unasked ({', '.join(DEFAULT_RECIPES)}); "
        f"may be repeated ({', '.join(RECIPES)}; {_NO_RECIPE}: try none, not even those)",
    )
    add(
        "--sampler",
        choices=SAMPLERS,
        default="front",
        help="what proposes students: front, a model of learning curves that knows each student's costs beforehand; or "
        "one of Optuna's (default: front)",
    )
    add(
        "--pruner",
        choices=PRUNERS,
        default="pareto",
        help="pareto: stop students that have no chance of the front; none: train all to the end (default: pareto)",
    )
    flags.add_controls(add, "at the end, ", CONTROLS)
    add("--no-controls", action="store_const", const="none", dest="controls", help="short for --controls none")
    add(
        "--seed",
        type=flags.seed,
        default=0,
        metavar="N",
        help="decides every draw, those of the teacher's training too (default: 0)",
    )
    add(
        "--timeout",
        type=flags.seconds,
        metavar="SECONDS",
        help="start no further trial after this time of searching, or, of a worker that a scheduler starts again, "
        "after its first start; those that run are trained to the end",
    )
    flags.add_accept_changes(add)
    add_source = flags.add_sources(parser, "; if repeated, all teach as one (default: train one, once)")
    add_source(
        "--teachers", type=flags.at_least_one, metavar="N", help="train so many, of different seeds, that teach as one"
    )
    add_source(
        "--ensemble",
        choices=AVERAGES,
        help="what is averaged of several teachers: their probabilities, or their centred logits (default: "
        "probabilities)",
    )
    add_placement(parser)
    flags.add_places(parser, "name of the study (default: the space's; my_space.py makes my-space)")


def search_of(parser: flags.Parser, asked: argparse.Namespace) -> tuple[Settings, Placement]:
    """Return what is searched, and where the workers run."""
    name, file = flags.space_of(parser, asked.space)
    placement = placement_of(parser, asked)
    if asked.teacher and asked.teachers is not None:
        parser.error("--teachers trains teachers and --teacher gives them; one of the two must be left out")
    if asked.ensemble is not None and max(len(asked.teacher), asked.teachers or 1) < 2:
        parser.error("--ensemble needs several teachers: give --teacher more than once, or --teachers")
    study = flags.study_of(name) if asked.study is None else flags.study_name(parser, asked.study)
    if not study:
        parser.error(
            f"the study needs a name, and {str(file)!r} has no letter of a to z and no digit for one; give --study"
        )
    fixed = flags.each_once(parser, "--fix", "parameter", asked.fix)
    settings = Settings(
        space_name=name,
        space_file=file,
        study=study,
        trials=asked.trials,
        storage=asked.storage,
        tracking_uri=asked.tracking_uri,
        runs_dir=flags.writable(parser, asked.runs_dir),
        data_dir=asked.data_dir,
        teachers=tuple(flags.checkpoint(parser, path) for path in asked.teacher),
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
        budgets=flags.budgets_of(parser, asked),
        bound=flags.bound_of(parser, asked),
        timeout_s=asked.timeout,
        controls=asked.controls,
        accept_changes=asked.accept_changes,
        accelerator=asked.accelerator,
        workers=asked.workers,
    )
    return settings, placement


def run(main: Callable[[], None]) -> None:
    """Run a command to its end, and end as its outcome asks: one line for a mistake, 130 or 143 after a signal."""
    hide_passwords()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what its encoding lacks is shown as "?"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    resend_dropped_signals()
    try:
        _check_working_folder()
        with room_on_disk():
            main()
    except HarnessError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal_number)
    except Exception:  # a bug; what a library says of an address may hold its password
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _check_working_folder() -> None:
    """Raise ``HarnessError`` if the working folder is no more; libraries fail there in ways of their own."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise HarnessError("the folder that you are in must exist, but was deleted; cd to one that does.") from None


def next_steps(
    settings: Settings, study: Study, experiment_id: str, *, is_over: bool, has_picks: bool, by_command: bool
) -> str:
    """Return the exact commands for looking at the runs and for going on.

    Args:
        settings: How the study was searched.
        study: The study.
        experiment_id: MLflow's number of its experiment.
        is_over: Whether the same command would do nothing more.
        has_picks: Whether there is something to confirm.
        by_command: Whether a command line began the search, which can be typed again.
    """
    address = redact(settings.tracking_uri)
    # A browser asks for name and password by itself.
    server = re.sub("(?<=://)[^/@]*@", "", address) if address.startswith("http") else "http://127.0.0.1:5000"
    query = {
        # Without it, the page opens on traces of language models; sorted, MLflow shows the trials beside one another.
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.kd.study = '{settings.study}' and tags.kd.role = 'trial'",
        "orderByKey": f"metrics.`{logged_name(study.primary)}`",
        "orderByAsc": "false",
    }
    page = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"
    command = f"{executable('mlflow')} ui"
    if has_password(settings.tracking_uri):
        command = f'MLFLOW_BACKEND_STORE_URI="${VARIABLES["--tracking-uri"]}" {command}'
    elif address != DEFAULT_TRACKING_URI:
        command += f" --backend-store-uri {shlex.quote(address)}"
    lines = ["next:", *([] if address.startswith("http") else [f"  compare  {command}"]), f"           {page}"]
    picture = settings.study_dir / "report" / "front.html"
    if picture.exists():
        lines.append(f"  look at  {picture}")
    if not by_command:
        return "\n".join(lines)
    lines.append(f"  report   {command_for('report', settings)}")
    if is_over and has_picks:
        lines.append(f"  confirm  {command_for('confirm', settings)}")
    again = redact(command_line_here()).replace(" --accept-changes", "")  # what is accepted is noted
    if not is_over:
        lines.append(f"  go on    {again}")
    elif not study.is_exhausted:
        lines.append(f"  go on    {re.sub(r' --trials[ =][0-9]+', '', again)} --trials {2 * study.finished()}")
    secret = [variable for variable, address in _addresses(settings).items() if has_password(address)]
    if secret:
        lines.append(f"           with the address, whose password is not shown, in {' and in '.join(secret)}")
    return "\n".join(lines)


def command_for(name: str, settings: Settings) -> str:
    """Return what to type for a command about a study; an address with a password is left out."""
    places: list[_Given] = [
        ("--storage", settings.storage, DEFAULT_STORAGE),
        ("--tracking-uri", settings.tracking_uri, DEFAULT_TRACKING_URI),
        ("--runs-dir", settings.runs_dir, DEFAULT_RUNS_DIR),
    ]
    if name == "confirm":
        space = _space_argument(settings)
        places.append(("--space", space, settings.space_name))  # an embedded one is found by itself
    return _harness_command(name, ("--study", settings.study, None), *places)


def doctor_command(settings: Settings, teacher: Path | None) -> str:
    """Return what to type to have a search's task checked, with one of its teachers."""
    return _harness_command(
        "doctor",
        ("--space", _space_argument(settings), None),
        ("--data-dir", settings.data_dir, None),
        ("--runs-dir", settings.runs_dir, DEFAULT_RUNS_DIR),
        ("--teacher", teacher, None),
    )


def _space_argument(settings: Settings) -> str:
    """Return what to type for the settings' space; ``FILE`` where it is in none yet, for Python gave it."""
    return flags.space_argument(settings.space_name, settings.space_file) if settings.has_space_file else "FILE"


_Given = tuple[str, str | Path | None, str | Path | None]  # a flag, its value, and the one that needs no flag


def _harness_command(name: str, *given: _Given) -> str:
    words = "".join(
        f" {flag} {shlex.quote(str(value))}"
        for flag, value, default in given
        if value != default and not (flag in VARIABLES and has_password(str(value)))
    )
    return f"{program_here()} {name}{words}"


def _addresses(settings: Settings) -> dict[str, str]:
    """Return the addresses that may hold a password, by the variables that they can be in."""
    return {VARIABLES["--storage"]: settings.storage, VARIABLES["--tracking-uri"]: settings.tracking_uri}
