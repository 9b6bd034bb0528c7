"""Assembling a sync response: what a user may see of the stream since a token.

`Sync.respond` waits until there is something to tell or the time is over. Each part of the response is asked of the
stream that has it, bounded by one position (`upto`): everything at or below it is visible, nothing above it is shown.
Warm, incremental requests are answered from memory; what they cost depends on what changed.

The response is put together as bytes: events are encoded once and shared (see `feed.client_event`).

Spec: client-server API, "Syncing", `GET /_matrix/client/v3/sync`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import select

from homeserver.model.tokens import StreamToken
from homeserver.runtime.clock import Clock
from storage.store import Store
from storage.tables.rooms import membership_changes, room_tips
from storage.tables.user_state import account_data, receipts
from storage.transaction import Transaction, chunks

from .feed import Feed, UserFeed, UserRoom
from .moves import load_first_moves
from .response import Built, RoomPart, Streams, SyncRequest
from .room_sections import RoomSections, accepted, events_json
from .room_states import RoomStates
from .room_timelines import RoomTimelines
from .streams.to_device import NOTHING, Told
from .stripped import render_stripped_rooms
from .timeline import Timeline
from .visible import load_stay

MAX_TIMEOUT_S: Final = 120.0


class Sync:
    """Answers /sync."""

    def __init__(self, store: Store, feed: Feed, timeline: Timeline, clock: Clock, streams: Streams) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._streams = streams
        self._timelines = RoomTimelines(store, feed, timeline)
        self._rooms = RoomSections(RoomStates(store, feed, timeline), clock, streams)

    async def respond(self, request: SyncRequest) -> bytes:
        """Return the response as JSON, as soon as there is something to tell."""
        deadline = self._clock.monotonic() + min(request.timeout_s, MAX_TIMEOUT_S)
        since = request.since
        devices, told = self._streams.devices, NOTHING
        while True:
            if devices is not None:
                told = await devices.take(request.device_nid, since)
            # Asked for each time: a user who has not been waiting may have been dropped from memory.
            user = self._feed.find_user(request.user_id)
            if user is None:
                await self._feed.user(request.user_id, request.user_nid)
                continue
            # Nothing is waited for between `take` and this: what came since is not taken for told.
            upto = self._feed.watermark
            # A token from a stream that ran further than this one (a restored backup): go on from here.
            if since is not None and since > upto:
                since = upto
                request = replace(request, since=since)
            if (
                since is not None
                and not request.full_state
                and since >= user.floor
                and user.last_change <= since
                and not told.messages
                and request.timeout_s > 0
                and not self._feed.is_stopped
            ):
                if await self._feed.wait(user, since, deadline - self._clock.monotonic()):
                    continue
                return _empty(upto, b"" if devices is None else await devices.counts(request.device_nid))
            built = await self.build(request, user, upto, told)
            left = deadline - self._clock.monotonic()
            if not built.is_empty or since is None or request.full_state or left <= 0 or self._feed.is_stopped:
                return built.body
            await self._feed.wait(user, upto, left)

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def build(
        self,
        request: SyncRequest,
        user: UserFeed,
        upto: int,
        told: Told,
        places: Sequence[UserRoom] | None = None,
    ) -> Built:
        """Return what there is to tell at positions up to `upto`.

        That is the watermark, and nothing has been waited for since; or `places` are the user's rooms as they were.
        """
        chosen = request.filter
        since = request.since
        sections: list[bytes] = []
        is_empty = True
        devices = self._streams.devices
        counts = b""
        if since is None or request.full_state or user.last_change > since or since < user.floor:
            # Before anything is waited for: the memberships are those at `upto`.
            if places is None:
                places = self._changed_places(request, user, since)
            elif since is not None and since >= user.floor:
                places = [place for place in places if user.changed.get(place.room_id, 0) > since]
            if since is not None and not request.full_state and since < user.floor:
                joined_nids = [place.room_nid for place in places if place.membership == "join"]
                nids = await self._store.database.read(
                    lambda tx: load_changed_rooms(tx, user.user_nid, joined_nids, since)
                )
                places = [place for place in places if place.room_nid in nids or place.since > since]
            if request.unbroken_limit is not None and since is not None:
                moved = await self._first_move(user, places, since)
                if moved is not None and moved < upto:
                    return Built(b"", False, moved)
            ignored = await self._streams.ignored_users(user)
            rooms, invites, knocks = await self._choose_rooms(request, user, places, since, upto)
            for room in rooms:
                await self._timelines.fill(request, user, room, ignored)
            if request.unbroken_limit is not None:
                cut = await self._timelines.cut(rooms, request.unbroken_limit, upto)
                if cut is not None:
                    return Built(b"", False, cut)
            parts = await self._rooms.render(request, user, rooms)
            joined = [part for room, part in zip(rooms, parts, strict=True) if part and not room.is_left]
            left = [part for room, part in zip(rooms, parts, strict=True) if part and room.is_left]
            inner = []
            if joined:
                inner.append(b'"join":{' + b",".join(joined) + b"}")
            # Spec: "Invite permission": while they are blocked, invites of before "MUST NOT be served" either.
            if invites and not await self._streams.blocks_invites(user.user_nid):
                shown = await render_stripped_rooms(self._store, user, invites, ignored)
                if shown:
                    inner.append(b'"invite":{' + b",".join(shown) + b"}")
            if knocks:
                inner.append(
                    b'"knock":{' + b",".join(await render_stripped_rooms(self._store, user, knocks, frozenset())) + b"}"
                )
            if left:
                inner.append(b'"leave":{' + b",".join(left) + b"}")
            if inner:
                sections.append(b'"rooms":{' + b",".join(inner) + b"}")
                is_empty = False
            for name, stream, wanted in (
                (b"presence", self._streams.presence, chosen.presence),
                (b"account_data", self._streams.account_data, chosen.account_data),
            ):
                if wanted.accepts_nothing:
                    continue
                items = accepted(await stream.of_user(user, since, upto), wanted)
                if items:
                    sections.append(b'"' + name + b'":' + events_json(items))
                    is_empty = False
        if devices is not None:
            news = await devices.news(user, told, since, upto)
            is_empty = is_empty and not news
            sections += news
            counts = await devices.counts(request.device_nid)
            if counts:
                sections.append(counts)
        head = b'{"next_batch":"%s"' % str(StreamToken(upto)).encode()
        return Built(b",".join([head, *sections]) + b"}", is_empty, counts=counts)

    async def _first_move(self, user: UserFeed, places: Sequence[UserRoom], since: int) -> int | None:
        """Return where the user first came into or left a room in which that has changed again since, else None."""
        moved = {place.room_nid: place.since for place in places if place.since > since}
        if not moved:
            return None
        firsts = await self._store.database.read(lambda tx: load_first_moves(tx, user.user_nid, list(moved), since))
        return min((first for room_nid, first in firsts.items() if first < moved[room_nid]), default=None)

    def _changed_places(self, request: SyncRequest, user: UserFeed, since: int | None) -> list[UserRoom]:
        """Return the user's rooms in which something may have changed; all where memory does not reach back so far."""
        if since is None or request.full_state or since < user.floor:
            return list(user.rooms.values())
        places: list[UserRoom] = []
        for room_id, position in reversed(user.changed.items()):
            if position <= since:
                break
            place = user.rooms.get(room_id)
            if place is not None:
                places.append(place)
        return places

    async def _choose_rooms(
        self, request: SyncRequest, user: UserFeed, places: Sequence[UserRoom], since: int | None, upto: int
    ) -> tuple[list[RoomPart], list[UserRoom], list[UserRoom]]:
        chosen = request.filter
        rooms: list[RoomPart] = []
        invites: list[UserRoom] = []
        knocks: list[UserRoom] = []
        for place in places:
            if not chosen.accepts_room(place.room_id):
                continue
            is_new = since is None or place.since > since
            if place.membership == "join":
                rooms.append(RoomPart(place, None if is_new else since, upto))
            elif place.membership == "invite":
                if is_new or request.full_state:
                    invites.append(place)
            elif place.membership == "knock":
                if is_new or request.full_state:
                    knocks.append(place)
            elif since is None:
                if chosen.include_leave and not place.is_forgotten:
                    rooms.append(await self._left_room(user, place, None, upto))
            elif is_new:
                # Forgotten or not: the user's other devices have to hear of the leave.
                rooms.append(await self._left_room(user, place, since, upto))
        return rooms, invites, knocks

    async def _left_room(self, user: UserFeed, place: UserRoom, since: int | None, upto: int) -> RoomPart:
        """Return a left room up to the leave; a declined invite and a lifted ban show only themselves."""
        stay = await self._store.database.read(lambda tx: load_stay(tx, user.user_nid, place.room_nid, upto))
        if stay is None or stay.ended is None or (since is not None and stay.ended <= since):
            return RoomPart(place, since, min(place.since, upto), is_left=True)
        return RoomPart(place, since, min(stay.ended, upto), is_left=True, last_join=stay.joined)


def _empty(upto: int, counts: bytes) -> bytes:
    """Return the response that tells of nothing; `counts` are the members that every response has."""
    return b'{"next_batch":"%s"%s}' % (str(StreamToken(upto)).encode(), b"," + counts if counts else b"")


def load_changed_rooms(tx: Transaction, user_nid: int, joined_nids: Sequence[int], since: int) -> set[int]:
    """Return the numbers of a user's rooms in which anything changed after `since`; the user is in `joined_nids`."""
    found: set[int] = set()
    for part in chunks(joined_nids):
        for table in (room_tips, receipts):
            query = select(table.c.room_nid).where(table.c.room_nid.in_(part), table.c.position > since).distinct()
            found.update(row[0] for row in tx.all(query))
    private = select(account_data.c.room_nid).where(
        account_data.c.user_nid == user_nid, account_data.c.position > since
    )
    found.update(row[0] for row in tx.all(private))
    changes = select(membership_changes.c.room_nid).where(
        membership_changes.c.user_nid == user_nid, membership_changes.c.position > since
    )
    found.update(row[0] for row in tx.all(changes))
    return found
