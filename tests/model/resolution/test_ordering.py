from typing import Any

import pytest

from homeserver.model.event import Event
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.resolution.ordering import (
    Mainline,
    cited_event,
    mainline_order,
    reverse_topological_power_order,
    sender_power,
)
from homeserver.model.room_versions import V1, V10, V11, V12, RoomVersion

ALICE = UserID("@alice:a.example")
BOB = UserID("@bob:b.example")
FAR = 2**63 - 1
Events = dict[EventID, Event]


def event(
    event_id: str,
    event_type: str = "m.room.topic",
    auth: str = "",
    *,
    by: UserID = ALICE,
    ts: int = 1,
    key: str | None = "",
    **content: Any,
) -> Event:
    return Event(
        event_id=EventID(event_id),
        room_id=RoomID("!room:a.example"),
        type=event_type,
        sender=by,
        content=content,
        state_key=key,
        depth=1,
        origin_server_ts=ts,
        prev_event_ids=(),
        auth_event_ids=tuple(EventID(cited) for cited in auth.split()),
        wire={},
    )


def power(event_id: str, auth: str = "") -> Event:
    return event(event_id, "m.room.power_levels", auth, users={ALICE: 100})


def known(*events: Event) -> Events:
    return {item.event_id: item for item in events}


def ids(events: list[Event]) -> str:
    return " ".join(item.event_id for item in events)


CREATE = event("create", "m.room.create", creator=ALICE)


# -- the power of a sender ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "levels", "expected"),
    [
        (V1, {"users": {BOB: 50}}, 50),
        (V1, {"users": {BOB: " +50 "}}, 50),
        (V1, {"users": {BOB: 50.9}}, 50),
        (V1, {"users": {BOB: "x"}, "users_default": "7"}, 7),
        (V10, {"users": {BOB: "50"}}, 0),
        (V11, {"users": [], "users_default": 3}, 3),
        (V11, {"users": {BOB: True}}, 0),
        (V11, {}, 0),
        (V12, {"users": {BOB: 50}}, 50),
        (V12, {"users": {BOB: 2**53 - 1}}, 2**53 - 1),
    ],
    ids=["plain", "text", "float", "default-text", "no-text", "no-map", "no-boolean", "nothing", "v12", "greatest"],
)
def test_power_is_read_from_the_cited_levels(version: RoomVersion, levels: dict[str, Any], expected: int) -> None:
    events = known(event("p", "m.room.power_levels", **levels))
    assert expected == sender_power(version, event("e", auth="create p", by=BOB), events, CREATE)


@pytest.mark.parametrize(
    ("version", "create", "sender", "expected"),
    [
        (V1, CREATE, ALICE, 100),
        (V1, CREATE, BOB, 0),
        (V10, event("create", "m.room.create", creator=BOB), ALICE, 0),
        (V10, event("create", "m.room.create", creator=7), ALICE, 0),
        (V11, event("create", "m.room.create", creator=BOB), ALICE, 100),
        (V12, CREATE, ALICE, 2**63),
        (V12, event("create", "m.room.create", additional_creators=[BOB]), BOB, 2**63),
        (V11, event("create", "m.room.create", additional_creators=[BOB]), BOB, 0),
    ],
    ids=["creator", "other", "by-content", "odd-content", "by-sender", "v12", "v12-additional", "no-additional"],
)
def test_without_levels_only_creators_have_power(
    version: RoomVersion, create: Event, sender: UserID, expected: int
) -> None:
    assert expected == sender_power(version, event("e", auth="create", by=sender), {}, create)


def test_a_creator_is_above_levels_that_say_otherwise_in_version_12_only() -> None:
    events = known(event("p", "m.room.power_levels", users={ALICE: 1}))
    sent = event("e", auth="p")
    assert (1, 2**63) == (sender_power(V11, sent, events, CREATE), sender_power(V12, sent, events, CREATE))


def test_levels_that_are_missing_or_of_another_state_key_do_not_count() -> None:
    events = known(event("other", "m.room.power_levels", key="x", users={BOB: 60}))
    assert 0 == sender_power(V11, event("e", auth="missing other", by=BOB), events, CREATE)
    assert cited_event(event("e", auth="other"), ("m.room.power_levels", "x"), events) is events[EventID("other")]


# -- reverse topological power order -----------------------------------------------------------------------------------

LEVELS = event("p", "m.room.power_levels", users={ALICE: 100, BOB: 50})


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], ""),
        ([event("b", by=BOB, auth="p", ts=1), event("a", auth="p", ts=9)], "a b"),
        ([event("a", by=BOB, auth="p", ts=2), event("b", by=BOB, auth="p", ts=1)], "b a"),
        ([event("b", auth="p"), event("a", auth="p")], "a b"),
        ([event("a", auth="p b"), event("b", auth="p", by=BOB, ts=9)], "b a"),
        ([event("c", auth="a"), event("a", auth="b"), event("b", auth="p", by=BOB), event("d", auth="p")], "d b a c"),
        ([event("a", by=BOB, auth="p missing b", ts=1), event("b", by=BOB, auth="p", ts=9)], "b a"),
        ([event("a", auth="b"), event("b", auth="a"), event("c", by=BOB, auth="p", ts=9)], "c a b"),
        ([event("a", auth="a p", by=BOB), event("b", auth="a p")], "b a"),
    ],
    ids=[
        "none", "1-power", "2-time", "3-id", "cited-first", "smallest-of-those-free", "missing", "circle", "own-cause",
    ],
)  # fmt: skip
def test_reverse_topological_power_order(chosen: list[Event], expected: str) -> None:
    for given in (chosen, chosen[::-1]):
        order = reverse_topological_power_order(V11, known(*given), known(LEVELS, *given), CREATE)
        assert expected == ids(order)


