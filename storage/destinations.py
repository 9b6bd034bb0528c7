"""The health of other servers, and how far each has been sent what concerns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select

from .tables.destinations import destinations
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """What is known of a server; times in milliseconds, None for never. Failing while `failing_since_ts` is set."""

    server: str
    failing_since_ts: int | None = None
    retry_after_ts: int | None = None
    retry_interval_ms: int | None = None
    last_success_ts: int | None = None
    last_error: str | None = None


_COLUMNS = (
    "server",
    "failing_since_ts",
    "retry_after_ts",
    "retry_interval_ms",
    "last_success_ts",
    "last_error",
)


def list_failing(tx: Transaction, limit: int) -> list[DestinationRow]:
    """Return up to `limit` servers that fail, those first that are to be tried last."""
    query = (
        _query()
        .where(destinations.c.failing_since_ts.is_not(None))
        .order_by(destinations.c.retry_after_ts.desc(), destinations.c.server)
        .limit(limit)
    )
    return [_row(row) for row in tx.all(query)]


def find_destinations(tx: Transaction, servers: Sequence[str]) -> list[DestinationRow]:
    """Return what is known of those of these servers that there is something of."""
    return [_row(row) for part in chunks(servers) for row in tx.all(_query().where(destinations.c.server.in_(part)))]


def store_destinations(tx: Transaction, rows: Sequence[DestinationRow]) -> None:
    """Write the health of servers; what they have been sent stays."""
    tx.insert_many(
        destinations,
        _COLUMNS,
        [
            (
                str(row.server),
                row.failing_since_ts,
                row.retry_after_ts,
                row.retry_interval_ms,
                row.last_success_ts,
                None if row.last_error is None else row.last_error.encode("utf-8", "replace"),
            )
            for row in rows
        ],
        update=_COLUMNS[1:],
    )


def list_sent_positions(tx: Transaction) -> dict[str, int]:
    """Return up to which position each server has been sent everything, where that was noted."""
    query = select(destinations.c.server, destinations.c.sent_position)
    return {row[0]: row[1] for row in tx.all(query.where(destinations.c.sent_position.is_not(None)))}


def store_sent_positions(tx: Transaction, sent: Sequence[tuple[str, int]]) -> None:
    """Note up to which position servers have been sent everything: pairs of server and position."""
    rows = [(str(server), position) for server, position in sent]
    tx.insert_many(destinations, ("server", "sent_position"), rows, update=("sent_position",))


def _query() -> Select[tuple[object, ...]]:
    return select(*(destinations.c[name] for name in _COLUMNS))


def _row(row: Sequence[object]) -> DestinationRow:
    server, *times, error = row
    since, after, interval, success = (None if each is None else int(str(each)) for each in times)
    text = error.decode("utf-8", "replace") if isinstance(error, bytes) else None
    return DestinationRow(str(server), since, after, interval, success, text)
