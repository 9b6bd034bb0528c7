"""Canonical JSON: the one byte form of a value that hashes and signatures are made over.

Two encoders that agree byte for byte on every strict value: `canonicaljson`, the reference, and orjson with sorted
keys, which is eight times faster and refuses what it cannot represent. A property test holds them to each other.
`check_strict` is the part of the grammar that JSON itself does not have: only integers of at most 53 bits.

Rooms of the first five versions may have events with other numbers.  For them there is the lax half: `parse_exactly`
keeps integers of any size, which orjson would turn into floats, `encode_lax` writes all numbers as the reference does,
and `dump_exactly` writes what `parse_exactly` reads back.  What is no JSON at all (NaN, infinities, 1e400) is refused
everywhere.

Spec: appendices, "Canonical JSON"; rooms/v6, "Canonical JSON": versions 6 and later enforce it.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, Final, TypeAlias

import canonicaljson
import orjson

from homeserver.errors import BadJson

JsonValue: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Any]

MAX_INTEGER: Final = 2**53 - 1
# LIMIT: of nesting, an event itself included, so that no walk and no encoder meets more; the spec has none.
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


def encode_lax(value: JsonValue) -> bytes:
    """Return the bytes that hashes of a value with any numbers are made over: those of the reference encoder.

    The same as `encode_canonical` for what `check_strict` accepts, and eight times slower.
    """
    try:
        return canonicaljson.encode_canonical_json(value)
    except (TypeError, ValueError, RecursionError) as fault:
        raise BadJson("the JSON cannot be put into canonical form") from fault


def parse_exactly(raw: bytes) -> JsonValue:
    """Return the value of any JSON text, its numbers as they are written; raise `BadJson` if it is none.

    Integers are `int` whatever their size (up to 4300 digits), so that hashes over them fit.  Of the same key twice
    the last counts.
    """
    try:
        value = orjson.loads(raw)
    except ValueError as fault:
        # So it says also of integers over the greatest double.
        if "infinity" not in str(fault):
            raise BadJson("not JSON") from fault
        return _parse_slowly(raw)
    # An integer over 64 bits has become a float; only then the slower parser is asked.
    return _parse_slowly(raw) if _has_float(value) else value


def dump_exactly(value: JsonValue) -> bytes:
    """Return JSON that `parse_exactly` gives the same value for: of what it gave, or `check_lax` accepts."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError):
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as fault:
            raise BadJson("the value cannot be written as JSON") from fault


def check_lax(value: JsonValue) -> None:
    """Raise `BadJson` unless `value` is plain JSON, its numbers finite and its nesting bounded.

    Iterates, so that a deeply nested value costs no stack.
    """
    pending: list[tuple[JsonValue, int]] = [(value, 0)]
    while pending:
        current, depth = pending.pop()
        if isinstance(current, (str, int)) or current is None:
            continue
        if isinstance(current, float):
            if not isfinite(current):
                raise BadJson("the JSON has a number that is none")
        elif isinstance(current, (dict, list, tuple)):
            if depth >= MAX_DEPTH:
                raise BadJson(f"the JSON is nested deeper than {MAX_DEPTH}")
            inner = current.values() if isinstance(current, dict) else current
            pending.extend((each, depth + 1) for each in inner if type(each) is not str)
        else:
            raise BadJson("the JSON has something that is no JSON")


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


def _parse_slowly(raw: bytes) -> JsonValue:
    try:
        value = json.loads(raw.decode("utf-8"))
        # Refuses what only this parser takes: infinities, NaN and half characters.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as fault:
        raise BadJson("not JSON") from fault
    return value


def _has_float(value: JsonValue) -> bool:
    pending = [value]
    while pending:
        current = pending.pop()
        kind = type(current)
        if kind is float:
            return True
        if kind is dict:
            pending.extend(current.values())
        elif kind is list:
            pending.extend(current)
    return False
