"""The feed: what has just happened, in memory, and whom it wakes.

The database carries the facts; the feed carries wake-ups and the newest events. Everything here may be thrown away at
any time: what is asked for from before `floor` is read from the database instead.

- A `RoomFeed` holds the newest events of one room, without a gap, and the users who listen to it.
- A `UserFeed` belongs to a user who is (or was lately) receiving: the rooms, and for each the position of its last
  change. So what an incremental sync costs depends on what changed, not on how many rooms the user is in.

Positions arrive here in order (see `storage.positions`). Woken receivers run in later turns of the reactor, a slice at
a time, so that whoever sent is answered first.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Protocol

from sqlalchemy import func, select
from twisted.internet.defer import Deferred

from homeserver.hooks import EventCommitted, Observer
from homeserver.model.ids import RoomID, UserID
from homeserver.runtime.clock import Clock
from storage.events import HIDDEN, StoredEvent
from storage.store import Store
from storage.tables.rooms import membership_changes, memberships, rooms
from storage.transaction import Transaction

# LIMIT: events that the feed keeps in memory, over all rooms; each is shared with the event cache.
MAX_RECENT: Final = 20_000
MAX_RECENT_BYTES: Final = 32 * 1024**2
MAX_RECENT_IN_ROOM: Final = 200
# LIMIT: users whose rooms are kept in memory; who has waited least lately goes first.
MAX_USERS: Final = 20_000
MAX_CHANGED: Final = 2_000
WAKE_SLICE: Final = 32
# State that decides, besides memberships, what a room's summary says.
_NAMING: Final = frozenset({"m.room.name", "m.room.canonical_alias"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A user's membership in a room became `membership`; it was `before` (None: never had one).

    `nid` and `sender_nid` are of the member event that says so: the one published, or one of another branch of the
    room's graph that counts now that the branches have met.
    """

    user_id: UserID
    user_nid: int
    membership: str
    before: str | None
    is_local: bool
    nid: int
    sender_nid: int


@dataclass(frozen=True, slots=True)
class Publication:
    """A committed event with what receivers need to know of it."""

    stored: StoredEvent
    room_id: RoomID
    joined_members: int
    members: tuple[MemberChange, ...] = ()
    # Whether the room's name, besides what the event itself says, may be another one.
    is_renamed: bool = False
    # The events it redacted: their new forms where they are in memory, and all their numbers.
    redacted: tuple[StoredEvent, ...] = ()
    redacted_nids: tuple[int, ...] = ()
    # The servers that the event has to be sent to.
    destinations: tuple[str, ...] = ()
    # What it builds on is not all here.
    is_after_gap: bool = False


@dataclass(slots=True, eq=False)
class RoomFeed:
    """The newest events of a room: all at positions over `floor`, oldest first."""

    room_id: RoomID
    room_nid: int
    floor: int
    recent: deque[StoredEvent] = field(default_factory=deque)
    # The positions over `floor` of events before which there is, or was, a gap.
    gaps: tuple[int, ...] = ()
    listeners: set[UserFeed] = field(default_factory=set)
    joined_members: int | None = None
    # What `feed.summary` keeps of the room until what it tells changes, and the position where it did last.
    summary: Any = None
    summary_changed: int = 0
    # The newest stretch as `feed.stretch` made it, for all who stand at the same place; nothing once there is more.
    stretch: Any = None
    # What `feed.unread` keeps: a state group, with the power levels of users and of notifications there.
    deciding: tuple[int, Callable[[str], int], Callable[[str], int]] | None = None


@dataclass(slots=True)
class UserRoom:
    """A user's place in a room: the membership event, and since which position the membership is what it is."""

    room_id: RoomID
    room_nid: int
    membership: str
    nid: int
    since: int
    is_forgotten: bool = False
    sender_nid: int = 0


class Follower(Protocol):
    """Whoever stays with a user's feed, as a live connection does."""

    def wake(self) -> None:
        """Something may have changed; called in a turn of the reactor of its own. It must not raise."""


