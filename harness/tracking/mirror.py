"""The search's end of the mirror: starts its process, tells it which runs have news, waits for it at the end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from harness.addresses import redact
from harness.errors import HarnessError
from harness.tracking.spool import SPOOL, STATE_FILE
from harness.word import Word

_GRACE_S, _GRACE_AFTER_ERROR_S = 10.0, 2.0


class Mirror:
    """Mirrors spools into MLflow from a process of its own, which starts at once and imports MLflow meanwhile.

    As a context it waits at its end until all is sent.
    """

    _address = ""

    def __init__(self) -> None:
        self.experiment_id = self.store = ""
        self._word = Word(lambda text: None)
        self._answered, self._replied = threading.Event(), threading.Event()
        self._reply: dict[str, Any] = {}
        self._ended = False
        self._connected = False
        self._failure: str | None = None
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.tracking.mirror_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C at the terminal is for the search; the mirror has a last word to send
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close(grace_s=_GRACE_S if raised[0] is None else _GRACE_AFTER_ERROR_S)

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
        self._send(address=address, experiment=experiment, artifact_root=str(artifact_root))

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
        self._send(folder=str(folder.resolve()))

    @property
    def shares_files(self) -> bool:
        """Whether the store is a server, which has artifacts for whoever reaches it."""
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
        """The process's reply, which is soon if the store is away: it gives up by itself, or ends."""
        self._replied.clear()
        self._send(**request)
        if not self._ended:
            self._replied.wait()
        return self._reply

    def close(self, *, grace_s: float) -> None:
        """Wait until all is sent; a store that is away is waited for up to ``grace_s`` seconds."""
        if not self._connected:
            if self._address:
                self._answered.wait(grace_s)  # a database that is left with half of its tables can't be used again
            self._process.kill()
        self._send(close=True, grace_s=grace_s)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        sent = self._process.wait() == 0
        self._listener.join()
        self._stdout.close()
        if self._connected and not sent:
            self._word.say("not everything could be sent to MLflow; it is kept, and the same command sends it.")

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _send(self, **message: Any) -> None:
        try:
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            if self._connected:
                self._word("the process that logs to MLflow has ended; runs are kept and sent by the next start")

    def _listen(self) -> None:
        for line in self._stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library's greeting
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
        self._reply, self._ended = {"problem": "the process that logs to it has ended"}, True
        self._replied.set()
        if not self._answered.is_set():
            self._failure = self._failure or "the process that logs to it ended"
            self._answered.set()


def is_sent(folder: Path, store: str, state: str) -> bool:
    """Whether all of a run's spool was sent to ``store`` and ends in ``state``, judged by the files alone."""
    try:
        mirrored = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return bool(
            mirrored["store"] == store
            and mirrored["state"] == state
            and mirrored["offset"] == (folder / SPOOL).stat().st_size
        )
    except (FileNotFoundError, ValueError, KeyError):
        return False
