"""Assembling a sync response: what a user may see of the stream since a token.

`Sync.respond` waits until there is something to tell or the time is over. Each part of the response is asked of the
stream that has it, bounded by one position (`upto`): everything at or below it is visible, nothing above it is shown.
Warm, incremental requests are answered from memory; what they cost depends on what changed.

The response is put together as bytes: events are encoded once and shared (see `feed.client_event`).

Spec: client-server API, "Syncing", `GET /_matrix/client/v3/sync`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import orjson
from sqlalchemy import select

from homeserver.model.event_json import dump_shown
from homeserver.model.filters import EventFilter, Filter, RoomEventFilter
from homeserver.model.ids import RoomID, UserID
from homeserver.model.tokens import PaginationToken, StreamToken
from homeserver.runtime.clock import Clock
from storage.events import StoredEvent
from storage.outside import load_stripped
from storage.store import Store
from storage.tables.rooms import membership_changes, room_tips
from storage.tables.user_state import account_data, receipts
from storage.transaction import Transaction, chunks

from .client_event import client_dict, render, render_stripped, render_told
from .device_sections import DeviceSections
from .feed import Feed, UserFeed, UserRoom
from .moves import load_first_moves
from .streams.protocol import RoomStream, StreamItem, UserStream
from .streams.to_device import NOTHING, Told
from .stretch import Stretch, find_stretch, keep_stretch
from .summary import MemberFacts, member_facts
from .timeline import Timeline
from .unread import Unread
from .visible import Reader, Seen, load_stay, see

DEFAULT_LIMIT: Final = 10
# LIMIT: of the events of a response that another one goes on from, as they are counted in memory: about a quarter of a
# megabyte as JSON.
MAX_UNBROKEN_SIZE: Final = 1024**2
MAX_TIMEOUT_S: Final = 120.0
# LIMIT: members of whom a device is remembered to know already; then all are told again.
MAX_SENT_MEMBERS: Final = 5_000
# LIMIT: devices of a user of which that is remembered.
MAX_SENT_DEVICES: Final = 100
# Spec: "Stripped state": what an invitee may be shown of the room.
_STRIPPED: Final = (
    ("m.room.create", ""),
    ("m.room.name", ""),
    ("m.room.avatar", ""),
    ("m.room.topic", ""),
    ("m.room.join_rules", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.encryption", ""),
)


# Not frozen, as some others below: made for each update, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class SyncRequest:
    """What a device asks for. `since` is None for an initial sync; `timeout_s` is how long to wait for something."""

    user_id: UserID
    user_nid: int
    device_nid: int | None
    since: int | None
    filter: Filter
    timeout_s: float = 0.0
    full_state: bool = False
    # The name of the state section that the client asked for instead of `state`, if it did.
    state_after: str | None = None
    # Most events of a room that the client knows already; with it, the response ends (`Built.cut`) before one has more.
    unbroken_limit: int | None = None


class Bundles(Protocol):
    """Bundled aggregations of events."""

    async def of(self, user: UserFeed, events: Sequence[StoredEvent]) -> Mapping[int, bytes]:
        """Return the JSON of `unsigned["m.relations"]` by event number, for those events that have any."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams that make up a response besides the timeline."""

    ephemeral: Sequence[RoomStream]
    room_account_data: RoomStream
    account_data: UserStream
    presence: UserStream
    unread: Unread
    bundles: Bundles
    ignored_users: Callable[[UserFeed], Awaitable[frozenset[str]]]
    # Whether a user, by number, takes no invites and is told of none.
    blocks_invites: Callable[[int], Awaitable[bool]]
    devices: DeviceSections | None = None


@dataclass(slots=True)
class _Room:
    """A joined or left room on its way into the response. `after` is None where everything is to be told."""

    place: UserRoom
    after: int | None
    upto: int
    is_left: bool = False
    # Of a left room: the position of the last join, None for who was never in it or has been told of the end before.
    last_join: int | None = None
    events: list[Seen] | None = None
    is_limited: bool = False
    # Whether the timeline may lack state changes of its own time.
    is_sieved: bool = True
    # The state after all of the timeline's time, where that is known.
    state_group: int | None = None
    # Where a response has to end that is to leave nothing out: the timeline begins behind events that are shown.
    shown_upto: int | None = None
    # Whether ends of the room's graph met in that time: then the state changes by more than the events say.
    is_forked: bool = False
    state: list[StoredEvent] | None = None
    summary: bytes = b""
    stretch: Stretch | None = None


