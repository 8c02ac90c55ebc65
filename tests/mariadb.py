"""A real MariaDB server of a test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import wait_for

_PROGRAMS = ("mariadbd", "mariadb-install-db")


class MariaDb:
    """A MariaDB server on its own data; running."""

    def __init__(self) -> None:
        path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
        missing = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
        if missing and os.environ.get("CI") != "true":
            pytest.skip(f"{missing[0]} is not installed: apt-get install mariadb-server-core mariadb-client-core")
        if os.environ.get("CI") != "true":
            pytest.importorskip("pymysql", reason="pip install pymysql")
        self._server, install = (shutil.which(name, path=path) or name for name in _PROGRAMS)
        self._folder = Path(tempfile.mkdtemp())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._options = [
            "--no-defaults",
            f"--datadir={self._folder / 'data'}",
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]
        made = [install, *self._options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, check=True, capture_output=True)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        listening = ["--bind-address=127.0.0.1", f"--port={self._port}", f"--socket={self._folder / 'socket'}"]
        with open(self._folder / "log.txt", "a") as log:
            self._process = subprocess.Popen(
                [self._server, *self._options, *listening], stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log.txt").read_text()
        import pymysql

        try:
            pymysql.connect(host="127.0.0.1", port=self._port, user="root").close()
        except pymysql.err.OperationalError:
            return False
        return True

    def new_database(self, name: str) -> str:
        """The address of an empty database."""
        import pymysql

        with pymysql.connect(host="127.0.0.1", port=self._port, user="root") as connection:
            connection.cursor().execute(f"create database `{name}`")
        return f"mysql+pymysql://root@127.0.0.1:{self._port}/{name}"

    def crash(self) -> None:
        """End it as a machine's end does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self._folder)
