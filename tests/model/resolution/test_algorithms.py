"""Clauses that the worked cases do not single out, and rooms that no honest server would make."""

from collections.abc import Mapping
from hashlib import sha1
from typing import Any

import pytest

from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.resolution.conflicts import Conflict
from homeserver.model.resolution.resolve import resolve, resolve_states
from homeserver.model.resolution.v2 import is_power_event
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V1, V2, V11, V12, RoomVersion

from .test_ordering import ALICE, BOB, event, known, power

VERSIONS = pytest.mark.parametrize("version", [V1, V2, V11, V12], ids=lambda version: version.identifier)
ROOM_ID = RoomID("!room:a.example")

CREATE = event("create", "m.room.create", creator=ALICE)
JOIN = event("join", "m.room.member", "create", key=ALICE, membership="join")
PUBLIC = event("public", "m.room.join_rules", "create join", join_rule="public")
BOB_IN = event("bob", "m.room.member", "create public", by=BOB, key=BOB, membership="join")
ROOM = [CREATE, JOIN, PUBLIC, BOB_IN]


def state(*events: Event) -> dict[StateKey, EventID]:
    return {(item.type, item.state_key or ""): item.event_id for item in events}


def resolved(version: RoomVersion, *sides: list[Event], others: tuple[Event, ...] = ()) -> dict[StateKey, EventID]:
    events = known(*others, *(item for side in sides for item in side))
    return resolve_states(version, [state(*side) for side in sides], events, create=CREATE)


# -- rooms/v2, "Definitions", "Power events" ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (event("e", "m.room.power_levels"), True),
        (event("e", "m.room.join_rules"), True),
        (event("e", "m.room.power_levels", key="x"), False),
        (event("e", "m.room.member", key=BOB, membership="ban"), True),
        (event("e", "m.room.member", key=BOB, membership="leave"), True),
        (event("e", "m.room.member", key=ALICE, membership="leave"), False),
        (event("e", "m.room.member", key=ALICE, membership="ban"), False),
        (event("e", "m.room.member", key=BOB, membership="invite"), False),
        (event("e", "m.room.member", key=BOB, membership=["ban"]), False),
        (event("e", "m.room.member", key=BOB, membership={}), False),
        (event("e", "m.room.member", key=BOB), False),
        (event("e", "m.room.topic"), False),
        (event("e", "m.room.create"), False),
    ],
    ids=[
        "power-levels", "join-rules", "other-key", "ban", "kick", "leave", "own-ban", "invite", "list", "object",
        "no-membership", "topic", "create",
    ],
)  # fmt: skip
def test_power_events_are_those_that_may_take_something_from_others(item: Event, expected: bool) -> None:
    assert expected is is_power_event(item)


# -- the contract of `resolve` -----------------------------------------------------------------------------------------


@VERSIONS
def test_no_states_make_an_empty_state_and_one_makes_itself(version: RoomVersion) -> None:
    assert {} == resolve_states(version, [], {}, create=CREATE)
    assert state(*ROOM) == resolved(version, ROOM)
    assert {} == resolve(version, Conflict({}, {}), {}, create=CREATE)


@VERSIONS
def test_nothing_known_of_the_conflict_leaves_what_is_undisputed(version: RoomVersion) -> None:
    topics = {("m.room.topic", ""): frozenset((EventID("x"), EventID("y")))}
    lost = frozenset((EventID("z"),))
    conflict = Conflict(state(*ROOM), topics, lost, lost)
    assert {} == resolve(version, conflict, known(*ROOM), create=CREATE)


def test_an_event_of_the_auth_difference_may_bring_a_key_that_no_state_has() -> None:
    # Bob's topic rests on his join, which the other state lacks; that state has him not at all.
    topic = event("topic", auth="create bob", by=BOB)
    levels = event("levels", "m.room.power_levels", "create join", users={ALICE: 100, BOB: 100})
    base = [CREATE, JOIN, PUBLIC, levels]
    assert state(*base, topic, BOB_IN) == resolved(V11, base, [*base, topic], others=(BOB_IN,))


