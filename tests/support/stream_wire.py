"""A WebSocket client for tests that sends whatever it is told to, broken frames too, and checks whatever it gets.

    with dial(server.url, token=token) as wire:
        wire.send(frame(TEXT, b'{"id":1,"method":"ping"}'))
        assert {"id": 1, "result": {}} == wire.answer(1)

It blocks, with a deadline for everything. What the server sends must be right in every bit: no mask, the shortest
length, no reserved bits but what was agreed to; otherwise BrokenServer is raised.

Spec: RFC 6455, 4.1, 5.2, 5.5, 7; RFC 7692, 7.2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

PATH: Final = "/_matrix/client/unstable/stream"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
TIMEOUT_S: Final = 10.0
MASK: Final = b"\x37\xfa\x21\x3d"
DEFLATE_TAIL: Final = b"\x00\x00\xff\xff"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTROL_BYTES: Final = 125
# Of the server; docs/stream.md, "Compression".
MAX_WINDOW_BITS: Final = 12


class Refused(Exception):
    """The handshake was answered with something else than 101."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class Closed(Exception):
    """The server has closed; `code` is None if it said nothing before the connection ended."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class BrokenServer(Exception):
    """What the server sent breaks the protocol."""


class Frame(NamedTuple):
    """A frame that came."""

    opcode: int
    payload: bytes
    is_final: bool
    reserved: int


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return a frame; `length` is said instead of the true one, in `width` bytes (1, 2 or 8) instead of the fewest."""
    said = len(payload) if length is None else length
    if width is None:
        width = 1 if said < 126 else 2 if said < 1 << 16 else 8
    masked = 0 if mask is None else 0x80
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    if width == 1:
        head += bytes([masked | said])
    else:
        head += bytes([masked | (126 if width == 2 else 127)]) + said.to_bytes(width, "big")
    return head + payload if mask is None else head + mask + masked_with(mask, payload)


def masked_with(mask: bytes, payload: bytes) -> bytes:
    """Return the payload exclusive-or the mask."""
    if not any(mask):
        return payload
    pad = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")


