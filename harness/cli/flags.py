"""Flags that commands share, and the values that flags take. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.core.addresses import is_showable, redact
from harness.core.errors import did_you_mean
from harness.metrics import budget_names
from harness.settings import DEFAULT_RUNS_DIR, DEFAULT_STORAGE, DEFAULT_TRACKING_URI, Bound

_Value = TypeVar("_Value")
Add = Callable[..., object]
"""A parser's, or a group's, ``add_argument``."""

SPACES_DIR = Path(__file__).resolve().parents[2] / "search_spaces"


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of at most 118 columns, and no more than the terminal has."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(118, shutil.get_terminal_size((120, 24)).columns - 2))


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        asked, unknown = self.parse_known_args(args, namespace)
        if unknown:
            commands: dict[str, Parser] = {}
            for action in self._actions:
                if isinstance(action, argparse._SubParsersAction):
                    commands |= action.choices
            flag = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
            chosen = commands.get(getattr(asked, "command", ""), self)
            owners = [name for name, command in commands.items() if flag in command._option_string_actions]
            near = did_you_mean(flag, chosen._option_string_actions)
            hint = f"; {flag} is of {' and '.join(owners)}" if owners else near
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return asked

    def error(self, message: str) -> None:  # type: ignore[override]
        if asked := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += did_you_mean(asked[1], re.findall(r"[\w-]+", asked[2]))
        self.exit(2, f"error: {redact(message)} (see {self.prog} --help)\n")


def examples(*lines: tuple[str, str]) -> str:
    """Return the examples of a help text: what to type, and beside it what that is for, where it needs saying."""
    width = max(len(typed) for typed, purpose in lines if purpose)
    return "\n".join(["examples:", *(f"  {typed:<{width}}  {purpose}".rstrip() for typed, purpose in lines), ""])


def space_names() -> list[str]:
    """Return the embedded spaces, by the names of their files."""
    return sorted(path.stem.replace("_", "-") for path in SPACES_DIR.glob("[!_]*.py"))


def space_file(name: str) -> Path:
    """Return the file of an embedded space."""
    return SPACES_DIR / f"{name.replace('-', '_')}.py"


def space_argument(name: str, file: Path) -> str:
    """Return what to type for a space: the name of an embedded one, or a file, from here where it is below."""
    if name in space_names():
        return name
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def variable(name: str, default: str) -> str:
    """Return an environment variable; one that is empty or blank counts as unset, as in the tools around this one."""
    return os.environ.get(name, "").strip() or default


def add_space(add: Add) -> None:
    """Add ``--space``."""
    add(
        "--space",
        default="digits",
        metavar="NAME|FILE",
        help=f"a space ({', '.join(space_names())}) or a Python file that sets SPACE (default: digits)",
    )


def add_controls(add: Add, when: str, choices: Sequence[str]) -> None:
    """Add ``--controls``."""
    told = {
        "tuned": "also the picks with training settings of their own, as often tried as their architecture had trials",
        "plain": "train each student that is compared on labels alone too",
        "none": "train none",
    }
    add(
        "--controls",
        choices=choices,
        default=choices[0],
        help=f"what a gain is a gain over; {when}{'; '.join(f'{name}: {told[name]}' for name in reversed(choices))} "
        f"(default: {choices[0]})",
    )


def add_budgets(add: Add, what: str) -> None:
    """Add ``--max``, which may be repeated."""
    add(
        "--max",
        action="append",
        default=[],
        type=maximum,
        metavar="COST=VALUE",
        help=f"{what}; may be repeated ({', '.join(budget_names())}; or the primary metric, if it is minimised: see "
        "--min)",
    )


def add_region(add: Add) -> None:
    """Add ``--min`` and ``--min-share``."""
    add(
        "--min",
        action="append",
        default=[],
        type=minimum,
        metavar="METRIC=VALUE",
        help="the least of the primary metric that counts: students below are on no front and draw no trials; none "
        "counts all (default: half of the way from a constant answer to the teacher, by the logarithm of the error)",
    )
    add(
        "--min-share",
        type=share,
        metavar="SHARE",
        help="the same as a share of the teacher's, such as 0.98 (of a minimised metric: teacher's / student's)",
    )


def add_sources(parser: argparse.ArgumentParser, teacher_help: str) -> Add:
    """Add teacher, data and accelerator in a group of their own; its ``add_argument``."""
    add = parser.add_argument_group("teacher and data").add_argument
    add(
        "--teacher",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="checkpoint of the teacher: safetensors, state_dict or Lightning, or a student of an earlier study of the "
        f"space{teacher_help}",
    )
    add("--data-dir", type=folder, metavar="DIR", help="where the data is (default: where the task finds it by itself)")
    add(
        "--accelerator",
        default="auto",
        metavar="NAME",
        help="Lightning's accelerator: auto, cpu, gpu, mps, .. (default: auto)",
    )
    return add


def add_places(parser: argparse.ArgumentParser, study_help: str, *, required: bool = False) -> None:
    """Add the study's name, and where things are kept."""
    add = parser.add_argument_group("where things are kept").add_argument
    add("--study", required=required, metavar="NAME", help=study_help)
    add_storage(add)
    add(
        "--tracking-uri",
        type=address,
        default=variable("MLFLOW_TRACKING_URI", DEFAULT_TRACKING_URI),
        metavar="ADDRESS",
        help=f"MLflow's tracking store or server (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})",
    )
    add_runs_dir(add, "caches, checkpoints and artifacts")


