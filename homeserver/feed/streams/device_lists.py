"""The stream of device lists: whose devices a receiver should ask for again, and whose it need not follow any more.

Every `UserFeed` keeps the users whose devices changed, and those who came into or left the receiver's rooms, with the
position of the last such change. What a change costs is a look at the rooms of who changed; a receiver without changes
reads nothing, and one who is only told of changed devices neither. Who leaves a room may share another one: that is
asked of the database, as is everything that memory does not reach back to. So is whether the receiver was in a room
before being out of it: who declines an invite, takes back a knock or is banned from outside has no business with who is
inside, and of who was inside nobody who has come or changed since is named.

A superset may be told of who changed: clients ask once more than needed. Spec: "for the sake of simpler logic, a server
may add Alice to `changed` when Alice and Bob share a new room, even if they previously already shared a room."

Spec: client-server API, "Tracking the device list for a user", "Extensions to /sync", `GET /keys/changes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from homeserver.feed.feed import Feed, Publication, UserFeed
from homeserver.feed.moves import load_departures
from homeserver.model.ids import RoomID
from storage import device_lists as storage
from storage.store import Store
from storage.transaction import Transaction

# LIMIT: changes kept in memory for one receiver: more than come between two syncs of who is there.
MAX_CHANGES: Final = 500


@dataclass(frozen=True, slots=True)
class ListChanges:
    """User IDs: whose devices to ask for again, and with whom no room is shared any more."""

    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


NO_CHANGES: Final = ListChanges()


class DeviceListsStream:
    """Takes changes in, tells receivers of them."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self._listeners: list[Callable[[], None]] = []
        feed.listen(self._on_publication)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever somebody's devices or keys have changed."""
        self._listeners.append(listener)

    # -- in ----------------------------------------------------------------------------------------------------------

    def publish(self, user_id: str, room_ids: Iterable[str], position: int) -> None:
        """The devices or keys of a user, joined to these rooms, changed; called in order of positions."""
        concerned: set[UserFeed] = set()
        for room_id in room_ids:
            room = self._feed.find_room(RoomID(room_id))
            if room is not None:
                concerned |= room.listeners
        own = self._feed.find_user(user_id)
        if own is not None:
            concerned.add(own)
        # One for all of them: a change in a large room is noted for thousands.
        note = (position, False, position)
        for user in concerned:
            _note(user, user_id, note)
            self._feed.touch_user(user.user_id, position)
        for listener in self._listeners:
            listener()

    def publish_to(self, receiver: str, user_id: str, position: int) -> None:
        """One receiver alone has to ask for a user's keys again."""
        user = self._feed.find_user(receiver)
        if user is not None:
            _note(user, user_id, (position, False, position))
            self._feed.touch_user(receiver, position)

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            joins = member.membership == "join"
            if joins == (member.before == "join"):
                continue
            room = self._feed.find_room(publication.room_id)
            position = publication.stored.position
            if room is None or position is None:
                continue
            note = (position, not joins, position if joins else 0)
            for user in room.listeners:
                if user.user_id != member.user_id:
                    _note(user, member.user_id, note)

    # -- out ---------------------------------------------------------------------------------------------------------

    async def between(self, user: UserFeed, after: int, upto: int) -> ListChanges:
        """Return the changes at after < position <= upto; some that came later may be among them."""
        if after < max(user.floor, user.devices_floor):
            return await self._from_database(user, after)
        changed: list[str] = []
        gone: list[str] = []
        for user_id, (position, is_leave, changed_at) in reversed(user.devices.items()):
            if position <= after:
                break
            if is_leave and position <= upto:
                gone.append(user_id)
            # Who left a room after a change may share another one.
            if after < changed_at <= upto:
                changed.append(user_id)
        joined, left = _own_moves(user, after)
        if not gone and not joined and not left:
            return ListChanges(tuple(changed)) if changed else NO_CHANGES
        found = await self._store.interner.find_users([*changed, *gone])
        lists = {found[each] for each in changed if each in found}
        moved = {found[each] for each in gone if each in found}
        nid = user.user_nid
        return await self._store.database.read(lambda tx: _resolve(tx, nid, after, lists, moved, joined, left))

    async def _from_database(self, user: UserFeed, after: int) -> ListChanges:
        places = [room.room_nid for room in user.joined()]
        joined = [room.room_nid for room in user.joined() if room.since > after]
        left = [room.room_nid for room in user.rooms.values() if room.membership != "join" and room.since > after]

        def read(tx: Transaction) -> ListChanges:
            lists, came, gone = storage.changed_since(tx, user.user_nid, places, after)
            return _resolve(tx, user.user_nid, after, lists | came, gone, joined, left)

        return await self._store.database.read(read)


def _note(user: UserFeed, user_id: str, note: tuple[int, bool, int]) -> None:
    devices = user.devices
    before = devices.pop(user_id, None)
    position, is_leave, _ = note
    # A change of before the leaving is still to be told, where another room is shared.
    devices[user_id] = (position, True, before[2]) if is_leave and before is not None else note
    if len(devices) > MAX_CHANGES:
        user.devices_floor = devices.pop(next(iter(devices)))[0]


def _own_moves(user: UserFeed, after: int) -> tuple[list[int], list[int]]:
    """Return the rooms that the user has come into since then, and those that may have been left."""
    joined: list[int] = []
    left: list[int] = []
    for room_id, position in reversed(user.changed.items()):
        if position <= after:
            break
        place = user.rooms.get(room_id)
        if place is not None and place.since > after:
            if place.membership == "join":
                joined.append(place.room_nid)
            else:
                left.append(place.room_nid)
    return joined, left


def _resolve(
    tx: Transaction,
    user_nid: int,
    after: int,
    lists: set[int],
    gone: set[int],
    joined: Iterable[int],
    left: Sequence[int],
) -> ListChanges:
    new = storage.members_of(tx, joined)
    new.discard(user_nid)
    gone = gone | storage.members_before(tx, load_departures(tx, user_nid, left, after))
    gone.discard(user_nid)
    sharing = storage.sharing_with(tx, user_nid, lists | gone)
    changed = (lists & sharing) | new
    return ListChanges(
        tuple(storage.user_names(tx, changed)), tuple(storage.user_names(tx, gone - sharing - new)) if gone else ()
    )