def test_changes_are_sorted_by_key() -> None:
    chosen = [event(event_id, f"m.{kind}", "create join") for event_id, kind in (("a", "z"), ("b", "x"), ("c", "x"))]
    conflict = Conflict(
        state(*ROOM), {("m.z", ""): frozenset((EventID("a"),)), ("m.x", ""): frozenset(map(EventID, "bc"))}
    )
    changes = resolve(V11, conflict, known(*ROOM, *chosen), create=CREATE)
    assert [(("m.x", ""), "c"), (("m.z", ""), "a")] == list(changes.items())


# -- rooms/v2, "Iterative auth checks" ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V2, V11, V12], ids=lambda version: version.identifier)
def test_state_comes_before_what_the_event_cites(version: RoomVersion) -> None:
    # The topic cites levels under which Bob may set it; the levels that won do not let him.
    creator = {} if version.privileged_creators else {ALICE: 100}
    generous = event("generous", "m.room.power_levels", "create join", users={**creator, BOB: 50})
    strict = event("strict", "m.room.power_levels", "create join generous", ts=2, users=creator)
    topic = event("topic", auth="create bob generous", by=BOB, ts=3)
    assert state(*ROOM, strict) == resolved(version, [*ROOM, strict], [*ROOM, generous, topic])


@pytest.mark.parametrize("version", [V2, V11, V12], ids=lambda version: version.identifier)
def test_what_the_event_cites_stands_in_for_what_no_state_has(version: RoomVersion) -> None:
    levels = event("levels", "m.room.power_levels", "create join", users={BOB: 50})
    topic = event("topic", auth="create bob levels", by=BOB)
    name = event("name", "m.room.name", auth="create bob levels", by=BOB)
    # Both know the levels by the name that they share; neither has them, nor Bob, in its state.
    base = [CREATE, JOIN, PUBLIC, name]
    assert state(*base, topic) == resolved(version, base, [*base, topic], others=(levels, BOB_IN))
    assert state(*base) == resolved(version, base, [*base, topic], others=(BOB_IN,))


# -- rooms/v1 ----------------------------------------------------------------------------------------------------------


def deep(event_id: str, depth: int, event_type: str = "m.room.topic", by: UserID = ALICE, **content: Any) -> Event:
    item = event(event_id, event_type, "create join", by=by, **content)
    return Event(
        **{name: getattr(item, name) for name in Event.__dataclass_fields__ if name not in ("depth", "_memo")},
        depth=depth,
    )


def test_v1_takes_the_deepest_topic_and_of_equal_depth_that_of_the_lowest_sha1() -> None:
    topics = [deep(f"topic{number}", depth) for number, depth in enumerate((3, 7, 7, 7, 5))]
    best = min(topics[1:4], key=lambda topic: sha1(topic.event_id.encode()).hexdigest())
    assert best.event_id == resolved(V1, *([*ROOM, topic] for topic in topics))["m.room.topic", ""]


def test_v1_takes_of_power_levels_of_equal_depth_that_of_the_lowest_sha1_last() -> None:
    levels = [deep(f"levels{number}", 5, "m.room.power_levels", users={ALICE: 100}) for number in range(5)]
    best = min(levels, key=lambda item: sha1(item.event_id.encode()).hexdigest())
    assert best.event_id == resolved(V1, *([*ROOM, item] for item in levels))["m.room.power_levels", ""]


def test_v1_takes_the_first_power_levels_unasked() -> None:
    mine = deep("mine", 1, "m.room.power_levels", by=BOB, users={BOB: 100})
    alices = deep("alices", 2, "m.room.power_levels", users={ALICE: 100, BOB: 0})
    assert "mine" == resolved(V1, [*ROOM, mine], [*ROOM, alices])["m.room.power_levels", ""]


