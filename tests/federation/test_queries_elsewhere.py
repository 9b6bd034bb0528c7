"""What clients look up on other servers: profiles, aliases, published rooms."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.support.federation import Federation, federation, new_database, sqlite_federation
from tests.support.played_server import NO_ANSWER

__all__ = ["federation", "new_database", "sqlite_federation"]

QUERY = "/_matrix/federation/v1/query/"
PUBLIC_ROOMS = "/_matrix/federation/v1/publicRooms"


def profile(user_id: str, field: str = "") -> str:
    return f"/profile/{quote(user_id, safe='')}" + (f"/{field}" if field else "")


# -- profiles --------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_profiles_of_other_servers_are_shown(federation: Federation) -> None:
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    await alice.call("PUT", profile(alice.user_id, "displayname"), {"displayname": "Alice"})
    await alice.call("PUT", profile(alice.user_id, "m.tz"), {"m.tz": "Europe/Berlin"})
    assert {"displayname": "Alice", "m.tz": "Europe/Berlin"} == await bob.call("GET", profile(alice.user_id))
    assert {"m.tz": "Europe/Berlin"} == await bob.call("GET", profile(alice.user_id, "m.tz"))
    for path in (profile(alice.user_id, "avatar_url"), profile(f"@nobody:{one.name}")):
        answer = await bob.try_call("GET", path)
        assert (404, "M_NOT_FOUND") == (answer.status, answer.json["errcode"])


@pytest.mark.parametrize(
    ("answer", "status", "errcode"),
    [
        ((404, {"errcode": "M_NOT_FOUND"}), 404, "M_NOT_FOUND"),
        ((403, {"errcode": "M_FORBIDDEN"}), 403, "M_FORBIDDEN"),
        ((401, {"errcode": "M_UNKNOWN_TOKEN"}), 502, "M_UNKNOWN"),
        ((500, b"<html>"), 502, "M_UNKNOWN"),
        ([], 502, "M_UNKNOWN"),
        (b"[" * 100_000, 502, "M_UNKNOWN"),
        ({"displayname": "x" * 70_000}, 502, "M_UNKNOWN"),
        (b" " * 10_000_000, 502, "M_UNKNOWN"),
    ],
    ids=["unknown", "hidden", "log out", "failure", "a list", "deep", "large", "endless"],
)
@pytest_twisted.ensureDeferred
async def test_a_profile_that_cannot_be_had_is_an_error_of_the_specification(
    sqlite_federation: Federation, answer: Any, status: int, errcode: str
) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[QUERY] = lambda request: answer
    for _ in range(2):
        told = await bob.try_call("GET", profile(remote.user("x")))
        assert (status, errcode) == (told.status, told.json["errcode"])
    assert 1 == len(remote.asked(QUERY))


@pytest_twisted.ensureDeferred
async def test_a_profile_is_cleaned_and_asked_for_once(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[QUERY] = lambda request: {
        "displayname": ["x"],
        "avatar_url": None,
        "m.status": {"text": "here"},
        "Bad Key": 1,
        "\0": 1,
    }
    paths = [profile(remote.user("x")), profile(remote.user("x"), "m.status"), profile(remote.user("x"), "displayname")]
    answers = await gatherResults([Deferred.fromCoroutine(bob.try_call("GET", path)) for path in paths])
    assert [{"m.status": {"text": "here"}}] * 2 == [each.json for each in answers[:2]]
    assert 404 == answers[2].status
    assert 1 == len(remote.asked(QUERY))


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_away_has_no_profiles(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    await remote.stop()
    assert 502 == (await bob.try_call("GET", profile(remote.user("x")))).status
    assert 502 == (await bob.try_call("GET", f"/directory/room/%23x%3A{quote(remote.name)}")).status
    assert (await bob.try_call("GET", "/publicRooms", server=remote.name)).status in (502, 504)


@pytest_twisted.ensureDeferred
async def test_without_federation_no_other_server_is_asked(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1, federation={"enabled": False})
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    assert 404 == (await bob.try_call("GET", profile(remote.user("x")))).status
    assert 404 == (await bob.try_call("GET", f"/directory/room/%23x%3A{quote(remote.name)}")).status
    assert 403 == (await bob.try_call("GET", "/publicRooms", server=remote.name)).status
    assert 404 == (await bob.try_call("GET", f"/_matrix/client/v1/media/download/{remote.name}/abc")).status
    assert [] == remote.requests


# -- aliases ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_aliases_of_other_servers_lead_to_rooms_that_can_be_joined(federation: Federation) -> None:
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    room_id = await alice.create_room(preset="public_chat", room_alias_name="hall")
    alias = f"#hall:{one.name}"
    found = await bob.call("GET", f"/directory/room/{quote(alias, safe='')}")
    assert {"room_id": room_id, "servers": [one.name]} == found
    assert room_id == await bob.join(alias)
    await alice.say(room_id, "hello")
    again = await bob.call("GET", f"/directory/room/{quote(alias, safe='')}")
    assert {one.name, two.name} == set(again["servers"])
    unknown = await bob.try_call("GET", f"/directory/room/%23nothing%3A{quote(one.name)}")
    assert (404, "M_NOT_FOUND") == (unknown.status, unknown.json["errcode"])


@pytest.mark.parametrize(
    "answer",
    [
        {"room_id": "nonsense", "servers": []},
        {"room_id": "!a:b"},
        {"servers": []},
        (403, {"errcode": "M_UNKNOWN_TOKEN"}),
        b"{",
        b" " * 10_000_000,
    ],
    ids=["no room", "no servers", "servers alone", "log out", "no JSON", "endless"],
)
@pytest_twisted.ensureDeferred
async def test_an_alias_that_cannot_be_resolved_is_an_error(sqlite_federation: Federation, answer: Any) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[QUERY] = lambda request: answer
    told = await bob.try_call("GET", f"/directory/room/%23x%3A{quote(remote.name)}")
    assert (502, "M_UNKNOWN") == (told.status, told.json["errcode"])


# -- published rooms -------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_published_rooms_of_other_servers_are_searched_and_paged(federation: Federation) -> None:
    one, two = await federation.start(2, rooms={"public_rooms_over_federation": True})
    alice, bob = await one.register("alice"), await two.register("bob")
    rooms = {await alice.create_room(visibility="public", preset="public_chat", name=f"Tea {n}") for n in range(3)}
    coffee = await alice.create_room(visibility="public", preset="public_chat", name="Coffee", topic="beans")
    seen: list[str] = []
    since: dict[str, str] = {}
    for _ in range(4):
        page = await bob.call("GET", "/publicRooms", server=one.name, limit=1, **since)
        seen += [each["room_id"] for each in page["chunk"]]
        since = {"since": page["next_batch"]} if "next_batch" in page else {}
    assert (sorted([*rooms, coffee]), {}) == (sorted(seen), since)
    wanted = {"filter": {"generic_search_term": "coff"}}
    (found,) = (await bob.call("POST", "/publicRooms", wanted, server=one.name))["chunk"]
    assert (coffee, "Coffee", "beans", 1, "public") == tuple(
        found[name] for name in ("room_id", "name", "topic", "num_joined_members", "join_rule")
    )
    bad = await bob.try_call("GET", "/publicRooms", server=one.name, since="nonsense")
    assert bad.status in (400, 502)


@pytest_twisted.ensureDeferred
async def test_a_server_may_keep_its_list_to_itself(sqlite_federation: Federation) -> None:
    one, two = await sqlite_federation.start(2)
    bob = await two.register("bob")
    answer = await bob.try_call("GET", "/publicRooms", server=one.name)
    assert (403, "M_FORBIDDEN") == (answer.status, answer.json["errcode"])


@pytest_twisted.ensureDeferred
async def test_a_list_of_rooms_is_cleaned_and_bounded(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    good = {"room_id": "!a:b", "num_joined_members": 3, "world_readable": True, "guest_can_join": False, "name": "A"}
    remote.answers[PUBLIC_ROOMS] = lambda request: {
        "chunk": [
            None,
            {"room_id": 5},
            {
                "room_id": "!b:b",
                "num_joined_members": "many",
                "world_readable": 1,
                "name": {},
                "avatar_url": "http://x",
            },
            {"room_id": "!c:b", "topic": "x" * 100_000, "canonical_alias": "nonsense", "num_joined_members": -1},
            *[{**good, "m.evil": "x"}] * 5000,
        ],
        "next_batch": "x" * 5000,
        "prev_batch": 5,
        "total_room_count_estimate": 2**70,
        "evil": True,
    }
    page = await bob.call("POST", "/publicRooms", {"limit": 10**9}, server=remote.name)
    assert {"chunk"} == set(page)
    nothing = {"num_joined_members": 0, "world_readable": False, "guest_can_join": False}
    assert {"room_id": "!b:b", **nothing} == page["chunk"][0]
    assert 2000 == len(page["chunk"][1].pop("topic"))
    assert {"room_id": "!c:b", **nothing} == page["chunk"][1]
    assert good == page["chunk"][2] and len(page["chunk"]) <= 500
    (asked,) = remote.asked(PUBLIC_ROOMS)
    assert {"limit": 500} == json.loads(asked.body)


@pytest.mark.parametrize(
    "answer", [[], {"chunk": 5}, b"x", (500, {}), b" " * 10_000_000, {"chunk": [{"a": "x" * 9_000_000}]}], ids=range(6)
)
@pytest_twisted.ensureDeferred
async def test_no_list_of_rooms_breaks_anything(sqlite_federation: Federation, answer: Any) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[PUBLIC_ROOMS] = lambda request: answer
    told = await bob.try_call("GET", "/publicRooms", server=remote.name)
    assert (
        (200, {"chunk": []}) == (told.status, told.json)
        if isinstance(answer, dict) and answer["chunk"] == 5
        else (told.status == 502)
    )


@pytest_twisted.ensureDeferred
async def test_a_server_that_says_nothing_is_given_up(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1, federation={"timeout_ms": 500})
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers["/_matrix/federation/"] = lambda request: NO_ANSWER
    assert 502 == (await bob.try_call("GET", profile(remote.user("x")))).status
    assert 504 == (await bob.try_call("GET", "/publicRooms", server=remote.name)).status
