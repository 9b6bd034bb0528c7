"""What the endpoints that read rooms have in common: their parameters."""

from __future__ import annotations

from typing import Final

from homeserver.errors import BadJson, InvalidParam
from homeserver.model.filters import RoomEventFilter
from homeserver.model.tokens import PaginationToken
from homeserver.rooms.history import EventsWanted
from homeserver.rooms.rendering import shape_of
from homeserver.web.request import WebRequest, parse_json_object

MAX_TIMEOUT_MS: Final = 120_000


def read_token(request: WebRequest, name: str) -> PaginationToken | None:
    """Return a pagination token of the query, None without one; raises InvalidParam."""
    text = request.query(name)
    # Some clients send the parameter empty where they have no token.
    return PaginationToken.parse(text) if text else None


def read_direction(request: WebRequest, default: str | None = None) -> bool:
    """Return whether `dir` is backwards; raises MissingParam or InvalidParam."""
    text = request.require_query("dir") if default is None else request.query("dir") or default
    if text not in ("b", "f"):
        raise InvalidParam("'dir' must be b or f")
    return text == "b"


def read_wanted(request: WebRequest) -> EventsWanted:
    """Return the filter of the query; raises NotJson, BadJson or TooLarge."""
    text = request.query("filter")
    if not text:
        return EventsWanted.all()
    try:
        source = parse_json_object(text.encode("utf-8"))
    except UnicodeEncodeError as fault:
        raise BadJson("the filter is not Unicode") from fault
    return EventsWanted(RoomEventFilter.parse(source), shape_of(source))


def read_limit(request: WebRequest, default: int, maximum: int, wanted: EventsWanted | None = None) -> int:
    """Return how many events are wanted: 1 to `maximum`; without one, as the filter says."""
    if wanted is not None and wanted.filter.limit is not None:
        default = min(wanted.filter.limit, maximum)
    # Clients do send 0, and mean as little as possible.
    return max(1, request.query_int("limit", default, 0, maximum) or 0)
