"""What a check is, what it may find, and how that is said: one line, and one for what to do about it."""

from __future__ import annotations

import contextlib
import itertools
import re
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    """What makes a check fail.

    Args:
        found: What was found.
        remedy: What to do about it; ``None`` takes the check's own.
    """

    def __init__(self, found: str, remedy: str | None = None) -> None:
        super().__init__(found)
        self.remedy = remedy


class CheckWarning(CheckFailed):
    """What may be meant so, and is only warned of."""


class CheckSkipped(Exception):
    """Says why there is nothing to check."""


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: What is looked at, in at most 17 characters.
        run: Looks at it, and says what is well; raises ``CheckFailed``, ``CheckWarning`` or ``CheckSkipped`` otherwise.
        remedy: What to do where it fails.
        needs: Names of the checks that it stands on: it is not run where one of them failed.
    """

    name: str
    run: Callable[[CheckContext], str]
    remedy: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What came of a check.

    Attributes:
        name: The check's.
        state: How it ended.
        found: What was found, in one line.
        remedy: What to do about it; empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(checks: Sequence[Check], context: CheckContext, terminal: Terminal) -> list[Finding]:
    """Run the checks one after the other, and say what each found; at the end, which were skipped and why.

    Args:
        checks: Each behind those that it needs.
        context: What is looked over; checks leave in it what later ones stand on.
        terminal: Where it is said.
    """
    findings: list[Finding] = []
    reasons: dict[str, str] = {}  # by name: why what stands on that check is not checked
    for check in checks:
        causes = [reasons[name] for name in check.needs if name in reasons]
        finding = _skipped(check, causes[0]) if causes else _run(check, context)
        if finding.state == "FAILED":
            reasons[check.name] = f"'{check.name}' failed"
        elif finding.state == "skipped":
            reasons[check.name] = finding.found.removeprefix(_NOT_CHECKED)
        findings.append(finding)
        if finding.state != "skipped":
            _say(finding, terminal)
    for reason, found in itertools.groupby(sorted(_skips(findings)), key=lambda skip: skip[0]):
        names = [name for _, _, name in found]
        if len(names) == 1:
            _say(Finding(names[0], "skipped", f"{_NOT_CHECKED}{reason}"), terminal)
        else:
            _say(Finding(f"{len(names)} checks", "skipped", f"{_NOT_CHECKED}{reason}: {', '.join(names)}"), terminal)
    return findings


def _skips(findings: Sequence[Finding]) -> list[tuple[str, int, str]]:
    """Return why a check was skipped, its place and its name."""
    return [
        (finding.found.removeprefix(_NOT_CHECKED), place, finding.name)
        for place, finding in enumerate(findings)
        if finding.state == "skipped"
    ]


def _skipped(check: Check, reason: str) -> Finding:
    return Finding(check.name, "skipped", f"{_NOT_CHECKED}{reason}")


def _run(check: Check, context: CheckContext) -> Finding:
    # A check finds the same alone as behind others; and what is drawn by chance is not drawn again in the next one.
    seed_draws(derived_seed("doctor", check.name), torch.device("cpu"))
    try:
        return Finding(check.name, "ok", check.run(context))
    except CheckSkipped as reason:
        return _skipped(check, str(reason))
    except Unfit as error:
        return Finding(check.name, "FAILED", error.found, error.remedy)
    except CheckFailed as flaw:
        state: State = "warning" if isinstance(flaw, CheckWarning) else "FAILED"
        return Finding(check.name, state, str(flaw), flaw.remedy or check.remedy)
    except Exception as error:
        return Finding(check.name, "FAILED", told(error, context, check.name), check.remedy)


@contextlib.contextmanager
def asking(what: str, context: CheckContext) -> Iterator[None]:
    """Say of a flaw, or of an error in a task's own code, what was asked when it came up."""
    try:
        yield
    except Unfit:
        raise  # it names whose it is
    except CheckFailed as flaw:
        raise type(flaw)(f"{what}: {flaw}", flaw.remedy) from flaw
    except Exception as error:
        raise CheckFailed(f"{what}: {told(error, context, what)}", advice_of(error) or None) from error


def told(error: Exception, context: CheckContext, what: str) -> str:
    """Say an error in one line, with the place in the task's own code that it comes from.

    Args:
        error: The error.
        context: Names the space file, and has the task.
        what: What was asked, as in ``student(width=8)``: of a network of others' layers alone, an error has no frame
            in the task's code, and its place is where the task makes it.
    """
    if isinstance(error, HarnessError):
        return one_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    space_file = context.settings.file_of_space.resolve()
    own = [frame for frame in frames if Path(frame.filename).resolve() == space_file]
    near = [frame for frame in frames if _is_the_task_s(Path(frame.filename))]
    if not own and not near and (asked := _refusing(error, context) or _making(what, context)) is not None:
        file, line, name = Path(asked.co_filename), asked.co_firstlineno, asked.co_qualname
        place = f"{name}, {_shown(file)}, line {line}"
    else:
        frame = (own or near or frames)[-1]
        place = f"{_shown(Path(frame.filename))}, line {frame.lineno}"
    return f"{type(error).__name__}: {one_line(error).removesuffix('.')} ({place})"


def _refusing(error: Exception, context: CheckContext) -> CodeType | None:
    """Return the task's own method that refused its arguments: Python names it, and has no frame of it."""
    called = re.match(r"(?:[\w.<>]+\.)?(\w+)\(\) ", str(error))
    if not isinstance(error, TypeError) or called is None or not hasattr(context, "space"):
        return None
    return _code_of(called[1], context)


def _making(what: str, context: CheckContext) -> CodeType | None:
    """Return the task's own method that makes what was asked; ``None`` where that is none of its networks."""
    made = re.match(r"(?:the )?(deployed|student|teacher)", what)
    return None if made is None or not hasattr(context, "space") else _code_of(made[1], context)


def _code_of(method: str, context: CheckContext) -> CodeType | None:
    """Return the code of a method of the task, where that is the task's own."""
    code: object = getattr(getattr(type(context.space.task), method, None), "__code__", None)
    return code if isinstance(code, CodeType) and _is_the_task_s(Path(code.co_filename)) else None


def _is_the_task_s(file: Path) -> bool:
    return not any(file.resolve().is_relative_to(folder) for folder in (*_ENGINE, *_INSTALLED))


def _shown(file: Path) -> Path:
    """Return a file as a person may type it: from here, or from where packages are installed."""
    for folder in (Path.cwd(), *_INSTALLED[1:]):
        if file.resolve().is_relative_to(folder):
            return file.resolve().relative_to(folder)
    return file


def _say(finding: Finding, terminal: Terminal) -> None:
    """Write a finding; on a terminal, folded so that the columns stay apart."""
    width = terminal.console.width if terminal.live else 10_000
    before = f"{finding.state:<{_STATE_WIDTH}}{finding.name:<{_NAME_WIDTH}}"
    blank = " " * len(before)

    def folded(text: str, first: str) -> str:
        fill = textwrap.TextWrapper(width, initial_indent=first, subsequent_indent=blank, break_on_hyphens=False)
        return fill.fill(text)

    style = {"ok": None, "warning": "yellow", "FAILED": "bold red", "skipped": "dim"}[finding.state]
    terminal.say(folded(finding.found, before), style=style)
    if finding.remedy:
        terminal.say(folded(f"→ {finding.remedy}", blank))
