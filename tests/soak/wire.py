"""The stream's wires as a client sees them, made by hand so that they can misbehave: WebSocket (RFC 6455) and lines.

Independent of the server's libraries and of `homeserver.streamclient`, and stricter than a client need be: what a
server must not send is an `AssertionError`. A socket can be read slowly, be left alone, and be cut with an RST.

    wire = await open_websocket(address, token="…", since="s12")       or open_lines
    await wire.send({"id": 1, "method": "ping"})
    message = await wire.receive()                                     raises Closed or OSError
    wire.abort()
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import socket
import ssl
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

PATH: Final = "/_matrix/client/unstable/stream"
# Every update fits: the server has a bound of its own, and this one is only against a server gone mad.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 65_536
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


@dataclass(frozen=True, slots=True)
class Address:
    """Where a port is; with `tls`, TLS is spoken there."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a socket is read: so many bytes, then a pause."""

    read_bytes: int
    pause_s: float


class Closed(Exception):
    """The server closed in order, with a code."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The opening request got another answer than 101; `body` is its JSON, {} if it has none."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body if isinstance(body, dict) else {}


class Wire(Protocol):
    """Carries messages."""

    channel: Channel

    async def send(self, message: Mapping[str, Any]) -> None: ...

    async def receive(self) -> dict[str, Any]:
        """Return the next message; raises Closed, or OSError where the connection was lost."""
        ...

    async def close(self) -> None:
        """Close in order."""
        ...

    def abort(self) -> None:
        """Cut the connection with an RST."""
        ...


class Channel:
    """A TCP or TLS connection whose reading can be slowed down (`pace`) or stopped (`thaw` cleared)."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, host: str) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host) if tls is not None else None
        self._writing = asyncio.Lock()
        self.pace: Pace | None = None
        self.thaw = asyncio.Event()
        self.thaw.set()
        self.received_bytes = 0

    @classmethod
    async def open(cls, address: Address, *, receive_buffer: int | None = None, timeout_s: float = 15) -> Channel:
        """Connect; `receive_buffer` is SO_RCVBUF."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
                channel = cls(sock, address.tls, address.host)
                await channel._shake_hands()
                return channel
        except BaseException:
            sock.close()
            raise

    async def _shake_hands(self) -> None:
        while self._tls is not None:
            try:
                self._tls.do_handshake()
                await self._flush()
                return
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()

    async def read(self) -> bytes:
        """Return some bytes, none at the end."""
        while True:
            await self.thaw.wait()
            if self._tls is None:
                return await self._take()
            try:
                return self._tls.read(CHUNK_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        if self._tls is None:
            async with self._writing:
                await self._loop.sock_sendall(self._sock, data)
        else:
            self._tls.write(data)
            await self._flush()

    def abort(self) -> None:
        """Close with an RST; whoever reads or writes must have been cancelled."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close; whoever reads or writes must have been cancelled."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()

    async def _take(self) -> bytes:
        if self.pace is not None:
            await asyncio.sleep(self.pace.pause_s)
        await self.thaw.wait()
        size = self.pace.read_bytes if self.pace is not None else CHUNK_BYTES
        data = await self._loop.sock_recv(self._sock, size)
        self.received_bytes += len(data)
        return data

    async def _feed(self) -> None:
        data = await self._take()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        async with self._writing:
            data = self._outgoing.read()
            if data:
                await self._loop.sock_sendall(self._sock, data)


class WebSocket:
    """The client's end of a WebSocket that is open."""

    def __init__(self, channel: Channel, buffered: bytes, extensions: str, *, rng: random.Random) -> None:
        self.channel = channel
        self._buffer = bytearray(buffered)
        # Unless the server promised to begin each message anew, one may build on those before.
        self._inflater = zlib.decompressobj(-15) if extensions else None
        self._is_anew = "server_no_context_takeover" in extensions
        self._rng = rng
        self._parts: list[bytes] | None = None
        self._is_deflated = False

    async def send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message, ensure_ascii=self._rng.random() < 0.5).encode()
        if len(data) > 2 and self._rng.random() < 0.1:
            # In two parts, as the protocol allows.
            middle = self._rng.randrange(1, len(data))
            await self.channel.write(_frame(_TEXT, data[:middle], final=False) + _frame(0, data[middle:]))
        else:
            await self.channel.write(_frame(_TEXT, data))

    async def receive(self) -> dict[str, Any]:
        while True:
            final, deflated, opcode, data = await self._receive_frame()
            if opcode == _PING:
                await self.channel.write(_frame(_PONG, data))
            elif opcode == _CLOSE:
                await self.channel.write(_frame(_CLOSE, data[:2]))
                code = int.from_bytes(data[:2], "big") if data else None
                raise Closed(code, data[2:].decode())
            elif opcode != _PONG:
                if opcode == _TEXT:
                    assert self._parts is None, "a message begins within another"
                    self._parts, self._is_deflated = [], deflated
                else:
                    assert opcode == 0 and self._parts is not None and not deflated, f"an unexpected frame {opcode}"
                self._parts.append(data)
                if final:
                    whole, self._parts = b"".join(self._parts), None
                    if self._is_deflated:
                        whole = self._inflate(whole)
                    return parse(whole)

    async def close(self) -> None:
        await self.channel.write(_frame(_CLOSE, struct.pack(">H", 1000)))
        try:
            async with asyncio.timeout(5):
                # Whoever read before may have stopped within a frame.
                while await self.channel.read():
                    pass
        except (OSError, TimeoutError):
            pass
        self.channel.close()

    def abort(self) -> None:
        self.channel.abort()

    def _inflate(self, data: bytes) -> bytes:
        if self._is_anew:
            self._inflater = zlib.decompressobj(-15)
        assert self._inflater is not None
        return self._inflater.decompress(data + b"\x00\x00\xff\xff", MAX_MESSAGE_BYTES)

    async def _receive_frame(self) -> tuple[bool, bool, int, bytes]:
        first, second = await self._exactly(2)
        assert not first & 0x30, "reserved bits are set"
        assert not second & 0x80, "a server does not mask"
        deflated = bool(first & 0x40)
        assert self._inflater is not None or not deflated, "compressed, which was not agreed"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self._exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._exactly(8), "big")
        opcode = first & 0x0F
        assert size <= MAX_MESSAGE_BYTES, f"a frame of {size} bytes"
        assert opcode < 8 or (size <= 125 and first & 0x80), "a control frame that is too long, or in parts"
        return bool(first & 0x80), deflated, opcode, bytes(await self._exactly(size))

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self.channel.read()
            if not data:
                raise ConnectionResetError("the connection ended without a close")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