def test_v1_settles_members_beside_each_other() -> None:
    # Alice bans Bob, and Bob Carol: while Bob is disputed himself, his ban is one of somebody who is not there.
    levels = deep("levels", 2, "m.room.power_levels", users={ALICE: 100, BOB: 50, "@carol:c.example": 0})
    carol = UserID("@carol:c.example")
    carol_in = event("carol", "m.room.member", "create public", by=carol, key=carol, membership="join")
    bob_out = deep("bob-out", 5, "m.room.member", key=BOB, membership="ban")
    carol_out = deep("carol-out", 5, "m.room.member", by=BOB, key="@carol:c.example", membership="ban")
    base = [CREATE, JOIN, PUBLIC, levels]
    expected = state(*base, bob_out, carol_in)
    assert expected == resolved(V1, [*base, bob_out, carol_in], [*base, BOB_IN, carol_out])


def test_v1_holds_what_one_state_lacks_for_undisputed_from_the_beginning() -> None:
    # Bob is in one state only; his power levels are judged as if he were in both.
    first = deep("first", 1, "m.room.power_levels", users={ALICE: 100, BOB: 100})
    second = deep("second", 2, "m.room.power_levels", by=BOB, users={ALICE: 100, BOB: 100}, ban=40)
    expected = state(*ROOM, second)
    assert expected == resolved(V1, [CREATE, JOIN, PUBLIC, first], [*ROOM, second])


@pytest.mark.parametrize(
    ("event_type", "contents", "expected"),
    [
        ("m.room.join_rules", [{"join_rule": "public"}, {"join_rule": "invite"}, {"join_rule": "public"}], "e1"),
        ("m.room.topic", [{}, {}, {}], "e3"),
    ],
)
def test_v1_stops_at_the_first_that_is_not_allowed_for_what_the_rules_look_at(
    event_type: str, contents: list[dict[str, Any]], expected: str
) -> None:
    # The second is Bob's, who may not.
    senders = (ALICE, BOB, ALICE)
    events = [
        deep(f"e{number}", number, event_type, by=sender, **content)
        for number, (sender, content) in enumerate(zip(senders, contents, strict=True), start=1)
    ]
    base = [CREATE, JOIN, BOB_IN, *([PUBLIC] if event_type == "m.room.topic" else [])]
    assert expected == resolved(V1, *([*base, item] for item in events))[event_type, ""]


def test_v1_stops_at_the_first_membership_that_is_not_allowed() -> None:
    carol = UserID("@carol:c.example")
    join = event("carol", "m.room.member", "create public", by=carol, key=carol, membership="join")
    ban = deep("ban", 2, "m.room.member", by=BOB, key=carol, membership="ban")
    leave = deep("leave", 3, "m.room.member", by=carol, key=carol, membership="leave")
    assert "carol" == resolved(V1, [*ROOM, join], [*ROOM, ban], [*ROOM, leave])["m.room.member", carol]
    assert "leave" == resolved(V1, [*ROOM, join], [*ROOM, leave])["m.room.member", carol]


def test_v1_judges_members_by_the_join_rules_that_were_settled_before() -> None:
    carol = UserID("@carol:c.example")
    left = deep("left", 1, "m.room.member", by=carol, key=carol, membership="leave")
    back = deep("back", 2, "m.room.member", by=carol, key=carol, membership="join")
    closed = deep("closed", 1, "m.room.join_rules", join_rule="invite")
    opened = deep("opened", 2, "m.room.join_rules", join_rule="public")
    base = [CREATE, JOIN, BOB_IN]
    assert state(*base, opened, back) == resolved(V1, [*base, closed, left], [*base, opened, back])


def test_v1_judges_join_rules_by_the_power_levels_that_were_settled_before() -> None:
    low = deep("low", 1, "m.room.power_levels", users={ALICE: 100})
    high = deep("high", 2, "m.room.power_levels", users={ALICE: 100, BOB: 50})
    alices = deep("alices", 1, "m.room.join_rules", join_rule="public")
    bobs = deep("bobs", 2, "m.room.join_rules", by=BOB, join_rule="invite")
    base = [CREATE, JOIN, BOB_IN]
    assert state(*base, high, bobs) == resolved(V1, [*base, low, alices], [*base, high, bobs])