# -- mainline order ----------------------------------------------------------------------------------------------------

# p0 <- p1 <- p2 <- p3 is the mainline; s1 hangs off p1, s2 off s1, and x0 <- x1 has nothing to do with it.
LINE = known(
    power("p0"), power("p1", "p0"), power("p2", "p1"), power("p3", "p2"),
    power("s1", "p1"), power("s2", "s1"), power("x0"), power("x1", "x0"),
)  # fmt: skip
LAST = LINE[EventID("p3")]


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("p3", 0),
        ("create p2", 1),
        ("p1 create", 2),
        ("p0", 3),
        ("s1", 2),
        ("s2", 2),
        ("x1", None),
        ("", None),
        ("missing", None),
    ],
)
def test_mainline_position(auth: str, expected: int | None) -> None:
    line = Mainline(LAST, LINE)
    position = FAR if expected is None else expected
    sent = event("e", auth=auth)
    assert position == line.position_of(sent)
    assert position == line.position_of(sent)


@pytest.mark.parametrize("first", ["p3", "p0", "s2", "x1", "s1", ""])
def test_mainline_positions_do_not_depend_on_who_asked_before(first: str) -> None:
    line = Mainline(LAST, LINE)
    line.position_of(event("f", auth=first))
    asked = ["s2", "p2", "x0", "p0", "p3", "s1", "p1"]
    assert [2, 1, FAR, 3, 0, 2, 2] == [line.position_of(event("e", auth=auth)) for auth in asked]


def test_a_power_levels_event_counts_by_what_it_cites_and_not_by_its_own_place() -> None:
    assert 1 == Mainline(LAST, LINE).position_of(LAST)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([event("a", auth="p3", ts=1), event("b", auth="p1", ts=9)], "b a"),
        ([event("a", auth="p1", ts=1), event("b", auth="x1", ts=9), event("c", ts=8)], "c b a"),
        ([event("a", auth="s2", ts=2), event("b", auth="p1", ts=1), event("c", auth="s1", ts=3)], "b a c"),
        ([event("b", auth="p2"), event("a", auth="p2")], "a b"),
    ],
    ids=["1-position", "1-none-is-first", "2-time", "3-id"],
)
def test_mainline_order(chosen: list[Event], expected: str) -> None:
    assert expected == ids(mainline_order(chosen, LAST, LINE))
    assert expected == ids(mainline_order(chosen[::-1], LAST, LINE))


def test_without_power_levels_the_mainline_order_is_by_time_and_id() -> None:
    chosen = [event("a", auth="p3", ts=3), event("c", auth="p0", ts=2), event("b", ts=2)]
    assert "b c a" == ids(mainline_order(chosen, None, LINE))


def test_a_circle_of_power_levels_is_walked_once() -> None:
    circle = known(power("a", "b"), power("b", "c"), power("c", "a"), power("own", "own"), power("to", "own"))
    chosen = [event("e", auth="a"), event("f", auth="b"), event("g", auth="own"), event("h", auth="to")]
    for last in circle.values():
        order = ids(mainline_order(chosen, last, circle))
        assert order == ids(mainline_order(chosen[::-1], last, circle))
    assert FAR == Mainline(circle[EventID("own")], circle).position_of(event("e", auth="a"))


class Counting(Events):
    asked = 0

    def get(self, event_id: EventID, default: Any = None) -> Any:
        self.asked += 1
        return super().get(event_id, default)


def long_line(length: int) -> Counting:
    events = Counting()
    for number in range(length):
        item = power(f"p{number}", f"p{number - 1}" if number else "")
        events[item.event_id] = item
    return events


def test_a_fork_near_the_end_of_a_long_mainline_costs_the_way_to_the_fork() -> None:
    events = long_line(10_000)
    side = power("side", "p9989")
    events[side.event_id] = side
    line = Mainline(events[EventID("p9999")], events)
    assert 10 == line.position_of(event("e", auth="side"))
    assert events.asked < 40


def test_each_event_of_a_long_mainline_is_looked_at_once_however_many_ask() -> None:
    events = long_line(20_000)
    chosen = [event(f"e{number}", auth=f"p{number * 97 % 20_000}") for number in range(2_000)]
    order = mainline_order(chosen, events[EventID("p19999")], events)
    # Once along the mainline and once along the lines of the events, which are parts of it.
    assert events.asked < 50_000
    assert sorted(order, key=lambda item: int(item.auth_event_ids[0][1:])) == order
