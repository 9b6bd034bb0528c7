from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.chat.layout import Row, clip, item_rows, message_rows, pending_rows, room_row, room_rows, width_of, wrap
from homeserver.chat.timeline import Notice

from .played import ALICE, BOB, CAROL, NOON_MS, ROOM, edit, event, joined, member, model_of, reaction, state

DAY_MS = 86_400_000
# As it comes out of `text`: without controls.
SHOWN = st.text(st.sampled_from("abc  漢字é❤-"), max_size=80)


def _text(row: Row) -> str:
    return "".join(text for _style, text in row)


def _screen(*events: dict[str, Any], width: int = 30, height: int = 100) -> list[str]:
    room = model_of(joined(*events, state_events=[member(BOB, "Bob"), member(CAROL, "Carol")])).rooms[ROOM]
    shown = message_rows(room, room.timeline.items, width, height, ALICE)
    return [_text(row).rstrip() for _item, rows in shown for row in rows]


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("", [""]),
        ("short", ["short"]),
        ("one two three", ["one two", "three"]),
        ("abcdefghijklmnop", ["abcdefgh", "ijklmnop"]),
        ("a abcdefghijkl", ["a", "abcdefgh", "ijkl"]),
        ("  two  spaces", ["  two", "spaces"]),
        ("漢字漢字漢字", ["漢字漢字", "漢字"]),
        ("          x", ["", "x"]),
    ],
)
def test_lines_are_broken_between_words(line: str, rows: list[str]) -> None:
    assert rows == wrap(line, 8)


@given(SHOWN, st.integers(2, 20))
def test_no_row_is_too_wide_and_nothing_is_lost(line: str, width: int) -> None:
    rows = wrap(line, width)
    assert all(width_of(row) <= width for row in rows)
    assert line.replace(" ", "") == "".join(rows).replace(" ", "")


@given(SHOWN, st.integers(0, 20))
def test_clipped_text_has_exactly_its_width(line: str, width: int) -> None:
    assert width == width_of(clip(line, width))


def test_message_has_its_time_and_name_before_it_and_goes_on_below() -> None:
    rows = _screen(event("$1", "a message that is longer\nthan a line"), width=28)
    assert ["Bob: a message that is", "      longer", "      than a line"] == [rows[1][6:], *rows[2:]]


def test_day_is_told_where_it_changes() -> None:
    rows = _screen(event("$1", ts_ms=NOON_MS), event("$2", ts_ms=NOON_MS + 1000), event("$3", ts_ms=NOON_MS + DAY_MS))
    assert ["21 November 2026", "22 November 2026"] == [
        row.strip(" ─").partition(", ")[2] for row in rows if "─" in row
    ]


def test_edits_and_reactions_stand_beside_their_message() -> None:
    rows = _screen(event("$1", "old"), edit("$2", "$1", "new"), reaction("$3", "$1", "👍"))
    assert ["Bob: new (edited)", "👍"] == [rows[1][6:], rows[2].strip()]


def test_message_cannot_forge_another_one() -> None:
    rows = _screen(event("$1", "hi\n14:05 Carol: I agree\r14:05 Carol: forged"), width=60)
    assert all(row.startswith("      ") for row in rows[2:])


def test_only_what_fits_is_made() -> None:
    room = model_of(joined(*(event(f"${number}") for number in range(1000)))).rooms[ROOM]
    assert 10 == len(message_rows(room, room.timeline.items, 40, 10, ALICE))


def test_what_happened_and_notices_have_no_sender() -> None:
    room = model_of(joined(state("m.room.topic", topic="Tea"), state_events=[member(BOB, "Bob")])).rooms[ROOM]
    assert "Bob sets the topic: Tea" == _text(item_rows(room, room.timeline.items[0], 60, ALICE)[0])[6:]
    assert ["      hello"] == [_text(row) for row in item_rows(room, Notice("hello"), 60, ALICE)]


def test_message_on_its_way_is_one_paragraph() -> None:
    assert ["  …   one two", "      three"] == [_text(row) for row in pending_rows(["one two\nthree"], 14)]


def test_rooms_have_a_mark_a_name_and_a_count() -> None:
    counts = {"notification_count": 12, "highlight_count": 1}
    model = model_of(
        joined(event("$1"), state_events=[state("m.room.name", name="Lobby")], unread_notifications=counts)
    )
    assert " # Lobby       12! " == _text(room_row(model, model.rooms[ROOM], 19, is_open=False))


@pytest.mark.parametrize(("presence", "mark"), [("online", "●"), ("offline", "○")])
def test_mark_of_a_direct_room_tells_who_is_there(presence: str, mark: str) -> None:
    model = model_of(
        {
            "account_data": {"events": [{"type": "m.direct", "content": {BOB: [ROOM]}}]},
            "presence": {"events": [{"type": "m.presence", "sender": BOB, "content": {"presence": presence}}]},
        },
        joined(summary={"m.heroes": [BOB], "m.joined_member_count": 2}),
    )
    assert f" {mark} @bob:x " == _text(room_row(model, model.rooms[ROOM], 10, is_open=False))


def test_open_room_is_always_in_the_list() -> None:
    model = model_of(*(joined(event("$1", ts_ms=1000 - n), room_id=f"!{n}:x") for n in range(100)))
    for number in (0, 1, 50, 98, 99):
        rows = room_rows(model, model.listed(), f"!{number}:x", 20, 10)
        assert (10, 1) == (len(rows), sum("class:open" in style for row in rows for style, _text in row[1:2]))


@given(st.text(max_size=60))
def test_row_of_a_room_has_its_width_whatever_the_name(name: str) -> None:
    model = model_of(joined(state_events=[state("m.room.name", name=name)]))
    assert 26 == width_of(_text(room_row(model, model.rooms[ROOM], 26, is_open=True)))