def test_v1_judges_the_rest_by_the_members_that_were_settled_before() -> None:
    levels = deep("levels", 1, "m.room.power_levels", users={ALICE: 100, BOB: 50})
    again = deep("again", 2, "m.room.member", by=BOB, key=BOB, membership="join")
    alices, bobs = deep("alices", 3), deep("bobs", 4, by=BOB)
    base = [CREATE, JOIN, PUBLIC, levels]
    assert state(*base, again, bobs) == resolved(V1, [*base, BOB_IN, alices], [*base, again, bobs])


def test_v1_event_ids_that_are_no_ascii_are_ordered_too() -> None:
    topics = [deep(event_id, 1) for event_id in ("$\udc80", "$é", "$日")]
    assert resolved(V1, *([*ROOM, topic] for topic in topics))["m.room.topic", ""] in {t.event_id for t in topics}


# -- hostile rooms -----------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (None, [], {}, "x", -1, 2**70, 1.5, True, [[]], {"a": {}}, "\udc80", "@", "ban")


@pytest.mark.parametrize("identifier", KNOWN_ROOM_VERSIONS)
def test_no_content_is_too_odd(identifier: str) -> None:
    version = KNOWN_ROOM_VERSIONS[identifier]
    sides: list[list[Event]] = []
    for number, odd in enumerate(ODD):
        auth = "create join public bob"
        sides.append(
            [
                event(f"p{number}", "m.room.power_levels", auth, users=odd, users_default=odd, events=odd, ban=odd),
                event(f"q{number}", "m.room.power_levels", f"{auth} p{number}", users={BOB: odd, ALICE: odd}),
                event(f"j{number}", "m.room.join_rules", auth, join_rule=odd, allow=odd),
                event(f"m{number}", "m.room.member", auth, key=BOB, membership=odd, third_party_invite=odd),
                event(f"n{number}", "m.room.member", auth, by=BOB, key=BOB, membership="join",
                      join_authorised_via_users_server=odd),
                event(f"i{number}", "m.room.member", auth, key="@x:x", membership="invite",
                      third_party_invite={"signed": {"token": odd, "mxid": odd, "signatures": odd}}),
                event(f"c{number}", "m.room.create", creator=odd, additional_creators=odd, room_version=odd),
                event(f"a{number}", "m.room.aliases", auth, aliases=odd, key="a.example"),
                event(f"r{number}", "m.room.redaction", auth, redacts=odd),
            ]
        )  # fmt: skip
    events = known(*ROOM, *(item for side in sides for item in side))
    states: list[Mapping[StateKey, EventID]] = [state(*ROOM), *(state(*ROOM, *side) for side in sides)]
    expected = resolve_states(version, states, events, create=CREATE)
    assert expected == resolve_states(version, states[::-1], events, create=CREATE)


@pytest.mark.parametrize("identifier", KNOWN_ROOM_VERSIONS)
def test_circles_of_auth_events_end(identifier: str) -> None:
    version = KNOWN_ROOM_VERSIONS[identifier]
    powers = [power(f"p{number}", f"create join p{(number + 1) % 5}") for number in range(5)]
    topics = [event(f"t{number}", auth=f"create join t{number} p{number}", ts=number) for number in range(5)]
    events = known(*ROOM, *powers, *topics)
    states = [state(*ROOM, powers[number], topics[number]) for number in range(5)]
    expected = resolve_states(version, states, events, create=CREATE)
    assert expected == resolve_states(version, states[::-1], events, create=CREATE)


@VERSIONS
def test_messages_in_a_state_are_passed_over(version: RoomVersion) -> None:
    message = event("message", "m.room.message", "create join", key=None)
    conflict = Conflict(state(*ROOM), {}, frozenset((message.event_id,)), frozenset((message.event_id,)))
    assert {} == resolve(version, conflict, known(*ROOM, message), create=CREATE)


@VERSIONS
def test_a_long_auth_chain_is_no_recursion(version: RoomVersion) -> None:
    levels = [power("p0", "create join")]
    for number in range(1, 5_000):
        levels.append(power(f"p{number}", f"create join p{number - 1}"))
    chosen = resolved(version, [*ROOM, levels[0]], [*ROOM, levels[-1]], others=tuple(levels))
    # From version 12 on a creator must not stand among the users.
    assert (None if version.privileged_creators else "p4999") == chosen.get(("m.room.power_levels", ""))
