"""Commands in processes of their own that have other people's libraries already: a server has imported them and forks.

Of the 10 s of a processor that a small search takes, 6 are such imports. What is forked has none of this project's
modules; it reads ``search.py`` and all behind it anew, and has a folder, an environment, signals and an exit code of
its own, as ``python search.py`` has. Only ``ps`` shows the server's command line.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIBRARIES = (
    "alembic.context",
    "matplotlib.figure",
    "narwhals.stable.v1",
    "optuna.samplers",
    "pandas",
    "plotly.graph_objs",
    "plotly.subplots",
    "pytorch_lightning",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.model_selection",
    "sqlalchemy.orm",
    "torch.utils.flop_counter",
    "torchmetrics.classification",
)
"""What a search imports."""

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(list(LIBRARIES))


class Forked:
    """A command that was started, with what the tests need of ``subprocess.Popen``.

    Args:
        command: A script, or the name of a module as ``python -m`` takes it; and its arguments.
        output: The file of its output; it runs in the folder of that.
        env: Its environment.
        append: Whether to keep what the file holds.
    """

    def __init__(self, *command: Path | str, output: Path, env: Mapping[str, str], append: bool = False) -> None:
        if not append:
            output.write_text("")
        self._process = _SERVER.Process(target=_run, args=(command, output, dict(env)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Partner:
    """A function of a test in a process of its own, with which the test converses through a pipe.

    Args:
        target: Called there with the other end of the pipe. Its module is imported anew.
    """

    def __init__(self, target: Callable[[Connection], None]) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = _SERVER.Process(target=_converse, args=(target, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, *words: Any) -> None:
        self._pipe.send(words)

    def answer(self) -> dict[str, Any]:
        """Return its next answer; what it raised instead fails the test."""
        found: dict[str, Any] = self._pipe.recv()
        assert "traceback" not in found, found["traceback"]
        return found

    def end(self) -> None:
        self._process.kill()  # SIGKILL
        self._process.join()


def _converse(target: Callable[[Connection], None], pipe: Connection) -> None:
    try:
        target(pipe)
    except Exception:
        pipe.send({"traceback": traceback.format_exc()})


def _run(command: Sequence[Path | str], output: Path, env: Mapping[str, str]) -> None:
    """The command, in the process that was forked for it: what an interpreter does for one that is typed."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    os.chdir(output.parent)
    os.environ.clear()
    os.environ.update(env)
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]  # it is nobody's worker
    program, *arguments = command
    sys.argv = [str(program), *map(str, arguments)]
    tests = Path(__file__).parent
    sys.path = [path for path in sys.path if not Path(path).is_relative_to(tests)]
    if isinstance(program, Path):
        sys.orig_argv = [sys.executable, *sys.argv]
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        sys.orig_argv = [sys.executable, "-m", *sys.argv]
        sys.path.insert(0, str(output.parent))
        runpy.run_module(program, run_name="__main__", alter_sys=True)
