"""Define checks and their findings, run checks, and print each finding with its remedy."""

from __future__ import annotations

import contextlib
import itertools
import re
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType
from typing import Literal, get_args

import torch

from harness.core.content import derived_seed
from harness.core.errors import HarnessError, Unfit, advice_of, one_line
from harness.doctor.context import CheckContext
from harness.screen.terminal import Terminal
from harness.training.fit import seed_draws

State = Literal["ok", "warning", "FAILED", "skipped"]
STATES: tuple[State, ...] = get_args(State)

_ENGINE = tuple(Path(__file__).resolve().parents[2] / name for name in ("harness", "lightning_modules"))
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))
_STATE_WIDTH, _NAME_WIDTH = 8, 18
_NOT_CHECKED = "not checked, for "


class CheckFailed(Exception):
    """Raised by a check that fails.

    Args:
        found: What was found.
        remedy: What to do about it; ``None`` takes the remedy of the check.
    """

    def __init__(self, found: str, remedy: str | None = None) -> None:
        super().__init__(found)
        self.remedy = remedy


class CheckWarning(CheckFailed):
    """Raised by a check that finds something that may be intended."""


class CheckSkipped(Exception):
    """Raised by a check that has nothing to check; the message says why."""


class CheckNotApplicable(CheckSkipped):
    """Raised by a check that has no meaning for a task; checks that need it are run all the same."""


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: Its name, in at most 17 characters.
        run: Runs the check and returns what was found; raises ``CheckFailed``, ``CheckWarning`` or ``CheckSkipped``.
        remedy: What to do if it fails.
        needs: Names of the checks that must not have failed before it.
    """

    name: str
    run: Callable[[CheckContext], str]
    remedy: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: Name of the check.
        state: How it ended.
        found: What was found, in one line.
        remedy: What to do about it; empty if nothing.
        is_blocking: Whether checks that need it are skipped, where it failed or was skipped.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    is_blocking: bool = True


def run_checks(checks: Sequence[Check], context: CheckContext, terminal: Terminal) -> list[Finding]:
    """Run checks in order and print each finding; print at the end which were skipped and why.

    Args:
        checks: The checks, each after those that it needs.
        context: The task under examination; checks store in it what later ones need.
        terminal: Where findings are printed.
    """
    findings: list[Finding] = []
    reasons: dict[str, str] = {}  # by name of a check: why those that need it are skipped
    for check in checks:
        causes = [reasons[name] for name in check.needs if name in reasons]
        finding = _skipped(check, causes[0]) if causes else _run_check(check, context)
        if finding.state == "FAILED":
            reasons[check.name] = f"'{check.name}' failed"
        elif finding.state == "skipped" and finding.is_blocking:
            reasons[check.name] = finding.found.removeprefix(_NOT_CHECKED)
        findings.append(finding)
        if finding.state != "skipped":
            _print_finding(finding, terminal)
    for reason, found in itertools.groupby(sorted(_skips(findings)), key=lambda skip: skip[0]):
        names = [name for _, _, name in found]
        if len(names) == 1:
            _print_finding(Finding(names[0], "skipped", f"{_NOT_CHECKED}{reason}"), terminal)
        else:
            _print_finding(
                Finding(f"{len(names)} checks", "skipped", f"{_NOT_CHECKED}{reason}: {', '.join(names)}"), terminal
            )
    return findings


def _skips(findings: Sequence[Finding]) -> list[tuple[str, int, str]]:
    """Return the reason, index and name of each skipped check."""
    return [
        (finding.found.removeprefix(_NOT_CHECKED), place, finding.name)
        for place, finding in enumerate(findings)
        if finding.state == "skipped"
    ]


def _skipped(check: Check, reason: str) -> Finding:
    return Finding(check.name, "skipped", f"{_NOT_CHECKED}{reason}")


def _run_check(check: Check, context: CheckContext) -> Finding:
    # A seed of its own: a check finds the same whatever ran before it, and checks do not share draws.
    seed_draws(derived_seed("doctor", check.name), torch.device("cpu"))
    try:
        return Finding(check.name, "ok", check.run(context))
    except CheckNotApplicable as reason:
        return replace(_skipped(check, str(reason)), is_blocking=False)
    except CheckSkipped as reason:
        return _skipped(check, str(reason))
    except Unfit as error:
        return Finding(check.name, "FAILED", error.found, error.remedy)
    except CheckFailed as failure:
        state: State = "warning" if isinstance(failure, CheckWarning) else "FAILED"
        return Finding(check.name, state, str(failure), failure.remedy or check.remedy)
    except Exception as error:
        return Finding(check.name, "FAILED", describe_error(error, context, check.name), check.remedy)


@contextlib.contextmanager
def attributing_errors(what: str, context: CheckContext) -> Iterator[None]:
    """Add to a failed check, or to an error in the user's code, what was evaluated when it was raised."""
    try:
        yield
    except Unfit:
        raise  # its message names the network already
    except CheckFailed as failure:
        raise type(failure)(f"{what}: {failure}", failure.remedy) from failure
    except Exception as error:
        raise CheckFailed(f"{what}: {describe_error(error, context, what)}", advice_of(error) or None) from error


