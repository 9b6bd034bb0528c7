"""Unread counts: how many events since a user's read receipt the user's push rules notify of.

Nothing is written for them when an event is sent. They follow the feed: for each user who receives, and each of the
user's rooms, the notifying events since the receipt are kept in memory up to some position, and brought up to date when
they are asked for. What is not in memory is counted again from the room's timeline.

Spec: client-server API, "Receiving notifications", "Threading", "Threaded read receipts".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import select

from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event
from homeserver.model.ids import EventID
from homeserver.model.push_rules.base import UNCHANGED
from homeserver.model.push_rules.evaluate import (
    EventFacts,
    RoomFacts,
    Ruleset,
    compile_rules,
    evaluate,
    may_notify,
)
from homeserver.model.relations import Relation, find_thread, relation_of
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS
from homeserver.runtime.lanes import Lanes
from storage.events import HIDDEN, StoredEvent
from storage.store import Store
from storage.tables.rooms import room_stats
from storage.tables.user_state import receipts
from storage.transaction import Transaction, chunks

from .feed import Feed, UserFeed, UserRoom
from .timeline import Timeline
from .visible import Reader, see

MAIN: Final = "main"
# LIMIT: events that are looked at, newest first, when counts are not in memory; older ones count no more.
MAX_COUNTED: Final = 1_000
_NOBODY: Final[frozenset[str]] = frozenset()
_NO_THREADS: Final[Mapping[str, tuple[int, int]]] = {}


@dataclass(slots=True)
class _Notice:
    position: int
    thread: str
    highlight: bool


@dataclass(slots=True)
class RoomUnread:
    """The notifying events of one room for one user: all at positions <= `upto` that are not read.

    `changed` is where in the stream that last became more or fewer.
    """

    upto: int
    changed: int = 0
    # thread -> position read up to; "" for unthreaded receipts.
    read: dict[str, int] = field(default_factory=dict)
    notices: list[_Notice] = field(default_factory=list)
    # How many there are, and how many of them are highlights: of all, and of threads other than the main one. Kept, as
    # an update for each of thousands of messages that nobody reads must not count them all.
    total: int = 0
    highlights: int = 0
    threads: dict[str, tuple[int, int]] | None = None
    # A state group, and the display name that the user has there.
    named: tuple[int, str | None] | None = None

    def add(self, notice: _Notice) -> None:
        """Add the newest notice; the oldest go where there are too many."""
        self.notices.append(notice)
        self._count(notice, 1)
        while len(self.notices) > MAX_COUNTED:
            self._count(self.notices.pop(0), -1)

    def keep(self, notices: list[_Notice]) -> None:
        """Keep only these."""
        self.notices = notices
        self.total = self.highlights = 0
        self.threads = None
        for notice in notices:
            self._count(notice, 1)

    def _count(self, notice: _Notice, change: int) -> None:
        highlight = change if notice.highlight else 0
        self.total += change
        self.highlights += highlight
        if notice.thread != MAIN:
            if self.threads is None:
                self.threads = {}
            total, highlights = self.threads.get(notice.thread, (0, 0))
            self.threads[notice.thread] = (total + change, highlights + highlight)
            if not total + change:
                del self.threads[notice.thread]


# Not frozen: made for each room of each update.
@dataclass(slots=True)
class Counts:
    """Notification and highlight counts, of all events or by thread; `changed` at that position of the stream."""

    changed: int
    notifications: int
    highlights: int
    threads: Mapping[str, tuple[int, int]]

    def render(self) -> bytes:
        """Return the members `unread_notifications` and, where there are any, `unread_thread_notifications`."""
        parts = b'"unread_notifications":{"notification_count":%d,"highlight_count":%d}' % (
            self.notifications,
            self.highlights,
        )
        if self.threads:
            threads = {
                str(thread): {"notification_count": total, "highlight_count": highlights}
                for thread, (total, highlights) in self.threads.items()
            }
            parts += b',"unread_thread_notifications":' + orjson.dumps(threads)
        return parts


class Unread:
    """Counts for users who receive."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        timeline: Timeline,
        load_rules: Callable[[Transaction, int], Any],
        ignored_users: Callable[[UserFeed], Awaitable[frozenset[str]]],
    ) -> None:
        """`load_rules` reads a user's stored push rules, `ignored_users` those whose events do not count."""
        self._store = store
        self._feed = feed
        self._timeline = timeline
        self._load_rules = load_rules
        self._ignored_users = ignored_users
        self._lanes: Lanes[tuple[int, int]] = Lanes()

    async def counts(
        self, user: UserFeed, places: Sequence[UserRoom], upto: int, *, by_thread: bool
    ) -> dict[str, Counts]:
        """Return the counts of rooms that the user is in, by room ID."""
        ruleset: Ruleset | None = user.ruleset
        if ruleset is None or any(place.room_id not in user.unread for place in places):
            ruleset = await self._load(user, places)
        result: dict[str, Counts] = {}
        for place in places:
            unread: RoomUnread | None = user.unread.get(place.room_id)
            if unread is None:
                continue
            if unread.upto < upto:
                # Several devices of a user ask at once: each event is counted once.
                async with self._lanes.enter((user.user_nid, place.room_nid)):
                    if unread.upto < upto:
                        await self._catch_up(user, ruleset, place, unread, upto)
            result[place.room_id] = _count(unread, by_thread)
        return result

    def read_upto(self, user_id: str, room_id: str, thread: str, position: int) -> None:
        """Note a receipt of the user; `thread` is "" for an unthreaded one."""
        user = self._feed.find_user(user_id)
        if user is None:
            return
        user.unread_changes += 1
        unread: RoomUnread | None = user.unread.get(room_id)  # type: ignore[call-overload]
        if unread is None or unread.read.get(thread, -1) >= position:
            return
        unread.read[thread] = position
        unread.changed = self._feed.watermark
        unread.keep(
            [
                notice
                for notice in unread.notices
                if notice.position > position or (thread != "" and notice.thread != thread)
            ]
        )

    def forget(self, user_id: str) -> None:
        """Count anew: the user's push rules have changed, or whom they ignore."""
        user = self._feed.find_user(user_id)
        if user is not None:
            user.unread_changes += 1
            user.ruleset = None
            user.unread.clear()

    async def _load(self, user: UserFeed, places: Sequence[UserRoom]) -> Ruleset:
        while True:
            changes = user.unread_changes
            cold = [place for place in places if place.room_id not in user.unread]
            nids = [place.room_nid for place in cold]
            rows, rules = await self._store.database.read(
                lambda tx, nids=nids: (  # type: ignore[misc]
                    _load_receipts(tx, user.user_nid, nids),
                    self._load_rules(tx, user.user_nid) if user.ruleset is None else UNCHANGED,
                )
            )
            # What has changed while this was read may be missing from it.
            if user.unread_changes == changes:
                break
        if user.ruleset is None:
            user.ruleset = compile_rules(user.user_id, rules)
        read: dict[int, dict[str, int]] = {}
        changed: dict[int, int] = {}
        for room_nid, thread, event_position, position in rows:
            threads = read.setdefault(room_nid, {})
            threads[thread] = max(event_position, threads.get(thread, 0))
            changed[room_nid] = max(position, changed.get(room_nid, 0))
        for place in cold:
            # Not for a user who has left meanwhile.
            if place.room_id not in user.unread and user.rooms.get(place.room_id) is place:
                positions = read.get(place.room_nid, {})
                # Nothing from before the user's join counts.
                start = max(place.since, positions.get("", 0))
                user.unread[place.room_id] = RoomUnread(start, changed.get(place.room_nid, 0), positions)
        ruleset: Ruleset = user.ruleset
        return ruleset

    async def _catch_up(self, user: UserFeed, ruleset: Ruleset, place: UserRoom, unread: RoomUnread, upto: int) -> None:
        start = unread.upto
        events, _ = await self._timeline.window(
            place.room_id, place.room_nid, after=start, upto=upto, limit=MAX_COUNTED
        )
        ignored = await self._ignored_users(user) if events else _NOBODY
        unseen = await self._unseen(user, place, events)
        notices: list[_Notice] = []
        redacted: set[int] = set()
        # thread -> the last that the user has sent there.
        sent: dict[str, int] = {}
        facts: RoomFacts | None = None
        group: int | None = None
        for stored in events:
            sender = stored.event.sender
            if stored.event.type == "m.room.redaction":
                target_id = stored.event.redacts
                target = await self._store.events.get_by_id(place.room_nid, target_id) if target_id else None
                if target is not None and target.redacted_by is not None:
                    redacted.add(target.position or 0)
            if sender == ruleset.user_id and not stored.event.is_state and not stored.flags & HIDDEN:
                # Spec: "Marking notifications as read": "either by using the API or by sending an event". State is
                # not counted as such: a new name is told in all rooms, whether they are looked at or not.
                sent[self._thread_of(stored.event)] = stored.position or 0
            if sender == ruleset.user_id or stored.flags & HIDDEN or stored.redacted_by or sender in ignored:
                continue
            if stored.nid in unseen:
                continue
            if stored.facts is None:
                stored.facts = EventFacts(stored.event)
            if facts is None or stored.state_group != group:
                # Mostly a change of state: it notifies nobody, whatever the room is like, and that is a load less.
                if stored.event.is_state and not may_notify(ruleset, stored.facts):
                    continue
                facts, group = await self._room_facts(user, ruleset, place, stored), stored.state_group
            actions = evaluate(ruleset, stored.facts, facts)
            if actions is None or not actions.notify:
                continue
            notices.append(_Notice(stored.position or 0, self._thread_of(stored.event), actions.highlight))
        # All at once, at the end: a request that goes away leaves nothing half counted.
        read = unread.read
        for thread, position in sent.items():
            read[thread] = max(read.get(thread, 0), position)
        if redacted or any(notice.thread in sent for notice in unread.notices):
            unread.keep([each for each in unread.notices if each.position not in redacted and each.thread not in sent])
            unread.changed = max(unread.changed, upto)
        for notice in notices:
            if notice.position not in redacted and notice.position > max(read.get("", 0), read.get(notice.thread, 0)):
                unread.add(notice)
                unread.changed = max(unread.changed, notice.position)
        unread.upto = upto

    async def _unseen(self, user: UserFeed, place: UserRoom, events: Sequence[StoredEvent]) -> Collection[int]:
        """Return the numbers of events of other branches of the room that the user may not see."""
        aside = [stored for stored in events if stored.tip_group is not None]
        if not aside:
            return ()
        seen = await see(self._store, Reader(user.user_id, user.user_nid, place.since), aside)
        return {stored.nid for stored in aside} - {each.stored.nid for each in seen}

    def _thread_of(self, event: Event) -> str:
        def of_parent(event_id: EventID) -> Relation | None:
            parent = self._store.events.find_by_id(event_id)
            return relation_of(parent.event) if parent is not None else None

        relation = relation_of(event)
        return (find_thread(relation, of_parent) if relation is not None else None) or MAIN

    async def _room_facts(self, user: UserFeed, ruleset: Ruleset, place: UserRoom, stored: StoredEvent) -> RoomFacts:
        room = self._feed.room(place.room_id, place.room_nid)
        if room.joined_members is None:
            room.joined_members = await self._store.database.read(lambda tx: _load_joined(tx, place.room_nid))
        group = stored.state_group or 0
        if room.deciding is None or room.deciding[0] != group:
            create, levels = await self._state_events(group, (("m.room.create", ""), ("m.room.power_levels", "")))
            # The same for all members, who mostly ask one after the other.
            room.deciding = (group, *_powers(create, levels))
        _, power_of, notification_level = room.deciding
        unread: RoomUnread | None = user.unread.get(place.room_id)
        named = unread.named if unread is not None else None
        if named is None or named[0] != group:
            (member,) = await self._state_events(group, (("m.room.member", str(ruleset.user_id)),))
            named = (group, _display_name(member))
            if unread is not None:
                unread.named = named
        name = named[1]
        return RoomFacts(
            member_count=room.joined_members or 0,
            power_of=power_of,
            notification_level=notification_level,
            display_name_of=lambda _: name,
        )

    async def _state_events(self, group: int, keys: Sequence[tuple[str, str]]) -> list[StoredEvent | None]:
        """Return what a state has at these keys."""
        state = await self._store.states.get(group)
        interner = self._store.interner
        if any(interner.known_key(key) is None for key in keys):
            await interner.find_keys(keys)
        key_nids = [interner.known_key(key) for key in keys]
        nids = [state.get(key_nid) if key_nid is not None else None for key_nid in key_nids]
        # Together, where one is not in memory.
        found = await self._store.events.get([nid for nid in nids if nid is not None])
        return [found.get(nid) if nid is not None else None for nid in nids]


