"""Numbers that are handed out once: stream positions and interned identifiers.

A `Sequence` hands out numbers from memory and keeps in the database only how far it has reserved, so that a number is
never used twice, not even by a token whose change was lost in memory at a crash.

`Positions` is the sequence of the server's stream with the bookkeeping that readers rely on: a position becomes
visible (`watermark`) only when every lower one is finished, and changes are published in the order of their positions.
All of it runs on the reactor's thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import select

from homeserver.errors import StorageUnavailable

from .database import Database
from .tables.identity import sequences
from .transaction import Transaction

logger = logging.getLogger(__name__)

BLOCK: Final = 100_000


class Sequence:
    """A named sequence of numbers, the first being 1."""

    def __init__(self, database: Database, name: str, *, watch: Callable[[Awaitable[None]], None]) -> None:
        """`watch` is given the reservation of the next block to see to; see `tasks.start`."""
        self._database = database
        self._name = name
        self._watch = watch
        self._next = 1
        self._reserved_until = 1
        self._wanted = 1
        self._is_reserving = False

    async def start(self) -> None:
        """Go on after everything that any run before has reserved."""
        reserved = await self._database.read(self._read)
        self._next = self._reserved_until = reserved
        await self._reserve()

    @property
    def last(self) -> int:
        """The number handed out last."""
        return self._next - 1

    async def make_room(self, leap: int) -> None:
        """See to it that `next(leap)` can be called, until the caller awaits something else."""
        # Others who waited for the same room may have leapt meanwhile.
        while self._next + leap + BLOCK > self._reserved_until:
            await self._reserve_until(self._next + leap + 2 * BLOCK)

    def next(self, leap: int = 0) -> int:
        """Hand out the next number, or the one `leap` numbers behind it: those between are given to nobody."""
        number = self._next + leap
        if number >= self._reserved_until:
            raise StorageUnavailable(f"no numbers left in the sequence {self._name}: the database does not take writes")
        self._next = number + 1
        if self._reserved_until - number < BLOCK // 2 and not self._is_reserving:
            self._is_reserving = True
            self._watch(self._reserve())
        return number

    async def _reserve(self) -> None:
        try:
            await self._reserve_until(self._next + BLOCK)
        finally:
            self._is_reserving = False

    async def _reserve_until(self, until: int) -> None:
        # Of two that are written at once, the later must not take back what the earlier has reserved.
        self._wanted = max(self._wanted, until)
        await self._database.write(lambda tx: self._write(tx, self._wanted))
        self._reserved_until = max(self._reserved_until, until)

    def _read(self, tx: Transaction) -> int:
        found = tx.scalar(select(sequences.c.reserved_until).where(sequences.c.name == self._name))
        return int(found) if found is not None else 1

    def _write(self, tx: Transaction, until: int) -> None:
        tx.upsert(sequences, {"name": self._name}, {"reserved_until": until})


class Positions:
    """Stream positions and the watermark below which every change is finished."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._open: deque[_Open] = deque()
        self._watermark = 0
        self._is_advancing = False

    def start(self) -> None:
        """Begin at what the sequence has reserved before."""
        self._watermark = self._sequence.last

    @property
    def watermark(self) -> int:
        """The highest position such that it and all lower ones are finished."""
        return self._watermark

    async def make_room(self, leap: int) -> None:
        """See to it that `allocate(leap)` can be called."""
        await self._sequence.make_room(leap)

    def allocate(self, leap: int = 0) -> Position:
        """Hand out the next position; `finish` or `abandon` must be called on it, whatever happens.

        `leap` positions before it stay free, for what is put there later.
        """
        number = self._sequence.next(leap) if leap else self._sequence.next()
        position = _Open(number, self._advance)
        self._open.append(position)
        return position

    def skip(self) -> int:
        """Return the next number as one that no position will have: for what needs a number long before its place."""
        return self._sequence.next()

    def _advance(self) -> None:
        # A publication may allocate and finish further positions: the loop that runs goes on with them, so that each
        # is published after the one before and a row of them is no recursion.
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._open and self._open[0].is_finished:
                first = self._open.popleft()
                self._watermark = first.number
                # Let go of: what is published mostly holds its position, and such a circle would hold both.
                publish, first.publish = first.publish, None
                if publish is not None:
                    try:
                        publish()
                    except Exception:  # a reader's failure must not stop the stream
                        logger.exception("Publishing position %d failed", first.number)
        finally:
            self._is_advancing = False


class _Open:
    __slots__ = ("_advance", "is_finished", "number", "publish")

    def __init__(self, number: int, advance: Callable[[], None]) -> None:
        self.number = number
        self.is_finished = False
        self.publish: Callable[[], None] | None = None
        self._advance = advance

    def finish(self, publish: Callable[[], None] | None = None) -> None:
        """The change is stored: call `publish` as soon as all lower positions are finished too."""
        if not self.is_finished:
            self.is_finished = True
            self.publish = publish
            self._advance()

    def abandon(self) -> None:
        """The change was not made; the number stays unused."""
        self.finish(None)


Position = _Open
