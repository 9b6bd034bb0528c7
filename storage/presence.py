"""Presence in the database: the last state of each user, written lazily."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from .tables.federation_rooms import room_servers
from .tables.identity import user_ids
from .tables.presence import presence
from .tables.rooms import memberships
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class PresenceRow:
    """A user's presence; `last_active_ts` is in milliseconds since the epoch, 0 for never."""

    user_nid: int
    user_id: str
    state: str
    status_msg: str | None
    last_active_ts: int


_QUERY = select(
    presence.c.user_nid, user_ids.c.user_id, presence.c.state, presence.c.status_msg, presence.c.last_active_ts
).join(user_ids, user_ids.c.user_nid == presence.c.user_nid)


def load_presence(tx: Transaction, names: Iterable[str]) -> list[PresenceRow]:
    """Return the presence of those of these users who have one."""
    return [_row(row) for part in chunks(names) for row in tx.all(_QUERY.where(user_ids.c.user_id.in_(part)))]


def load_present(tx: Transaction, limit: int) -> list[PresenceRow]:
    """Return up to `limit` users who were not offline when it was last written."""
    return [_row(row) for row in tx.all(_QUERY.where(presence.c.state != "offline").limit(limit))]


def store_presence(tx: Transaction, rows: Sequence[PresenceRow]) -> None:
    """Write the presence of users."""
    tx.insert_many(
        presence,
        ("user_nid", "state", "status_msg", "last_active_ts"),
        [(row.user_nid, row.state, _encoded(row.status_msg), row.last_active_ts) for row in rows],
        update=("state", "status_msg", "last_active_ts"),
    )


def share_a_room(tx: Transaction, user_id: str, other_id: str) -> bool:
    """Tell whether two users are joined to a room together."""
    own = memberships.alias()
    others = memberships.alias()
    nid = select(user_ids.c.user_nid)
    query = (
        select(own.c.room_nid)
        .join(others, others.c.room_nid == own.c.room_nid)
        .where(
            own.c.user_nid == nid.where(user_ids.c.user_id == user_id).scalar_subquery(),
            others.c.user_nid == nid.where(user_ids.c.user_id == other_id).scalar_subquery(),
            own.c.membership == "join",
            others.c.membership == "join",
        )
        .limit(1)
    )
    return tx.first(query) is not None


def load_sharing_servers(tx: Transaction, names: Iterable[str], most: int) -> dict[str, tuple[str, ...]]:
    """Return by user the servers with a joined user in a room that the user is joined to, at most `most`, in order."""
    found: dict[str, list[str]] = {}
    query = (
        select(user_ids.c.user_id, room_servers.c.server)
        .join(memberships, memberships.c.user_nid == user_ids.c.user_nid)
        .join(room_servers, room_servers.c.room_nid == memberships.c.room_nid)
        .where(memberships.c.membership == "join", room_servers.c.joined > 0)
        .distinct()
        .order_by(user_ids.c.user_id, room_servers.c.server)
    )
    for part in chunks(names):
        for user_id, server in tx.all(query.where(user_ids.c.user_id.in_(part))):
            servers = found.setdefault(user_id, [])
            if len(servers) < most:
                servers.append(server)
    return {user_id: tuple(servers) for user_id, servers in found.items()}


def _row(row: Sequence[object]) -> PresenceRow:
    user_nid, user_id, state, status, last_active = row
    text = status.decode("utf-8") if isinstance(status, bytes) else None
    return PresenceRow(int(str(user_nid)), str(user_id), str(state), text, int(str(last_active)))


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8")
