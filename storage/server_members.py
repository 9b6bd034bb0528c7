"""Which servers' users are, or were, members of a room: what other servers' rights to read are decided by."""

from __future__ import annotations

from sqlalchemy import select

from homeserver.model.ids import server_name_of

from .tables.identity import user_ids
from .tables.rooms import memberships
from .transaction import Transaction


def has_joined_user(tx: Transaction, room_nid: int, server_name: str) -> bool:
    """Tell whether a user of this server is joined to the room now."""
    query = (
        select(user_ids.c.user_id)
        .join(memberships, memberships.c.user_nid == user_ids.c.user_nid)
        .where(
            memberships.c.room_nid == room_nid,
            memberships.c.membership == "join",
            user_ids.c.user_id.endswith(f":{server_name}", autoescape=True),
        )
    )
    # Compared exactly: the database may not care for case, and `8448` is the end of every name with that port.
    return any(server_name_of(row[0]) == server_name for row in tx.all(query))
