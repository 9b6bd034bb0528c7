"""Names and texts with characters that databases are known to treat differently: the same on both, and exact.

The expected values are literals, so equal behaviour of the two databases is what passing on both means.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.hostile.client import PREFIX, Actor
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

# Each pair differs and must go on differing.
PAIRS: dict[str, tuple[str, str]] = {
    "case": ("name", "Name"),
    "case of others": ("\u0436", "\u0416"),
    "trailing space": ("name", "name "),
    "leading space": ("name", " name"),
    "composed": ("caf\u00e9", "cafe\u0301"),
    "sharp s": ("stra\u00dfe", "strasse"),
    "emoji": ("\U0001f98a", "\U0001f43a"),
    "skin tone": ("\U0001f44d", "\U0001f44d\U0001f3fd"),
    "quote": ("it's", "its"),
    "two quotes": ("it''s", "it's"),
    "double quote": ('a"b', "ab"),
    "backslash": ("a\\b", "ab"),
    "two backslashes": ("a\\\\b", "a\\b"),
    "escaped n": ("a\\nb", "a\nb"),
    "percent": ("100%", "1000"),
    "underscore": ("a_b", "axb"),
    "percent s": ("%s", "%%s"),
    "parameter": (":a", "?"),
    "zero width": ("a\u200bb", "ab"),
    "not a character": ("\uffff", "\ufffe"),
    "highest": ("\U0010ffff", "\U0010fffe"),
    "empty": ("", " "),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_names_that_differ_are_two(running: RunningServer, mallory: Actor, pair: tuple[str, str]) -> None:
    room_id = mallory.create_room()
    room = f"/rooms/{quote(room_id, safe='')}"
    for name in pair:
        mallory.call("PUT", f"{room}/state/org.example/{quote(name, safe='')}", {"is": name})
        if name:
            mallory.call("PUT", f"{room}/state/t{quote(name, safe='')}/k", {"is": name})
            path = f"/user/{mallory.user_id}/account_data/x{quote(name, safe='')}"
            mallory.call("PUT", path, {"is": name})
            mallory.call("PUT", f"/user/{mallory.user_id}{room}/tags/u.{quote(name, safe='')}", {"order": 0.5})
    answer = mallory.call("PUT", f"{room}/send/m.room.message/{quote('t' + pair[0], safe='')}", {"body": pair[0]})
    other = mallory.call("PUT", f"{room}/send/m.room.message/{quote('t' + pair[1], safe='')}", {"body": pair[1]})
    assert answer["event_id"] != other["event_id"]
    for name in pair:
        found = mallory.call("GET", f"{room}/state/org.example/{quote(name, safe='')}")
        assert {"is": name} == found
        if name:
            assert {"is": name} == mallory.call("GET", f"{room}/state/t{quote(name, safe='')}/k")
            path = f"/user/{mallory.user_id}/account_data/x{quote(name, safe='')}"
            assert {"is": name} == mallory.call("GET", path)
    tags = mallory.call("GET", f"/user/{mallory.user_id}{room}/tags")["tags"]
    assert {f"u.{name}" for name in pair if name} == set(tags)
    chunk = mallory.call("GET", f"{room}/messages?dir=b&limit=2")["chunk"]
    assert [pair[1], pair[0]] == [event["content"]["body"] for event in chunk]


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_aliases_that_differ_are_two(running: RunningServer, mallory: Actor, pair: tuple[str, str]) -> None:
    rooms = [mallory.create_room(), mallory.create_room()]
    unique = mallory.user_id[1:].partition(":")[0]
    for name, room_id in zip(pair, rooms, strict=True):
        path = f"{PREFIX}/directory/room/{quote(f'#{unique}{name}:test.example', safe='')}"
        reply = mallory.send("PUT", path, json.dumps({"room_id": room_id}).encode())
        if any(character.isspace() or character == ":" for character in name):
            assert (400, "M_INVALID_PARAM") == (reply.status, reply.errcode)
            assert mallory.send("GET", path).status in (400, 404)
        else:
            assert (200, room_id) == (reply.status, mallory.send("GET", path).json["room_id"])


@pytest.mark.parametrize("name", sorted({name for pair in PAIRS.values() for name in pair} - {""}))
def test_a_display_name_is_kept_as_it_is_and_found(running: RunningServer, mallory: Actor, name: str) -> None:
    path = f"/profile/{mallory.user_id}/displayname"
    mallory.call("PUT", path, {"displayname": name})
    assert {"displayname": name} == mallory.call("GET", path)
    mallory.create_room(name=name, topic=name)
    results = mallory.call("POST", "/user_directory/search", {"search_term": name, "limit": 50})["results"]
    if name.strip():
        assert mallory.user_id in [user["user_id"] for user in results]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("zoe{}", "ZOE{}"),
        ("kim{}", "\u212aim{}"),
        ("bob{}", "bob{} "),
        ("ann{}", "\uff41nn{}"),
        ("eve{}", "eve{}\u0000"),
    ],
    ids=["case", "Kelvin sign", "trailing space", "full width", "NUL"],
)
def test_a_user_name_that_reads_alike_is_taken_or_refused(
    running: RunningServer, mallory: Actor, one: str, other: str
) -> None:
    unique = mallory.user_id[1:].partition(":")[0]
    body = {"password": "correct horse", "auth": {"type": "m.login.dummy"}}
    stranger = Actor(running.url, "stranger")
    stranger.call("POST", "/register", {"username": one.format(unique), **body})
    content = json.dumps({"username": other.format(unique), **body}).encode()
    reply = stranger.send("POST", f"{PREFIX}/register", content)
    assert (400, True) == (reply.status, reply.errcode in ("M_USER_IN_USE", "M_INVALID_USERNAME"))
