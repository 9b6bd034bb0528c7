"""Device lists that are behind: ours of users of other servers, and other servers' of ours.

For whoever looks at a database from outside; reads more than a server that answers users should.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from .tables.accounts import accounts
from .tables.e2ee import device_lists, remote_devices
from .tables.identity import user_ids
from .tables.outbox import outbox_edus
from .tables.rooms import events
from .transaction import Transaction


class StaleList(NamedTuple):
    """The list of a user of another server, known and outdated since a position."""

    user_id: str
    position: int


class WaitingUpdates(NamedTuple):
    """A server that has yet to be told of changes, the oldest of them from `since_ts`."""

    server: str
    updates: int
    since_ts: int


def load_stale_lists(tx: Transaction, limit: int) -> list[StaleList]:
    """Return up to `limit` lists of other servers' users that were fetched and have missed changes, oldest first.

    A list that nobody here has asked for is not known, and so is not behind.
    """
    table = device_lists.c
    has_devices = select(remote_devices.c.user_nid).where(remote_devices.c.user_nid == table.user_nid).exists()
    query = (
        select(user_ids.c.user_id, table.position)
        .join(user_ids, user_ids.c.user_nid == table.user_nid)
        .outerjoin(accounts, accounts.c.user_nid == table.user_nid)
        .where(accounts.c.user_nid.is_(None), table.is_fetched.is_(False), table.stream_id.is_not(None) | has_devices)
        .order_by(table.position)
        .limit(limit)
    )
    return [StaleList(row[0], row[1]) for row in tx.all(query)]


def find_time_after(tx: Transaction, position: int) -> int | None:
    """Return when an event came that is at this position or soon after; None where none came since."""
    query = select(events.c.received_ts).where(events.c.position >= position).order_by(events.c.position).limit(1)
    found: int | None = tx.scalar(query)
    return found


def load_waiting_updates(tx: Transaction, kinds: Sequence[str]) -> list[WaitingUpdates]:
    """Return the servers that EDUs of these kinds wait for, those first that have waited longest."""
    table = outbox_edus.c
    oldest = func.min(table.created_ts)
    query = (
        select(table.destination, func.count(), oldest)
        .where(table.kind.in_(kinds))
        .group_by(table.destination)
        .order_by(oldest, table.destination)
    )
    return [WaitingUpdates(row[0], int(row[1]), int(row[2])) for row in tx.all(query)]
