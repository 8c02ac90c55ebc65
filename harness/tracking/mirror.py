"""The search's end of the mirror: starts its process, names the runs with new events, and waits for it at the end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from harness.core.addresses import redact
from harness.core.errors import OWN_THREADS, HarnessError
from harness.core.notifier import RateLimitedNotifier
from harness.tracking.base import find_tracker

_MODULE = "harness.tracking.mirror_process"
_GRACE_S, _GRACE_AFTER_ERROR_S = 10.0, 2.0
_CLOSES_WHEN_STOPPED_S = 10.0  # to send what is left of a search that was stopped; a scheduler waits little longer
_GAVE_UP = 1  # the exit code of a process whose store stayed away
_MOST_DEATHS = 4  # in a row, each within ``_STABLE_S`` of its start; after them the process is not started again
_STABLE_S, _FIRST_BACKOFF_S = 60.0, 0.5
_ENDED = {"problem": "the process that logs to it has ended"}


class Mirror:
    """Mirrors spools to a tracker from a process of its own, which starts at once and imports the tracker's libraries.

    As a context it waits at its end until all is sent. A process that dies is started again, with exponential backoff,
    a few times in a row.

    Args:
        address: The tracking address (``--tracking-uri``).
        remedy: The command that sends what could not be sent.

    Attributes:
        experiment_id: The tracker's own name of the experiment, once connected.
        store: The store (``RunStore.identity``), once connected.
    """

    def __init__(self, address: str, *, remedy: str = "the same command") -> None:
        self.experiment_id = self.store = ""
        self._tracker = find_tracker(address)
        self.remedy = remedy
        self._notifier = RateLimitedNotifier(lambda text: None)
        self._answered, self._replied = threading.Event(), threading.Event()
        self._reply: dict[str, Any] = {}
        self._connected = False
        self._failure: str | None = None
        self._config: dict[str, str] | None = None
        self._folders: dict[str, None] = {}  # for a process that replaces another one
        self._closing = threading.Event()
        self._writing = threading.RLock()  # to the process, which may be replaced meanwhile
        self._process = self._start()
        self._supervisor = threading.Thread(target=self._supervise, name=f"{OWN_THREADS}mirror", daemon=True)
        self._supervisor.start()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            self.close(grace_s=_GRACE_S)
        else:
            self.close(grace_s=_GRACE_AFTER_ERROR_S, within_s=_CLOSES_WHEN_STOPPED_S)

    def connect(self, experiment: str, artifact_root: Path, *, say: Callable[[str], None]) -> None:
        """Connect to the store and wait for its answer (``begin_to_connect``, ``wait_until_connected``)."""
        self.begin_to_connect(experiment, artifact_root, say=say)
        self.wait_until_connected()

    def begin_to_connect(self, experiment: str, artifact_root: Path, *, say: Callable[[str], None]) -> None:
        """Let the process connect to the store, and return at once; a new database gets its tables meanwhile.

        Args:
            experiment: Name of the experiment.
            artifact_root: Folder of artifacts, for a store that has no place of its own.
            say: Called with a line of text when the store goes away or comes back. From another thread.
        """
        self._notifier.say = say
        config = {"address": self._tracker.address, "experiment": experiment, "artifact_root": str(artifact_root)}
        # The address goes through the pipe: an argument or a variable of a process can be read by others.
        with self._writing:
            self._config = config
            self._send(**config)

    def wait_until_connected(self) -> None:
        """Wait for the store's answer.

        Raises:
            HarnessError: If it does not answer.
        """
        self._answered.wait()
        if self._failure is not None:
            raise HarnessError(self._failure)
        self._connected = True

    def notify(self, folder: Path) -> None:
        """Tell the process that a run's spool has new events."""
        with self._writing:
            name = str(folder.resolve())
            self._folders[name] = None
            self._send(folder=name)

    @property
    def shares_files(self) -> bool:
        """Return whether machines that share no disk can exchange artifacts through the store."""
        return self._tracker.shares_files

    def settle(self, folder: Path) -> str | None:
        """Wait until a run's spool is sent.

        Returns:
            The problem if the store does not answer within some seconds, else ``None``.
        """
        return self._request(request="settle", folder=str(folder.resolve())).get("problem")

    def publish(self, file: Path, folder: Path, *, anew: bool) -> str | None:
        """Make a file an artifact of a run, and wait until it is one.

        Args:
            file: The file.
            folder: Folder of the run's spool.
            anew: Whether to send it though it was sent before.

        Returns:
            The problem if the store does not answer within some seconds, else ``None``.
        """
        asked = {"folder": str(folder.resolve()), "file": str(file.resolve()), "anew": anew}
        return self._request(request="publish", **asked).get("problem")

    def fetch(self, run_key: str, file: Path, folder: Path) -> tuple[bool, str | None]:
        """Download an artifact of a run.

        Args:
            run_key: The run's ``kd.run_key``.
            file: Where to put it; the artifact has its name.
            folder: Folder of the run's spool here.

        Returns:
            Whether the file was fetched; and the problem if the store does not answer within some seconds.
        """
        asked = {"folder": str(folder.resolve()), "file": str(file.resolve()), "run_key": run_key}
        reply = self._request(request="fetch", **asked)
        return bool(reply.get("found")), reply.get("problem")

    def _request(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the reply, which comes soon even if the store is away: the process gives up."""
        with self._writing:
            self._replied.clear()
            # A dying process may still accept a message: the kernel closes its pipes one after the other.
            if not self._send(**request) or self._process.poll() is not None:
                return dict(_ENDED)
        self._replied.wait()
        return self._reply

    def close(self, *, grace_s: float, within_s: float | None = None) -> None:
        """Wait until all is sent.

        Args:
            grace_s: How long to retry a store that is away, in seconds.
            within_s: How long to wait for a store that answers, in seconds; ``None`` waits until it has all.
        """
        ends_at = None if within_s is None else time.monotonic() + within_s
        if not self._connected:
            if self._config is not None:
                self._answered.wait(grace_s)  # or a new database would be left half made
            self._closing.set()
            self._process.kill()
        self._closing.set()
        code = self._end_process(grace_s, ends_at)
        self._supervisor.join()
        late = ends_at is not None and time.monotonic() > ends_at
        if self._connected and code not in (0, _GAVE_UP) and not late:  # it was killed, or was not replaced yet
            self._replace_process()
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(self._read_messages)
                code = self._end_process(grace_s, ends_at)
                reading.result()
        _close(self._process)
        if self._connected and code != 0:
            self._notifier.say(
                f"not everything could be sent to {self._tracker.name}; it is kept, and this sends it: {self.remedy}"
            )

    def _end_process(self, grace_s: float, ends_at: float | None) -> int:
        """Order the process to end when all is sent; kill it at ``ends_at`` (monotonic). Return its exit code."""
        self._send(close=True, grace_s=grace_s)
        with contextlib.suppress(BrokenPipeError):
            _stdin(self._process).close()
        try:
            return self._process.wait(None if ends_at is None else max(0.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send(self, **message: Any) -> bool:
        """Send the process a message; return whether it still reads."""
        with self._writing:
            try:
                _stdin(self._process).write(json.dumps(message).encode() + b"\n")
                _stdin(self._process).flush()
            except (BrokenPipeError, ValueError):  # it has ended; the latter where its pipe is closed on this side
                return False
            return True

    def _supervise(self) -> None:
        """Read the process's messages, and start it again when it dies, with exponential backoff, a few times."""
        deaths = 0
        while True:
            began_s = time.monotonic()
            self._read_messages()
            code = self._process.wait()
            with self._writing:  # answers a request that is waiting; a later one finds the process dead at once
                self._reply = dict(_ENDED)
                self._replied.set()
            deaths = 1 if time.monotonic() - began_s > _STABLE_S else deaths + 1
            if self._closing.is_set() or self._failure is not None:
                break
            if deaths > _MOST_DEATHS:
                if self._connected:
                    self._notifier.say(
                        f"the process that logs to {self._tracker.name} dies each time (exit code {code}); runs are "
                        f"kept, and this sends them: {self.remedy}"
                    )
                break
            if self._closing.wait(_FIRST_BACKOFF_S * 2 ** (deaths - 1)):
                break
            name = self._tracker.name
            self._notifier(f"the process that logs to {name} died and is started again (exit code {code})")
            self._replace_process()
        if not self._answered.is_set():
            command = f"python -m {_MODULE} {self._tracker.name} </dev/null"
            self._failure = self._failure or self._no_answer(
                f"the process that logs to it ends (exit code {code}); to see why: {command}"
            )
            self._answered.set()

    def _no_answer(self, why: str) -> str:
        return (
            f"--tracking-uri must be the address of a tracking store that answers, but {self._tracker.name} at "
            f"{redact(self._tracker.address)} does not: {why}"
        )

    def _replace_process(self) -> None:
        """Start another process, and send it what the one before was sent."""
        with self._writing:
            _close(self._process)
            self._process = self._start()
            if self._config is not None:
                self._send(**self._config)
            for name in self._folders:
                self._send(folder=name)

    def _read_messages(self) -> None:
        """Handle the messages of the process until it ends."""
        for line in _stdout(self._process):
            try:
                message = json.loads(line)
            except ValueError:
                continue  # text that a library prints
            self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        name = self._tracker.name
        if "ready" in message:  # "failed" is followed by the end of the stream
            self.experiment_id, self.store = message["experiment_id"], message["store"]
            self._answered.set()
        elif "refused" in message:
            self._failure = message["refused"]
        elif "failed" in message:
            self._failure = self._no_answer(message["failed"])
        elif "notice" in message:
            self._notifier.say(f"{name.lower():<9} {message['notice']}")
        elif "away" in message:
            self._notifier(f"{name} does not answer ({message['away']}); runs are kept and sent when it is back")
        elif "back" in message:
            self._notifier.end(f"{name} answers again")
        elif "reply" in message:
            self._reply = message["reply"]
            self._replied.set()

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # Without -P, a folder ``harness`` in the current one would be imported.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, self._tracker.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C at the terminal is for the search; the mirror still has to send the rest
        )


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a process that has ended."""
    with contextlib.suppress(BrokenPipeError):
        _stdin(process).close()
    _stdout(process).close()
