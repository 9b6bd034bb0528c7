"""The tokens that clients hold: where they are in the stream, and where in a room's timeline.

The order of events in a room is their stream position; history that was fetched later than it happened has negative
positions, growing downwards.  So one signed integer names a gap between events: everything at or below the position
lies before the token, everything above it after.  A page backwards takes events with `position <= token`, a page
forwards and a sync those with `position > token`.

To clients the texts are opaque.  Parsing is strict: there is exactly one text for each token.

Spec: client-server API, "Pagination", "Syncing".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from homeserver.errors import InvalidParam

MAX_POSITION: Final = 2**63 - 1
_MAX_DIGITS: Final = len(str(MAX_POSITION))

_STREAM_PREFIX: Final = "s"
_PAGINATION_PREFIX: Final = "p"


@dataclass(frozen=True, slots=True, order=True)
class StreamToken:
    """A point in the stream of everything that happens on this server; text form `s123`."""

    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the token that `text` is, or raise `InvalidParam`."""
        position = _parse_position(text, _STREAM_PREFIX)
        if position is None or position < 0:
            raise InvalidParam("not a valid stream token")
        return cls(position)

    def __str__(self) -> str:
        return f"{_STREAM_PREFIX}{self.position}"


@dataclass(frozen=True, slots=True, order=True)
class PaginationToken:
    """A point in the timeline of a room; text form `p123` or `p-123`."""

    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the token that `text` is, or raise `InvalidParam`.

        A stream token is accepted too, because `/sync` gives clients those to paginate from.
        """
        position = _parse_position(text, _PAGINATION_PREFIX)
        if position is None:
            position = _parse_position(text, _STREAM_PREFIX)
            if position is None or position < 0:
                raise InvalidParam("not a valid pagination token")
        return cls(position)

    @classmethod
    def of(cls, token: StreamToken) -> Self:
        """Return the point in a room's timeline at which the stream was at `token`."""
        return cls(token.position)

    def __str__(self) -> str:
        return f"{_PAGINATION_PREFIX}{self.position}"


def _parse_position(text: str, prefix: str) -> int | None:
    """Return the integer behind `prefix` where it is written as `str` writes it and fits into 64 bits."""
    if not isinstance(text, str) or not text.startswith(prefix):
        return None
    number = text[len(prefix) :]
    digits = number[1:] if number.startswith("-") else number
    if len(digits) > _MAX_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    position = int(number)
    if not -MAX_POSITION <= position <= MAX_POSITION or str(position) != number:
        return None
    return position
