"""Power levels with every default.  Spec: client-server API, `m.room.power_levels`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.content.create import creators
from homeserver.model.content.power_levels import INFINITE_POWER, LEVEL_KEYS, PowerLevels
from homeserver.model.content.reading import lenient_integer
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V10, V11, V12, RoomVersion

from ..rooms_in_memory import ALICE, BOB, CAROL, VERSIONS, StateRoom


def levels_of(version: RoomVersion, content: dict[str, Any] | None, **creation: Any) -> PowerLevels:
    room = StateRoom(version, **creation)
    event = None if content is None else room.set_state("m.room.power_levels", content)
    return PowerLevels.from_events(version, room.create, event)


@VERSIONS
@pytest.mark.parametrize("content", [None, {}], ids=["no event", "empty event"])
def test_defaults(version: RoomVersion, content: dict[str, Any] | None) -> None:
    levels = levels_of(version, content)
    assert (0, 50, 50, 50, 0) == (levels.invite, levels.kick, levels.ban, levels.redact, levels.users_default)
    assert (50, 0) == (levels.needed_for("m.room.topic", True), levels.needed_for("m.room.message", False))
    assert (50, 50) == (levels.notification("room"), levels.notification("other"))
    assert 0 == levels.of(BOB)


@pytest.mark.parametrize(
    ("version", "without", "with_empty"),
    [(V10, 100, 0), (V11, 100, 0), (V12, INFINITE_POWER, INFINITE_POWER)],
)
def test_creator(version: RoomVersion, without: int, with_empty: int) -> None:
    assert without == levels_of(version, None).of(ALICE)
    assert with_empty == levels_of(version, {}).of(ALICE)


def test_infinite_power_is_above_all_levels() -> None:
    levels = levels_of(V12, {"users": {BOB: 2**53 - 1, ALICE: 0}}, additional_creators=[CAROL, 7, "x"])
    assert levels.of(BOB) < levels.of(ALICE) == levels.of(CAROL) == INFINITE_POWER


@pytest.mark.parametrize(
    ("version", "creation", "expected"),
    [
        (V10, {"creator": BOB}, {BOB}),
        (V10, {"creator": [BOB]}, set()),
        (V11, {"creator": BOB, "additional_creators": [CAROL]}, {ALICE}),
        (V12, {"creator": BOB, "additional_creators": [CAROL]}, {ALICE, CAROL}),
        (V12, {"additional_creators": CAROL}, {ALICE}),
    ],
)
def test_creators(version: RoomVersion, creation: dict[str, Any], expected: set[str]) -> None:
    assert expected == creators(version, StateRoom(version, **creation).create)


@VERSIONS
def test_what_is_said_counts(version: RoomVersion) -> None:
    content = {
        "users": {BOB: 7},
        "users_default": 1,
        "events": {"a": 2},
        "events_default": 3,
        "state_default": 4,
        "invite": 5,
        "kick": 6,
        "ban": 8,
        "redact": 9,
        "notifications": {"room": 10},
    }
    levels = levels_of(version, content)
    assert (7, 1) == (levels.of(BOB), levels.of(CAROL))
    assert (2, 2, 3, 4) == (
        levels.needed_for("a", True),
        levels.needed_for("a", False),
        levels.needed_for("b", False),
        levels.needed_for("b", True),
    )
    assert (5, 6, 8, 9, 10) == (levels.invite, levels.kick, levels.ban, levels.redact, levels.notification("room"))


@pytest.mark.parametrize("value", ["10", None, True, 1.0, [1], {"a": 1}])
def test_values_of_a_wrong_type_are_as_if_absent(value: Any) -> None:
    levels = levels_of(V11, {"ban": value, "users": {BOB: value, CAROL: 3}, "events": value, "users_default": value})
    assert 0 == levels_of(V11, {"users": {BOB: value}}).of(BOB)
    assert (50, 0, 3, 0) == (levels.ban, levels.of(BOB), levels.of(CAROL), levels.needed_for("x", False))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (100, 100),
        ("100", 100),
        ("000100", 100),
        ("+100", 100),
        (" -100 ", -100),
        ("1e2", None),
        ("1_000", None),
        ("++1", None),
        ("", None),
        (" ", None),
        ("٣", None),
        ("9" * 5000, None),
        ("0" * 5000 + "7", 7),
        ("-" + "0" * 100 + "7", -7),
        ("0", 0),
        ("-0", 0),
        ("\t\n 5 \r\n", 5),
        ("+ 5", None),
        ("5.0", None),
        ("1e2", None),
        (10**308, 10**308),
        (10**309, None),
        (-(10**309), None),
        ("1" + "0" * 308, 10**308),
        ("1" + "0" * 309, None),
        ("2" + "0" * 308, None),
        (5.114698e4, 51146),
        (-0.0, 0),
        (float("-inf"), None),
        ([100], None),
        (50.57, 50),
        (-50.57, -50),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
    ],
)
def test_levels_of_room_versions_before_10(value: Any, expected: int | None) -> None:
    assert expected == lenient_integer(value)


def test_users_are_read_once_for_an_event() -> None:
    room = StateRoom(V12)
    event = room.set_state("m.room.power_levels", {"users": {BOB: 1}})
    first = PowerLevels.from_events(V12, room.create, event)
    assert first.content is PowerLevels.from_events(V12, room.create, event).content


@given(
    st.dictionaries(
        st.sampled_from((*LEVEL_KEYS, "users", "events", "notifications")),
        st.none() | st.floats() | st.text() | st.dictionaries(st.text(), st.none() | st.text() | st.integers()),
    )
)
def test_any_content_is_read(content: dict[str, Any]) -> None:
    levels = levels_of(V12, content)
    assert all(isinstance(level, int) for level in (levels.of(BOB), levels.ban, levels.notification("room")))


# -- every room version ----------------------------------------------------------------------------------------------

ALL_VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=KNOWN_ROOM_VERSIONS)
DEFAULTS = {"ban": 50, "kick": 50, "redact": 50, "invite": 0, "users_default": 0}


@ALL_VERSIONS
@pytest.mark.parametrize("content", [None, {}], ids=["no event", "empty event"])
def test_defaults_of_every_version(version: RoomVersion, content: dict[str, Any] | None) -> None:
    levels = levels_of(version, content)
    assert DEFAULTS == {key: getattr(levels, key) for key in DEFAULTS}
    assert (50, 0) == (levels.needed_for("x", True), levels.needed_for("x", False))
    assert (50, 50) == (levels.notification("room"), levels.notification("x"))
    assert 0 == levels.of(BOB)
    has_creators = version.privileged_creators
    assert (INFINITE_POWER if has_creators else 100 if content is None else 0) == levels.of(ALICE)


@ALL_VERSIONS
@pytest.mark.parametrize(
    ("value", "lenient"),
    [("75", 75), (" -0075 ", -75), (75.9, 75), (-75.9, -75), ("+75", 75), ("x", None), (None, None), (True, None)],
    ids=repr,
)
def test_texts_and_fractions_count_before_version_10_only(
    version: RoomVersion, value: Any, lenient: int | None
) -> None:
    for key in (*LEVEL_KEYS, "users", "events", "notifications"):
        default, found = _default_and_level(version, key, value)
        read = None if version.integer_power_levels else lenient
        assert (default if read is None else read) == found, key


def _default_and_level(version: RoomVersion, key: str, value: Any) -> tuple[int, int]:
    """Return the default of a level, and what stands for it where `value` is said."""
    is_map = key in ("users", "events", "notifications")
    levels = levels_of(version, {key: {BOB: value} if is_map else value})
    found = {
        "users": lambda: levels.of(BOB),
        "users_default": lambda: levels.of(BOB),
        "events": lambda: levels.needed_for(BOB, True),
        "events_default": lambda: levels.needed_for("x", False),
        "state_default": lambda: levels.needed_for("x", True),
        "notifications": lambda: levels.notification(BOB),
    }.get(key, lambda: getattr(levels, key))()
    default = {**DEFAULTS, "users": 0, "events": 50, "events_default": 0, "state_default": 50, "notifications": 50}[key]
    return default, found


@ALL_VERSIONS
@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, 0, -1])
def test_integers_of_53_bits_count_in_every_version(version: RoomVersion, value: int) -> None:
    levels = levels_of(version, {"ban": value, "users": {BOB: value}})
    assert (value, value) == (levels.ban, levels.of(BOB))


@ALL_VERSIONS
def test_creator_is_beyond_what_the_event_says_only_with_privileges(version: RoomVersion) -> None:
    levels = levels_of(version, {"users": {ALICE: 5}, "users_default": 3})
    assert (INFINITE_POWER if version.privileged_creators else 5) == levels.of(ALICE)
    assert 3 == levels.of(BOB)
