"""Joined and left rooms as a sync response holds them: timeline, state, account data, what is fleeting, counts.

Spec: client-server API, "Syncing": Joined Room, Left Room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import orjson

from homeserver.model.event_json import dump_shown
from homeserver.model.filters import EventFilter, RoomEventFilter
from homeserver.model.ids import RoomID
from homeserver.model.tokens import PaginationToken
from homeserver.runtime.clock import Clock
from storage.events import StoredEvent

from .client_event import client_dict, render
from .feed import UserFeed
from .response import RoomPart, Streams, SyncRequest
from .room_states import RoomStates
from .streams.protocol import RoomStream, StreamItem


class RoomSections:
    """Renders rooms whose timelines are found."""

    def __init__(self, states: RoomStates, clock: Clock, streams: Streams) -> None:
        self._states = states
        self._clock = clock
        self._streams = streams

    async def render(self, request: SyncRequest, user: UserFeed, rooms: list[RoomPart]) -> list[bytes]:
        """Return each room as a member of the response's object of rooms; empty if there is nothing to tell of it."""
        if not rooms:
            return []
        chosen = request.filter
        shown = [seen.stored for room in rooms for seen in room.events or ()]
        bundles = await self._streams.bundles.of(user, shown)
        await self._states.fill(request, user, rooms)

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
                b'"account_data":' + events_json(private.get(nid, ())),
            ]
            if not room.is_left:
                parts.append(b'"ephemeral":' + events_json(ephemeral.get(nid, ())))
            if room.summary:
                parts.append(b'"summary":' + room.summary)
            if not room.is_left and room.place.room_id in counts:
                parts.append(counts[room.place.room_id].render())
            result.append(orjson.dumps(room.place.room_id) + b":{" + b",".join(parts) + b"}")
        return result

    def _render_timeline(
        self,
        request: SyncRequest,
        room: RoomPart,
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

    def _encode_timeline(self, room: RoomPart, show: Callable[[StoredEvent, bytes | None], bytes]) -> bytes:
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


def _joined(encoded: Sequence[bytes]) -> bytes:
    return b'{"events":[' + b",".join(encoded) + b"]}"


def events_json(items: Sequence[StreamItem]) -> bytes:
    """Return items as an object with a list of events."""
    return _joined([item.encoded for item in items])


def accepted(items: Sequence[StreamItem], wanted: EventFilter) -> list[StreamItem]:
    """Return the items that a filter lets through."""
    if wanted.is_pass_all:
        return list(items)
    return [item for item in items if wanted.matches(item.type, item.sender)]


def _merge(
    into: dict[int, list[StreamItem]], found: Mapping[int, Sequence[StreamItem]], wanted: RoomEventFilter
) -> None:
    for room_nid, items in found.items():
        shown = accepted(items, wanted)
        if shown:
            into.setdefault(room_nid, []).extend(shown)


async def _ask(stream: RoomStream, user: UserFeed, rooms: Sequence[RoomPart]) -> dict[int, Sequence[StreamItem]]:
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
