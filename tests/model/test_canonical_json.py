from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson
from homeserver.model.canonical_json import MAX_DEPTH, MAX_INTEGER, check_strict, encode_canonical

# Control characters, what JSON escapes, and what UTF-16 sorts otherwise than code points do.
_CHARACTERS = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from(
        '\x00\x01\x08\x09\x0a\x0b\x0c\x0d\x1f\x7f\x80"\\/\u2028\u2029\ud7ff\ue000\uffff\U00010000\U0010ffff'
    ),
)
_TEXTS = st.text(_CHARACTERS, max_size=8)
STRICT_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-MAX_INTEGER, MAX_INTEGER), _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(_TEXTS, inner, max_size=6)),
    max_leaves=25,
)

# Spec: appendices, "Canonical JSON", "Examples".
VECTORS: list[tuple[Any, str]] = [
    ({}, "{}"),
    ({"one": 1, "two": "Two"}, '{"one":1,"two":"Two"}'),
    ({"b": "2", "a": "1"}, '{"a":"1","b":"2"}'),
    (
        {
            "auth": {
                "success": True,
                "mxid": "@john.doe:example.com",
                "profile": {
                    "display_name": "John Doe",
                    "three_pids": [
                        {"medium": "email", "address": "john.doe@example.org"},
                        {"medium": "msisdn", "address": "123456789"},
                    ],
                },
            }
        },
        '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":'
        '"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}',
    ),
    ({"a": "日本語"}, '{"a":"日本語"}'),
    ({"本": 2, "日": 1}, '{"日":1,"本":2}'),
    ({"a": "\u65e5"}, '{"a":"日"}'),
    ({"a": None}, '{"a":null}'),
    ({"a": -0, "b": int(1e10)}, '{"a":0,"b":10000000000}'),
]


@pytest.mark.parametrize(("value", "text"), VECTORS)
def test_examples_of_the_spec(value: Any, text: str) -> None:
    assert text.encode() == encode_canonical(value)


@given(STRICT_VALUES)
def test_every_strict_value_is_encoded_as_the_reference_does(value: Any) -> None:
    check_strict(value)
    assert canonicaljson.encode_canonical_json(value) == encode_canonical(value)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["a\udc00b"]])
def test_lone_surrogates_have_no_canonical_form(value: Any) -> None:
    with pytest.raises(BadJson):
        encode_canonical(value)


@pytest.mark.parametrize(
    "value",
    [1.0, -0.0, float("nan"), float("inf"), MAX_INTEGER + 1, -MAX_INTEGER - 1, 10**400, b"bytes", {1, 2}, object()],
    ids=lambda value: f"{type(value).__name__} {value!r:.12}",
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value]}], ids=["bare", "inside"])
def test_what_is_not_strict_is_refused(value: Any, wrap: Any) -> None:
    with pytest.raises(BadJson):
        check_strict(wrap(value))


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}], ids=["arrays", "objects"])
def test_deep_nesting_is_refused_and_costs_no_stack(wrap: Any) -> None:
    value: Any = {}
    for _ in range(MAX_DEPTH - 1):
        value = wrap(value)
    check_strict(value)
    encode_canonical(value)
    for _ in range(50_000):
        value = wrap(value)
    with pytest.raises(BadJson):
        check_strict(value)
    with pytest.raises(BadJson):
        encode_canonical(value)
    while value:  # taken apart level by level: so deep a value is not for the garbage collector either
        value = value[0] if isinstance(value, list) else value["a"]
