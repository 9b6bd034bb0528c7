"""Aliases, profiles, published rooms, spaces and OpenID for other servers."""

from __future__ import annotations

from typing import Any, Final

import pytest
import pytest_twisted

from homeserver.config import Profiles, Rooms
from homeserver.model.ids import RoomAlias, RoomID, UserID
from homeserver.rooms.server_hierarchy import MAX_TOLD
from homeserver.users.openid import LIFETIME_S, MAX_TOKENS
from storage.accounts import set_deactivated
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.rooms import SERVER, Person

from .answering import AnsweringServer

ZOE: Final = UserID(f"@zoe:{SERVER}")


# -- aliases ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_alias_leads_to_the_room_and_the_servers_in_it(answering: AnsweringServer) -> None:
    room = Elsewhere()
    room.join(BOB)
    room.join(ZOE)
    await room.all_to(answering)
    alias = RoomAlias(f"#alias:{SERVER}")
    await answering.directory.add_alias(alias, (await answering.door.tip(room.room_id)).room_nid, ZOE)
    expected = {"room_id": room.room_id, "servers": [SERVER, "a.example", "b.example"]}
    assert (200, expected) == await answering.ask("c.example", "GET", "query/directory", query={"room_alias": alias})
    room.member(ZOE, ZOE, "leave")
    await room.all_to(answering)
    expected["servers"] = ["a.example", "b.example"]
    assert (200, expected) == await answering.ask("c.example", "GET", "query/directory", query={"room_alias": alias})


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("query", "status", "errcode"),
    [
        ({"room_alias": f"#nowhere:{SERVER}"}, 404, "M_NOT_FOUND"),
        ({"room_alias": "#other:b.example"}, 400, "M_INVALID_PARAM"),
        ({"room_alias": "alias"}, 400, "M_INVALID_PARAM"),
        ({}, 400, "M_MISSING_PARAM"),
    ],
    ids=["unknown", "of another server", "no alias", "none"],
)
@pytest_twisted.ensureDeferred
async def test_other_aliases_lead_nowhere(
    answering: AnsweringServer,
    query: dict[str, str],
    status: int,
    errcode: str,
) -> None:
    answer = await answering.ask("c.example", "GET", "query/directory", query=query)
    assert (status, errcode) == (answer[0], answer[1]["errcode"])


@pytest_twisted.ensureDeferred
async def test_an_unknown_query_is_not_recognized(answering: AnsweringServer) -> None:
    status, answer = await answering.ask("c.example", "GET", "query/weather")
    assert (404, "M_UNRECOGNIZED") == (status, answer["errcode"])


# -- profiles --------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_profile_is_given_whole_or_by_field(answering: AnsweringServer) -> None:
    zoe = await answering.account("zoe", displayname="Zoë", avatar_url="mxc://example.org/a")
    await answering.account("nameless")

    async def ask(**query: str) -> tuple[int, Any]:
        return await answering.ask("c.example", "GET", "query/profile", query=query)

    assert (200, {"displayname": "Zoë", "avatar_url": "mxc://example.org/a"}) == await ask(user_id=zoe)
    assert (200, {"displayname": "Zoë"}) == await ask(user_id=zoe, field="displayname")
    assert (200, {}) == await ask(user_id=f"@nameless:{SERVER}")
    nobody = await ask(user_id=f"@nobody:{SERVER}", field="displayname")
    assert 404 == nobody[0]
    assert nobody == await ask(user_id=f"@nameless:{SERVER}", field="displayname")
    assert 404 == (await ask(user_id=f"@nobody:{SERVER}"))[0]
    assert 400 == (await ask(user_id="@bob:b.example"))[0]
    assert 400 == (await ask(user_id="bob"))[0]
    assert 400 == (await ask())[0]
    assert 400 == (await ask(user_id=zoe, field="a b"))[0]


@pytest.mark.parametrize(
    "config", [Profiles(lookup_over_federation=False), Profiles(need_shared_room=True)], ids=["off", "shared rooms"]
)
@pytest_twisted.ensureDeferred
async def test_where_profiles_are_not_for_all_nobody_is_told_who_exists(
    answering: AnsweringServer,
    config: Profiles,
) -> None:
    answering.build(profiles_config=config)
    zoe = await answering.account("zoe", displayname="Zoë")
    known = await answering.ask("c.example", "GET", "query/profile", query={"user_id": zoe})
    assert (403, "M_FORBIDDEN") == (known[0], known[1]["errcode"])
    assert known == await answering.ask("c.example", "GET", "query/profile", query={"user_id": f"@nobody:{SERVER}"})


# -- published rooms -------------------------------------------------------------------------------------------------


