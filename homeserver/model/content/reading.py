"""The two or three ways in which one property is read from content that may be anything.

Spec: appendices, "Canonical JSON" (what an integer is).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.errors import BadIdentifier

from ..canonical_json import MAX_INTEGER
from ..ids import UserID

EMPTY: Final[Mapping[str, Any]] = {}

# Longer texts are not integers that anybody meant; `int()` of a long text costs quadratic time.
_MAX_INTEGER_TEXT: Final = 64


def text(content: Mapping[str, Any], key: str) -> str | None:
    """Return the text under `key`, or None where there is none."""
    value = content.get(key)
    return value if isinstance(value, str) else None


def mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under `key`, or an empty one."""
    value = content.get(key)
    return value if isinstance(value, dict) else EMPTY


def sequence(content: Mapping[str, Any], key: str) -> list[Any]:
    """Return the array under `key`, or an empty one."""
    value = content.get(key)
    return value if isinstance(value, list) else []


def strict_integer(value: object) -> int | None:
    """Return `value` if it is an integer that canonical JSON can write (true and false are none), else None."""
    return value if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER else None


def lenient_integer(value: object) -> int | None:
    """Return the integer that a power level of room versions 1 to 9 stands for, else None.

    Spec: rooms/v1, "`m.room.power_levels` events accept values as strings" and "... as floats".
    """
    if type(value) is int:
        return value
    if isinstance(value, str):
        stripped = value.strip()
        digits = stripped[1:] if stripped[:1] in ("+", "-") else stripped
        if len(stripped) > _MAX_INTEGER_TEXT or not (digits.isascii() and digits.isdigit()):
            return None
        return int(stripped)
    if isinstance(value, float):
        # NaN is unequal to itself; an infinity is not truncated to anything.
        return int(value) if value == value and abs(value) != float("inf") else None
    return None


def is_user_id(value: object) -> bool:
    """Tell whether `value` is a user ID by the historical grammar, the one that `sender` is checked against."""
    if not isinstance(value, str):
        return False
    try:
        UserID.parse(value)
    except BadIdentifier:
        return False
    return True
