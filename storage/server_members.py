"""Which users of a server are, or were, members of a room: what the server's right to read is decided by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Select, select

from homeserver.model.ids import server_name_of

from .interning import find_key_nids
from .tables.accounts import accounts
from .tables.identity import user_ids
from .tables.rooms import memberships
from .transaction import Transaction, chunks


class ServerMember(NamedTuple):
    """The place of a user's member event in states of the room, and which one is it now."""

    key_nid: int
    event_nid: int
    membership: str


def longest_joined(tx: Transaction, room_nid: int, server_name: str, limit: int) -> list[ServerMember]:
    """Return up to `limit` users of a server who are joined to the room, those whose membership is oldest first."""
    query = (
        _members(room_nid, server_name)
        .where(memberships.c.membership == "join")
        .order_by(memberships.c.position)
        .limit(limit)
    )
    return _found(tx, query, server_name)


def members_of_server(tx: Transaction, room_nid: int, server_name: str) -> list[ServerMember]:
    """Return all users of a server who ever had a membership in the room.

    LIMIT: goes through all memberships of the room; asked for only where the history is not for all members, and those
    who are there longest do not decide.
    """
    return _found(tx, _members(room_nid, server_name), server_name)


def erased_among(tx: Transaction, user_nids: Iterable[int]) -> set[int]:
    """Return which of these users asked to be erased."""
    query = select(accounts.c.user_nid).where(accounts.c.is_erased.is_(True))
    return {row[0] for part in chunks(set(user_nids)) for row in tx.all(query.where(accounts.c.user_nid.in_(part)))}


def has_invited_user(tx: Transaction, room_nid: int, server_name: str) -> bool:
    """Tell whether a user of a server is invited to a room now."""
    query = _members(room_nid, server_name).where(memberships.c.membership == "invite")
    return any(server_name_of(row[0]) == server_name for row in tx.all(query))


def _members(room_nid: int, server_name: str) -> Select[Any]:
    return (
        select(user_ids.c.user_id, memberships.c.event_nid, memberships.c.membership)
        .join(memberships, memberships.c.user_nid == user_ids.c.user_nid)
        .where(memberships.c.room_nid == room_nid, user_ids.c.user_id.endswith(f":{server_name}", autoescape=True))
    )


def _found(tx: Transaction, query: Select[Any], server_name: str) -> list[ServerMember]:
    # Compared exactly: the database may not care for case, and `8448` is the end of every name with that port.
    found = {row[0]: (row[1], row[2]) for row in tx.all(query) if server_name_of(row[0]) == server_name}
    keys = find_key_nids(tx, [("m.room.member", user_id) for user_id in found])
    return [ServerMember(key_nid, *found[key[1]]) for key, key_nid in keys.items()]
