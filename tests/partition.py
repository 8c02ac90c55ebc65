"""A network between a worker and PostgreSQL that can be cut, and mended again."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Network:
    """Passes on what is said between whoever connects to ``address`` and the server.

    Args:
        database: The address of a database that listens on a socket in a folder.
    """

    def __init__(self, database: str) -> None:
        parts = urlsplit(database)
        self._server = str(Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.address = f"{parts.scheme}://{parts.username}@127.0.0.1:{port}{parts.path}"
        self._peers: dict[socket.socket, socket.socket] = {}
        self._mode = "open"
        self._over = False
        self._changed = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def black_hole(self) -> None:
        """Let everything vanish: nobody hears of it, and nobody is refused."""
        self._mode = "black hole"

    def reset(self) -> None:
        """End every connection at once, and each new one."""
        self._mode = "reset"

    def mend(self) -> None:
        """Pass on what was said meanwhile, and what is said from now on."""
        self._mode = "open"

    def close(self) -> None:
        self._over = True
        self._thread.join()
        for end in [self._listener, *self._peers]:
            end.close()

    def _serve(self) -> None:
        while not self._over:
            if self._mode == "reset":
                for end in list(self._peers):
                    self._hang_up(end)
            watched = [self._listener, *self._peers] if self._mode != "black hole" else []
            with selectors.DefaultSelector() as selector:
                for end in watched:
                    selector.register(end, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select(0.05)]
            for end in ready:
                assert isinstance(end, socket.socket)
                if end is self._listener:
                    self._meet()
                elif end in self._peers:
                    self._pass_on(end)

    def _meet(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        self._peers |= {client: server, server: client}

    def _pass_on(self, end: socket.socket) -> None:
        try:
            content = end.recv(1 << 16)
            self._peers[end].sendall(content)
        except OSError:
            content = b""
        if not content:
            self._hang_up(end)

    def _hang_up(self, end: socket.socket) -> None:
        for one in (end, self._peers.pop(end, None)):
            if one is not None:
                self._peers.pop(one, None)
                with contextlib.suppress(OSError):  # a client hears of a reset, and no farewell
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()