def _powers(
    create: StoredEvent | None, levels: StoredEvent | None
) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """Return what gives a user's power level, and the level that it takes to notify with a key."""

    def power_levels() -> PowerLevels | None:
        if create is None:
            return None
        version = KNOWN_ROOM_VERSIONS.get(str(create.event.content.get("room_version", "1")))
        if version is None:
            return None
        return PowerLevels.from_events(version, create.event, levels.event if levels is not None else None)

    def power_of(user_id: str) -> int:
        parsed = power_levels()
        return parsed.of(user_id) if parsed is not None else 0

    def notification_level(key: str) -> int:
        parsed = power_levels()
        return parsed.notification(key) if parsed is not None else 50

    return power_of, notification_level


def _display_name(member: StoredEvent | None) -> str | None:
    name = member.event.content.get("displayname") if member is not None else None
    return name if isinstance(name, str) else None


def _count(unread: RoomUnread, by_thread: bool) -> Counts:
    threads = unread.threads
    if not by_thread or not threads:
        return Counts(unread.changed, unread.total, unread.highlights, _NO_THREADS)
    total, highlights = unread.total, unread.highlights
    for in_thread, highlights_in_thread in threads.values():
        total -= in_thread
        highlights -= highlights_in_thread
    return Counts(unread.changed, total, highlights, dict(threads))


def _load_receipts(tx: Transaction, user_nid: int, room_nids: Sequence[int]) -> list[Any]:
    query = select(receipts.c.room_nid, receipts.c.thread_id, receipts.c.event_position, receipts.c.position).where(
        receipts.c.user_nid == user_nid, receipts.c.receipt_type.in_(("m.read", "m.read.private"))
    )
    return [row for part in chunks(room_nids) for row in tx.all(query.where(receipts.c.room_nid.in_(part)))]


def _load_joined(tx: Transaction, room_nid: int) -> int:
    joined = tx.scalar(select(room_stats.c.joined_members).where(room_stats.c.room_nid == room_nid))
    return int(joined or 0)