@dataclass(slots=True, eq=False)
class UserFeed:
    """What is known in memory of a user who receives. Changes at positions over `floor` are all in `changed`."""

    user_id: UserID
    user_nid: int
    floor: int
    rooms: dict[RoomID, UserRoom] = field(default_factory=dict)
    # room -> position of the last change in it that concerns the user, newest last.
    changed: dict[RoomID, int] = field(default_factory=dict)
    # Position of the last change of any kind.
    last_change: int = 0
    waiting: list[Deferred[bool]] = field(default_factory=list)
    followers: tuple[Follower, ...] = ()
    is_queued: bool = False
    # Kept by feed.unread and feed.lazy_members.
    unread: dict[RoomID, Any] = field(default_factory=dict)
    sent_members: dict[int, Any] = field(default_factory=dict)
    ruleset: Any = None
    # How often what `unread` is made of (receipts, push rules) has changed: for whoever reads it meanwhile.
    unread_changes: int = 0
    # Kept by feed.streams.device_lists: user ID -> (position, whether that one left a room, position of the last change
    # that was no leaving), in order of position; all changes over `devices_floor` are there.
    devices: dict[str, tuple[int, bool, int]] = field(default_factory=dict)
    devices_floor: int = 0

    def joined(self) -> list[UserRoom]:
        """Return the rooms that the user is in."""
        return [room for room in self.rooms.values() if room.membership == "join"]


@dataclass(slots=True)
class _Loading:
    """A user who is being read from the database; `is_stale` once a membership of the user changed meanwhile."""

    is_stale: bool = False
    # The reader, waiting for that change.
    changed: Deferred[None] | None = None
    # Others who want the user.
    waiting: list[Deferred[None]] = field(default_factory=list)

    def change(self) -> None:
        self.is_stale = True
        changed, self.changed = self.changed, None
        if changed is not None:
            changed.callback(None)