def fragments(opcode: int, payload: bytes, size: int, *, reserved: int = 0) -> bytes:
    """Return a message in frames of so many bytes of payload; the last one may have fewer."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    last = len(pieces) - 1
    return b"".join(
        frame(CONTINUATION if n else opcode, piece, final=n == last, reserved=0 if n else reserved)
        for n, piece in enumerate(pieces)
    )


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """Return the payload of a close frame."""
    return struct.pack("!H", code) + reason


def deflated(message: bytes, *, bits: int = 12, level: int = 6) -> bytes:
    """Return a message as permessage-deflate sends it without context takeover."""
    deflater = zlib.compressobj(level, zlib.DEFLATED, -bits)
    data = deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(DEFLATE_TAIL)


def upgrade_headers(url: str, *, token: str | None = None, offer: str | None = None) -> dict[str, str]:
    """Return the headers of a right handshake."""
    headers = {
        "Host": urlsplit(url).netloc,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": "m.json",
    }
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if offer is not None:
        headers["Sec-WebSocket-Extensions"] = offer
    return headers


def head_bytes(request_line: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request."""
    lines = [request_line, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def connect(
    url: str, *, context: ssl.SSLContext | None = None, receive_bytes: int | None = None, source: str = ""
) -> Wire:
    """Return a connection on which nothing was said yet; with `context` it is TLS.

    `receive_bytes` is the size of the kernel's buffer for what comes, `source` the address that it comes from.
    """
    parts = urlsplit(url)
    stream = socket.socket()
    stream.settimeout(TIMEOUT_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_bytes is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        if source:
            stream.bind((source, 0))
        stream.connect((parts.hostname or "", parts.port or 0))
        return Wire(stream if context is None else context.wrap_socket(stream, server_hostname=parts.hostname))
    except OSError:
        stream.close()
        raise


def dial(
    url: str,
    *,
    token: str | None = None,
    query: str = "",
    offer: str | None = None,
    context: ssl.SSLContext | None = None,
    receive_bytes: int | None = None,
    source: str = "",
) -> Wire:
    """Return an open stream; raises Refused."""
    wire = connect(url, context=context, receive_bytes=receive_bytes, source=source)
    try:
        wire.upgrade(upgrade_headers(url, token=token, offer=offer), query)
    except BaseException:
        wire.drop()
        raise
    return wire


class Wire:
    """One connection. `updates` are those that came while something else was looked for, `pongs` likewise."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._received = b""
        self.headers: dict[str, str] = {}
        self.updates: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self.pings = 0
        self.answers_pings = True
        self.compressed = 0
        self._window_bits: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    # -- the handshake -----------------------------------------------------------------------------------------------

    def upgrade(self, headers: Mapping[str, str], query: str = "") -> None:
        """Send a handshake and read the answer; raises Refused."""
        self.send(head_bytes(f"GET {PATH}{'?' if query else ''}{query} HTTP/1.1", headers))
        self.read_upgrade(headers["Sec-WebSocket-Key"])

    def read_upgrade(self, key: str) -> None:
        """Read the answer to a handshake, and check it; raises Refused."""
        status, found = self.read_head()
        if status != 101:
            raise Refused(
                status, found, self._read(int(found.get("content-length", "0")), time.monotonic() + TIMEOUT_S)
            )
        self.headers = found
        accept = base64.b64encode(hashlib.sha1(key.strip().encode() + _GUID).digest()).decode()
        if found.get("sec-websocket-accept") != accept:
            raise BrokenServer(f"a wrong Sec-WebSocket-Accept: {found}")
        if (found.get("upgrade", "").lower(), found.get("connection", "").lower()) != ("websocket", "upgrade"):
            raise BrokenServer(f"no upgrade: {found}")
        if "sec-websocket-extensions" in found:
            agreed = extension_parameters(found["sec-websocket-extensions"])
            self._window_bits = min(MAX_WINDOW_BITS, int(agreed.get("server_max_window_bits") or "15"))

    def read_head(self, timeout_s: float = TIMEOUT_S) -> tuple[int, dict[str, str]]:
        """Return status and headers, by lower-case name, of an HTTP answer."""
        deadline = time.monotonic() + timeout_s
        while b"\r\n\r\n" not in self._received:
            self._receive(deadline)
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split(" ")[1]), headers

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._stream.sendall(data)

    def send_in_pieces(self, pieces: list[bytes], pause_s: float = 0.001) -> None:
        """Send each piece in a segment of its own, as far as the kernel can be made to."""
        for piece in pieces:
            self._stream.sendall(piece)
            time.sleep(pause_s)

    def offer(self, data: bytes, timeout_s: float) -> int:
        """Send what is taken within the time, and return how many bytes that is."""
        view = memoryview(data)
        sent = 0
        deadline = time.monotonic() + timeout_s
        try:
            while sent < len(data) and (left := deadline - time.monotonic()) > 0:
                self._stream.settimeout(left)
                sent += self._stream.send(view[sent : sent + 65_536])
        except TimeoutError:
            pass
        finally:
            self._stream.settimeout(TIMEOUT_S)
        return sent

    def text(self, message: bytes | str) -> None:
        """Send a message in one frame."""
        self.send(frame(TEXT, message.encode() if isinstance(message, str) else message))

    def request(self, number: Any, method: str, params: Any = None) -> None:
        """Send a request without waiting for its answer."""
        message = {"id": number, "method": method}
        self.text(json.dumps(message if params is None else {**message, "params": params}))

    def call(self, number: Any, method: str, params: Any = None) -> dict[str, Any]:
        """Send a request, and return the answer to it."""
        self.request(number, method, params)
        return self.answer(number)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def answer(self, number: Any, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the answer with this `id`; updates before it are kept."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.read_json(deadline - time.monotonic())
            if "next_batch" in message:
                self.updates.append(message)
            elif message.get("id", self) == number:
                return message

    def reply(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the next answer to anything; updates before it are kept."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.read_json(deadline - time.monotonic())
            if "next_batch" not in message:
                return message
            self.updates.append(message)

    def update(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the next update that was not returned yet; answers before it are dropped."""
        deadline = time.monotonic() + timeout_s
        while not self.updates:
            message = self.read_json(deadline - time.monotonic())
            if "next_batch" in message:
                self.updates.append(message)
        return self.updates.pop(0)

    def read_json(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the next message, which must be a JSON object."""
        message = json.loads(self.read_message(timeout_s))
        if not isinstance(message, dict):
            raise BrokenServer(f"no object: {message!r}")
        return message

    def read_message(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the next text message; raises Closed, or TimeoutError."""
        deadline = time.monotonic() + timeout_s
        parts: list[bytes] = []
        is_compressed = False
        while True:
            opcode, payload, is_final, reserved = self.read_frame(deadline - time.monotonic())
            if opcode == CLOSE:
                raise _closed(payload)
            if opcode == PING:
                self.pings += 1
                if self.answers_pings:
                    self.send(frame(PONG, payload))
                continue
            if opcode == PONG:
                self.pongs.append(payload)
                continue
            if opcode == BINARY or (opcode == CONTINUATION) != bool(parts):
                raise BrokenServer(f"opcode {opcode} after {len(parts)} fragments")
            if reserved and parts:
                raise BrokenServer("a reserved bit in a continuation")
            is_compressed = is_compressed or bool(reserved)
            parts.append(payload)
            if is_final:
                message = b"".join(parts)
                if is_compressed:
                    self.compressed += 1
                    message = self._inflate(message)
                message.decode("utf-8")
                return message

    def read_pong(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the payload of the next pong; what comes before it is dropped."""
        deadline = time.monotonic() + timeout_s
        while not self.pongs:
            found = self.read_frame(deadline - time.monotonic())
            if found.opcode == CLOSE:
                raise _closed(found.payload)
            if found.opcode == PONG:
                return found.payload
        return self.pongs.pop(0)

    def read_frame(self, timeout_s: float = TIMEOUT_S) -> Frame:
        """Return the next frame; raises BrokenServer, TimeoutError, or Closed without a code at the end of all."""
        deadline = time.monotonic() + timeout_s
        first, second = self._read(2, deadline)
        length = second & 0x7F
        width = {126: 2, 127: 8}.get(length, 0)
        if width:
            length = int.from_bytes(self._read(width, deadline), "big")
        opcode, reserved, is_final = first & 0x0F, first >> 4 & 7, bool(first & 0x80)
        if second & 0x80:
            raise BrokenServer("a mask")
        if (width == 2 and length < 126) or (width == 8 and length < 1 << 16):
            raise BrokenServer(f"{length} in {width} bytes")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise BrokenServer(f"opcode {opcode}")
        if opcode >= CLOSE and (length > _CONTROL_BYTES or not is_final or reserved):
            raise BrokenServer(f"a control frame of {length} bytes, final: {is_final}, reserved: {reserved}")
        if reserved and (reserved != 4 or self._window_bits is None):
            raise BrokenServer(f"reserved bits {reserved}")
        return Frame(opcode, self._read(length, deadline), is_final, reserved)

    def close_frame(self, timeout_s: float = TIMEOUT_S) -> Closed:
        """Return what the server's close frame says, without an answer to it; what comes before is dropped."""
        deadline = time.monotonic() + timeout_s
        while (found := self.read_frame(deadline - time.monotonic())).opcode != CLOSE:
            pass
        return _closed(found.payload)

    def ending(self, timeout_s: float = TIMEOUT_S) -> Closed:
        """Return how the server closes: what comes before is dropped, its close frame answered, the end waited for.

        Raises TimeoutError if the server does not close, or leaves the connection open after that.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found = self.read_frame(deadline - time.monotonic())
            except Closed as closed:
                return closed
            if found.opcode == CLOSE:
                break
            if found.opcode == PING and self.answers_pings:
                self.send(frame(PONG, found.payload))
        try:
            self.send(frame(CLOSE, found.payload[:2]))
            if rest := self.rest(deadline - time.monotonic()):
                raise BrokenServer(f"{rest[:100]!r} after the close frame")
        except ConnectionError:
            pass
        return _closed(found.payload)

    def rest(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return all bytes until the server ends the connection; raises TimeoutError if it does not."""
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._receive(deadline)
        except Closed:
            found, self._received = self._received, b""
            return found

    def is_silent(self, for_s: float) -> bool:
        """Return whether nothing at all comes for so long."""
        try:
            self._receive(time.monotonic() + for_s)
        except TimeoutError:
            return True
        except Closed:
            return False
        return False

    def finish_sending(self) -> None:
        """End our side of the connection, and leave the other open."""
        self._stream.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """End the connection without a word."""
        self._stream.close()

    def reset(self) -> None:
        """End the connection with a reset."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.close()

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _read(self, size: int, deadline: float) -> bytes:
        while len(self._received) < size:
            self._receive(deadline)
        data, self._received = self._received[:size], self._received[size:]
        return data

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._stream.settimeout(left)
        try:
            data = self._stream.recv(1 << 18)
        except ConnectionError:
            data = b""
        finally:
            self._stream.settimeout(TIMEOUT_S)
        if not data:
            raise Closed(None)
        self._received += data

    def _inflate(self, message: bytes) -> bytes:
        assert self._window_bits is not None
        inflater = zlib.decompressobj(-self._window_bits)
        try:
            return inflater.decompress(message + DEFLATE_TAIL)
        except zlib.error as fault:
            raise BrokenServer(f"cannot be inflated with the agreed window: {fault}") from fault


def extension_parameters(header: str) -> dict[str, str | None]:
    """Return the parameters of the one extension that a server agreed to, which must be permessage-deflate."""
    name, *parameters = [part.strip() for part in header.split(";")]
    if name != "permessage-deflate" or "," in header:
        raise BrokenServer(f"agreed to {header}")
    found: dict[str, str | None] = {}
    for parameter in parameters:
        key, has_value, value = parameter.partition("=")
        if key in found:
            raise BrokenServer(f"twice: {header}")
        found[key] = value.strip('"') if has_value else None
    return found


def _closed(payload: bytes) -> Closed:
    if len(payload) == 1:
        raise BrokenServer("a close frame of one byte")
    if not payload:
        return Closed(1005)
    return Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8"))
