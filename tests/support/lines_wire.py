"""A client of lines for tests, over plain TCP or TLS, that sends whatever it is told to.

    with dial(port) as line:
        line.send({"id": 1, "method": "auth", "params": {"access_token": token}})
        assert 1 == line.read()["id"]

It blocks, with a deadline for everything.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any, Final, Self

TIMEOUT_S: Final = 10.0


class Gone(Exception):
    """The connection has ended."""


class LineClient:
    """One connection."""

    def __init__(self, stream: socket.socket) -> None:
        self.socket = stream
        self._unread = b""
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_bytes(self, *pieces: bytes) -> None:
        """Send bytes; each piece by itself."""
        for piece in pieces:
            self.socket.sendall(piece)

    def send(self, *messages: Any) -> None:
        """Send messages together."""
        self.send_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def auth(self, token: str | None, **params: Any) -> dict[str, Any]:
        """Authenticate; return the answer, or the close."""
        self.send({"id": "auth", "method": "auth", "params": {"access_token": token, **params}})
        return self.read()

    def call(self, method: str, request_id: Any = None, **params: Any) -> dict[str, Any]:
        """Send a request and return its answer; updates and pings that come before it are dropped."""
        if request_id is None:
            self._number += 1
            request_id = f"c{self._number}"
        self.send({"id": request_id, "method": method, "params": params})
        return self.answer(request_id)

    def answer(self, request_id: Any) -> dict[str, Any]:
        """Return the answer with this ID; what comes before it is dropped."""
        while True:
            message = self.read()
            if "close" in message or (message.get("id") == request_id and "id" in message):
                return message

    def close_code(self) -> int | None:
        """Read until the end; return the code of the close, None if there was none."""
        code = None
        try:
            while True:
                message = self.read()
                assert code is None, message
                if "close" in message:
                    code = message["close"]["code"]
        except Gone:
            return code

    def events(self, room_id: str, count: int, kind: str = "m.room.message") -> tuple[list[dict[str, Any]], str]:
        """Return the next events of a kind in a room, at least `count`, and the last token."""
        found: list[dict[str, Any]] = []
        since = ""
        while len(found) < count:
            message = self.read()
            assert "close" not in message, message
            since = message.get("next_batch", since)
            room = message.get("rooms", {}).get("join", {}).get(room_id, {})
            found += [event for event in room.get("timeline", {}).get("events", ()) if event["type"] == kind]
        return found, since

    def update(self) -> dict[str, Any]:
        """Return the next update; what comes before it is dropped."""
        while "next_batch" not in (message := self.read()):
            assert "close" not in message, message
        return message

    def read(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the next message; raises Gone, TimeoutError."""
        message = json.loads(self.read_line(timeout_s))
        assert isinstance(message, dict)
        return message

    def read_line(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the next line without its end; raises Gone, TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError as error:
                raise Gone from error
            if not data:
                assert not self._unread, self._unread
                raise Gone
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def take(self, most_bytes: int) -> None:
        """Take some bytes in, to be read later."""
        self._unread += self.socket.recv(most_bytes)

    def rest(self) -> bytes:
        """Return whatever bytes still come, until the end."""
        found = self._unread
        try:
            while data := self.socket.recv(1 << 16):
                found += data
        except ConnectionError:
            pass
        return found

    def reset(self) -> None:
        """End the connection without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def dial(port: int, ca_file: Path | None = None, *, buffer_bytes: int | None = None) -> LineClient:
    """Connect; over TLS if there is an authority to trust. `buffer_bytes` bounds the kernel's buffers on this side."""
    stream = socket.socket()
    if buffer_bytes is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    stream.settimeout(TIMEOUT_S)
    stream.connect(("127.0.0.1", port))
    if ca_file is None:
        return LineClient(stream)
    context = ssl.create_default_context(cafile=str(ca_file))
    return LineClient(context.wrap_socket(stream, server_hostname="127.0.0.1"))
