"""Room summaries for sync: heroes and member counts, kept until a membership of the room changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from homeserver.model.content.member import Membership
from homeserver.model.ids import UserID
from homeserver.model.room_summary import HERO_COUNT, select_heroes
from storage.store import Store
from storage.tables.identity import user_ids
from storage.tables.rooms import memberships, room_stats
from storage.transaction import Transaction

from .feed import Feed, RoomFeed, UserRoom


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """The first members of a room, oldest membership first, and how many are joined and invited."""

    first: tuple[tuple[UserID, Membership], ...]
    joined: int
    invited: int
    has_name: bool

    def heroes(self, viewer: UserID) -> tuple[UserID, ...]:
        """Return whom the room is named after in the eyes of `viewer`."""
        return select_heroes(self.first, viewer)


async def member_facts(store: Store, feed: Feed, places: Sequence[UserRoom]) -> dict[int, MemberFacts]:
    """Return the facts of several rooms by room_nid, from memory where no membership has changed since."""
    result: dict[int, MemberFacts] = {}
    cold: list[RoomFeed] = []
    for place in places:
        room = feed.room(place.room_id, place.room_nid)
        if room.summary is not None:
            result[place.room_nid] = room.summary
        else:
            cold.append(room)
    if cold:
        before = [(room, room.summary_changed) for room in cold]
        loaded = await store.database.read(lambda tx: {room.room_nid: _load(tx, room.room_nid) for room in cold})
        result.update(loaded)
        for room, changed in before:
            # What was published while this was read may be missing from it.
            if room.summary_changed == changed:
                room.summary = loaded[room.room_nid]
    return result


def _load(tx: Transaction, room_nid: int) -> MemberFacts:
    def members(kinds: tuple[str, ...]) -> list[Any]:
        query = (
            select(user_ids.c.user_id, memberships.c.membership)
            .join(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
            .where(memberships.c.room_nid == room_nid, memberships.c.membership.in_(kinds))
            .order_by(memberships.c.position)
            .limit(HERO_COUNT + 1)
        )
        return [(UserID(row[0]), Membership(row[1])) for row in tx.all(query)]

    first = members(("join", "invite"))
    if len(first) <= 1:
        first += members(("leave", "ban"))
    stats = tx.first(
        select(
            room_stats.c.joined_members, room_stats.c.invited_members, room_stats.c.name, room_stats.c.canonical_alias
        ).where(room_stats.c.room_nid == room_nid)
    )
    if stats is None:
        joined = tx.scalar(
            select(func.count()).where(memberships.c.room_nid == room_nid, memberships.c.membership == "join")
        )
        return MemberFacts(tuple(first), int(joined or 0), 0, False)
    return MemberFacts(tuple(first), stats[0], stats[1], bool(stats[2] or stats[3]))