async def _publish(server: AnsweringServer, creator: Person, **settings: Any) -> RoomID:
    room_id = await server.room(creator, **settings)
    await server.directory.publish((await server.door.tip(room_id)).room_nid, True)
    return room_id


@pytest_twisted.ensureDeferred
async def test_published_rooms_are_listed_in_pages(answering: AnsweringServer) -> None:
    [alice] = await answering.users("alice")
    space = await _publish(answering, alice, create={"type": "m.space"})
    named = await _publish(answering, alice, state=[("m.room.name", "", {"name": "Cats"})])
    # One that no other server can join, and one that is not published.
    await _publish(answering, alice, create={"m.federate": False})
    await answering.room(alice)
    status, whole = await answering.ask("b.example", "GET", "publicRooms")
    assert (200, {space, named}) == (status, {each["room_id"] for each in whole["chunk"]})
    _, first = await answering.ask("b.example", "GET", "publicRooms", query={"limit": 1})
    _, second = await answering.ask("b.example", "GET", "publicRooms", query={"limit": 1, "since": first["next_batch"]})
    assert whole["chunk"] == first["chunk"] + second["chunk"]
    for wanted, expected in (
        ({"generic_search_term": "cat"}, [named]),
        ({"room_types": ["m.space"]}, [space]),
        ({"room_types": [None]}, [named]),
    ):
        _, found = await answering.ask("b.example", "POST", "publicRooms", {"filter": wanted})
        assert expected == [each["room_id"] for each in found["chunk"]]
    _, found = await answering.ask("b.example", "POST", "publicRooms", {"third_party_instance_id": "irc"})
    assert [] == found["chunk"]


