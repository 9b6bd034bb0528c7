"""The methods of the stream that are endpoints of the client API in another dress.

A table says for each which route it is, and how its params become the arguments, body or query of that route. The
route's own handler does the rest, behind the same authentication and rate limits, so the two cannot drift apart.

docs/stream.md, "What the client sends".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.errors import InvalidParam
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_str, require_object, require_str

Params = Mapping[str, Any]

_ROOM: Final = "/_matrix/client/v3/rooms/{roomId}"


@dataclass(frozen=True, slots=True)
class Call:
    """What goes to a route: the arguments of its path, its body, its query."""

    args: dict[str, str]
    json: dict[str, Any] | None = None
    query: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Twin:
    """A method: the endpoint that it is, and what makes a call of (params, the request's id, the requester)."""

    http_method: str
    template: str
    call: Callable[[Params, str, Requester], Call]


def _send(params: Params, request_id: str, _: Requester) -> Call:
    args = {
        "roomId": require_str(params, "room_id"),
        "eventType": _event_type(params),
        "txnId": request_id,
    }
    return Call(args, require_object(params, "content"))


def _state(params: Params, _: str, __: Requester) -> Call:
    args = {
        "roomId": require_str(params, "room_id"),
        "eventType": _event_type(params),
        "stateKey": optional_str(params, "state_key") or "",
    }
    return Call(args, require_object(params, "content"))


def _redact(params: Params, request_id: str, _: Requester) -> Call:
    args = {
        "roomId": require_str(params, "room_id"),
        "eventId": require_str(params, "event_id"),
        "txnId": request_id,
    }
    return Call(args, _only(params, "reason"))


def _typing(params: Params, _: str, requester: Requester) -> Call:
    args = {"roomId": require_str(params, "room_id"), "userId": str(requester.user_id)}
    return Call(args, _only(params, "typing", "timeout"))


def _receipt(params: Params, _: str, __: Requester) -> Call:
    args = {
        "roomId": require_str(params, "room_id"),
        "eventId": require_str(params, "event_id"),
        "receiptType": optional_str(params, "receipt_type") or "m.read",
    }
    return Call(args, _only(params, "thread_id"))


def _read_markers(params: Params, _: str, __: Requester) -> Call:
    return Call({"roomId": require_str(params, "room_id")}, _only(params, "m.fully_read", "m.read", "m.read.private"))


def _presence(params: Params, _: str, requester: Requester) -> Call:
    return Call({"userId": str(requester.user_id)}, _only(params, "presence", "status_msg"))


def _messages(params: Params, _: str, __: Requester) -> Call:
    query: dict[str, str] = {}
    for name in ("dir", "from", "to"):
        value = optional_str(params, name)
        if value is not None:
            query[name] = value
    limit = params.get("limit")
    if limit is not None:
        if type(limit) is not int:
            raise InvalidParam("'limit' must be an integer")
        query["limit"] = str(limit)
    wanted = params.get("filter")
    if wanted is not None:
        query["filter"] = wanted if isinstance(wanted, str) else orjson.dumps(wanted).decode()
    return Call({"roomId": require_str(params, "room_id")}, query=query)


def _to_device(params: Params, request_id: str, _: Requester) -> Call:
    return Call({"eventType": _event_type(params), "txnId": request_id}, _only(params, "messages"))


def _event_type(params: Params) -> str:
    kind = require_str(params, "event_type")
    if not kind:
        # No path could say that.
        raise InvalidParam("'event_type' must not be empty")
    return kind


def _only(params: Params, *names: str) -> dict[str, Any]:
    return {name: params[name] for name in names if name in params}


TWINS: Final[Mapping[str, Twin]] = {
    "send": Twin("PUT", f"{_ROOM}/send/{{eventType}}/{{txnId}}", _send),
    "state": Twin("PUT", f"{_ROOM}/state/{{eventType}}/{{stateKey}}", _state),
    "redact": Twin("PUT", f"{_ROOM}/redact/{{eventId}}/{{txnId}}", _redact),
    "typing": Twin("PUT", f"{_ROOM}/typing/{{userId}}", _typing),
    "receipt": Twin("POST", f"{_ROOM}/receipt/{{receiptType}}/{{eventId}}", _receipt),
    "read_markers": Twin("POST", f"{_ROOM}/read_markers", _read_markers),
    "presence": Twin("PUT", "/_matrix/client/v3/presence/{userId}/status", _presence),
    "messages": Twin("GET", f"{_ROOM}/messages", _messages),
    "to_device": Twin("PUT", "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}", _to_device),
}
"""All such methods, by name."""
