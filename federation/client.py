"""What this server asks of others: one method for each endpoint; implements `homeserver.ports.RemoteServers`.

A method builds the path, knows how large an answer may be, and has it read (`federation.answers`). Where a newer
version of an endpoint is not known to a server, the older one is tried.

Spec: server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room", "Inviting to a room", "Backfilling
and retrieving missing events", "Retrieving events", "Querying for information", "Device Management", "End-to-End
Encryption", "Content Repository", "Policy Servers".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from homeserver.errors import RemoteProtocolError, RemoteRefused
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomAlias, RoomID, UserID
from homeserver.ports import (
    PDU,
    DirectoryAnswer,
    MembershipTemplate,
    RemoteMedia,
    SendJoinAnswer,
    StateAnswer,
    StateIDsAnswer,
    TimedEvent,
)
from homeserver.runtime.outgoing import Body

from . import answers
from .remote_media import RemoteFiles, is_unknown_endpoint
from .transport import FederationTransport

# LIMIT: of answers. One event has at most 64 KiB, with what JSON adds to it.
EVENT_BYTES: Final = 256 * 1024
EVENTS_BYTES: Final = 16 * 1024 * 1024
# The state of a room of some hundred thousand members.
STATE_BYTES: Final = 256 * 1024 * 1024
STATE_IDS_BYTES: Final = 32 * 1024 * 1024
SMALL_BYTES: Final = 256 * 1024
LISTS_BYTES: Final = 8 * 1024 * 1024

_V1: Final = "/_matrix/federation/v1"
_V2: Final = "/_matrix/federation/v2"
# Spec: "Inviting to a room": version 1 of the endpoint knows rooms of these versions only.
_OLD_INVITE_VERSIONS: Final = frozenset({"1", "2"})


class FederationClient:
    """Asks other servers; every method raises RemoteError and nothing else for what they do."""

    def __init__(self, transport: FederationTransport, files: RemoteFiles) -> None:
        self._transport = transport
        self._files = files

    # -- memberships -------------------------------------------------------------------------------------------------

    async def make_join(
        self, server: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate:
        query = [("ver", version) for version in versions]
        body = await self._get(server, _path(_V1, "make_join", room_id, user_id, query=query), EVENT_BYTES)
        return answers.read_template(server, body, default_version="1")

    async def send_join(
        self, server: str, room_id: RoomID, event_id: EventID, event: JsonObject, *, omit_members: bool
    ) -> SendJoinAnswer:
        query = [("omit_members", "true" if omit_members else "false")]
        body, is_v1 = await self._put_either(server, "send_join", room_id, event_id, event, query, STATE_BYTES)
        return answers.read_join(server, body, is_v1=is_v1)

    async def make_leave(self, server: str, room_id: RoomID, user_id: UserID) -> MembershipTemplate:
        body = await self._get(server, _path(_V1, "make_leave", room_id, user_id), EVENT_BYTES)
        return answers.read_template(server, body, default_version="1")

    async def send_leave(self, server: str, room_id: RoomID, event_id: EventID, event: JsonObject) -> None:
        await self._put_either(server, "send_leave", room_id, event_id, event, [], SMALL_BYTES)

    async def make_knock(
        self, server: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate:
        query = [("ver", version) for version in versions]
        body = await self._get(server, _path(_V1, "make_knock", room_id, user_id, query=query), EVENT_BYTES)
        return answers.read_template(server, body, default_version=None)

    async def send_knock(self, server: str, room_id: RoomID, event_id: EventID, event: JsonObject) -> Sequence[Any]:
        body = await self._ask(server, "PUT", _path(_V1, "send_knock", room_id, event_id), event, LISTS_BYTES)
        return answers.read_knock(server, body)

    async def invite(
        self,
        server: str,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        room_version: str,
        stripped: Sequence[JsonObject],
    ) -> PDU:
        wire = {"event": event, "room_version": room_version, "invite_room_state": list(stripped)}
        try:
            body = await self._ask(server, "PUT", _path(_V2, "invite", room_id, event_id), wire, EVENT_BYTES)
        except RemoteRefused as refusal:
            if not is_unknown_endpoint(refusal) or room_version not in _OLD_INVITE_VERSIONS:
                raise
        else:
            return answers.read_invite(server, body, is_v1=False)
        unsigned = event.get("unsigned")
        told = {**(unsigned if isinstance(unsigned, dict) else {}), "invite_room_state": list(stripped)}
        old = {**event, "unsigned": told}
        body = await self._ask(server, "PUT", _path(_V1, "invite", room_id, event_id), old, EVENT_BYTES)
        return answers.read_invite(server, body, is_v1=True)

    async def exchange_third_party_invite(self, server: str, room_id: RoomID, event: JsonObject) -> None:
        await self._ask(server, "PUT", _path(_V1, "exchange_third_party_invite", room_id), event, SMALL_BYTES)

    # -- events ------------------------------------------------------------------------------------------------------

    async def get_event(self, server: str, event_id: EventID) -> PDU:
        return answers.read_one_event(server, await self._get(server, _path(_V1, "event", event_id), EVENT_BYTES))

    async def get_missing_events(
        self,
        server: str,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
        min_depth: int = 0,
    ) -> Sequence[PDU]:
        wire = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        body = await self._ask(server, "POST", _path(_V1, "get_missing_events", room_id), wire, EVENTS_BYTES)
        return answers.read_missing(server, body, limit)

    async def backfill(
        self, server: str, room_id: RoomID, *, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[PDU]:
        query = [*(("v", event_id) for event_id in event_ids), ("limit", str(limit))]
        body = await self._get(server, _path(_V1, "backfill", room_id, query=query), EVENTS_BYTES)
        return answers.read_transaction(server, body, limit)

    async def get_state(self, server: str, room_id: RoomID, event_id: EventID) -> StateAnswer:
        target = _path(_V1, "state", room_id, query=[("event_id", event_id)])
        return answers.read_state(server, await self._get(server, target, STATE_BYTES))

    async def get_state_ids(self, server: str, room_id: RoomID, event_id: EventID) -> StateIDsAnswer:
        target = _path(_V1, "state_ids", room_id, query=[("event_id", event_id)])
        return answers.read_state_ids(server, await self._get(server, target, STATE_IDS_BYTES))

    async def get_event_auth(self, server: str, room_id: RoomID, event_id: EventID) -> Sequence[PDU]:
        body = await self._get(server, _path(_V1, "event_auth", room_id, event_id), EVENTS_BYTES)
        return answers.read_auth_chain(server, body)

    async def timestamp_to_event(self, server: str, room_id: RoomID, ts: int, *, backwards: bool) -> TimedEvent:
        query = [("ts", str(ts)), ("dir", "b" if backwards else "f")]
        body = await self._get(server, _path(_V1, "timestamp_to_event", room_id, query=query), SMALL_BYTES)
        return answers.read_timed_event(server, body)

    # -- queries -----------------------------------------------------------------------------------------------------

    async def query_directory(self, server: str, alias: RoomAlias) -> DirectoryAnswer:
        target = _path(_V1, "query", "directory", query=[("room_alias", alias)])
        return answers.read_directory(server, await self._get(server, target, SMALL_BYTES))

    async def query_profile(self, server: str, user_id: UserID, field: str | None = None) -> JsonObject:
        query = [("user_id", str(user_id)), *([] if field is None else [("field", field)])]
        body = await self._get(server, _path(_V1, "query", "profile", query=query), SMALL_BYTES)
        return answers.read_object(server, body)

    async def public_rooms(self, server: str, body: JsonObject) -> JsonObject:
        return answers.read_object(
            server, await self._ask(server, "POST", _path(_V1, "publicRooms"), body, LISTS_BYTES)
        )

    async def hierarchy(self, server: str, room_id: RoomID, *, suggested_only: bool) -> JsonObject:
        query = [("suggested_only", "true" if suggested_only else "false")]
        body = await self._get(server, _path(_V1, "hierarchy", room_id, query=query), LISTS_BYTES)
        return answers.read_object(server, body, "room")

    async def user_devices(self, server: str, user_id: UserID) -> JsonObject:
        body = await self._get(server, _path(_V1, "user", "devices", user_id), LISTS_BYTES)
        found = answers.read_object(server, body)
        if not isinstance(found.get("devices"), list):
            # Taken for a list without devices, it would be kept, and nobody encrypt for that user any more.
            raise RemoteProtocolError(server, "the answer has no 'devices'")
        return found

    async def keys_query(self, server: str, device_keys: JsonObject, *, timeout_s: float) -> JsonObject:
        target, wire = _path(_V1, "user", "keys", "query"), {"device_keys": device_keys}
        body = await self._ask(server, "POST", target, wire, LISTS_BYTES, timeout_s=timeout_s)
        return answers.read_object(server, body, "device_keys")

    async def keys_claim(self, server: str, one_time_keys: JsonObject, *, timeout_s: float) -> JsonObject:
        target, wire = _path(_V1, "user", "keys", "claim"), {"one_time_keys": one_time_keys}
        body = await self._ask(server, "POST", target, wire, LISTS_BYTES, timeout_s=timeout_s)
        return answers.read_object(server, body, "one_time_keys")

    async def ask_policy_server(self, server: str, event: JsonObject) -> JsonObject:
        body = await self._ask(server, "POST", "/_matrix/policy/v1/sign", event, SMALL_BYTES)
        return answers.read_object(server, body)

    # -- files, versions ---------------------------------------------------------------------------------------------

    async def get_version(self, server: str) -> JsonObject:
        """Return what the server says of its software."""
        return answers.read_object(server, await self._get(server, _path(_V1, "version"), SMALL_BYTES))

    async def download_media(
        self, server: str, media_id: str, *, max_bytes: int, timeout_s: float, folder: str
    ) -> RemoteMedia:
        return await self._files.download(server, media_id, max_bytes=max_bytes, timeout_s=timeout_s, folder=folder)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _get(self, server: str, target: str, max_bytes: int) -> Body:
        answer = await self._transport.request(server, "GET", target, max_bytes=max_bytes)
        return answer.body

    async def _ask(
        self,
        server: str,
        method: str,
        target: str,
        wire: JsonObject,
        max_bytes: int,
        *,
        timeout_s: float | None = None,
    ) -> Body:
        answer = await self._transport.request(
            server, method, target, body=wire, max_bytes=max_bytes, timeout_s=timeout_s
        )
        return answer.body

    async def _put_either(
        self,
        server: str,
        name: str,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        query: Iterable[tuple[str, str]],
        max_bytes: int,
    ) -> tuple[Body, bool]:
        """Put by version 2 of an endpoint, else by version 1; return the answer and whether it was version 1."""
        try:
            return await self._ask(
                server, "PUT", _path(_V2, name, room_id, event_id, query=query), event, max_bytes
            ), False
        except RemoteRefused as refusal:
            if not is_unknown_endpoint(refusal):
                raise
        return await self._ask(server, "PUT", _path(_V1, name, room_id, event_id), event, max_bytes), True


def _path(*parts: str, query: Iterable[tuple[str, str]] = ()) -> str:
    """Return the request target: the first part as it is, the others percent-encoded, then the query."""
    prefix, *segments = parts
    path = "/".join((prefix, *(quote(segment, safe="") for segment in segments)))
    text = urlencode(list(query), quote_via=quote, safe="")
    return f"{path}?{text}" if text else path
