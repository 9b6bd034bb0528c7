"""What lower floors need from upper ones: other servers, their keys, and the way out to them.

`federation` implements these; rooms, users and media are handed them. A server without federation has `None` in their
place, or an implementation that refuses.

PDUs pass here as the bytes that came: nobody may read them as events but `rooms.inbound`, the one gate.

Spec: server-server API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomAlias, RoomID, UserID
from homeserver.model.server_keys import ServerKeys

PDU = bytes
"""One event as JSON, as another server sent it; not checked in any way."""


@dataclass(frozen=True, slots=True)
class MembershipTemplate:
    """What `make_join`, `make_leave` or `make_knock` answered: not to be trusted, and never signed as it is."""

    room_version: str
    event: JsonObject


@dataclass(frozen=True, slots=True)
class SendJoinAnswer:
    """What `send_join` answered. `event` is the join as the resident signed it, where it did."""

    event: PDU | None
    state: Sequence[PDU]
    auth_chain: Sequence[PDU]
    members_omitted: bool
    servers_in_room: Sequence[str]


@dataclass(frozen=True, slots=True)
class StateAnswer:
    """The state before an event, and what it rests on."""

    state: Sequence[PDU]
    auth_chain: Sequence[PDU]


@dataclass(frozen=True, slots=True)
class StateIDsAnswer:
    """The same by IDs."""

    state_ids: Sequence[EventID]
    auth_chain_ids: Sequence[EventID]


@dataclass(frozen=True, slots=True)
class DirectoryAnswer:
    """Where an alias leads."""

    room_id: RoomID
    servers: Sequence[str]


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event of another server's timeline, found by time."""

    event_id: EventID
    origin_server_ts: int


@dataclass(frozen=True, slots=True)
class RemoteMedia:
    """A file of another server, whole: `path` is a file that the caller may move away or must delete."""

    path: str
    length: int
    content_type: str | None
    content_disposition: str | None


class KeySource(Protocol):
    """Knows the signing keys of other servers, and fetches them."""

    async def keys_of(
        self, wanted: Mapping[str, int], *, key_ids: Mapping[str, frozenset[str]]
    ) -> Mapping[str, ServerKeys]:
        """Return what is known of the keys of these servers; who has none that can be had is missing.

        `wanted`: server name -> the time (`origin_server_ts`) at which a key has to be valid; `key_ids` by server: the
        keys that matter. Fetched where what is known does not do. Never raises for a server that fails.
        """
        ...


class RemoteServers(Protocol):
    """Asks other servers. Each call raises RemoteError (unreachable, refused, protocol) and nothing else.

    `server` is a server name. `RemoteRefused` carries the other server's status and errcode.
    """

    async def make_join(
        self, server: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate: ...
    async def send_join(
        self, server: str, room_id: RoomID, event_id: EventID, event: JsonObject, *, omit_members: bool
    ) -> SendJoinAnswer: ...
    async def make_leave(self, server: str, room_id: RoomID, user_id: UserID) -> MembershipTemplate: ...
    async def send_leave(self, server: str, room_id: RoomID, event_id: EventID, event: JsonObject) -> None: ...
    async def make_knock(
        self, server: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate: ...
    async def send_knock(self, server: str, room_id: RoomID, event_id: EventID, event: JsonObject) -> Sequence[Any]:
        """Return the stripped state that the room shows to who knocks, as it came."""
        ...

    async def invite(
        self,
        server: str,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        room_version: str,
        stripped: Sequence[JsonObject],
    ) -> PDU:
        """Return the invite as the invited user's server signed it (version 2, else version 1 of the endpoint)."""
        ...

    async def exchange_third_party_invite(self, server: str, room_id: RoomID, event: JsonObject) -> None: ...

    async def get_event(self, server: str, event_id: EventID) -> PDU: ...
    async def get_missing_events(
        self,
        server: str,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
        min_depth: int = 0,
    ) -> Sequence[PDU]: ...
    async def backfill(
        self, server: str, room_id: RoomID, *, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[PDU]: ...
    async def get_state(self, server: str, room_id: RoomID, event_id: EventID) -> StateAnswer: ...
    async def get_state_ids(self, server: str, room_id: RoomID, event_id: EventID) -> StateIDsAnswer: ...
    async def get_event_auth(self, server: str, room_id: RoomID, event_id: EventID) -> Sequence[PDU]: ...
    async def timestamp_to_event(self, server: str, room_id: RoomID, ts: int, *, backwards: bool) -> TimedEvent: ...

    async def query_directory(self, server: str, alias: RoomAlias) -> DirectoryAnswer: ...
    async def query_profile(self, server: str, user_id: UserID, field: str | None = None) -> JsonObject: ...
    async def public_rooms(self, server: str, body: JsonObject) -> JsonObject:
        """Ask by POST with this body (limit, since, filter, include_all_networks, third_party_instance_id)."""
        ...

    async def hierarchy(self, server: str, room_id: RoomID, *, suggested_only: bool) -> JsonObject: ...
    async def user_devices(self, server: str, user_id: UserID) -> JsonObject: ...
    async def keys_query(self, server: str, device_keys: JsonObject, *, timeout_s: float) -> JsonObject: ...
    async def keys_claim(self, server: str, one_time_keys: JsonObject, *, timeout_s: float) -> JsonObject: ...
    async def ask_policy_server(self, server: str, event: JsonObject) -> JsonObject:
        """Return the signatures object that the policy server answered."""
        ...

    async def download_media(
        self, server: str, media_id: str, *, max_bytes: int, timeout_s: float, folder: str
    ) -> RemoteMedia:
        """Fetch into a new file in `folder`; falls back to the endpoints without authentication for old servers."""
        ...


class EduOutbox(Protocol):
    """The way out for EDUs."""

    def send(self, destinations: Iterable[str], kind: str, content: JsonObject, *, key: str | None = None) -> None:
        """Queue an EDU in memory; of two with the same `key` that still wait, the later one is sent alone."""
        ...

    def wake(self, destinations: Iterable[str]) -> None:
        """Something durable (a row of `outbox_edus`) waits for these servers."""
        ...


@dataclass(frozen=True, slots=True)
class NoEdus:
    """The way out of a server that does not federate."""

    sent: tuple[()] = field(default=())

    def send(self, destinations: Iterable[str], kind: str, content: JsonObject, *, key: str | None = None) -> None:
        """Send nothing."""

    def wake(self, destinations: Iterable[str]) -> None:
        """Send nothing."""
