"""The two or three ways in which one property is read from content that may be anything.

Spec: appendices, "Canonical JSON" (what an integer is).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

from homeserver.errors import BadIdentifier

from ..canonical_json import MAX_INTEGER
from ..ids import UserID

EMPTY: Final[Mapping[str, Any]] = {}

_MAX_DOUBLE: Final = int(sys.float_info.max)
# More are out of range in any case; `int()` of a long text costs quadratic time.
_MAX_DIGITS: Final = len(str(_MAX_DOUBLE))


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

    Spec: rooms/v1, "`m.room.power_levels` events accept values as strings" and "... as floats": nothing "outside the
    range represented by IEE754 binary64".
    """
    if type(value) is int:
        level = value
    elif isinstance(value, str):
        stripped = value.strip()
        digits = stripped[1:] if stripped[:1] in ("+", "-") else stripped
        if not (digits.isascii() and digits.isdigit()):
            return None
        digits = digits.lstrip("0")
        if len(digits) > _MAX_DIGITS:
            return None
        level = int(digits or "0")
        if stripped[0] == "-":
            level = -level
    elif isinstance(value, float) and isfinite(value):
        return int(value)
    else:
        return None
    return level if -_MAX_DOUBLE <= level <= _MAX_DOUBLE else None


def is_user_id(value: object) -> bool:
    """Tell whether `value` is a user ID by the historical grammar, the one that `sender` is checked against."""
    if not isinstance(value, str):
        return False
    try:
        UserID.parse(value)
    except BadIdentifier:
        return False
    return True