@dataclass(slots=True)
class Built:
    """A response that is put together; `cut` is where an unbroken one has to end instead, then there is no body.

    `counts` are the members in it that every response to the device has.
    """

    body: bytes
    is_empty: bool
    cut: int | None = None
    counts: bytes = b""


class SentMembers:
    """Which member events a device was told: by room and key, the event and up to where the response went that told it.

    A response that the device may not have got does not count: it then asks from before that.
    """

    __slots__ = ("_rooms", "count")

    def __init__(self) -> None:
        self._rooms: dict[int, dict[int, tuple[int, int]]] = {}
        self.count = 0

    def of_room(self, room_nid: int, *, anew: bool) -> dict[int, tuple[int, int]]:
        """Return what is known of a room; nothing if `anew`."""
        if anew:
            self.count -= len(self._rooms.pop(room_nid, ()))
        return self._rooms.setdefault(room_nid, {})


class Sync:
    """Answers /sync."""

    def __init__(self, store: Store, feed: Feed, timeline: Timeline, clock: Clock, streams: Streams) -> None:
        self._store = store
        self._feed = feed
        self._timeline = timeline
        self._clock = clock
        self._streams = streams

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
                await self._fill_timeline(request, user, room, ignored)
            if request.unbroken_limit is not None:
                cut = await self._cut(rooms, request.unbroken_limit, upto)
                if cut is not None:
                    return Built(b"", False, cut)
            parts = await self._render_rooms(request, user, rooms)
            joined = [part for room, part in zip(rooms, parts, strict=True) if part and not room.is_left]
            left = [part for room, part in zip(rooms, parts, strict=True) if part and room.is_left]
            inner = []
            if joined:
                inner.append(b'"join":{' + b",".join(joined) + b"}")
            # Spec: "Invite permission": while they are blocked, invites of before "MUST NOT be served" either.
            if invites and not await self._streams.blocks_invites(user.user_nid):
                shown = await self._stripped(invites, ignored, user)
                if shown:
                    inner.append(b'"invite":{' + b",".join(shown) + b"}")
            if knocks:
                inner.append(b'"knock":{' + b",".join(await self._stripped(knocks, frozenset(), user)) + b"}")
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
                items = _accepted(await stream.of_user(user, since, upto), wanted)
                if items:
                    sections.append(b'"' + name + b'":' + _events(items))
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

    async def _cut(self, rooms: Sequence[_Room], limit: int, upto: int) -> int | None:
        """Return where the response has to end, so that no room's timeline lacks what its client was not told yet."""
        cut = upto
        for room in rooms:
            if not room.is_limited or (room.is_left and room.last_join is None):
                continue
            place = room.place
            if room.after is None:
                first = room.events[0].stored.position or 0 if room.events else upto
                if first > place.since:
                    # Told as it was at the join, and from there on.
                    cut = min(cut, place.since)
                continue
            end = await self._timeline.unbroken_end(place.room_id, place.room_nid, room.after, room.upto, limit)
            cut = min(cut, end if room.shown_upto is None else min(end, room.shown_upto))
        cut = min(cut, _light_end(rooms, upto))
        return cut if cut < upto else None

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
    ) -> tuple[list[_Room], list[UserRoom], list[UserRoom]]:
        chosen = request.filter
        rooms: list[_Room] = []
        invites: list[UserRoom] = []
        knocks: list[UserRoom] = []
        for place in places:
            if not chosen.accepts_room(place.room_id):
                continue
            is_new = since is None or place.since > since
            if place.membership == "join":
                rooms.append(_Room(place, None if is_new else since, upto))
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

    async def _left_room(self, user: UserFeed, place: UserRoom, since: int | None, upto: int) -> _Room:
        """Return a left room up to the leave; a declined invite and a lifted ban show only themselves."""
        stay = await self._store.database.read(lambda tx: load_stay(tx, user.user_nid, place.room_nid, upto))
        if stay is None or stay.ended is None or (since is not None and stay.ended <= since):
            return _Room(place, since, min(place.since, upto), is_left=True)
        return _Room(place, since, min(stay.ended, upto), is_left=True, last_join=stay.joined)

    # -- joined and left rooms ---------------------------------------------------------------------------------------

    async def _render_rooms(self, request: SyncRequest, user: UserFeed, rooms: list[_Room]) -> list[bytes]:
        if not rooms:
            return []
        chosen = request.filter
        shown = [seen.stored for room in rooms for seen in room.events or ()]
        bundles = await self._streams.bundles.of(user, shown)
        await self._fill_states(request, user, rooms)

        joined = [room for room in rooms if not room.is_left]
        ephemeral: dict[int, list[StreamItem]] = {}
        if not chosen.ephemeral.accepts_nothing:
            for stream in self._streams.ephemeral:
                _merge(ephemeral, await _ask(stream, user, joined), chosen.ephemeral)
        private: dict[int, list[StreamItem]] = {}
        if not chosen.room_account_data.accepts_nothing:
            _merge(private, await _ask(self._streams.room_account_data, user, rooms), chosen.room_account_data)
        counts = await self._streams.unread.counts(
            user,
            [room.place for room in joined],
            rooms[0].upto if not joined else joined[0].upto,
            by_thread=chosen.timeline.unread_thread_notifications,
        )
        now_ms = self._clock.now_ms()
        show = self._renderer(request, now_ms, bundles)
        result: list[bytes] = []
        for room in rooms:
            nid = room.place.room_nid
            has_news = bool(
                room.events or room.state or room.summary or nid in ephemeral or nid in private or room.after is None
            )
            # The user's own receipt, or a message that the filter took away: the counts are told.
            is_read = (
                room.after is not None
                and room.place.room_id in counts
                and counts[room.place.room_id].changed > room.after
            )
            if not (has_news or room.is_left or request.full_state or is_read):
                result.append(b"")
                continue
            # COMPAT(synapse): empty lists are told too; clients in use stumble where they are missing.
            name = (request.state_after or "state").encode()
            parts = [
                self._render_timeline(request, room, show, now_ms, bundles),
                b'"' + name + b'":' + _joined([show(stored, None) for stored in room.state or ()]),
                b'"account_data":' + _events(private.get(nid, ())),
            ]
            if not room.is_left:
                parts.append(b'"ephemeral":' + _events(ephemeral.get(nid, ())))
            if room.summary:
                parts.append(b'"summary":' + room.summary)
            if not room.is_left and room.place.room_id in counts:
                parts.append(counts[room.place.room_id].render())
            result.append(orjson.dumps(room.place.room_id) + b":{" + b",".join(parts) + b"}")
        return result

    def _render_timeline(
        self,
        request: SyncRequest,
        room: _Room,
        show: Callable[[StoredEvent, bytes | None], bytes],
        now_ms: int,
        bundles: Mapping[int, bytes],
    ) -> bytes:
        stretch, chosen = room.stretch, request.filter
        if (
            stretch is None
            or bundles
            or request.device_nid in stretch.devices
            or chosen.event_format == "federation"
            or chosen.event_fields is not None
        ):
            return self._encode_timeline(room, show)
        return stretch.encoded(now_ms, lambda: self._encode_timeline(room, show))

    def _encode_timeline(self, room: _Room, show: Callable[[StoredEvent, bytes | None], bytes]) -> bytes:
        events = room.events or []
        encoded = [show(seen.stored, seen.membership) for seen in events]
        if events:
            before = (events[0].stored.position or 1) - 1
        else:
            before = room.after if room.after is not None and not room.is_limited else room.upto
        return b'"timeline":{"events":[%s],"limited":%s,"prev_batch":"%s"}' % (
            b",".join(encoded),
            b"true" if room.is_limited else b"false",
            str(PaginationToken(before)).encode(),
        )

    async def _fill_timeline(self, request: SyncRequest, user: UserFeed, room: _Room, ignored: frozenset[str]) -> None:
        chosen = request.filter.timeline
        room_id = room.place.room_id
        if chosen.accepts_nothing or not chosen.accepts_room(room_id):
            room.events = []
            return
        if room.is_left and room.last_join is None:
            # The change of membership itself was always theirs to know.
            own = (await self._store.events.get([room.place.nid])).get(room.place.nid)
            # An invite that lost on resolution says nothing of what is.
            is_so = own is not None and own.event.membership == room.place.membership
            room.events = [Seen(own, orjson.dumps(own.event.membership))] if own is not None and is_so else []
            return
        accept: Callable[[StoredEvent], bool] | None = None
        if not chosen.is_pass_all or ignored or chosen.contains_url is not None:

            def accept(stored: StoredEvent) -> bool:
                event = stored.event
                # Spec: "Ignoring Users": their messages are not shown, their state changes are.
                if event.sender in ignored and event.state_key is None:
                    return False
                return chosen.matches_event(event.type, event.sender, room_id, event.content)

        if request.unbroken_limit is not None and room.after is not None:
            limit = request.unbroken_limit
        else:
            limit = chosen.limit if chosen.limit is not None else DEFAULT_LIMIT
        is_shared = accept is None and not room.is_left and room.after is not None and room.place.since <= room.after
        feed_room = self._feed.find_room(room_id)
        stretch = find_stretch(feed_room, room.after, room.upto, limit) if is_shared else None
        if stretch is not None:
            room.stretch, room.events, room.is_limited = stretch, stretch.events, stretch.is_limited
            room.state_group, room.is_sieved = stretch.state_group, False
            return
        events, room.is_limited = await self._timeline.window_after_gap(
            room_id, room.place.room_nid, after=room.after, upto=room.upto, limit=limit, accept=accept
        )
        is_joined = not room.is_left
        if is_joined:
            reader = Reader(request.user_id, request.user_nid, room.place.since)
        else:
            reader = Reader(request.user_id, request.user_nid, None, room.last_join, room.upto)
        is_filtered = not chosen.is_pass_all or chosen.contains_url is not None
        if events and not is_filtered:
            room.state_group = events[-1].room_group
        room.is_forked = any(stored.tip_group is not None for stored in events)
        room.is_sieved = is_filtered
        if accept is not None:
            events = [stored for stored in events if accept(stored)]
        seen = await see(self._store, reader, events)
        if len(seen) < len(events):
            # What the user may not see may have changed the state: the timeline begins behind it.
            room.is_sieved = True
            shown = {each.stored.nid for each in seen}
            hidden = [stored.position or 0 for stored in events if stored.key_nid and stored.nid not in shown]
            kept = [each for each in seen if (each.stored.position or 0) > max(hidden, default=0)]
            if len(kept) < len(seen):
                positions = [each.stored.position or 0 for each in seen]
                first = min(position for position in hidden if position > positions[0])
                room.shown_upto = max(position for position in positions if position < first)
            room.is_limited = room.is_limited or len(kept) < len(seen)
            seen = kept
        room.events = seen
        if is_shared and room.after is not None and not room.is_sieved:
            room.stretch = keep_stretch(
                feed_room,
                room.after,
                room.upto,
                limit,
                seen,
                is_limited=room.is_limited,
                state_group=room.state_group,
            )

    async def _fill_states(self, request: SyncRequest, user: UserFeed, rooms: list[_Room]) -> None:
        chosen = request.filter
        lazy = chosen.state.lazy_load_members or chosen.timeline.lazy_load_members
        wanted_summary = [
            room
            for room in rooms
            if not room.is_left
            and (room.after is None or request.full_state or self._has_other_summary(room))
            and _is_there(user, room.place)
        ]
        facts = await member_facts(self._store, self._feed, [room.place for room in wanted_summary])
        heroes: dict[int, tuple[UserID, ...]] = {}
        for room in wanted_summary:
            known = facts[room.place.room_nid]
            # A room with a name is not called after anybody: their member events are then not needed either.
            heroes[room.place.room_nid] = () if known.has_name else known.heroes(request.user_id)
            room.summary = _summary(known, heroes[room.place.room_nid])
        if chosen.state.accepts_nothing:
            for room in rooms:
                room.state = []
            return
        deltas: list[tuple[_Room, dict[int, int], Mapping[int, int] | None]] = []
        for room in rooms:
            speakers = await self._speakers(room.stretch) if lazy and _is_talk(request, room) else None
            if speakers is None or room.place.room_nid in heroes:
                deltas.append((room, *await self._state_delta(request, room)))
            else:
                deltas.append((room, speakers, None))
        for room, delta, end in deltas:
            if lazy and room.stretch is not None and delta is room.stretch.members:
                delta = self._without_redundant(request, user, room, delta)
            elif lazy:
                delta = await self._lazy_members(request, user, room, delta, end, heroes.get(room.place.room_nid, ()))
            if not delta:
                room.state = []
                continue
            found = await self._store.events.get(delta.values())
            state = [found[nid] for nid in delta.values() if nid in found]
            if not chosen.state.is_pass_all or chosen.state.contains_url is not None:
                state = [
                    stored
                    for stored in state
                    if chosen.state.matches_event(
                        stored.event.type, stored.event.sender, room.place.room_id, stored.event.content
                    )
                ]
            room.state = state

    def _has_other_summary(self, room: _Room) -> bool:
        return self._feed.room(room.place.room_id, room.place.room_nid).summary_changed > (room.after or 0)

    async def _state_delta(self, request: SyncRequest, room: _Room) -> tuple[dict[int, int], Mapping[int, int] | None]:
        """Return what of the state the response must tell, and the state it leads to (None where not needed)."""
        place, events = room.place, room.events or []
        if room.is_left and room.last_join is None:
            return {}, None
        is_full = room.after is None or request.full_state
        wants_end = request.state_after is not None
        lazy = request.filter.state.lazy_load_members or request.filter.timeline.lazy_load_members
        # With nothing left out, all changes are in the timeline.
        is_complete = not is_full and not room.is_limited and not room.is_sieved and not room.is_forked
        if is_complete and not (lazy and events):
            if wants_end:
                return {
                    seen.stored.key_nid: seen.stored.nid for seen in events if seen.stored.key_nid is not None
                }, None
            return {}, None
        group = room.state_group
        if group is None:
            group = await self._timeline.state_group_at(place.room_id, place.room_nid, room.upto)
        if group is None:
            return {}, None
        end = await self._store.states.get(group)
        first = await self._values_before(room, events)
        if not wants_end:
            # `state` leads to the start of the timeline; what the timeline hides of its own time goes there too.
            for key_nid, nid in first.items():
                end = end.insert(key_nid, nid) if nid else end.discard(key_nid)
        if is_complete:
            return ({key_nid: end[key_nid] for key_nid in first} if wants_end else {}), end
        if is_full:
            return dict(end.items()), end
        earlier = await self._timeline.state_group_at(place.room_id, place.room_nid, room.after or 0)
        if earlier is None:
            return dict(end.items()), end
        start = await self._store.states.get(earlier)
        return {key: nid for key, nid in end.items() if start.get(key) != nid}, end

    async def _values_before(self, room: _Room, events: Sequence[Seen]) -> dict[int, int | None]:
        """Return for each key of the timeline's state events the event that it had when the timeline began."""
        first: dict[int, int | None] = {}
        for seen in events:
            if seen.stored.key_nid is not None:
                first.setdefault(seen.stored.key_nid, seen.stored.replaces_nid)
        if first and room.is_forked:
            # What an event replaced on its own branch need not be what the room had.
            place, position = room.place, (events[0].stored.position or 1) - 1
            group = await self._timeline.state_group_at(place.room_id, place.room_nid, position)
            state = await self._store.states.get(group) if group is not None else {}
            first = {key_nid: state.get(key_nid) for key_nid in first}
        return first

    async def _lazy_members(
        self,
        request: SyncRequest,
        user: UserFeed,
        room: _Room,
        delta: dict[int, int],
        end: Mapping[int, int] | None,
        heroes: Sequence[UserID],
    ) -> dict[int, int]:
        """Keep of the member events only those that the timeline and the summary need. Spec: "Lazy-loading"."""
        interner = self._store.interner
        senders = {str(seen.stored.event.sender) for seen in room.events or ()}
        senders.update(heroes)
        is_full = room.after is None or request.full_state
        if is_full:
            senders.add(request.user_id)
        kept: dict[int, int] = {}
        if not is_full:
            # Spec: sync: the memberships that changed in a gap are all told, or they would be lost.
            kept.update(delta)
        elif delta:
            unknown = [key_nid for key_nid in delta if interner.known_key_name(key_nid) is None]
            if unknown:
                await interner.key_names(unknown)
            for key_nid, nid in delta.items():
                name = interner.known_key_name(key_nid)
                if name is None or name[0] != "m.room.member" or name[1] in senders:
                    kept[key_nid] = nid
        if end is not None and senders:
            kept.update(await self._members_of(end, senders))
        return self._without_redundant(request, user, room, kept)

    async def _members_of(self, state: Mapping[int, int], users: Iterable[str]) -> dict[int, int]:
        """Return the member events of users in a state, by key."""
        interner = self._store.interner
        keys = [("m.room.member", user) for user in users]
        if any(interner.known_key(key) is None for key in keys):
            await interner.find_keys(keys)
        found: dict[int, int] = {}
        for key in keys:
            key_nid = interner.known_key(key)
            nid = state.get(key_nid) if key_nid is not None else None
            if key_nid is not None and nid is not None:
                found[key_nid] = nid
        return found

    async def _speakers(self, stretch: Stretch | None) -> dict[int, int] | None:
        """Return the member events of those who sent the events of a stretch, None where they cannot be told."""
        if stretch is None or stretch.state_group is None:
            return None
        if stretch.members is None:
            state = await self._store.states.get(stretch.state_group)
            senders = {str(seen.stored.event.sender) for seen in stretch.events}
            stretch.members = await self._members_of(state, senders)
        return stretch.members

    def _without_redundant(
        self, request: SyncRequest, user: UserFeed, room: _Room, delta: dict[int, int]
    ) -> dict[int, int]:
        if request.device_nid is None:
            return delta
        told: SentMembers | None = user.sent_members.get(request.device_nid)
        if told is None or told.count > MAX_SENT_MEMBERS:
            if len(user.sent_members) >= MAX_SENT_DEVICES:
                user.sent_members.clear()
            told = user.sent_members[request.device_nid] = SentMembers()
        # Who is told a room from the beginning knows nobody in it.
        sent = told.of_room(room.place.room_nid, anew=room.after is None)
        since = -1 if request.since is None else request.since
        redundant_too = (
            request.filter.state.include_redundant_members or request.filter.timeline.include_redundant_members
        )
        before = len(sent)
        kept: dict[int, int] = {}
        interner = self._store.interner
        for key_nid, nid in delta.items():
            name = interner.known_key_name(key_nid)
            if name is None or name[0] != "m.room.member":
                kept[key_nid] = nid
                continue
            told_nid, told_at = sent.get(key_nid, (0, 0))
            if redundant_too or request.full_state or told_nid != nid or told_at > since:
                kept[key_nid] = nid
                sent[key_nid] = nid, room.upto
        # Who asks for the state after the timeline believes that and not the timeline.
        for seen in (room.events or ()) if request.state_after is None else ():
            if seen.stored.event.type == "m.room.member" and seen.stored.key_nid is not None:
                sent[seen.stored.key_nid] = seen.stored.nid, room.upto
        told.count += len(sent) - before
        return kept

    def _renderer(
        self, request: SyncRequest, now_ms: int, bundles: Mapping[int, bytes]
    ) -> Callable[[StoredEvent, bytes | None], bytes]:
        chosen = request.filter
        device_nid = request.device_nid

        def show(stored: StoredEvent, membership: bytes | None) -> bytes:
            return render(
                stored, now_ms, device_nid=device_nid, membership=membership, relations=bundles.get(stored.nid)
            )

        if chosen.event_format == "federation":
            return lambda stored, _membership: dump_shown({**stored.event.wire, "event_id": stored.event.event_id})
        if chosen.event_fields is not None:

            def project(stored: StoredEvent, membership: bytes | None) -> bytes:
                whole = client_dict(
                    stored, now_ms, device_nid=device_nid, membership=membership, relations=bundles.get(stored.nid)
                )
                return orjson.dumps(chosen.project(whole))

            return project
        return show

    # -- invited and knocked rooms -----------------------------------------------------------------------------------

    async def _stripped(self, places: Sequence[UserRoom], ignored: frozenset[str], user: UserFeed) -> list[bytes]:
        """Return invited or knocked rooms with the stripped state that the user may be shown."""
        result: list[bytes] = []
        interner = self._store.interner
        for place in places:
            member = (await self._store.events.get([place.nid])).get(place.nid)
            if member is None or member.event.sender in ignored:
                continue
            name = b"invite_state" if place.membership == "invite" else b"knock_state"
            if member.room_group is None:
                # A room that this server is not in: what came with the invite is all that is known of it.
                told = await self._store.database.read(
                    lambda tx, nid=place.room_nid: load_stripped(tx, user.user_nid, [nid])  # type: ignore[misc]
                )
                events = [*render_told(told.get(place.room_nid)), render_stripped(member)]
                result.append(orjson.dumps(place.room_id) + b':{"' + name + b'":' + _joined(events) + b"}")
                continue
            state = await self._store.states.get(member.room_group)
            keys = [*_STRIPPED, ("m.room.member", str(member.event.sender))]
            key_nids = await interner.find_keys(keys)
            nids = [nid for key in keys if key in key_nids and (nid := state.get(key_nids[key])) is not None]
            nids = [nid for nid in dict.fromkeys(nids) if nid != place.nid]
            found = await self._store.events.get(nids)
            events = [render_stripped(found[nid]) for nid in nids if nid in found]
            events.append(render_stripped(member))
            result.append(orjson.dumps(place.room_id) + b':{"' + name + b'":' + _joined(events) + b"}")
        return result


