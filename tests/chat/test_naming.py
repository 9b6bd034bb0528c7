from __future__ import annotations

import pytest

from homeserver.chat.naming import Members, full_alias, full_user_id, room_name

from .played import ALICE, BOB, CAROL


def _members(**names: object) -> Members:
    members = Members()
    for localpart, displayname in names.items():
        members.learn(f"@{localpart}:x", {"membership": "join", "displayname": displayname})
    return members


@pytest.mark.parametrize(
    ("names", "user_id", "shown"),
    [
        ({"bob": "Bob"}, BOB, "Bob"),
        ({"bob": None}, BOB, BOB),
        ({"bob": 3}, BOB, BOB),
        ({}, BOB, BOB),
        ({"bob": "Al", "carol": "Al"}, BOB, "Al (@bob:x)"),
        ({"bob": "Al", "carol": "ＡL"}, BOB, "Al (@bob:x)"),
        ({"bob": "Al", "carol": "A\u200bl"}, BOB, "Al (@bob:x)"),
        ({"bob": "\u202eAl", "carol": "Al"}, BOB, "Al (@bob:x)"),
        ({"bob": "@carol:x"}, BOB, "@carol:x (@bob:x)"),
        ({"bob": "Carol: yes. Al"}, BOB, "Carol: yes. Al (@bob:x)"),
        ({"bob": "a\nb\x1b[2J"}, BOB, "a b␛[2J"),
        ({"bob": " \u3164"}, BOB, BOB),
    ],
    ids=range(12),
)
def test_people_are_told_apart(names: dict[str, object], user_id: str, shown: str) -> None:
    assert shown == _members(**names).shown(user_id)


def test_name_is_free_again_when_its_other_owner_leaves() -> None:
    members = _members(bob="Al", carol="Al")
    members.learn(CAROL, {"membership": "leave"})
    assert ("Al", "Al (@carol:x)") == (members.shown(BOB), members.shown(CAROL))


def test_name_is_free_again_when_its_other_owner_is_renamed() -> None:
    members = _members(bob="Al", carol="Al")
    members.learn(CAROL, {"membership": "join", "displayname": "Carol"})
    assert ("Al", "Carol") == (members.shown(BOB), members.shown(CAROL))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"name": "Lobby", "alias": "#l:x"}, "Lobby"),
        ({"name": "", "alias": "#l:x"}, "#l:x"),
        ({"name": "\u200b", "alias": "#l:x"}, "#l:x"),
        ({"name": ["Lobby"], "alias": 4, "heroes": ["Bob"], "joined": 2}, "Bob"),
        ({"alias": "no alias", "heroes": ["Bob"], "joined": 2}, "Bob"),
        ({"heroes": ["Bob", "Carol"], "joined": 2, "invited": 1}, "Bob and Carol"),
        ({"heroes": ["Bob", "Carol", "Dave"], "joined": 4}, "Bob, Carol and Dave"),
        ({"heroes": ["Bob", "Carol", "Dave"], "joined": 5}, "Bob, Carol, Dave and 1 other"),
        ({"heroes": ["B", "C", "D", "E", "F"], "joined": 1238}, "B, C, D and 1234 others"),
        ({"heroes": ["Bob"], "joined": 1}, "Empty room (was Bob)"),
        ({"joined": 1}, "Empty room"),
        ({"joined": 3}, "2 others"),
        ({"joined": 0}, "Empty room"),
    ],
    ids=range(13),
)
def test_rooms_are_called(given: dict[str, object], shown: str) -> None:
    assert shown == room_name(**{"name": None, "alias": None, "heroes": [], "joined": 0, "invited": 0, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "user_id"),
    [("bob", BOB), ("@bob", BOB), ("@bob:x", BOB), ("bob:y", "@bob:y"), ("@bob:y:8448", "@bob:y:8448")],
)
def test_our_own_server_need_not_be_typed_for_people(typed: str, user_id: str) -> None:
    assert user_id == full_user_id(typed, ALICE)


@pytest.mark.parametrize(
    ("typed", "alias"),
    [("lobby", "#lobby:x"), ("#lobby", "#lobby:x"), ("#lobby:y", "#lobby:y"), ("!id:x", "!id:x"), ("!v12", "!v12")],
)
def test_our_own_server_need_not_be_typed_for_rooms(typed: str, alias: str) -> None:
    assert alias == full_alias(typed, ALICE)


@pytest.mark.parametrize(
    ("body", "mentioned"),
    [
        ("hello", []),
        ("Bob, look", [BOB]),
        ("bobsled", []),
        ("ask @bob", [BOB]),
        ("ask @bob:x.", [BOB]),
        ("ask @bob:xyz", []),
        ("alice@bob.example", []),
        ("BOB and Carol Ann!", [BOB, CAROL]),
        ("I am Alice", []),
    ],
)
def test_people_are_mentioned(body: str, mentioned: list[str]) -> None:
    assert mentioned == _members(alice="Alice", bob="Bob", carol="Carol Ann").mentioned(body, ALICE)
