"""The guard: which events a user may see, and the user's membership at each.

Every road that shows stored events to a client goes through here: sync, messages, context, single events, relations.

Spec: client-server API, "Room history visibility"; "Room event format", `unsigned.membership`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from sqlalchemy import func, select

from homeserver.model.content.history_visibility import history_visibility_of
from homeserver.model.content.member import membership_of
from homeserver.model.ids import UserID
from homeserver.model.visibility import may_user_see
from storage.events import HIDDEN, StoredEvent
from storage.store import Store
from storage.tables.rooms import membership_changes
from storage.transaction import Transaction

_VISIBILITY_KEY: Final = ("m.room.history_visibility", "")
_JOIN: Final = b'"join"'


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a room: `joined_since` is the position since which the user is joined, None if not joined now.

    `last_join` is the position of the last join, for a user who was in the room once, and `left_at` that of what ended
    that time.
    """

    user_id: UserID
    user_nid: int
    joined_since: int | None
    last_join: int | None = None
    left_at: int | None = None

    def was_there(self, position: int) -> bool:
        """Tell whether the user was in the room, this time or the last, when an event arrived."""
        if self.joined_since is not None:
            return position >= self.joined_since
        if self.last_join is None or self.left_at is None:
            return False
        return self.last_join <= position < self.left_at


@dataclass(frozen=True, slots=True)
class Seen:
    """An event that may be shown, with the reader's membership at it as JSON."""

    stored: StoredEvent
    membership: bytes


async def see(store: Store, reader: Reader, events: Sequence[StoredEvent]) -> list[Seen]:
    """Return those of the events of one room that the reader may see, in their order."""
    since = reader.joined_since
    if since is not None and all(_is_since(stored, since) and not stored.flags for stored in events):
        return [Seen(stored, _JOIN) for stored in events]
    # Only events from before the user's join, or of another branch of the room, need the state at the event.
    older = [
        stored
        for stored in events
        if not (since is not None and _is_since(stored, since)) and stored.state_group is not None
    ]
    member_key = ("m.room.member", str(reader.user_id))
    keys = await store.interner.find_keys([_VISIBILITY_KEY, member_key])
    visibility_nid, member_nid = keys.get(_VISIBILITY_KEY), keys.get(member_key)
    states = await store.states.get_many(stored.state_group for stored in older if stored.state_group is not None)

    wanted: set[int] = set()
    for stored in older:
        state = states[stored.state_group or 0]
        wanted.update(nid for key in (visibility_nid, member_nid) if key is not None and (nid := state.get(key)))
        if stored.replaces_nid and stored.key_nid in (visibility_nid, member_nid):
            wanted.add(stored.replaces_nid)
    deciding = await store.events.get(wanted)

    result: list[Seen] = []
    for stored in events:
        if stored.flags & HIDDEN:
            continue
        if since is not None and _is_since(stored, since):
            result.append(Seen(stored, _JOIN))
        elif stored.state_group is not None:
            seen = _judge(reader, stored, states[stored.state_group], deciding, visibility_nid, member_nid)
            if seen is not None:
                result.append(seen)
    return result


def _is_since(stored: StoredEvent, joined_since: int) -> bool:
    """Tell whether the reader was joined at the event for certain: it came later, and has all before it in it."""
    return (stored.position or 0) >= joined_since and stored.tip_group is None


def _judge(
    reader: Reader,
    stored: StoredEvent,
    state: Mapping[int, int],
    deciding: Mapping[int, StoredEvent],
    visibility_nid: int | None,
    member_nid: int | None,
) -> Seen | None:
    def at(key_nid: int | None, *, before: bool) -> StoredEvent | None:
        if key_nid is None:
            return None
        nid = stored.replaces_nid if before and key_nid == stored.key_nid else state.get(key_nid)
        return deciding.get(nid) if nid is not None else None

    last_join = reader.joined_since if reader.joined_since is not None else reader.last_join
    joined_afterwards = last_join is not None and last_join > (stored.position or 0)
    if stored.tip_group is not None and reader.was_there(stored.position or 0):
        # On another branch than the join: neither came before the other, and the reader was there when it came.
        joined_afterwards = True
    after = at(member_nid, before=False)
    membership = membership_of(after.event if after else None)
    # Spec: for the setting itself and the user's own membership, what was before or after the event decides.
    moments = (
        (False, True) if stored.key_nid is not None and stored.key_nid in (visibility_nid, member_nid) else (False,)
    )
    for before in moments:
        setting, member = at(visibility_nid, before=before), at(member_nid, before=before)
        if may_user_see(
            history_visibility_of(setting.event if setting else None),
            membership_of(member.event if member else None),
            joined_afterwards=joined_afterwards,
        ):
            return Seen(stored, orjson.dumps(membership.value))
    return None


def load_last_join(tx: Transaction, user_nid: int, room_nid: int, upto: int | None = None) -> int | None:
    """Return the position of a user's last join of a room, at or before `upto` if given, or None."""
    query = select(func.max(membership_changes.c.position)).where(
        membership_changes.c.user_nid == user_nid,
        membership_changes.c.room_nid == room_nid,
        membership_changes.c.membership == "join",
    )
    if upto is not None:
        query = query.where(membership_changes.c.position <= upto)
    position: int | None = tx.scalar(query)
    return position


@dataclass(frozen=True, slots=True)
class Stay:
    """A user's last time in a room: the positions of the join and of what ended it (None: it lasts)."""

    joined: int
    ended: int | None

    def reader(self, user_id: UserID, user_nid: int) -> Reader:
        """Return how `see` is to see the user, who is not in the room now."""
        return Reader(user_id, user_nid, None, self.joined, self.ended)


def load_stay(tx: Transaction, user_nid: int, room_nid: int, upto: int | None = None) -> Stay | None:
    """Return a local user's last time in a room, None for who was never in it; later than `upto` does not count.

    Invites, knocks and bans that came after it do not count: the declined invite of a former member does not make
    the time between visible.
    """
    joined = load_last_join(tx, user_nid, room_nid, upto)
    if joined is None:
        return None
    ended: int | None = tx.scalar(
        select(func.min(membership_changes.c.position)).where(
            membership_changes.c.user_nid == user_nid,
            membership_changes.c.room_nid == room_nid,
            membership_changes.c.position > joined,
        )
    )
    return Stay(joined, ended)
