import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson
from homeserver.model.canonical_json import (
    MAX_DEPTH,
    check_lax,
    dump_exactly,
    encode_canonical,
    encode_lax,
    parse_exactly,
)
from homeserver.model.event_json import dump_event, dump_shown, load_event
from homeserver.model.hashing import content_hash, encode_essential
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V1, V5, V12

from .test_canonical_json import STRICT_VALUES

NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.sampled_from([2**53, 2**63, 2**64, -(2**63) - 1, 10**4000]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 1e16, 1e-7, 5e-324, 1.7976931348623157e308]),
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
LAX_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXTS, inner, max_size=5)),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are the same, numbers also in kind and sign."""
    return repr(left) == repr(right)


@given(LAX_VALUES)
def test_what_is_written_is_read_back_exactly(value: Any) -> None:
    check_lax(value)
    assert same(value, parse_exactly(dump_exactly(value)))


@given(LAX_VALUES)
def test_every_way_of_writing_a_value_is_read_alike(value: Any) -> None:
    for raw in (json.dumps(value).encode(), json.dumps(value, indent=1, ensure_ascii=False).encode()):
        assert same(value, parse_exactly(raw))
    assert encode_lax(value) == encode_lax(parse_exactly(encode_lax(value)))


@given(STRICT_VALUES)
def test_both_encoders_agree_on_strict_values(value: Any) -> None:
    assert encode_canonical(value) == encode_lax(value)


@given(st.sampled_from(list(KNOWN_ROOM_VERSIONS.values())), st.data())
def test_the_stored_form_keeps_hashes_and_signed_bytes(version: Any, data: Any) -> None:
    values = STRICT_VALUES if version.strict_canonical_json else LAX_VALUES
    content = data.draw(st.dictionaries(st.sampled_from(["membership", "users", "events", "x"]), values))
    wire = {"type": data.draw(st.sampled_from(["m.room.power_levels", "m.x"])), "content": content, "depth": 1}
    read = load_event(version, dump_event(version, wire))
    assert content_hash(wire) == content_hash(read) == content_hash(read, version)
    assert encode_essential(version, wire) == encode_essential(version, read)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1e16}, '{"a":1e+16}'),
        ({"a": 1e-7}, '{"a":1e-07}'),
        ({"a": 1.0, "b": -0.0}, '{"a":1.0,"b":-0.0}'),
        ({"a": 2**64}, '{"a":18446744073709551616}'),
        ({"é": "\x7f\u2028"}, '{"é":"\x7f\u2028"}'),
    ],
)
def test_numbers_are_written_as_the_reference_does(value: Any, text: str) -> None:
    assert text.encode() == encode_lax(value)


NO_JSON = [
    b"NaN",
    b"[Infinity]",
    b'{"a":-Infinity}',
    b"1e400",
    b"[-1e400]",
    b"",
    b"{}x",
    b"\xff",
    b'"\\ud800"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 900 + b"1.5" + b"]" * 900 + b"]",
    b"1" * 5000,
    b'["\\ud800",' + b"1" * 400 + b"]",
    b"[NaN," + b"1" * 400 + b"]",
    b"[1e400," + b"1" * 400 + b"]",
    b"[1e" + b"9" * 50 + b"]",
    b"\xef\xbb\xbf{}",
    b'{"a":1,}',
]


@pytest.mark.parametrize("raw", NO_JSON, ids=lambda raw: repr(raw[:12]))
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadJson):
        parse_exactly(raw)


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], {"a": -float("inf")}, {"a": {1}}, b"x", object()],
    ids=["nan", "inf", "-inf", "set", "bytes", "object"],
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(BadJson):
        check_lax(value)
    with pytest.raises(BadJson):
        encode_lax(value)


def test_deep_nesting_costs_no_stack() -> None:
    value: Any = 1.5
    for _ in range(100_000):
        value = [value]
    with pytest.raises(BadJson):
        check_lax(value)


@given(LAX_VALUES)
def test_what_clients_are_shown_can_be_read_by_any_parser(value: Any) -> None:
    shown = orjson.loads(dump_shown(value))
    assert shown == json.loads(dump_shown(value))
    assert shown == orjson.loads(orjson.dumps(shown))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**64 - 1, "18446744073709551615"),
        (-(2**63), "-9223372036854775808"),
        (2**64, "1.8446744073709552e+19"),
        (10**400, "1.7976931348623157e+308"),
        (-(10**4000), "-1.7976931348623157e+308"),
        (True, "true"),
        (0.5, "0.5"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_greater_integers_are_shown_as_floats(value: Any, text: str) -> None:
    assert b'{"a":[' + text.encode() + b"]}" == dump_shown({"a": [value]})


def test_the_deepest_event_can_be_shown() -> None:
    value: Any = 2**70
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    check_lax({"a": value})
    assert dump_shown({"a": value})


def test_of_two_equal_keys_the_last_counts_in_every_version() -> None:
    raw = b'{"a":1,"b":0.5,"a":2}'
    assert {"a": 2, "b": 0.5} == load_event(V1, raw) == load_event(V5, raw) == load_event(V12, raw)


def test_what_is_stored_is_an_object() -> None:
    for version in (V1, V12):
        with pytest.raises(ValueError):
            load_event(version, b"[]")
