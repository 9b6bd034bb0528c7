"""Canonical JSON: the one byte form of a value that hashes and signatures are made over.

Two encoders that agree byte for byte on every strict value: `canonicaljson`, the reference, and orjson with sorted
keys, which is eight times faster and refuses what it cannot represent. A property test holds them to each other.
`check_strict` is the part of the grammar that JSON itself does not have: only integers of at most 53 bits.

Spec: appendices, "Canonical JSON"; room versions 6 and later enforce it.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import canonicaljson
import orjson

from homeserver.errors import BadJson

JsonValue: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Any]

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 200

_SORTED = orjson.OPT_SORT_KEYS


def encode_canonical(value: JsonValue) -> bytes:
    """Return the canonical bytes of a value that `check_strict` accepts."""
    try:
        return orjson.dumps(value, option=_SORTED)
    except (TypeError, ValueError):
        # Subclasses of str as keys, integers over 64 bits: the reference knows them.
        try:
            return canonicaljson.encode_canonical_json(value)
        except (TypeError, ValueError, RecursionError) as fault:
            raise BadJson("the JSON cannot be put into canonical form") from fault


def check_strict(value: JsonValue) -> None:
    """Raise `BadJson` unless canonical JSON can represent `value`: no floats, no integers over 53 bits, no deep nests.

    Iterates, so that a deeply nested value costs no stack.
    """
    pending: list[tuple[JsonValue, int]] = [(value, 0)]
    while pending:
        current, depth = pending.pop()
        kind = type(current)
        if kind is dict:
            if depth >= MAX_DEPTH:
                raise BadJson(f"the JSON is nested deeper than {MAX_DEPTH}")
            for inner in current.values():
                inner_kind = type(inner)
                if inner_kind is str or inner_kind is bool or inner is None:
                    continue
                pending.append((inner, depth + 1))
        elif kind is list or kind is tuple:
            if depth >= MAX_DEPTH:
                raise BadJson(f"the JSON is nested deeper than {MAX_DEPTH}")
            pending.extend((inner, depth + 1) for inner in current if type(inner) is not str)
        elif kind is int:
            if not -MAX_INTEGER <= current <= MAX_INTEGER:
                raise BadJson("integers must be within -(2^53)+1 and (2^53)-1")
        elif kind is bool or current is None or isinstance(current, str):
            continue
        elif isinstance(current, int):
            raise BadJson("integers must be plain")
        else:
            raise BadJson("the JSON has a number that is not an integer")
