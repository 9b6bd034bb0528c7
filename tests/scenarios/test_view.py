"""The view knows what a client knows after the same answers of /sync."""

from __future__ import annotations

from typing import Any

import pytest

from sytest_scenarios.expect import Failed
from sytest_scenarios.view import View


def _joined(**sections: Any) -> dict[str, Any]:
    return {"next_batch": "s1", "rooms": {"join": {"!r": sections}}}


def _said(body: str, event_id: str) -> dict[str, Any]:
    return {"type": "m.room.message", "event_id": event_id, "sender": "@a:x", "content": {"body": body}}


def test_timelines_are_put_together() -> None:
    view = View()
    for number in range(3):
        view.merge(_joined(timeline={"events": [_said(f"{number}", f"${number}")], "limited": number == 2}))
    room = view.room("!r")
    assert ["0", "1", "2"] == room.texts
    assert room.limited and "1" == (room.event("$1") or {})["content"]["body"]


def test_state_in_the_timeline_counts() -> None:
    view = View()
    topic = {"type": "m.room.topic", "state_key": "", "content": {"topic": "old"}}
    view.merge(_joined(state={"events": [topic]}, timeline={"events": [{**topic, "content": {"topic": "new"}}]}))
    assert "new" == view.room("!r").content("m.room.topic")["topic"]


def test_receipts_counts_and_typing_are_the_latest() -> None:
    view = View()
    receipt = {"type": "m.receipt", "content": {"$1": {"m.read": {"@b:x": {"ts": 1}, "@c:x": {"thread_id": "$t"}}}}}
    typing = {"type": "m.typing", "content": {"user_ids": ["@b:x"]}}
    view.merge(_joined(ephemeral={"events": [receipt, typing]}, unread_notifications={"notification_count": 2}))
    view.merge(_joined(ephemeral={"events": [{"type": "m.typing", "content": {"user_ids": []}}]}))
    room = view.room("!r")
    assert ({("m.read", "@b:x"): "$1"}, 2, []) == (room.receipts, room.unread, room.typing)


def test_a_room_is_where_it_was_told_last() -> None:
    view = View()
    view.merge({"next_batch": "s1", "rooms": {"invite": {"!r": {"invite_state": {"events": []}}}}})
    assert ["!r"] == view.invites
    view.merge(_joined())
    assert ([], ["!r"]) == (view.invites, view.joined)


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"next_batch": 5},
        {"next_batch": "s1", "rooms": []},
        {"next_batch": "s1", "rooms": {"join": []}},
        {"next_batch": "s1", "rooms": {"join": {"!r": None}}},
        {"next_batch": "s1", "rooms": {"join": {"!r": {"timeline": {"events": "x"}}}}},
        {"next_batch": "s1", "rooms": {"join": {"!r": {"timeline": {"events": [1]}}}}},
        {"next_batch": "s1", "rooms": {"join": {"!r": {"state": {"events": [{"state_key": ""}]}}}}},
        {"next_batch": "s1", "presence": {"events": [{"content": {}}]}},
    ],
)
def test_what_is_no_sync_is_said_to_be_none(update: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="expected "):
        View().merge(update)