def _is_there(user: UserFeed, place: UserRoom) -> bool:
    """Tell whether a user is still in a room that is told as it was: its members of now are no business of others."""
    now = user.rooms.get(place.room_id)
    return now is not None and now.membership == "join"


def _is_talk(request: SyncRequest, room: _Room) -> bool:
    """Tell whether all that a room has to tell of its state is who speaks."""
    stretch = room.stretch
    return stretch is not None and not (stretch.has_state or stretch.is_limited or request.full_state)


def _light_end(rooms: Sequence[_Room], upto: int) -> int:
    """Return where a response has to end so that its timelines are not large, though one event always fits."""
    told = [seen.stored for room in rooms if room.after is not None for seen in room.events or ()]
    if len(told) < 2 or sum(stored.size for stored in told) <= MAX_UNBROKEN_SIZE:
        return upto
    told.sort(key=lambda stored: stored.position or 0)
    size, end = 0, 0
    for stored in told:
        size += stored.size
        if end and size > MAX_UNBROKEN_SIZE:
            return end
        end = stored.position or 0
    return upto


def _empty(upto: int, counts: bytes) -> bytes:
    """Return the response that tells of nothing; `counts` are the members that every response has."""
    return b'{"next_batch":"%s"%s}' % (str(StreamToken(upto)).encode(), b"," + counts if counts else b"")