def add_storage(add: Add) -> None:
    """Add ``--storage``."""
    add(
        "--storage",
        type=address,
        default=variable("KD_STORAGE", DEFAULT_STORAGE),
        metavar="ADDRESS",
        help="the study's database: sqlite:///FILE for one machine, postgresql+psycopg://.. for many "
        f"(default: $KD_STORAGE or {DEFAULT_STORAGE})",
    )


def add_accept_changes(add: Add) -> None:
    """Add ``--accept-changes``."""
    add(
        "--accept-changes",
        action="store_true",
        help="go on with a study though its space file, what that imports, start weights or teacher are not what it "
        "was begun with; what changed, and before which trial, is noted in the study and in MLflow",
    )


def add_runs_dir(add: Add, what: str) -> None:
    """Add ``--runs-dir``."""
    add(
        "--runs-dir",
        type=folder,
        default=Path(variable("KD_RUNS_DIR", str(DEFAULT_RUNS_DIR))),
        metavar="DIR",
        help=f"{what} (default: $KD_RUNS_DIR or {DEFAULT_RUNS_DIR})",
    )


def space_of(parser: argparse.ArgumentParser, asked: str) -> tuple[str, Path]:
    """Name and file of a space that is asked for by either."""
    if asked.endswith(".py"):
        file = Path(asked)
        if not os.path.isfile(file):  # Path's own raises for a name that is too long
            found = ", which is a folder" if os.path.isdir(file) else ""
            parser.error(f"--space must be a Python file that exists, but got {asked!r}{found}")
        return file.stem.replace("_", "-"), file
    if asked not in space_names():
        near = [file for file in (f"{asked}.py", f"{asked.replace('-', '_')}.py") if os.path.isfile(file)]
        hint = f"; did you mean --space {near[0]}?" if near else did_you_mean(asked, space_names())
        parser.error(f"--space must be one of {', '.join(space_names())} or a Python file, but got {asked!r}{hint}")
    return asked, space_file(asked)


def checkpoint(parser: argparse.ArgumentParser, path: Path) -> Path:
    """Return a teacher's checkpoint, if it is a file."""
    if not os.path.isfile(path):
        parser.error(f"--teacher must be a checkpoint file, but there is no file {str(path)!r}")
    return path


def study_of(space: str) -> str:
    """The name that a study has by its space's, with ``-`` for what it can't have; empty where nothing is left."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", space).lstrip(".+-")[:100]


def study_name(parser: argparse.ArgumentParser, name: str) -> str:
    """Return a study's name, if it can be a folder's."""
    # It becomes a folder's name: nothing in it may lead out of the runs.
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", name, re.ASCII):
        parser.error(
            f"--study must be letters, digits and . _ + -, at most 100, a letter or digit first, but got {name!r}"
        )
    return name


def writable(parser: argparse.ArgumentParser, folder: Path) -> Path:
    """Return a folder, made if need be, if it can be written."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        parser.error(
            f"--runs-dir must be a folder whose whole name is UTF-8, for MLflow keeps no artifacts in others, but got "
            f"{os.fsencode(folder.absolute())!r}"
        )
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        parser.error(f"--runs-dir must be a folder that can be written, but {str(folder)!r} can't: {error.strerror}")
    return folder


