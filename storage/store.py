"""The parts of storage that live on the reactor's thread, opened and closed together.

Not a place for functions: reads and writes are functions of their area's module, run by `database.read` and
`database.write`. This is only who shares what.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from homeserver.runtime.threads import Threads

from .database import READERS, Database
from .event_cache import EventCache
from .interning import Interner
from .positions import Positions, Sequence
from .schema import migrate
from .state_groups import StateCache

logger = logging.getLogger(__name__)


class Store:
    """One database with its writer, its numbers and its caches of what never changes."""

    def __init__(
        self,
        url: str,
        *,
        reactor: Any,
        threads: Threads,
        watch: Callable[[Awaitable[None]], None],
        memory_bytes: int,
        readers: int = READERS,
    ) -> None:
        """`memory_bytes` is the budget of the caches; `watch` sees to background writes (see `tasks`)."""
        self.database = Database(url, reactor=reactor, threads=threads, readers=readers)
        self.numbers = Sequence(self.database, "numbers", watch=watch)
        self._stream = Sequence(self.database, "stream", watch=watch)
        self.positions = Positions(self._stream)
        self.interner = Interner(self.database, self.numbers)
        self.events = EventCache(self.database, budget_bytes=memory_bytes * 2 // 3)
        self.states = StateCache(self.database, budget_bytes=memory_bytes // 3)

    async def start(self) -> None:
        """Open the database, bring its schema up to date, go on with its numbers."""
        await self.database.start(migrate)
        await self.numbers.start()
        await self._stream.start()
        self.positions.start()

    async def stop(self) -> None:
        """Write what is queued and close."""
        await self.database.stop()
