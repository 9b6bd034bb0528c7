"""What a handler answers with; nothing here knows a transport.

A handler returns a `Response`, a `FileResponse`, or a plain dict, which is a 200 with that JSON.  `TAKEN_OVER` says
that the handler has taken the connection for itself, as a WebSocket does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import orjson

from homeserver.model.event_json import dump_shown

JSON: Final = "application/json"

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Response:
    """A whole answer in memory.  `headers` are further ones; the content type and length are not among them."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        content_type: str = JSON,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.content_type} {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class FileResponse:
    """An answer of `length` bytes read from `file`, from where it stands; it is closed afterwards."""

    file: BinaryIO
    length: int
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


class TakenOver:
    """The connection is somebody else's now."""

    __slots__ = ()


TAKEN_OVER: Final = TakenOver()

Answer = Response | FileResponse | TakenOver
HandlerResult = Response | FileResponse | TakenOver | dict[str, Any]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> Response:
    """Return the JSON of `value`."""
    return Response(status, encode_json(value), JSON, headers)


def raw_json(body: bytes, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> Response:
    """Return JSON that is encoded already."""
    return Response(status, body, JSON, headers)


def encode_json(value: Any) -> bytes:
    """Return `value` as compact JSON; keys may be subclasses of str, and integers over 64 bits become floats."""
    try:
        return orjson.dumps(value)
    except TypeError:
        try:
            return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:
            # Events of old room versions may have integers of any size.
            return dump_shown(value)