def each_once(parser: Parser, flag: str, what: str, pairs: Sequence[tuple[str, _Value]]) -> dict[str, _Value]:
    """Named values by name, if none is named twice."""
    named = dict(pairs)
    if len(named) < len(pairs):
        parser.error(f"{flag} must name each {what} once")
    return named


def budgets_of(parser: Parser, asked: argparse.Namespace) -> dict[str, float]:
    """Return the most that each cost may be, by name."""
    return each_once(parser, "--max", "cost", [(name, value) for name, value in asked.max if name in budget_names()])


def bound_of(parser: Parser, asked: argparse.Namespace) -> Bound | None:
    """Return the bound on the primary metric; ``None`` if none is asked for."""
    found = [*asked.min, *(Bound("--max", name, value) for name, value in asked.max if name not in budget_names())]
    if asked.min_share is not None:
        found.append(Bound("--min-share", value=asked.min_share))
    if len(found) > 1:
        parser.error(f"one bound of the primary metric must do, but got {' and '.join(map(str, found))}")
    return found[0] if found else None


def address(text: str) -> str:
    """Return an address that can be shown without its password. One that can't is not shown here either."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must be an address, but got {text!r}; leave the flag out for the default")
    if not is_showable(text):
        raise argparse.ArgumentTypeError(
            "must be an address with '://' after its kind, and with %20 for a blank, but got one without; it is not "
            "shown, for it may hold a password"
        )
    return text


def folder(text: str) -> Path:
    """Return a folder's path."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must be a folder, but got {text!r}; leave the flag out for the default")
    try:
        Path(text).stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(f"must be a folder, but got {text!r}: {error.strerror}") from None
    return Path(text)


def at_least_one(text: str) -> int:
    """Return a whole number of at least 1."""
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return int(text)


def at_least_two(text: str) -> int:
    """Return a whole number of at least 2."""
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 2, for an interval, but got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """Return a seed in [0, 2^31)."""
    if not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2147483647, but got {text!r}")
    return int(text)


def _finite(text: str) -> float | None:
    """Return a finite number; ``None`` if the text is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _positive(text: str) -> float | None:
    """Return a finite number above zero; ``None`` if the text is none."""
    number = _finite(text)
    return number if number is not None and number > 0 else None


def seconds(text: str) -> float:
    """Return a positive number of seconds."""
    seconds = _positive(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, but got {text!r}")
    return seconds


def names(text: str) -> tuple[str, ...]:
    """Different names, joined by commas."""
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise argparse.ArgumentTypeError(f"must be different names joined by commas, but got {text!r}")
    return names


def maximum(text: str) -> tuple[str, float]:
    """Return a name and the most that it may be: of a cost a positive number, of another metric any."""
    name, _, number = text.rpartition("=")
    value = _positive(number) if name in budget_names() else _finite(number)
    if not name:
        raise argparse.ArgumentTypeError(
            f"must name one of {', '.join(budget_names())} or the primary metric, as in NAME=VALUE, but got {text!r}"
        )
    if value is None:
        kind = "a positive" if name in budget_names() else "a finite"
        raise argparse.ArgumentTypeError(f"must give {name} {kind} number, but got {text!r}")
    return name, value


def minimum(text: str) -> Bound:
    """Return the primary metric and the least of it that counts; ``none`` lifts the bound."""
    if text == "none":
        return Bound("--min")
    name, _, number = text.rpartition("=")
    value = _finite(number)
    if not name or value is None:
        raise argparse.ArgumentTypeError(f"must be METRIC=VALUE with a finite number, or none, but got {text!r}")
    return Bound("--min", name, value)


def share(text: str) -> float:
    """Return a share of the teacher's score, above 0 and at most 1."""
    value = _positive(text)
    if value is None or value > 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and at most 1, as 0.98, but got {text!r}")
    return value


def assignment(text: str) -> tuple[str, str]:
    """Return a name and a value, as text."""
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, but got {text!r}")
    return name, value
