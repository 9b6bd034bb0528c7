"""The filter that a client names, by the ID of a stored one or inline.

Clients send the same inline filter again and again, and thousands of them the same: it is parsed once and shared.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from homeserver.errors import InvalidParam
from homeserver.model.canonical_json import JsonObject
from homeserver.model.filters import Filter
from homeserver.model.ids import UserID
from homeserver.users.sessions import Requester
from homeserver.web.request import parse_json_object

FindFilter = Callable[[UserID, int, str], Awaitable[Filter]]
"""Returns a user's stored filter by its ID; raises NotFound."""

ParseFilter = Callable[[JsonObject], Filter]
"""Returns the filter that a JSON object describes; raises BadJson or TooLarge."""

# LIMIT: inline filters that are kept parsed.
_MAX_FILTERS: Final = 500
_MAX_FILTER_TEXT: Final = 65_536
_MAX_KEPT_TEXT: Final = 4_096


class ChosenFilters:
    """Finds and keeps filters."""

    def __init__(self, find_filter: FindFilter, parse_filter: ParseFilter) -> None:
        self._parse_filter = parse_filter
        self._find_filter = find_filter
        self._inline: dict[str, Filter] = {}

    async def of_text(self, requester: Requester, text: str | None) -> Filter:
        """Return the filter that a query parameter gives; raises NotFound, NotJson, BadJson, TooLarge, InvalidParam."""
        if not text:
            return Filter.default()
        if not text.startswith("{"):
            return await self._find_filter(requester.user_id, requester.user_nid, text)
        known = self._inline.get(text)
        if known is None:
            if len(text) > _MAX_FILTER_TEXT:
                raise InvalidParam("the filter is too long: store it and give its ID")
            known = self._parse_filter(parse_json_object(text.encode()))
            if len(self._inline) >= _MAX_FILTERS:
                self._inline.clear()
            if len(text) < _MAX_KEPT_TEXT:
                self._inline[text] = known
        return known

    async def of_value(self, requester: Requester, value: Any) -> Filter:
        """Return the filter that is a JSON value: an object, the ID of a stored filter, or null for none."""
        if isinstance(value, dict):
            return await self.of_text(requester, orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode())
        return await self.of_text(requester, value)
