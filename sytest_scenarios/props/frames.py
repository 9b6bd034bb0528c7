"""The WebSocket of docs/stream.md frame by frame, for what no WebSocket library says.

    async with Framed(bob) as stream:
        stream.send_frame(TEXT, b"half of it", last=False)
        code, reason = await stream.closing()

Spec: RFC 6455 (WebSocket), RFC 7692 (compression).
"""

from __future__ import annotations

import base64
import json
import secrets
import struct
import zlib
from typing import Any, Final

from ..actors import User
from ..asking import JsonObject
from ..expect import Failed, Refused, shown
from ..http import Answer, url_of
from ..stream import PATH
from .wire import WAIT_S, Wire

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10


class Framed:
    """One WebSocket; `headers` are added to the request that opens it."""

    def __init__(
        self, user: User, *, token: bool = True, headers: dict[str, str] | None = None, **parameters: Any
    ) -> None:
        self.user = user
        self.wire = Wire(user.server)
        self._path = url_of("", PATH, parameters)
        self._headers = {
            "Host": f"{self.wire.place.host}:{self.wire.place.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
            "Sec-WebSocket-Protocol": "m.json",
            **({"Authorization": f"Bearer {user.token}"} if token else {}),
            **(headers or {}),
        }
        self.opened: Answer | None = None
        """The answer to the request that opened it."""

    async def __aenter__(self) -> Framed:
        """Open it; Refused if the server answers with another status than 101."""
        await self.wire.open()
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        self.wire.send(f"GET {self._path} HTTP/1.1\r\n{lines}\r\n".encode())
        self.opened = await self.wire.answer()
        if self.opened.status != 101:
            came = f"{self.opened.status} {shown(self.opened.body.decode(errors='replace'))}"
            raise Refused(
                "the WebSocket to open", came, status=self.opened.status, errcode=self.opened.errcode, body=None
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut it off."""
        self.wire.close()

    def send_frame(self, opcode: int, payload: bytes, *, last: bool = True, masked: bool = True) -> None:
        """Send a frame."""
        size = len(payload)
        head = bytes([(0x80 if last else 0) | opcode])
        mask_bit = 0x80 if masked else 0
        if size < 126:
            head += bytes([mask_bit | size])
        elif size < 65_536:
            head += bytes([mask_bit | 126]) + struct.pack(">H", size)
        else:
            head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
        # A mask of zeros is one, too, and leaves the payload readable in the report.
        self.wire.send(head + (bytes(4) if masked else b"") + payload)

    def request(self, request_id: str, method: str, **params: Any) -> None:
        """Send a request; the answer comes by `answer`."""
        self.send_frame(TEXT, json.dumps({"id": request_id, "method": method, "params": params}).encode())

    async def frame(self, *, within_s: float = WAIT_S) -> tuple[int, bytes, bool]:
        """Take a frame: opcode, payload, and whether it is compressed."""
        return await self.wire.until("a frame", self._take_frame, within_s=within_s)

    async def frame_of(self, opcode: int, *, within_s: float = WAIT_S) -> bytes:
        """Take frames until one of this kind comes, and return its payload."""
        while True:
            found, payload, compressed = await self.frame(within_s=within_s)
            if found == opcode:
                return decompressed(payload) if compressed else payload
            if found == CLOSE:
                raise Failed(f"a frame of kind {opcode}", f"a close with {_close(payload)}")

    async def message(self, *, within_s: float = WAIT_S) -> JsonObject:
        """Take the next message: an update or an answer."""
        found = json.loads(await self.frame_of(TEXT, within_s=within_s))
        if not isinstance(found, dict):
            raise Failed("a JSON object on the stream", shown(found))
        return found

    async def answer(self, request_id: str | None) -> JsonObject:
        """Take messages until the answer to this request."""
        while True:
            found = await self.message()
            if "next_batch" not in found and found.get("id") == request_id:
                return found

    async def closing(self, *, within_s: float = WAIT_S) -> tuple[int, str]:
        """Wait for the close frame, answer it, and return its code and the reason."""
        while True:
            opcode, payload, _ = await self.frame(within_s=within_s)
            if opcode == CLOSE:
                self.send_frame(CLOSE, payload[:2])
                return _close(payload)

    def _take_frame(self) -> tuple[int, bytes, bool] | None:
        found = self.wire.received
        if len(found) < 2:
            return None
        size, begin = found[1] & 0x7F, 2
        if size >= 126:
            begin = 4 if size == 126 else 10
            if len(found) < begin:
                return None
            size = int.from_bytes(found[2:begin], "big")
        if len(found) < begin + size:
            return None
        opcode, compressed = found[0] & 0x0F, bool(found[0] & 0x40)
        payload = bytes(found[begin : begin + size])
        del found[: begin + size]
        return opcode, payload, compressed


def decompressed(payload: bytes) -> bytes:
    """Return what was compressed without context takeover."""
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def _close(payload: bytes) -> tuple[int, str]:
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
    return code, payload[2:].decode("utf-8", "replace")
