"""What other servers answer, read into the values of `homeserver.ports`.

Events are cut out of an answer as the bytes that they are and never read here: whoever checks them reads them, once.
The bytes of a large answer are not copied either; each event is cut out when it is asked for.

Anything of another shape is a `RemoteProtocolError`; what is too much is left out where that is harmless.

Spec: server-server API, the responses of its endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import msgspec

from homeserver.errors import BadIdentifier, RemoteProtocolError
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomID, ServerName
from homeserver.ports import (
    PDU,
    DirectoryAnswer,
    MembershipTemplate,
    SendJoinAnswer,
    StateAnswer,
    StateIDsAnswer,
    TimedEvent,
)
from homeserver.runtime.outgoing import Body

from .transport import json_object

T = TypeVar("T")

# LIMIT: server names that are taken from an answer.
MAX_DIRECTORY_SERVERS = 100
MAX_SERVERS_IN_ROOM = 50_000
MAX_ROOM_VERSION_CHARACTERS = 32


class PDUs(Sequence[PDU]):
    """Events in the answer that they came in; cut out when they are asked for."""

    __slots__ = ("_raws",)

    def __init__(self, raws: Sequence[msgspec.Raw]) -> None:
        self._raws = raws

    @overload
    def __getitem__(self, index: int) -> PDU: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PDU]: ...
    def __getitem__(self, index: int | slice) -> PDU | Sequence[PDU]:
        if isinstance(index, slice):
            return PDUs(self._raws[index])
        return bytes(self._raws[index])

    def __len__(self) -> int:
        return len(self._raws)


class _Event(msgspec.Struct):
    event: msgspec.Raw


class _Transaction(msgspec.Struct):
    pdus: list[msgspec.Raw]


class _Events(msgspec.Struct):
    events: list[msgspec.Raw]


class _AuthChain(msgspec.Struct):
    auth_chain: list[msgspec.Raw]


class _State(msgspec.Struct):
    pdus: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]


class _StateIDs(msgspec.Struct):
    pdu_ids: list[str]
    auth_chain_ids: list[str]


class _Join(msgspec.Struct):
    state: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]
    event: msgspec.Raw = msgspec.Raw()
    members_omitted: bool | None = None
    servers_in_room: list[str] | None = None


_EVENT = msgspec.json.Decoder(_Event)
_EVENT_V1 = msgspec.json.Decoder(tuple[int, _Event])
_TRANSACTION = msgspec.json.Decoder(_Transaction)
_EVENTS = msgspec.json.Decoder(_Events)
_AUTH_CHAIN = msgspec.json.Decoder(_AuthChain)
_STATE = msgspec.json.Decoder(_State)
_STATE_IDS = msgspec.json.Decoder(_StateIDs)
_JOIN = msgspec.json.Decoder(_Join)
_JOIN_V1 = msgspec.json.Decoder(tuple[int, _Join])


def read_template(server: str, body: Body, *, default_version: str | None) -> MembershipTemplate:
    """Read the answer of make_join, make_leave and make_knock; the version is left out for rooms of version 1."""
    wire = json_object(server, body)
    version = wire.get("room_version", default_version)
    event = wire.get("event")
    if not isinstance(version, str) or len(version) > MAX_ROOM_VERSION_CHARACTERS or not isinstance(event, dict):
        raise RemoteProtocolError(server, "the answer is no template of an event")
    return MembershipTemplate(version, event)


def read_join(server: str, body: Body, *, is_v1: bool) -> SendJoinAnswer:
    """Read the answer of send_join, version 2 or 1."""
    found = _decoded(server, _JOIN_V1, body)[1] if is_v1 else _decoded(server, _JOIN, body)
    # `null` is what some servers write where there is nothing; it is cut out like anything else.
    event = None if bytes(found.event) in (b"", b"null") else bytes(found.event)
    servers = _server_names(found.servers_in_room or [], MAX_SERVERS_IN_ROOM)
    omitted = bool(found.members_omitted)
    return SendJoinAnswer(event, PDUs(found.state), PDUs(found.auth_chain), omitted, servers)


def read_invite(server: str, body: Body, *, is_v1: bool) -> PDU:
    """Read the answer of an invite, version 2 or 1."""
    return bytes((_decoded(server, _EVENT_V1, body)[1] if is_v1 else _decoded(server, _EVENT, body)).event)


def read_one_event(server: str, body: Body) -> PDU:
    """Read the answer of `/event`: a transaction of one event."""
    pdus = _decoded(server, _TRANSACTION, body).pdus
    if len(pdus) != 1:
        raise RemoteProtocolError(server, "the answer should be one event")
    return bytes(pdus[0])


def read_transaction(server: str, body: Body, limit: int) -> PDUs:
    """Read the answer of `/backfill`; of more than was asked for, the first."""
    return PDUs(_decoded(server, _TRANSACTION, body).pdus[:limit])


def read_missing(server: str, body: Body, limit: int) -> PDUs:
    """Read the answer of `/get_missing_events`; of more than was asked for, the last, which are the newest."""
    events = _decoded(server, _EVENTS, body).events
    return PDUs(events[-limit:] if limit else [])


def read_auth_chain(server: str, body: Body) -> PDUs:
    """Read the answer of `/event_auth`."""
    return PDUs(_decoded(server, _AUTH_CHAIN, body).auth_chain)


def read_state(server: str, body: Body) -> StateAnswer:
    """Read the answer of `/state`."""
    found = _decoded(server, _STATE, body)
    return StateAnswer(PDUs(found.pdus), PDUs(found.auth_chain))


def read_state_ids(server: str, body: Body) -> StateIDsAnswer:
    """Read the answer of `/state_ids`."""
    found = _decoded(server, _STATE_IDS, body)
    return StateIDsAnswer(_event_ids(server, found.pdu_ids), _event_ids(server, found.auth_chain_ids))


def read_timed_event(server: str, body: Body) -> TimedEvent:
    """Read the answer of `/timestamp_to_event`."""
    wire = json_object(server, body)
    ts = wire.get("origin_server_ts")
    if type(ts) is not int or not 0 <= ts < 2**53:
        raise RemoteProtocolError(server, "the answer has no time")
    return TimedEvent(_event_ids(server, [wire.get("event_id")])[0], ts)


def read_directory(server: str, body: Body) -> DirectoryAnswer:
    """Read the answer of `/query/directory`."""
    wire = json_object(server, body)
    servers = wire.get("servers")
    try:
        room_id = RoomID.parse(wire.get("room_id", ""))
    except BadIdentifier as fault:
        raise RemoteProtocolError(server, "the answer names no room") from fault
    if not isinstance(servers, list):
        raise RemoteProtocolError(server, "the answer names no servers")
    return DirectoryAnswer(room_id, _server_names(servers, MAX_DIRECTORY_SERVERS))


def read_knock(server: str, body: Body) -> Sequence[Any]:
    """Read the answer of send_knock: the stripped state, as it came."""
    state = json_object(server, body).get("knock_room_state")
    if not isinstance(state, list):
        raise RemoteProtocolError(server, "the answer has no state of the room")
    return state


def read_object(server: str, body: Body, *needed: str) -> JsonObject:
    """Read an answer whose parts are read by who asks; those that are `needed` are objects."""
    wire = json_object(server, body)
    if not all(isinstance(wire.get(name), dict) for name in needed):
        raise RemoteProtocolError(server, f"the answer has no {' and no '.join(needed)}")
    return wire


def _decoded(server: str, decoder: msgspec.json.Decoder[T], body: Body) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as fault:
        raise RemoteProtocolError(server, f"the answer has another shape: {str(fault)[:200]}") from fault


def _event_ids(server: str, texts: Sequence[Any]) -> tuple[EventID, ...]:
    try:
        return tuple([EventID.parse(text) for text in texts])
    except BadIdentifier as fault:
        raise RemoteProtocolError(server, "the answer has an event ID that is none") from fault


def _server_names(texts: Sequence[object], limit: int) -> tuple[ServerName, ...]:
    """Return those that are server names, each once."""
    found: dict[ServerName, None] = {}
    for text in texts[:limit]:
        try:
            found[ServerName.parse(text)] = None  # type: ignore[arg-type]
        except BadIdentifier:
            continue
    return tuple(found)
