"""The judge of the soak sees what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest

from .journal import Entry, RoomJournal, Sieved, Told
from .judge import Hall, judge

INITIAL, LIMITED, PLAIN = Told(True, True), Told(True, False), Told(False, False)


def hall(plan: str, *, is_shared: bool = True) -> Hall:
    """Make a room: `.` is a message, `r` a reaction, `j` and `l` the user's join and leave."""
    events: list[dict[str, Any]] = []
    for place, kind in enumerate(plan):
        event: dict[str, Any] = {"event_id": f"${place}", "type": "m.room.message", "sender": "@w:x", "content": {}}
        if kind == "r":
            event["type"] = "m.reaction"
        elif kind in "jl":
            membership = {"membership": "join" if kind == "j" else "leave"}
            event |= {"type": "m.room.member", "state_key": "@u:x", "content": membership}
        events.append(event)
    return Hall("!r:x", events, is_shared)


def told(*entries: Entry | range) -> RoomJournal:
    journal = RoomJournal()
    for entry in entries:
        journal.entries += [f"${place}" for place in entry] if isinstance(entry, range) else [entry]
    return journal


def fault(plan: str, *entries: Entry | range, is_shared: bool = True, to_the_end: bool = True) -> str:
    found = judge(told(*entries), hall(plan, is_shared=is_shared), "@u:x", to_the_end=to_the_end)
    return (found or "").partition("\n")[0]


@pytest.mark.parametrize(
    ("plan", "entries"),
    [
        pytest.param(".j....", (INITIAL, range(3, 6)), id="initial sync behind the join"),
        pytest.param(".j....", (LIMITED, range(1, 3), PLAIN, range(3, 6)), id="join while connected"),
        pytest.param("..j...", (LIMITED, range(1, 6)), id="a window that begins before the join"),
        pytest.param(".j..l..", (LIMITED, range(1, 5)), id="leave is the last"),
        pytest.param(".j..l..j.", (LIMITED, range(1, 5), range(7, 9)), id="rejoin, told from the join"),
        pytest.param(".j..l..j.", (LIMITED, range(1, 3), range(7, 9)), id="left and rejoined while away"),
        pytest.param(".j..l..j.", (LIMITED, range(1, 5), range(3, 9)), id="rejoin, with a window over the leave"),
        pytest.param(".j..l..", (LIMITED, range(3, 5)), id="joined and left while away"),
        pytest.param(".jr.r.", (LIMITED, "$1", Sieved(frozenset({"m.reaction"})), "$3", "$5"), id="left out"),
        pytest.param(".jl.j.", (Told(False, True), range(1, 3), range(4, 6)), id="joined"),
        pytest.param("..", (), id="never in it"),
    ],
)
def test_what_is_right_is_accepted(plan: str, entries: tuple[Entry | range, ...]) -> None:
    assert "" == fault(plan, *entries, is_shared="jl.j" not in plan)


@pytest.mark.parametrize(
    ("plan", "entries", "what"),
    [
        pytest.param(".j....", (LIMITED, range(1, 3), range(4, 6)), "place 4 where place 3 was", id="lost"),
        pytest.param(".j....", (LIMITED, range(1, 4), range(3, 6)), "place 3 where place 4 was", id="twice"),
        pytest.param(".j....", (LIMITED, "$1", "$3", "$2", "$4", "$5"), "place 3 where place 2 was", id="order"),
        pytest.param(".j....", (LIMITED, range(1, 5)), "ends before place 5", id="the last is lost"),
        pytest.param(".j....", (LIMITED, range(1, 3), LIMITED, range(5, 6)), "place 5 where place 3", id="a gap"),
        pytest.param(".j....", (LIMITED, range(2, 6)), "without a join in it", id="begins behind the join"),
        pytest.param(".j....", (PLAIN, range(1, 6)), "not that something is before it", id="not said to be limited"),
        pytest.param(".j..l..", (LIMITED, range(1, 4)), "never told of the leave", id="the leave is lost"),
        pytest.param(".j..l..", (LIMITED, range(1, 7)), "when the user had left", id="told of more than may be seen"),
        pytest.param(".j..l..j.", (LIMITED, range(1, 5)), "never told of the join at 7", id="the rejoin is lost"),
        pytest.param(".j..l..j.", (LIMITED, range(1, 5), range(8, 9)), "without a join in it", id="rejoin, too late"),
        pytest.param(".jr...", (LIMITED, "$1", "$3", "$4", "$5"), "place 3 where place 2", id="left out, unasked"),
        pytest.param(
            ".jr.r.",
            (LIMITED, "$1", Sieved(frozenset({"m.reaction"})), "$3", Sieved(frozenset()), "$4", "$5", "$5"),
            "place 5 where place 6",
            id="twice, after a filter",
        ),
        pytest.param(".j..", (), "never told of this room", id="nothing"),
        pytest.param(".j..", (LIMITED, "$1", "$x"), "not in the history", id="unknown"),
    ],
)
def test_what_is_wrong_is_found(plan: str, entries: tuple[Entry | range, ...], what: str) -> None:
    assert what in fault(plan, *entries)


def test_what_a_filter_left_out_is_not_left_out_for_ever() -> None:
    entries = (LIMITED, "$1", Sieved(frozenset({"m.reaction"})), "$3", Sieved(frozenset()), "$5", "$7")
    assert "place 7 where place 6" in fault(".jr.r.r.", *entries)


def test_a_journal_that_was_given_up_need_not_reach_the_end() -> None:
    assert "" == fault(".j....", LIMITED, range(1, 3), to_the_end=False)