def describe_error(error: Exception, context: CheckContext, what: str) -> str:
    """Describe an error in one line, with the line of the user's code that it comes from.

    Args:
        error: The error.
        context: Names the space file, and has the task.
        what: What was evaluated, such as ``student(width=8)``. An error in a network of library layers has no frame in
            the user's code; the method that builds the network is named then.
    """
    if isinstance(error, HarnessError):
        return one_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    space_file = context.settings.file_of_space.resolve()
    own = [frame for frame in frames if Path(frame.filename).resolve() == space_file]
    near = [frame for frame in frames if _is_user_code(Path(frame.filename))]
    if (
        not own
        and not near
        and (asked := _method_that_refused(error, context) or _method_that_builds(what, context)) is not None
    ):
        file, line, name = Path(asked.co_filename), asked.co_firstlineno, asked.co_qualname
        place = f"{name}, {_display_path(file)}, line {line}"
    else:
        frame = (own or near or frames)[-1]
        place = f"{_display_path(Path(frame.filename))}, line {frame.lineno}"
    return f"{type(error).__name__}: {one_line(error).removesuffix('.')} ({place})"


def _method_that_refused(error: Exception, context: CheckContext) -> CodeType | None:
    """Return the task's method that got wrong arguments: the error names it, but has no frame of it."""
    called = re.match(r"(?:[\w.<>]+\.)?(\w+)\(\) ", str(error))
    if not isinstance(error, TypeError) or called is None or not hasattr(context, "space"):
        return None
    return _code_of(called[1], context)


def _method_that_builds(what: str, context: CheckContext) -> CodeType | None:
    """Return the task's method that builds the evaluated network; ``None`` if it was no network."""
    made = re.match(r"(?:the )?(deployed|student|teacher|data)", what)
    return None if made is None or not hasattr(context, "space") else _code_of(made[1], context)


def _code_of(method: str, context: CheckContext) -> CodeType | None:
    """Return the code of a method of the task; ``None`` if it is inherited from this project."""
    code: object = getattr(getattr(type(context.space.task), method, None), "__code__", None)
    return code if isinstance(code, CodeType) and _is_user_code(Path(code.co_filename)) else None


def _is_user_code(file: Path) -> bool:
    return not any(file.resolve().is_relative_to(folder) for folder in (*_ENGINE, *_INSTALLED))


def _display_path(file: Path) -> Path:
    """Return a path relative to the working directory, or to the installed packages."""
    for folder in (Path.cwd(), *_INSTALLED[1:]):
        if file.resolve().is_relative_to(folder):
            return file.resolve().relative_to(folder)
    return file


def _print_finding(finding: Finding, terminal: Terminal) -> None:
    """Print a finding; on a terminal, wrap it within its column."""
    width = terminal.console.width if terminal.live else 10_000
    before = f"{finding.state:<{_STATE_WIDTH}}{finding.name:<{_NAME_WIDTH}}"
    blank = " " * len(before)

    def wrapped(text: str, first: str) -> str:
        fill = textwrap.TextWrapper(width, initial_indent=first, subsequent_indent=blank, break_on_hyphens=False)
        return fill.fill(text)

    style = {"ok": None, "warning": "yellow", "FAILED": "bold red", "skipped": "dim"}[finding.state]
    terminal.say(wrapped(finding.found, before), style=style)
    if finding.remedy:
        terminal.say(wrapped(f"→ {finding.remedy}", blank))
