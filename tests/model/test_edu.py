"""Contents of EDUs: what is well-formed is read, the rest is refused or left out, and nothing breaks the reader."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson
from homeserver.model import edu

BOB = "@bob:b.example"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(BOB) | st.just("!r"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "room_id",
                    "user_id",
                    "typing",
                    "push",
                    "presence",
                    "m.read",
                    "!r",
                    "event_ids",
                    "data",
                    "ts",
                    "thread_id",
                    "@bob:b.example",
                    "sender",
                    "type",
                    "message_id",
                    "messages",
                    "device_id",
                    "stream_id",
                    "prev_id",
                    "keys",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
PARSERS: list[Any] = [
    edu.parse_typing,
    edu.parse_presence,
    edu.parse_receipts,
    edu.parse_device_list_update,
    edu.parse_signing_key_update,
    edu.parse_direct_to_device,
]


@given(content=st.dictionaries(st.text(max_size=5) | st.sampled_from(["push", "!r", "user_id"]), JSON))
def test_no_content_breaks_the_reader(content: Any) -> None:
    for parse in PARSERS:
        with contextlib.suppress(BadJson):
            parse(content)


def test_a_device_list_update_is_read() -> None:
    content = {
        "user_id": BOB,
        "device_id": "D",
        "stream_id": 7,
        "prev_id": [5, 6],
        "deleted": True,
        "device_display_name": "x" * 1_000,
        "keys": {"a": 1},
    }
    update = edu.parse_device_list_update(content)
    assert (7, (5, 6), True, "x" * 100, {"a": 1}) == (
        update.stream_id,
        update.prev_ids,
        update.is_deleted,
        update.display_name,
        update.keys,
    )
    least = edu.parse_device_list_update({"user_id": BOB, "device_id": "D", "stream_id": 0})
    assert ((), False, None, None) == (least.prev_ids, least.is_deleted, least.display_name, least.keys)


@pytest.mark.parametrize(
    "change",
    [
        {"stream_id": "7"},
        {"stream_id": True},
        {"stream_id": -1},
        {"stream_id": 2**53},
        {"stream_id": 1.0},
        {"prev_id": 5},
        {"prev_id": ["5"]},
        {"prev_id": list(range(101))},
        {"device_id": ""},
        {"device_id": "x" * 256},
        {"device_id": "\ud800"},
        {"keys": []},
        {"user_id": "bob"},
    ],
    ids=str,
)
def test_a_malformed_device_list_update_is_refused(change: Any) -> None:
    with pytest.raises(BadJson):
        edu.parse_device_list_update({"user_id": BOB, "device_id": "D", "stream_id": 7, **change})


def test_a_message_to_devices_is_read_and_bounded() -> None:
    content = {
        "sender": BOB,
        "type": "m.x",
        "message_id": "1",
        "messages": {"@d:x.org": {"*": {"n": 1}, "D": "junk"}, "junk": {"D": {}}},
    }
    message = edu.parse_direct_to_device(content)
    assert {"@d:x.org": {"*": {"n": 1}}} == message.messages
    crowd = {f"@u{n}:x.org": {"D": {}} for n in range(1_001)}
    for wrong in ({"messages": crowd}, {"messages": []}, {"messages": {"@d:x.org": []}}, {"message_id": "x" * 256}):
        with pytest.raises(BadJson):
            edu.parse_direct_to_device({**content, **wrong})


def test_of_crowds_the_first_are_looked_at() -> None:
    said = {"event_ids": ["$1"], "data": {"ts": 1}}
    crowd = {"!r": {"m.read": {f"@u{n}:x.org": said for n in range(5_000)}}}
    assert edu.MAX_RECEIPTS == len(edu.parse_receipts(crowd))
    assert [] == edu.parse_receipts({f"!r{n}": {} for n in range(5_000)} | crowd)
    push = [{"user_id": f"@u{n}:x.org", "presence": "online"} for n in range(5_000)]
    assert edu.MAX_PRESENCE == len(edu.parse_presence({"push": push}))


def test_of_two_words_on_one_user_the_last_counts() -> None:
    push = [{"user_id": BOB, "presence": state} for state in ("online", "offline")]
    (update,) = edu.parse_presence({"push": push})
    assert "offline" == update.state
