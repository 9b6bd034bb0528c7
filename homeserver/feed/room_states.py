"""The state of rooms in a sync response: what changed, which members are needed, and the summary.

Spec: client-server API, "Syncing": state, state_after, summary; "Lazy-loading room members".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from homeserver.model.ids import UserID
from storage.store import Store

from .feed import Feed, UserFeed, UserRoom
from .response import RoomPart, SyncRequest
from .stretch import Stretch
from .summary import MemberFacts, member_facts
from .timeline import Timeline
from .visible import Seen

# LIMIT: members of whom a device is remembered to know already; then all are told again.
MAX_SENT_MEMBERS: Final = 5_000
# LIMIT: devices of a user of which that is remembered.
MAX_SENT_DEVICES: Final = 100


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


class RoomStates:
    """Finds the state that a response tells of each room, beside its timeline."""

    def __init__(self, store: Store, feed: Feed, timeline: Timeline) -> None:
        self._store = store
        self._feed = feed
        self._timeline = timeline

    async def fill(self, request: SyncRequest, user: UserFeed, rooms: list[RoomPart]) -> None:
        """Set the state and the summary of rooms whose timelines are set."""
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
        deltas: list[tuple[RoomPart, dict[int, int], Mapping[int, int] | None]] = []
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

    def _has_other_summary(self, room: RoomPart) -> bool:
        return self._feed.room(room.place.room_id, room.place.room_nid).summary_changed > (room.after or 0)

    async def _state_delta(
        self, request: SyncRequest, room: RoomPart
    ) -> tuple[dict[int, int], Mapping[int, int] | None]:
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

    async def _values_before(self, room: RoomPart, events: Sequence[Seen]) -> dict[int, int | None]:
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
        room: RoomPart,
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
        self, request: SyncRequest, user: UserFeed, room: RoomPart, delta: dict[int, int]
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


def _is_there(user: UserFeed, place: UserRoom) -> bool:
    """Tell whether a user is still in a room that is told as it was: its members of now are no business of others."""
    now = user.rooms.get(place.room_id)
    return now is not None and now.membership == "join"


def _is_talk(request: SyncRequest, room: RoomPart) -> bool:
    """Tell whether all that a room has to tell of its state is who speaks."""
    stretch = room.stretch
    return stretch is not None and not (stretch.has_state or stretch.is_limited or request.full_state)


def _summary(facts: MemberFacts, heroes: Sequence[UserID]) -> bytes:
    summary: dict[str, Any] = {
        "m.joined_member_count": facts.joined,
        "m.invited_member_count": facts.invited,
    }
    if not facts.has_name:
        summary["m.heroes"] = list(heroes)
    return orjson.dumps(summary)
