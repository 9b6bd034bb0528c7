"""Clients of /sync that believe what they are told, and what a server really has, to compare.

A client keeps for each room the state and the timeline that it was told, as the spec says it may, and goes through the
history of a gap when the response was limited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from homeserver.feed.response import Streams, SyncRequest
from homeserver.feed.sync import Sync
from homeserver.feed.visible import Reader, see
from homeserver.model.filters import Filter
from homeserver.model.ids import RoomID
from homeserver.model.tokens import PaginationToken, StreamToken

from .rooms import Person, RoomServer
from .user_state import UserState


class NoBundles:
    """No event has anything related to it."""

    async def of(self, *_: Any) -> dict[int, bytes]:
        return {}


async def welcomes_invites(_user_nid: int) -> bool:
    """Nobody blocks invites."""
    return False


async def nobody_ignored(_user: Any) -> frozenset[str]:
    """Nobody is ignored."""
    return frozenset()


def sync_of(state: UserState) -> Sync:
    """Return the assembly of sync responses on the parts of a server."""
    server = state.server
    streams = Streams(
        ephemeral=(state.receipt_stream,),
        room_account_data=state.account_data_stream,
        account_data=state.account_data_stream,
        presence=state.account_data_stream,
        unread=state.unread,
        bundles=NoBundles(),
        ignored_users=nobody_ignored,
        blocks_invites=welcomes_invites,
    )
    return Sync(server.store, server.feed, server.timeline, server.clock, streams)


@dataclass
class ClientRoom:
    """A room as a client knows it: (type, state key) -> event ID, and the event IDs of the timeline."""

    state: dict[tuple[str, str], str] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    joined_count: int | None = None


@dataclass
class Client:
    """A device that syncs. `lazy` and `state_after` are what it asks for; `limit` of the timeline."""

    person: Person
    device_nid: int
    limit: int = 10
    lazy: bool = False
    redundant: bool = False
    state_after: bool = False
    types: list[str] | None = None
    token: int | None = None
    rooms: dict[str, ClientRoom] = field(default_factory=dict)
    invites: set[str] = field(default_factory=set)
    knocks: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)

    def filter(self) -> Filter:
        """Return the filter that the client syncs with."""
        timeline: dict[str, Any] = {"limit": self.limit}
        if self.types is not None:
            timeline["types"] = self.types
        state = {"lazy_load_members": self.lazy, "include_redundant_members": self.redundant}
        return Filter.parse({"room": {"timeline": timeline, "state": state}})

    def request(self, timeout_s: float = 0.0, full_state: bool = False) -> SyncRequest:
        """Return the client's next request."""
        return SyncRequest(
            user_id=self.person.user_id,
            user_nid=self.person.user_nid,
            device_nid=self.device_nid,
            since=self.token,
            filter=self.filter(),
            timeout_s=timeout_s,
            full_state=full_state,
            state_after="state_after" if self.state_after else None,
        )

    async def sync(self, sync: Sync, server: RoomServer, *, lose: bool = False) -> dict[str, Any]:
        """Sync once and believe the response, unless it is lost on the way."""
        response: dict[str, Any] = orjson.loads(await sync.respond(self.request()))
        if not lose:
            await self.take(response, server)
        return response

    async def take(self, response: dict[str, Any], server: RoomServer) -> None:
        """Believe a response."""
        rooms = response.get("rooms", {})
        for room_id in rooms.get("leave", {}):
            self.rooms.pop(room_id, None)
            self.invites.discard(room_id)
            self.knocks.discard(room_id)
            self.left.add(room_id)
        for room_id in rooms.get("invite", {}):
            self._forget(room_id)
            self.invites.add(room_id)
        for room_id in rooms.get("knock", {}):
            self._forget(room_id)
            self.knocks.add(room_id)
        for room_id, told in rooms.get("join", {}).items():
            await self._join(room_id, told, server)
        self.token = StreamToken.parse(response["next_batch"]).position

    def meet_stranger(self, room_id: str, sender: str) -> None:
        """Take notice of a sender whose membership the client was not told."""
        raise AssertionError(f"who is {sender}?")

    def _forget(self, room_id: str) -> None:
        self.rooms.pop(room_id, None)
        for kept in (self.invites, self.knocks, self.left):
            kept.discard(room_id)

    async def _join(self, room_id: str, told: dict[str, Any], server: RoomServer) -> None:
        user = await server.user_feed(self.person)
        place = user.rooms[RoomID(room_id)]
        timeline, state = told["timeline"], told["state_after" if self.state_after else "state"]["events"]
        # A room that is told from its beginning is told with its create event, and no other is.
        is_new = any(event["type"] == "m.room.create" for event in state + timeline["events"])
        if is_new:
            self._forget(room_id)
            self.rooms[room_id] = ClientRoom()
        # Who comes with a token from elsewhere may hear of a room like this.
        room = self.rooms.setdefault(room_id, ClientRoom())
        ids = [event["event_id"] for event in timeline["events"]]
        if timeline["limited"] and not is_new and self.types is None:
            before = PaginationToken.parse(timeline["prev_batch"]).position
            page = await server.timeline.page(
                place.room_nid, start=before, limit=10_000, backwards=True, stop=self.token
            )
            reader = Reader(self.person.user_id, self.person.user_nid, place.since)
            ids = [str(seen.stored.event_id) for seen in await see(server.store, reader, page[::-1])] + ids
        again = set(ids) & set(room.timeline)
        assert not again, f"told twice: {again}"
        room.timeline += ids
        changes = state
        if not self.state_after:
            shown = {event["event_id"] for event in timeline["events"]}
            assert not [event for event in changes if event["event_id"] in shown], "the state is not that before"
            changes = changes + [event for event in timeline["events"] if "state_key" in event]
        for event in changes:
            room.state[event["type"], event["state_key"]] = event["event_id"]
        for event in timeline["events"]:
            if room.state and ("m.room.member", event["sender"]) not in room.state:
                self.meet_stranger(room_id, event["sender"])
        if "unread_notifications" in told:
            room.counts = told["unread_notifications"]
        if "summary" in told:
            room.joined_count = told["summary"].get("m.joined_member_count", room.joined_count)
