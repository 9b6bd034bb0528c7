"""Requests of the client-server API over HTTP/1.1: one connection each, as small as can be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from .wire import Address, parse_head

PREFIX: Final = "/_matrix/client/v3"
MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered."""

    status: int
    json: Any


async def request(
    address: Address,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    query: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> Answer:
    """Send a request; `path` is encoded already.  Raises OSError or TimeoutError where there is no whole answer."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=address.tls, limit=MAX_BYTES, server_hostname=None
        )
        try:
            data = b"" if body is None else json.dumps(body).encode()
            target = path + ("?" + urlencode(query, quote_via=quote) if query else "")
            head = [
                f"{method} {target} HTTP/1.1",
                f"Host: {address.host}",
                "Connection: close",
                "Content-Type: application/json",
                f"Content-Length: {len(data)}",
            ]
            if token is not None:
                head.append(f"Authorization: Bearer {token}")
            writer.write("\r\n".join([*head, "", ""]).encode() + data)
            await writer.drain()
            try:
                status, headers = parse_head((await reader.readuntil(b"\r\n\r\n"))[:-4])
                content = await reader.readexactly(int(headers["content-length"]))
            except (asyncio.IncompleteReadError, KeyError) as error:
                raise ConnectionResetError("no whole answer") from error
            return Answer(status, json.loads(content))
        finally:
            writer.transport.abort()


async def call(
    address: Address,
    token: str | None,
    method: str,
    path: str,
    body: Any = None,
    *,
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Do a request below /_matrix/client/v3 that must succeed."""
    answer = await request(address, method, PREFIX + path, body, token=token, query=query)
    assert answer.status == 200, (method, path, answer)
    assert isinstance(answer.json, dict)
    return answer.json


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


async def read_history(address: Address, token: str, room_id: str) -> list[dict[str, Any]]:
    """Return all events of a room that the user may see, oldest first."""
    found: list[dict[str, Any]] = []
    query = {"dir": "b", "limit": "100"}
    while True:
        path = f"/rooms/{segment(room_id)}/messages"
        answer = await call(address, token, "GET", path, query=query)
        found += answer["chunk"]
        if not answer["chunk"] or "end" not in answer:
            return found[::-1]
        query["from"] = answer["end"]