def _joined(encoded: Sequence[bytes]) -> bytes:
    return b'{"events":[' + b",".join(encoded) + b"]}"


def _events(items: Sequence[StreamItem]) -> bytes:
    return _joined([item.encoded for item in items])


def _accepted(items: Sequence[StreamItem], wanted: EventFilter) -> list[StreamItem]:
    if wanted.is_pass_all:
        return list(items)
    return [item for item in items if wanted.matches(item.type, item.sender)]


def _merge(
    into: dict[int, list[StreamItem]], found: Mapping[int, Sequence[StreamItem]], wanted: RoomEventFilter
) -> None:
    for room_nid, items in found.items():
        accepted = _accepted(items, wanted)
        if accepted:
            into.setdefault(room_nid, []).extend(accepted)


async def _ask(stream: RoomStream, user: UserFeed, rooms: Sequence[_Room]) -> dict[int, Sequence[StreamItem]]:
    whole: dict[int, RoomID] = {}
    since: dict[int, RoomID] = {}
    after, upto = 0, 0
    for room in rooms:
        upto = max(upto, room.upto)
        if room.after is None:
            whole[room.place.room_nid] = room.place.room_id
        else:
            since[room.place.room_nid] = room.place.room_id
            after = room.after
    found: dict[int, Sequence[StreamItem]] = {}
    if whole:
        found.update(await stream.in_rooms(user, whole, None, upto))
    if since:
        found.update(await stream.in_rooms(user, since, after, upto))
    return found


def _summary(facts: MemberFacts, heroes: Sequence[UserID]) -> bytes:
    summary: dict[str, Any] = {
        "m.joined_member_count": facts.joined,
        "m.invited_member_count": facts.invited,
    }
    if not facts.has_name:
        summary["m.heroes"] = list(heroes)
    return orjson.dumps(summary)


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