class Feed:
    """Takes publications in, wakes who is concerned."""

    def __init__(self, store: Store, clock: Clock, *, budget_bytes: int = MAX_RECENT_BYTES) -> None:
        self._store = store
        self._clock = clock
        self._rooms: dict[RoomID, RoomFeed] = {}
        # The room and the size of each event in the order of arrival: no event is in memory without its entry here.
        self._order: deque[tuple[RoomFeed, int]] = deque()
        self._order_bytes = 0
        self._budget = budget_bytes
        self._users: dict[str, UserFeed] = {}
        self._loading: dict[str, _Loading] = {}
        self._observers: list[Observer] = []
        self._queue: deque[UserFeed] = deque()
        self._is_draining = False
        self._listeners: list[Callable[[Publication], None]] = []
        self.is_stopped = False

    # -- in ----------------------------------------------------------------------------------------------------------

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of every event from now on."""
        self._observers.append(observer)

    def listen(self, listener: Callable[[Publication], None]) -> None:
        """Call `listener` with every publication, for parts of the server that follow the stream."""
        self._listeners.append(listener)

    def publish(self, publication: Publication) -> None:
        """Take in a committed event; called in order of positions."""
        stored = publication.stored
        position = stored.position or 0
        room = self._rooms.get(publication.room_id)
        if room is None:
            room = self._add_room(publication.room_id, stored.room_nid, position - 1)
        room.joined_members = publication.joined_members
        relates_to = stored.event.content.get("m.relates_to")
        if isinstance(relates_to, dict):
            self._relate(room, relates_to.get("event_id"))
        room.recent.append(stored)
        room.stretch = None
        if publication.is_after_gap:
            room.gaps = (*(each for each in room.gaps if each > room.floor), position)
        self._order.append((room, stored.size))
        self._order_bytes += stored.size
        if len(room.recent) > MAX_RECENT_IN_ROOM:
            self._forget_oldest(room)
        while len(self._order) > MAX_RECENT or self._order_bytes > self._budget:
            oldest, size = self._order.popleft()
            self._order_bytes -= size
            if oldest.recent:
                self._forget_oldest(oldest)
        if publication.redacted_nids:
            self._redact(room, publication)
        for member in publication.members:
            self._change_member(room, member, position)
        if publication.is_renamed or (stored.key_nid is not None and stored.event.type in _NAMING):
            room.summary = None
            room.summary_changed = position
        for user in room.listeners:
            self._touch(user, room.room_id, position)
        for member in publication.members:
            # Told of the change, not of what follows.
            gone = self._users.get(member.user_id) if member.membership != "join" else None
            if gone is not None:
                room.listeners.discard(gone)
        for listener in self._listeners:
            try:
                listener(publication)
            except Exception:  # one that fails must not keep the others from hearing of it
                logger.exception("A listener failed on the event at position %d", position)
        if self._observers and not stored.flags & HIDDEN:
            observation = EventCommitted(stored.event, position)
            for observer in self._observers:
                self._clock.call_later(0, observer, observation)

    def distrust(self, room_id: RoomID, position: int, members: tuple[MemberChange, ...]) -> None:
        """An event's commit failed, and nobody may be sure of that: read the room's events up to it from the database.

        So what was stored although the database's answer was lost is shown like everything else.
        """
        room = self._rooms.get(room_id)
        if room is not None:
            room.recent.clear()
            room.floor = max(room.floor, position)
            room.joined_members = room.summary = room.stretch = None
            room.summary_changed = position
        for member in members:
            user, loading = self._users.get(member.user_id), self._loading.get(member.user_id)
            if user is not None:
                self._drop_user(user)
            if loading is not None:
                loading.change()

    def forget_before(self, room_id: RoomID, position: int) -> None:
        """Events have come into the room's past, before the one at `position`: read what is older from the database."""
        room = self._rooms.get(room_id)
        if room is None or room.floor >= position - 1:
            return
        room.stretch = None
        while room.recent and (room.recent[0].position or 0) < position:
            room.recent.popleft()
        room.floor = position - 1

    def change_member(self, room_id: RoomID, room_nid: int, member: MemberChange, position: int) -> None:
        """A user's membership changed in a room of which this server has no graph."""
        room = self._rooms.get(room_id)
        if room is None:
            # Not kept: nobody is in it.
            room = RoomFeed(room_id, room_nid, position)
        self._change_member(room, member, position)

    def renumber_member(self, user_id: str, room_id: RoomID, old_nid: int, nid: int) -> None:
        """The event of a user's membership, known from outside the room, has another number now."""
        user, loading = self._users.get(user_id), self._loading.get(user_id)
        place = user.rooms.get(room_id) if user is not None else None
        if place is not None and place.nid == old_nid:
            place.nid = nid
        if loading is not None:
            loading.change()

    def renew_room(self, room_id: RoomID, position: int) -> None:
        """The members of a room have become known: whoever is in it is told of the room as if just joined."""
        for loading in self._loading.values():
            # Whoever is being read may be in the room, and waits where the read has seen this already.
            loading.change()
        room = self._rooms.get(room_id)
        if room is None:
            return
        room.joined_members = room.summary = None
        room.summary_changed = position
        for user in room.listeners:
            place = user.rooms.get(room_id)
            if place is not None and place.membership == "join":
                place.since = position
            self._touch(user, room_id, position)

    def touch_room(self, room_id: RoomID, position: int) -> None:
        """Something other than an event changed in a room: wake its listeners."""
        room = self._rooms.get(room_id)
        if room is not None:
            for user in room.listeners:
                self._touch(user, room_id, position)

    def touch_user(self, user_id: str, position: int, room_id: RoomID | None = None) -> None:
        """Something changed that concerns one user (in one room, if given): wake the user's receivers."""
        user = self._users.get(user_id)
        if user is not None:
            self._touch(user, room_id, position)

    # -- out ---------------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        """The position up to which everything is visible."""
        return self._store.positions.watermark

    def room(self, room_id: RoomID, room_nid: int) -> RoomFeed:
        """Return the feed of a room; what happened before now is not in it."""
        room = self._rooms.get(room_id)
        if room is None:
            room = self._add_room(room_id, room_nid, self.watermark)
        return room

    def find_room(self, room_id: RoomID) -> RoomFeed | None:
        """Return the feed of a room if there is one."""
        return self._rooms.get(room_id)

    def find_user(self, user_id: str) -> UserFeed | None:
        """Return the feed of a user if it is in memory."""
        return self._users.get(user_id)

    async def user(self, user_id: UserID, user_nid: int) -> UserFeed:
        """Return the feed of a user, with all rooms that the user has a membership in."""
        user = self._users.get(user_id)
        if user is not None:
            return user
        loading = self._loading.get(user_id)
        if loading is not None:
            waiter: Deferred[None] = Deferred()
            loading.waiting.append(waiter)
            await waiter
            return await self.user(user_id, user_nid)
        loading = self._loading[user_id] = _Loading()
        try:
            while True:
                loading.is_stale = False
                found = await self._store.database.read(lambda tx: load_user_rooms(tx, user_nid))
                # What was published while this was read may be missing from it, or come from after the watermark.
                ahead = max((place.since for place in found), default=0)
                if not loading.is_stale and ahead > self.watermark:
                    loading.changed = Deferred()
                    await loading.changed
                if not loading.is_stale:
                    break
            self._trim_users()
            user = UserFeed(user_id, user_nid, self.watermark, {room.room_id: room for room in found})
            user.last_change = user.floor
            self._users[user_id] = user
            for place in found:
                if place.membership == "join":
                    self.room(place.room_id, place.room_nid).listeners.add(user)
        finally:
            for waiter in self._loading.pop(user_id).waiting:
                waiter.callback(None)
        return user

    async def wait(self, user: UserFeed, after: int, seconds: float) -> bool:
        """Wait until something over position `after` concerns the user; False if that takes longer than `seconds`.

        True at once where `user` is not kept any more: ask for the user anew.
        """
        if user.last_change > after:
            return True
        if self.is_stopped or seconds <= 0:
            return False
        if self._users.get(user.user_id) is not user:
            return True
        # Who waits lately is kept longest.
        del self._users[user.user_id]
        self._users[user.user_id] = user
        woken: Deferred[bool] = Deferred()
        user.waiting.append(woken)
        timer = self._clock.call_later(seconds, _fire, woken, False)
        try:
            return await woken
        finally:
            if woken in user.waiting:
                user.waiting.remove(woken)
            if timer.active():
                timer.cancel()

    def follow(self, user: UserFeed, follower: Follower) -> bool:
        """Wake `follower` whenever something concerns the user, until it is told to `unfollow`.

        False where `user` is not kept any more: ask for the user anew. When that happens later, the follower is woken.
        """
        if self._users.get(user.user_id) is not user:
            return False
        user.followers = (*user.followers, follower)
        return True

    def unfollow(self, user: UserFeed, follower: Follower) -> None:
        """Wake `follower` no more."""
        user.followers = tuple(each for each in user.followers if each is not follower)

    def stop(self) -> None:
        """Answer everybody who waits."""
        self.is_stopped = True
        for user in list(self._users.values()):
            waiting, user.waiting = user.waiting, []
            for woken in waiting:
                _fire(woken, False)

    # -- private -----------------------------------------------------------------------------------------------------

    def _add_room(self, room_id: RoomID, room_nid: int, floor: int) -> RoomFeed:
        room = self._rooms[room_id] = RoomFeed(room_id, room_nid, floor, summary_changed=floor)
        return room

    def _forget_oldest(self, room: RoomFeed) -> None:
        gone = room.recent.popleft()
        room.floor = gone.position or room.floor
        if not room.recent and not room.listeners:
            self._rooms.pop(room.room_id, None)

    def _redact(self, room: RoomFeed, publication: Publication) -> None:
        new = {stored.nid: stored for stored in publication.redacted}
        gone = set(publication.redacted_nids)
        stale = 0
        for index, stored in enumerate(room.recent):
            if stored.nid in gone:
                replacement = new.get(stored.nid)
                if replacement is None:
                    stale = index + 1
                else:
                    room.recent[index] = replacement
            elif stored.replaces_nid in gone or stored.redacted_by in gone:
                # It shows the old content under `unsigned`.
                stale = index + 1
        # What is not in the cache in its new form is forgotten, and what is before it: the database has it.
        for _ in range(stale):
            room.floor = room.recent.popleft().position or room.floor

    def _change_member(self, room: RoomFeed, member: MemberChange, position: int) -> None:
        room.summary = None
        room.summary_changed = position
        user = self._users.get(member.user_id)
        if user is None:
            if self._loading:
                loading = self._loading.get(member.user_id)
                if loading is not None:
                    loading.change()
            return
        place = user.rooms.get(room.room_id)
        # Where the room had lost the user's event on resolution, its like is a change: so the database has it.
        if place is None or place.membership != member.membership or member.before is None:
            place = UserRoom(room.room_id, room.room_nid, member.membership, member.nid, position)
            user.rooms[room.room_id] = place
            user.unread.pop(room.room_id, None)
        else:
            place.nid = member.nid
        place.sender_nid = member.sender_nid
        place.is_forgotten = False
        if member.membership == "join":
            room.listeners.add(user)
        self._touch(user, room.room_id, position)

    def _touch(self, user: UserFeed, room_id: RoomID | None, position: int) -> None:
        if room_id is not None:
            changed = user.changed
            changed.pop(room_id, None)
            changed[room_id] = position
            if len(changed) > MAX_CHANGED:
                oldest = next(iter(changed))
                user.floor = max(user.floor, changed.pop(oldest))
        user.last_change = position
        if (user.waiting or user.followers) and not user.is_queued:
            self._enqueue(user)

    def _enqueue(self, user: UserFeed) -> None:
        user.is_queued = True
        self._queue.append(user)
        if not self._is_draining:
            self._is_draining = True
            self._clock.call_later(0, self._drain)

    def _drain(self) -> None:
        for _ in range(min(WAKE_SLICE, len(self._queue))):
            user = self._queue.popleft()
            user.is_queued = False
            waiting, user.waiting = user.waiting, []
            for woken in waiting:
                _fire(woken, True)
            for follower in user.followers:
                try:
                    follower.wake()
                except Exception:  # one that fails must not keep the others asleep
                    logger.exception("A follower of %s failed", user.user_id)
        if self._queue:
            self._clock.call_later(0, self._drain)
        else:
            self._is_draining = False

    def _relate(self, room: RoomFeed, target: Any) -> None:
        if not isinstance(target, str):
            return
        related = self._store.events.find_by_id(target)
        if related is not None:
            related.is_related = True
        # The cache may have read it anew since it was put in here.
        for stored in reversed(room.recent):
            if stored.event.event_id == target:
                stored.is_related = True
                break

    def _trim_users(self) -> None:
        excess = len(self._users) + 1 - MAX_USERS
        if excess <= 0:
            return
        idle = (user for user in self._users.values() if not (user.waiting or user.followers))
        for user in list(islice(idle, excess)):
            self._drop_user(user)

    def _drop_user(self, user: UserFeed) -> None:
        del self._users[user.user_id]
        for room_id in user.rooms:
            room = self._rooms.get(room_id)
            if room is not None:
                room.listeners.discard(user)
                if not room.recent and not room.listeners:
                    del self._rooms[room_id]
        waiting, user.waiting = user.waiting, []
        for woken in waiting:
            _fire(woken, True)
        if user.followers and not user.is_queued:
            self._enqueue(user)


def _fire(waiter: Deferred[bool], value: bool) -> None:
    if not waiter.called:
        waiter.callback(value)


def load_user_rooms(tx: Transaction, user_nid: int) -> list[UserRoom]:
    """Return every room that a user has, or had, a membership in."""
    latest = (
        select(membership_changes.c.room_nid, func.max(membership_changes.c.position).label("since"))
        .where(membership_changes.c.user_nid == user_nid)
        .group_by(membership_changes.c.room_nid)
        .subquery()
    )
    query = (
        select(
            rooms.c.room_id,
            rooms.c.room_nid,
            memberships.c.membership,
            memberships.c.event_nid,
            latest.c.since,
            memberships.c.is_forgotten,
            memberships.c.sender_nid,
        )
        .join(rooms, rooms.c.room_nid == memberships.c.room_nid)
        .outerjoin(latest, latest.c.room_nid == memberships.c.room_nid)
        .where(memberships.c.user_nid == user_nid)
    )
    return [
        UserRoom(RoomID(row[0]), row[1], row[2], row[3], row[4] or row[3], bool(row[5]), row[6])
        for row in tx.all(query)
    ]