class Lines:
    """The client's end of a connection of lines."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._buffer = bytearray()

    async def send(self, message: Mapping[str, Any]) -> None:
        await self.channel.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end < 0:
                searched = len(self._buffer)
                assert searched <= MAX_MESSAGE_BYTES, "a line without end"
                data = await self.channel.read()
                if not data:
                    raise ConnectionResetError("the connection ended without a close")
                self._buffer += data
                continue
            message = parse(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
            searched = 0
            if message.get("method") == "ping":
                await self.send({"method": "pong"})
            elif "close" in message:
                raise Closed(message["close"].get("code"), f"{message['close'].get('errcode')}")
            else:
                return message

    async def close(self) -> None:
        self.channel.close()

    def abort(self) -> None:
        self.channel.abort()


async def open_websocket(
    address: Address,
    query: Mapping[str, str],
    *,
    token: str | None,
    deflate: bool = False,
    receive_buffer: int | None = None,
    rng: random.Random | None = None,
) -> WebSocket:
    """Open a WebSocket; `token` goes into the Authorization header, if any.  Raises Refused, OSError, TimeoutError."""
    channel = await Channel.open(address, receive_buffer=receive_buffer)
    try:
        async with asyncio.timeout(30):
            return await _upgrade(channel, address, query, token, deflate, rng or random.Random())
    except BaseException:
        channel.close()
        raise


async def open_lines(address: Address, *, receive_buffer: int | None = None) -> Lines:
    """Open a connection of lines.  Raises OSError, TimeoutError."""
    return Lines(await Channel.open(address, receive_buffer=receive_buffer))


def parse(data: bytes) -> dict[str, Any]:
    """Return a message of the server; it is one JSON object without line breaks."""
    assert b"\n" not in data and b"\r" not in data, "a message with a line break"
    message = json.loads(data.decode())
    assert isinstance(message, dict), "a message is no object"
    return message


async def _upgrade(
    channel: Channel, address: Address, query: Mapping[str, str], token: str | None, deflate: bool, rng: random.Random
) -> WebSocket:
    key = base64.b64encode(os.urandom(16))
    head = [
        f"GET {PATH}{'?' + urlencode(query, quote_via=quote) if query else ''} HTTP/1.1",
        f"Host: {address.host}:{address.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: m.json",
        f"Sec-WebSocket-Key: {key.decode()}",
    ]
    if token is not None:
        head.append(f"Authorization: Bearer {token}")
    if deflate:
        head.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    await channel.write("\r\n".join([*head, "", ""]).encode())
    received = b""
    while b"\r\n\r\n" not in received:
        data = await channel.read()
        if not data:
            raise ConnectionResetError("the connection ended within the answer")
        received += data
    answer, _, rest = received.partition(b"\r\n\r\n")
    status, headers = parse_head(answer)
    if status != 101:
        wanted = int(headers.get("content-length", "0"))
        while len(rest) < wanted and (data := await channel.read()):
            rest += data
        try:
            body = json.loads(rest)
        except ValueError:
            body = None
        raise Refused(status, body)
    expected = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    assert headers.get("sec-websocket-accept") == expected, headers
    assert headers.get("sec-websocket-protocol") == "m.json", headers
    extensions = headers.get("sec-websocket-extensions", "")
    assert not extensions or (deflate and "permessage-deflate" in extensions), extensions
    return WebSocket(channel, rest, extensions, rng=rng)


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers, by name in lower case, of an answer."""
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split(" ")[1]), headers


def _frame(opcode: int, data: bytes, *, final: bool = True) -> bytes:
    head = bytes([opcode | (0x80 if final else 0)])
    size = len(data)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return head + mask + masked