@pytest_twisted.ensureDeferred
async def test_rooms_are_not_listed_for_other_servers_unless_configured(
    answering: AnsweringServer,
) -> None:
    answering.build(rooms_config=Rooms())
    for method, content in (("GET", None), ("POST", {})):
        assert 403 == (await answering.ask("b.example", method, "publicRooms", content))[0]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "content",
    [
        {"limit": -1},
        {"limit": "1"},
        {"since": "x"},
        {"since": 1},
        {"filter": []},
        {"filter": {"generic_search_term": "x" * 501}},
        {"filter": {"room_types": [1]}},
        {"filter": {"room_types": ["x"] * 51}},
        {"include_all_networks": True, "third_party_instance_id": "irc"},
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_bad_searches_are_refused(answering: AnsweringServer, content: dict[str, Any]) -> None:
    assert 400 == (await answering.ask("b.example", "POST", "publicRooms", content))[0]


# -- spaces ----------------------------------------------------------------------------------------------------------


async def _space(server: AnsweringServer, owner: Person, children: list[str], **settings: Any) -> RoomID:
    return await server.room(
        owner,
        create={"type": "m.space"},
        state=[("m.space.child", each, {"via": ["x.example"], "suggested": not n}) for n, each in enumerate(children)],
        **settings,
    )


@pytest_twisted.ensureDeferred
async def test_of_a_space_the_children_are_told_that_the_servers_users_might_join(
    answering: AnsweringServer,
) -> None:
    [owner] = await answering.users("owner")
    club = Elsewhere(name="club")
    club.join(BOB)
    club.join(owner.user_id)
    await club.all_to(answering)
    left = Elsewhere(name="left")
    await left.all_to(answering)
    allow = {"allow": [{"type": "m.room_membership", "room_id": club.room_id}]}

    async def child(join_rule: str, visibility: str = "shared", more: Any = None, *, acl: Any = None) -> RoomID:
        state = [("m.room.join_rules", "", {"join_rule": join_rule, **(more or {})})]
        if acl is not None:
            state.append(("m.room.server_acl", "", acl))
        return await answering.room(owner, visibility=visibility, state=state)

    public = await child("public")
    knock = await child("knock")
    readable = await child("invite", "world_readable")
    restricted = await child("restricted", more=allow)
    private = await child("invite")
    elsewhere = await child("restricted", more={"allow": [{"type": "m.room_membership", "room_id": private}]})
    denied = await child("public", acl={"allow": ["*"], "deny": ["b.example"]})
    invited = await child("invite")
    bob = Person(BOB, await answering.store.interner.user(BOB))
    await answering.invite(invited, owner, bob)
    open_to_bob = [public, knock, readable, restricted, invited]
    closed = [private, elsewhere, denied]
    space = await _space(answering, owner, [*open_to_bob, *closed, "!unknown:a.example", left.room_id, "no room"])
    status, answer = await answering.ask("b.example", "GET", f"hierarchy/{space}")
    assert (200, {"room", "children", "inaccessible_children"}) == (status, answer.keys())
    assert set(open_to_bob) == {each["room_id"] for each in answer["children"]}
    assert set(closed) == set(answer["inaccessible_children"])
    assert 11 == len(answer["room"]["children_state"])
    assert (space, "m.space") == (answer["room"]["room_id"], answer["room"]["room_type"])
    [told] = [each for each in answer["children"] if each["room_id"] == restricted]
    assert [club.room_id] == told["allowed_room_ids"]
    _, stranger = await answering.ask("c.example", "GET", f"hierarchy/{space}")
    assert {public, knock, readable, denied} == {each["room_id"] for each in stranger["children"]}


@pytest_twisted.ensureDeferred
async def test_suggested_children_alone(answering: AnsweringServer) -> None:
    [owner] = await answering.users("owner")
    children = [await answering.room(owner) for _ in range(3)]
    space = await _space(answering, owner, [str(each) for each in children])
    _, answer = await answering.ask("b.example", "GET", f"hierarchy/{space}", query={"suggested_only": "true"})
    assert [children[0]] == [each["room_id"] for each in answer["children"]]
    assert [children[0]] == [each["state_key"] for each in answer["room"]["children_state"]]


@pytest_twisted.ensureDeferred
async def test_a_space_that_the_server_may_not_know_is_not_found(answering: AnsweringServer) -> None:
    [owner] = await answering.users("owner")
    private = await _space(answering, owner, [], join_rule="invite")
    denied = await _space(answering, owner, [])
    await answering.send(denied, owner, "m.room.server_acl", {"allow": ["*"], "deny": ["b.example"]}, "")
    left = Elsewhere(name="left")
    left.add("m.room.name", ALICE, {"name": "left"}, "")
    await left.all_to(answering)
    unknown = await answering.ask_bytes("b.example", "GET", "hierarchy/!unknown:a.example")
    assert 404 == unknown[0]
    for room_id in (private, denied, left.room_id):
        assert unknown == await answering.ask_bytes("b.example", "GET", f"hierarchy/{room_id}")


@pytest_twisted.ensureDeferred
async def test_of_a_great_space_so_many_children_are_told(answering: AnsweringServer) -> None:
    [owner] = await answering.users("owner")
    children = [str(await answering.room(owner)) for _ in range(MAX_TOLD + 5)]
    space = await _space(answering, owner, children)
    _, answer = await answering.ask("b.example", "GET", f"hierarchy/{space}")
    assert (MAX_TOLD, MAX_TOLD + 5) == (len(answer["children"]), len(answer["room"]["children_state"]))


# -- OpenID ----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_token_says_whose_it_is_until_it_expires(answering: AnsweringServer) -> None:
    zoe = await answering.account("zoe")
    user_nid = (await answering.user("zoe")).user_nid
    token = await answering.openid.request_token(user_nid)
    query = {"access_token": token}
    assert (200, {"sub": zoe}) == await answering.ask(None, "GET", "openid/userinfo", query=query)
    answering.clock.advance(LIFETIME_S)
    status, answer = await answering.ask(None, "GET", "openid/userinfo", query=query)
    assert (401, "M_UNKNOWN_TOKEN") == (status, answer["errcode"])


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({}, "M_MISSING_TOKEN"),
        ({"access_token": "x"}, "M_UNKNOWN_TOKEN"),
        ({"access_token": "x" * 9999}, "M_UNKNOWN_TOKEN"),
    ],
    ids=["none", "unknown", "long"],
)
@pytest_twisted.ensureDeferred
async def test_other_tokens_say_nothing(answering: AnsweringServer, query: dict[str, str], errcode: str) -> None:
    status, answer = await answering.ask(None, "GET", "openid/userinfo", query=query)
    assert (401, errcode) == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_of_many_tokens_of_a_user_the_oldest_go(answering: AnsweringServer) -> None:
    zoe = await answering.account("zoe")
    user_nid = (await answering.user("zoe")).user_nid
    tokens = []
    for _ in range(MAX_TOKENS + 1):
        tokens.append(await answering.openid.request_token(user_nid))
        answering.clock.advance(0.001)
    assert 401 == (await answering.ask(None, "GET", "openid/userinfo", query={"access_token": tokens[0]}))[0]
    for token in (tokens[1], tokens[-1]):
        assert (200, {"sub": zoe}) == await answering.ask(None, "GET", "openid/userinfo", query={"access_token": token})


@pytest_twisted.ensureDeferred
async def test_the_token_of_a_closed_account_is_good_for_nothing(answering: AnsweringServer) -> None:
    await answering.account("zoe")
    user_nid = (await answering.user("zoe")).user_nid
    token = await answering.openid.request_token(user_nid)
    await answering.store.database.write(lambda tx: set_deactivated(tx, user_nid, is_erased=False))
    assert 401 == (await answering.ask(None, "GET", "openid/userinfo", query={"access_token": token}))[0]
