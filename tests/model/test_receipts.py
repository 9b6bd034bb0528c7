"""Receipts: which are valid, which replace others, what viewers are shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, InvalidParam, MatrixError
from homeserver.model.ids import EventID, UserID
from homeserver.model.receipts import (
    READ,
    READ_PRIVATE,
    ReadMarkers,
    Receipt,
    check_event_in_thread,
    check_receipt_type,
    parse_read_markers,
    parse_thread_id,
    read_position,
    read_thread_id,
    render_receipts,
    supersedes,
)

ALICE, BOB = "@alice:a.example", "@bob:a.example"
JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(), max_size=2)


def receipt(
    position: int | None,
    thread_id: str | None = None,
    *,
    user_id: str = ALICE,
    receipt_type: str = READ,
    event_id: str | None = None,
) -> Receipt:
    return Receipt(UserID(user_id), receipt_type, EventID(event_id or f"$e{position}"), thread_id, 1000, position)


@pytest.mark.parametrize("text", ["m.read", "m.read.private", "m.fully_read"])
def test_three_types_may_be_sent(text: str) -> None:
    assert text == check_receipt_type(text)


@pytest.mark.parametrize("text", ["", "m.receipt", "M.READ"])
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        check_receipt_type(text)


@pytest.mark.parametrize(
    ("body", "expected"), [({}, None), ({"thread_id": "main"}, "main"), ({"thread_id": "$root"}, "$root")]
)
def test_thread_ids_are_read(body: dict[str, Any], expected: str | None) -> None:
    assert expected == parse_thread_id(body, READ_PRIVATE)


@pytest.mark.parametrize(
    ("body", "receipt_type", "error"),
    [
        ({"thread_id": ""}, READ, InvalidParam),
        ({"thread_id": None}, READ, InvalidParam),
        ({"thread_id": 1}, READ, InvalidParam),
        ({"thread_id": "other"}, READ, InvalidParam),
        ({"thread_id": "$" + "x" * 255}, READ, InvalidParam),
        ({"thread_id": "main"}, "m.fully_read", InvalidParam),
        ([], READ, BadJson),
    ],
)
def test_bad_thread_ids_are_refused(body: Any, receipt_type: str, error: type[MatrixError]) -> None:
    with pytest.raises(error):
        parse_thread_id(body, receipt_type)


@pytest.mark.parametrize(
    ("data", "expected"), [({}, None), ({"thread_id": "$a"}, "$a"), ({"thread_id": 1}, None), ({"ts": 1}, None)]
)
def test_remote_thread_ids_are_read_leniently(data: dict[str, Any], expected: str | None) -> None:
    assert expected == read_thread_id(data)


@pytest.mark.parametrize(
    ("thread_id", "event_id", "thread_of_event", "is_valid"),
    [
        (None, "$a", "$root", True),
        ("main", "$a", None, True),
        ("main", "$a", "$root", False),
        ("$root", "$a", "$root", True),
        ("$root", "$root", None, True),
        ("$root", "$a", None, False),
        ("$root", "$a", "$other", False),
    ],
)
def test_an_event_is_read_only_in_its_own_thread(
    thread_id: str | None, event_id: str, thread_of_event: str | None, is_valid: bool
) -> None:
    root = None if thread_of_event is None else EventID(thread_of_event)
    if is_valid:
        check_event_in_thread(thread_id, EventID(event_id), root)
    else:
        with pytest.raises(InvalidParam):
            check_event_in_thread(thread_id, EventID(event_id), root)


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (receipt(1), None, True),
        (receipt(2), receipt(1), True),
        (receipt(1), receipt(1), False),
        (receipt(1), receipt(2), False),
        (receipt(1), receipt(-1), True),
        (receipt(None), receipt(2), True),
        (receipt(2), receipt(None), True),
        (receipt(None), receipt(None), False),
    ],
)
def test_a_receipt_only_moves_forwards(new: Receipt, old: Receipt | None, expected: bool) -> None:
    assert expected == supersedes(new, old)


@pytest.mark.parametrize(
    ("receipts", "thread_id", "expected"),
    [
        ([], "main", None),
        ([receipt(3), receipt(1, receipt_type=READ_PRIVATE)], "main", 3),
        ([receipt(3), receipt(5, receipt_type=READ_PRIVATE)], "main", 5),
        ([receipt(3), receipt(5, "main")], "$root", 3),
        ([receipt(3), receipt(5, "$root")], "$root", 5),
        ([receipt(3), receipt(5, "$root")], "main", 3),
        ([receipt(None)], "main", None),
    ],
)
def test_the_receipt_more_ahead_counts(receipts: list[Receipt], thread_id: str, expected: int | None) -> None:
    assert expected == read_position(receipts, thread_id)


def test_receipts_are_rendered_one_content_a_thread() -> None:
    receipts = [
        receipt(1, "main", event_id="$a"),
        receipt(1, event_id="$a"),
        receipt(1, event_id="$a", user_id=BOB),
        receipt(2, event_id="$b", receipt_type=READ_PRIVATE),
    ]
    assert [
        {
            "$a": {"m.read": {ALICE: {"ts": 1000}, BOB: {"ts": 1000}}},
            "$b": {"m.read.private": {ALICE: {"ts": 1000}}},
        },
        {"$a": {"m.read": {ALICE: {"ts": 1000, "thread_id": "main"}}}},
    ] == render_receipts(receipts, ALICE)


def test_private_receipts_are_shown_to_nobody_else() -> None:
    assert [] == render_receipts([receipt(1, receipt_type=READ_PRIVATE)], BOB)


def test_read_markers_are_read() -> None:
    body = {"m.fully_read": "$a", "m.read": "$b", "m.read.private": None}
    assert ReadMarkers(EventID("$a"), EventID("$b"), None) == parse_read_markers(body)


@given(st.dictionaries(st.sampled_from(["m.fully_read", "m.read", "m.read.private", "thread_id"]), JSON) | JSON)
def test_any_body_is_read_or_refused(body: Any) -> None:
    for parse in (parse_read_markers, lambda each: parse_thread_id(each, READ)):
        try:
            parse(body)
        except MatrixError:
            pass
