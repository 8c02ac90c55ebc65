"""The search's end of the mirror: starts its process, tells it which runs have news, waits for it at the end."""

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
from harness.tracking.spool import SPOOL, STATE_FILE

_MODULE = "harness.tracking.mirror_process"
_GRACE_S, _GRACE_AFTER_ERROR_S = 10.0, 2.0
_LAST_WORDS_S = 10.0  # for sending what is left when the search was stopped; a scheduler waits little longer
_GAVE_UP = 1  # the exit code of a process whose store stayed away
_MOST_DEATHS = 4  # in a row, each within ``_LIVES_S`` of its start; after them no more are started
_LIVES_S, _FIRST_PAUSE_S = 60.0, 0.5  # a pause is twice as long as the one before
_ENDED = {"problem": "the process that logs to it has ended"}


class Mirror:
    """Mirrors spools into MLflow from a process of its own, which starts at once and imports MLflow meanwhile.

    As a context it waits at its end until all is sent. A process that dies is replaced, some times in a row.

    Args:
        remedy: What a person can type to have sent what could not be sent.
    """

    _address = ""

    def __init__(self, *, remedy: str = "the same command") -> None:
        self.experiment_id = self.store = ""
        self._remedy = remedy
        self._word = RateLimitedNotifier(lambda text: None)
        self._answered, self._replied = threading.Event(), threading.Event()
        self._reply: dict[str, Any] = {}
        self._connected = False
        self._failure: str | None = None
        self._config: dict[str, str] | None = None
        self._folders: dict[str, None] = {}  # of which a process that takes the place of another is told
        self._closing = threading.Event()
        self._writing = threading.RLock()  # to the process that is the one
        self._process = _start()
        self._listener = threading.Thread(target=self._attend, name=f"{OWN_THREADS}mirror", daemon=True)
        self._listener.start()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            self.close(grace_s=_GRACE_S)
        else:
            self.close(grace_s=_GRACE_AFTER_ERROR_S, within_s=_LAST_WORDS_S)

    def connect(self, address: str, experiment: str, artifact_root: Path, *, say: Callable[[str], None]) -> None:
        """Begin to connect to the tracking store, and wait until it has answered. Takes and raises what the two do."""
        self.begin_to_connect(address, experiment, artifact_root, say=say)
        self.wait_until_connected()

    def begin_to_connect(
        self, address: str, experiment: str, artifact_root: Path, *, say: Callable[[str], None]
    ) -> None:
        """Let the process connect to the tracking store; a new database gets its tables meanwhile.

        Args:
            address: MLflow's tracking address.
            experiment: Name of the experiment.
            artifact_root: Folder of artifacts, where the store is a local database.
            say: Called with a line of text when the store goes away, or comes back. From another thread.
        """
        self._word.say, self._address = say, address
        # The address goes through the pipe: an argument or a variable of a process can be read by others.
        with self._writing:
            self._config = {"address": address, "experiment": experiment, "artifact_root": str(artifact_root)}
            self._send(**self._config)

    def wait_until_connected(self) -> None:
        """Wait for the store's answer.

        Raises:
            HarnessError: If it does not answer.
        """
        self._answered.wait()
        if self._failure is not None:
            raise HarnessError(
                f"--tracking-uri must be an MLflow store that answers, but {redact(self._address)} does not: "
                f"{self._failure}"
            )
        self._connected = True

    def notify(self, folder: Path) -> None:
        """Say that a run's spool has news."""
        with self._writing:
            name = str(folder.resolve())
            self._folders[name] = None
            self._send(folder=name)

    @property
    def shares_files(self) -> bool:
        """Return whether the store is a server, which has artifacts for whoever reaches it."""
        return self._address.startswith(("http://", "https://"))

    def settle(self, folder: Path) -> str | None:
        """Wait until a run's spool is sent; what is wrong if the store does not answer within some seconds."""
        return self._ask(request="settle", folder=str(folder.resolve())).get("problem")

    def publish(self, file: Path, folder: Path, *, anew: bool) -> str | None:
        """Make a file an artifact of a run, and wait until it is one.

        Args:
            file: The file.
            folder: Folder of the run's spool.
            anew: Whether to send it though it was sent before.

        Returns:
            What is wrong if the store does not answer within some seconds, else ``None``.
        """
        asked = {"folder": str(folder.resolve()), "file": str(file.resolve()), "anew": anew}
        return self._ask(request="publish", **asked).get("problem")

    def fetch(self, run_key: str, file: Path, folder: Path) -> tuple[bool, str | None]:
        """Bring an artifact of a run to where it is kept here.

        Args:
            run_key: The run's ``kd.run_key``.
            file: Its place, and by its last part its name.
            folder: Folder of the run's spool here.

        Returns:
            Whether it is there now; and what is wrong if the store does not answer within some seconds.
        """
        asked = {"folder": str(folder.resolve()), "file": str(file.resolve()), "run_key": run_key}
        reply = self._ask(request="fetch", **asked)
        return bool(reply.get("found")), reply.get("problem")

    def _ask(self, **request: Any) -> dict[str, Any]:
        """Return the process's reply, which is soon if the store is away: it gives up by itself, or ends."""
        with self._writing:
            self._replied.clear()
            # What is told to a dying process may still be taken: the kernel closes its pipes one after the other.
            if not self._send(**request) or self._process.poll() is not None:
                return dict(_ENDED)
        self._replied.wait()
        return self._reply

    def close(self, *, grace_s: float, within_s: float | None = None) -> None:
        """Wait until all is sent.

        Args:
            grace_s: How long a store that is away is waited for, in seconds.
            within_s: How long a store that answers is waited for, in seconds; ``None`` waits until it has all.
        """
        ends_at = None if within_s is None else time.monotonic() + within_s
        if not self._connected:
            if self._address:
                self._answered.wait(grace_s)  # a database that is being made is whole then
            self._closing.set()
            self._process.kill()
        self._closing.set()
        code = self._end(grace_s, ends_at)
        self._listener.join()
        late = ends_at is not None and time.monotonic() > ends_at
        if self._connected and code not in (0, _GAVE_UP) and not late:  # it was killed, or was not replaced yet
            self._replace()
            with ThreadPoolExecutor(1) as pool:
                heard = pool.submit(self._hear)
                code = self._end(grace_s, ends_at)
                heard.result()
        _close(self._process)
        if self._connected and code != 0:
            self._word.say(f"not everything could be sent to MLflow; it is kept, and this sends it: {self._remedy}")

    def _end(self, grace_s: float, ends_at: float | None) -> int:
        """Tell the process to end when all is sent; kill it at ``ends_at`` (monotonic). Return its exit code."""
        self._send(close=True, grace_s=grace_s)
        with contextlib.suppress(BrokenPipeError):
            _stdin(self._process).close()
        try:
            return self._process.wait(None if ends_at is None else max(0.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send(self, **message: Any) -> bool:
        """Tell the process something; whether it still takes it in."""
        with self._writing:
            try:
                _stdin(self._process).write(json.dumps(message).encode() + b"\n")
                _stdin(self._process).flush()
            except (BrokenPipeError, ValueError):  # it has ended, and what it was told by is closed
                return False
            return True

    def _attend(self) -> None:
        """Hear the process, and replace it when it dies: with growing pauses, and a few times in a row."""
        deaths = 0
        while True:
            began_s = time.monotonic()
            self._hear()
            code = self._process.wait()
            with self._writing:  # whoever asked while it died is answered; whoever asks from now on is told at once
                self._reply = dict(_ENDED)
                self._replied.set()
            deaths = 1 if time.monotonic() - began_s > _LIVES_S else deaths + 1
            if self._closing.is_set() or self._failure is not None:
                break
            if deaths > _MOST_DEATHS:
                if self._connected:
                    self._word.say(
                        f"the process that logs to MLflow dies each time (exit code {code}); runs are kept, and this "
                        f"sends them: {self._remedy}"
                    )
                break
            if self._closing.wait(_FIRST_PAUSE_S * 2 ** (deaths - 1)):
                break
            self._word(f"the process that logs to MLflow died and is started again (exit code {code})")
            self._replace()
        if not self._answered.is_set():
            self._failure = self._failure or (
                f"the process that logs to it ends (exit code {code}); to see why: python -m {_MODULE} </dev/null"
            )
            self._answered.set()

    def _replace(self) -> None:
        """Start another process, which is told all that the one before was told."""
        with self._writing:
            _close(self._process)
            self._process = _start()
            if self._config is not None:
                self._send(**self._config)
            for name in self._folders:
                self._send(folder=name)

    def _hear(self) -> None:
        """Take in what the process says, until it ends."""
        for line in _stdout(self._process):
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library's greeting
            self._take_in(message)

    def _take_in(self, message: dict[str, Any]) -> None:
        if "ready" in message:  # "failed" is followed by the end of the stream
            self.experiment_id, self.store = message["experiment_id"], message["store"]
            self._answered.set()
        elif "failed" in message:
            self._failure = message["failed"]
        elif "word" in message:
            self._word.say(f"mlflow    {message['word']}")
        elif "away" in message:
            self._word(f"MLflow does not answer ({message['away']}); runs are kept and sent when it is back")
        elif "back" in message:
            self._word.end("MLflow answers again")
        elif "reply" in message:
            self._reply = message["reply"]
            self._replied.set()


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE],  # without -P, a folder ``harness`` in the current one would be imported
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C at the terminal is for the search; the mirror has a last word to send
    )


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close what an ended process was told by, and heard by."""
    with contextlib.suppress(BrokenPipeError):
        _stdin(process).close()
    _stdout(process).close()


def is_sent(folder: Path, store: str, state: str) -> bool:
    """Return whether all of a run's spool was sent to ``store`` and ends in ``state``, judged by the files alone."""
    try:
        mirrored = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return bool(
            mirrored["store"] == store
            and mirrored["state"] == state
            and mirrored["offset"] == (folder / SPOOL).stat().st_size
        )
    except (FileNotFoundError, ValueError, KeyError):
        return False
