"""Who vouches for a user of another server that joins a restricted room.

The server that takes the join in says that the user fulfils one of the room's conditions, and names a user of its own
who could have invited them; its signature under the join stands for both. So both are looked at when the template is
handed out, and the conditions once more when the join comes: what was true then may have changed.

Where this server cannot know (it is not in a room that is a condition) or cannot vouch (nobody here may invite), the
other server is told to ask elsewhere.

Spec: server-server API, "Restricted rooms"; room version 8, "Authorisation rules", 4.3.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import select

from homeserver.errors import NotAllowed, UnableToAuthoriseJoin, UnableToGrantJoin
from homeserver.model.auth.needed import JOIN_RULES, MEMBER, POWER_LEVELS
from homeserver.model.content.join_rules import allowed_room_ids, is_restricted, join_rule_of
from homeserver.model.content.member import Membership, membership_of
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event
from homeserver.model.ids import RoomID, UserID, server_name_of
from storage.store import Store
from storage.tables.federation_rooms import partial_rooms
from storage.tables.identity import user_ids
from storage.tables.rooms import memberships, rooms
from storage.transaction import Transaction

from .door import RoomDoor
from .tip import RoomTip

# LIMIT: users who are looked at for one who may invite: of those that the power levels name, and of the first members.
MAX_VOUCHERS: Final = 200


class Vouching:
    """Says who of this server vouches for a join, and whether anybody may."""

    def __init__(self, store: Store, door: RoomDoor, *, server_name: str) -> None:
        self._store = store
        self._door = door
        self._server_name = server_name

    async def find(self, tip: RoomTip, user_id: UserID) -> UserID | None:
        """Return who vouches for a join of a user of another server; None where nobody has to.

        Raises NotAllowed where the user fulfils no condition, UnableToAuthoriseJoin where that cannot be told here, and
        UnableToGrantJoin where nobody here may invite.
        """
        if not await self.check(tip, user_id):
            return None
        voucher = await self._find_voucher(tip)
        if voucher is None:
            raise UnableToGrantJoin("Nobody on this server may vouch for a join of this room")
        return voucher

    async def check(self, tip: RoomTip, user_id: UserID) -> bool:
        """Return whether a join of this user needs somebody to vouch for it, and could have that; raise as `find`."""
        state = await self._door.state_events(tip.room_id, (JOIN_RULES, (MEMBER, user_id)))
        rules, member = state.get(JOIN_RULES), state.get((MEMBER, user_id))
        if rules is None or not is_restricted(tip.version, join_rule_of(rules.event)):
            return False
        if membership_of(member.event if member is not None else None) in (Membership.JOIN, Membership.INVITE):
            return False
        await self._check_conditions(rules.event, user_id)
        return True

    async def _check_conditions(self, rules: Event, user_id: UserID) -> None:
        allowed = allowed_room_ids(rules)
        if not allowed:
            # Spec: "If no conditions are available, or none match the required schema, then the joining server is
            # considered to have failed all conditions."
            raise NotAllowed("You are not a member of any room that would let you in here")
        known, has_joined = await self._store.database.read(lambda tx: _look_up(tx, allowed, user_id))
        if has_joined:
            return
        if len(known) < len(allowed):
            # COMPAT(synapse): so long as one of the rooms is not known here, another server may know better.
            raise UnableToAuthoriseJoin("This server cannot tell whether you are in a room that would let you in here")
        raise NotAllowed("You are not a member of any room that would let you in here")

    async def _find_voucher(self, tip: RoomTip) -> UserID | None:
        found = await self._door.state_events(tip.room_id, (POWER_LEVELS,))
        stored = found.get(POWER_LEVELS)
        levels = PowerLevels.from_events(tip.version, tip.create.event, stored.event if stored is not None else None)
        named = [
            name
            for name in dict.fromkeys((*sorted(levels.infinite), *levels.content.users))
            if server_name_of(name) == self._server_name and levels.of(name) >= levels.invite
        ][:MAX_VOUCHERS]
        members = await self._store.database.read(lambda tx: _local_members(tx, tip.room_nid, named))
        return next((UserID(name) for name in members if levels.of(name) >= levels.invite), None)


def _look_up(tx: Transaction, allowed: Sequence[RoomID], user_id: UserID) -> tuple[set[str], bool]:
    """Return those of the rooms that this server is in and knows whole, and whether the user is in one of them."""
    local = (
        select(rooms.c.room_id)
        .join(memberships, memberships.c.room_nid == rooms.c.room_nid)
        .where(
            rooms.c.room_id.in_(allowed),
            memberships.c.membership == "join",
            memberships.c.is_local.is_(True),
            rooms.c.room_nid.not_in(select(partial_rooms.c.room_nid)),
        )
        .distinct()
    )
    known = {row[0] for row in tx.all(local)}
    joined = (
        select(rooms.c.room_id)
        .join(memberships, memberships.c.room_nid == rooms.c.room_nid)
        .join(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
        .where(rooms.c.room_id.in_(known), memberships.c.membership == "join", user_ids.c.user_id == user_id)
        .limit(1)
    )
    return known, bool(known) and tx.first(joined) is not None


def _local_members(tx: Transaction, room_nid: int, named: Iterable[str]) -> list[str]:
    """Return joined users of this server: those of `named`, then the first others."""
    joined = (
        select(user_ids.c.user_id)
        .join(memberships, memberships.c.user_nid == user_ids.c.user_nid)
        .where(
            memberships.c.room_nid == room_nid,
            memberships.c.membership == "join",
            memberships.c.is_local.is_(True),
        )
        .order_by(memberships.c.position)
        .limit(MAX_VOUCHERS)
    )
    wanted = list(named)
    first = [row[0] for row in tx.all(joined.where(user_ids.c.user_id.in_(wanted)))] if wanted else []
    return [*first, *(row[0] for row in tx.all(joined))]
