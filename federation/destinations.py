"""Which other servers answer: the one table that everything asks before it goes to one.

A server that fails is left alone for a while, twice as long after each failed attempt, up to a week, with some chance
in it so that what failed together does not come back together. Meanwhile, background work does not try it. A request
that a user waits for is tried all the same, unless the last failure is so fresh that the outcome is known: then it
fails at once instead of after a minute. A sign of life from the other side ends the wait.

An answer, even one that refuses, is a sign of life; only no answer, or one that says that the server is out of order,
is a failure.

All of it is in memory and written now and then, so that a restart does not try everything that is dead.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage.database import Database
from storage.destinations import (
    DestinationRow,
    find_destinations,
    list_failing,
    list_sent_positions,
    store_destinations,
    store_sent_positions,
)
from storage.transaction import Transaction

logger = logging.getLogger(__name__)

FIRST_WAIT_MS: Final = 60_000
MOST_WAIT_MS: Final = 7 * 24 * 3_600_000
# A request that a user waits for is not tried again for so long after a failure.
FAIL_FAST_MS: Final = 120_000
# How often a success of a healthy server is worth a row.
SUCCESS_NOTED_MS: Final = 3_600_000
WRITE_EVERY_S: Final = 10.0
# LIMIT: servers in memory; those that are least in use leave first, when they are written.
MAX_KNOWN: Final = 50_000
MAX_ERROR_CHARACTERS: Final = 500

Listener = Callable[[str], None]


class Destinations:
    """The health of other servers."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        tasks: Tasks,
        chance: Callable[[], float],
        *,
        first_wait_ms: int = FIRST_WAIT_MS,
        longest_wait_ms: int = MOST_WAIT_MS,
    ) -> None:
        """`chance()` gives numbers from 0 to 1."""
        self._database = database
        self._clock = clock
        self._tasks = tasks
        self._chance = chance
        self._first_wait_ms = first_wait_ms
        self._longest_wait_ms = longest_wait_ms
        self._known: OrderedDict[str, DestinationRow] = OrderedDict()
        # When a failing server was last tried, of those in `_known`; not worth a row.
        self._tried_ms: dict[str, int] = {}
        self._changed: set[str] = set()
        # LIMIT: one number for each server that anything was ever sent to.
        self._sent: dict[str, int] = {}
        self._sent_changed: set[str] = set()
        self._listeners: list[Listener] = []

    async def start(self) -> None:
        """Read which servers fail, and write changes now and then from here on."""
        for row in await self._database.read(lambda tx: list_failing(tx, MAX_KNOWN // 2)):
            self._known.setdefault(row.server, row)
        self._sent = await self._database.read(list_sent_positions) | self._sent
        self._tasks.every("write destinations", WRITE_EVERY_S, self.flush)

    async def stop(self) -> None:
        """Write what has changed."""
        await self.flush()

    def on_available(self, listener: Listener) -> None:
        """Have `listener(server)` called when a server that failed is known to be there again."""
        self._listeners.append(listener)

    # -- what everything asks ----------------------------------------------------------------------------------------

    def is_available(self, server: str) -> bool:
        """Tell whether background work may try the server now."""
        row = self._known.get(server)
        return row is None or row.retry_after_ts is None or row.retry_after_ts <= self._clock.now_ms()

    def is_worth_trying(self, server: str) -> bool:
        """Tell whether a request that a user waits for should be tried: not straight after a failure."""
        if self.is_available(server):
            return True
        tried = self._tried_ms.get(server)
        return tried is None or self._clock.now_ms() - tried >= FAIL_FAST_MS

    def retry_after_ts(self, server: str) -> int | None:
        """Return when background work may try a failing server again; None for one that does not fail."""
        row = self._known.get(server)
        return None if row is None else row.retry_after_ts

    def failing(self) -> list[DestinationRow]:
        """Return the servers in memory that fail, for operators."""
        return [row for row in self._known.values() if row.failing_since_ts is not None]

    # -- what everything tells ---------------------------------------------------------------------------------------

    def failed(self, server: str, error: object) -> None:
        """Note that the server did not answer, or is out of order."""
        now = self._clock.now_ms()
        row = self._known.get(server) or DestinationRow(server)
        self._tried_ms[server] = now
        text = str(error)[:MAX_ERROR_CHARACTERS]
        if row.retry_after_ts is not None and row.retry_after_ts > now:
            # Of several requests that were under way, or made by users meanwhile, only the first counts.
            self._change(replace(row, last_error=text))
            return
        interval = self._first_wait_ms if row.retry_interval_ms is None else row.retry_interval_ms * 2
        interval = min(self._longest_wait_ms, interval)
        # Between the whole and two thirds of it more, but never over the bound.
        wait = min(self._longest_wait_ms, round(interval * (1.0 + self._chance() * 2 / 3)))
        if row.failing_since_ts is None:
            logger.info("%s does not answer: %s", server, text)
        self._change(
            replace(
                row,
                failing_since_ts=now if row.failing_since_ts is None else row.failing_since_ts,
                retry_after_ts=now + wait,
                retry_interval_ms=interval,
                last_error=text,
            )
        )

    def succeeded(self, server: str) -> None:
        """Note that the server has answered."""
        now = self._clock.now_ms()
        row = self._known.get(server)
        if row is None:
            self._change(DestinationRow(server, last_success_ts=now))
            return
        if row.failing_since_ts is not None:
            self._recover(row, now)
        elif row.last_success_ts is None or now - row.last_success_ts >= SUCCESS_NOTED_MS:
            self._change(replace(row, last_success_ts=now))

    def woken(self, server: str) -> None:
        """Note that the server has sent us something: it is worth a try at once."""
        row = self._known.get(server)
        if row is not None and row.failing_since_ts is not None:
            self._recover(row, row.last_success_ts)

    # -- how far each has been sent what concerns it -----------------------------------------------------------------

    def sent_position(self, server: str) -> int:
        """Return up to which stream position the server has been sent everything; 0 if that was never noted."""
        return self._sent.get(server, 0)

    def set_sent_position(self, server: str, position: int) -> None:
        """Note up to which stream position the server has been sent everything; written a moment later."""
        self._sent[server] = position
        self._sent_changed.add(server)

    async def describe(self, server: str) -> DestinationRow | None:
        """Return all that is known of a server, for operators."""
        known = self._known.get(server)
        if known is not None:
            return known
        found = await self._database.read(lambda tx: find_destinations(tx, [server]))
        return found[0] if found else None

    async def flush(self) -> None:
        """Write what has changed."""
        changed, self._changed = self._changed, set()
        sent_changed, self._sent_changed = self._sent_changed, set()
        rows = [row for row in (self._known.get(server) for server in sorted(changed)) if row is not None]
        sent = [(server, self._sent[server]) for server in sorted(sent_changed)]
        if rows or sent:
            try:
                await self._database.write(lambda tx: _store(tx, rows, sent))
            except BaseException:
                self._changed |= changed
                self._sent_changed |= sent_changed
                raise
        self._make_room()

    # -- private -----------------------------------------------------------------------------------------------------

    def _recover(self, row: DestinationRow, last_success_ts: int | None) -> None:
        logger.info("%s is there again", row.server)
        self._tried_ms.pop(row.server, None)
        self._change(DestinationRow(row.server, last_success_ts=last_success_ts))
        for listener in self._listeners:
            listener(row.server)

    def _change(self, row: DestinationRow) -> None:
        self._known[row.server] = row
        self._known.move_to_end(row.server)
        self._changed.add(row.server)
        if len(self._known) >= 2 * MAX_KNOWN:
            # Faster than it can be written: then unwritten ones go as well.
            self._make_room(also_changed=True)

    def _make_room(self, *, also_changed: bool = False) -> None:
        """Forget the servers that are least in use, healthy ones before failing ones."""
        surplus = len(self._known) - MAX_KNOWN
        if surplus <= 0:
            return
        free = [each for each in self._known if also_changed or each not in self._changed]
        free.sort(key=lambda server: self._known[server].failing_since_ts is not None)
        for server in free[:surplus]:
            del self._known[server]
            self._tried_ms.pop(server, None)
            self._changed.discard(server)


def _store(tx: Transaction, rows: Sequence[DestinationRow], sent: Sequence[tuple[str, int]]) -> None:
    store_destinations(tx, rows)
    store_sent_positions(tx, sent)
