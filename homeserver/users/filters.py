"""Filters that users have uploaded: stored once, read once, kept parsed.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.errors import NotFound, TooLarge
from homeserver.model.filters import DEFAULT_MAX_LIMIT, Filter
from storage import filters as storage
from storage.database import Database

MAX_FILTER_BYTES: Final = 131_072
# LIMIT: parsed filters in memory, about 2 KB each.
MAX_CACHED: Final = 5_000
_MAX_ID_DIGITS: Final = 18
# LIMIT: stored filters of different content that are shared by the users who have them.
_MAX_PARSED: Final = 500
_MAX_SHARED_BYTES: Final = 4_096


class Filters:
    """Stores filters and gives them back."""

    def __init__(self, database: Database, *, max_limit: int = DEFAULT_MAX_LIMIT) -> None:
        """`max_limit` bounds the `limit` of every filter; -1: no bound of the operator's."""
        self._database = database
        self._max_limit = max_limit if max_limit > 0 else DEFAULT_MAX_LIMIT
        self._known: dict[tuple[int, str], Filter] = {}
        # By the encoded form.
        self._parsed: dict[bytes, Filter] = {}

    def parse(self, source: Any) -> Filter:
        """Return the filter that a JSON object describes; raises BadJson or TooLarge."""
        return Filter.parse(source, max_limit=self._max_limit)

    async def add(self, user_nid: int, source: Mapping[str, Any]) -> str:
        """Store a filter and return its ID; raises BadJson or TooLarge."""
        self.parse(source)
        encoded = orjson.dumps(source, option=orjson.OPT_SORT_KEYS)
        if len(encoded) > MAX_FILTER_BYTES:
            raise TooLarge(f"a filter has at most {MAX_FILTER_BYTES} bytes")
        return str(await self._database.write(lambda tx: storage.add_filter(tx, user_nid, encoded)))

    async def get(self, user_nid: int, filter_id: str) -> Filter:
        """Return one of the user's filters, from memory when it was asked for before; raises NotFound."""
        key = (user_nid, filter_id)
        known = self._known.get(key)
        if known is not None:
            return known
        if not (filter_id.isascii() and filter_id.isdigit() and len(filter_id) <= _MAX_ID_DIGITS):
            raise NotFound("No such filter")
        number = int(filter_id)
        # One text for each filter, or the memory would hold it many times.
        encoded = None
        if str(number) == filter_id:
            encoded = await self._database.read(lambda tx: storage.find_filter(tx, user_nid, number))
        if encoded is None:
            raise NotFound("No such filter")
        # Users of one client have stored the same one; parsed it has some 6 KiB.
        found = self._parsed.get(encoded)
        if found is None:
            found = self.parse(orjson.loads(encoded))
            if len(self._parsed) >= _MAX_PARSED:
                self._parsed.clear()
            if len(encoded) <= _MAX_SHARED_BYTES:
                self._parsed[encoded] = found
        while len(self._known) >= MAX_CACHED:
            del self._known[next(iter(self._known))]
        self._known[key] = found
        return found
