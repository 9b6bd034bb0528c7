from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.config import Rooms as RoomsConfig
from homeserver.errors import AliasInUse, BadAlias, InvalidParam, MatrixError, NotAllowed, NotFound
from homeserver.model.ids import RoomAlias, RoomID, ServerName
from homeserver.rooms.directory import Directory
from homeserver.rooms.publishing import Publishing, without_alias
from tests.support.rooms import SERVER, RoomServer

CANONICAL = "m.room.canonical_alias"
ODD_NAMES = {
    "quotes": 'it\'s "quoted"',
    "backslash": "back\\slash",
    "percent": "100% sure",
    "underscore": "snake_case",
    "emoji": "fox \U0001f98a",
    "composed": "caf\u00e9",
}


def alias(name: str) -> RoomAlias:
    return RoomAlias.parse(f"#{name}:{SERVER}")


def publishing(rooms: RoomServer, **config: Any) -> tuple[Directory, Publishing]:
    directory = Directory(rooms.store, rooms.clock)
    return directory, Publishing(rooms.door, directory, server_name=ServerName(SERVER), config=RoomsConfig(**config))


async def published(rooms: RoomServer, directory: Directory, name: str, members: int = 1, **more: Any) -> RoomID:
    people = await rooms.users(*(f"user{number}" for number in range(members)))
    state = [("m.room.name", "", {"name": name}), *more.pop("state", [])]
    room_id = await rooms.room(people[0], members=people[1:], state=state, **more)
    await directory.publish((await rooms.door.tip(room_id)).room_nid, True)
    return room_id


# -- aliases ----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_alias_points_to_its_room_until_it_is_removed(rooms: RoomServer) -> None:
    directory, publish = publishing(rooms)
    alice, bob = await rooms.users("alice", "bob")
    room_id = await rooms.room(alice, members=[bob])
    await publish.add_alias(bob.user_id, alias("place"), room_id)
    assert room_id == await directory.resolve(alias("place"))
    assert [alias("place")] == await publish.aliases_of(alice.user_id, room_id)
    with pytest.raises(AliasInUse):
        await publish.add_alias(alice.user_id, alias("place"), room_id)
    await publish.remove_alias(bob.user_id, alias("place"))
    with pytest.raises(NotFound):
        await directory.resolve(alias("place"))
    with pytest.raises(NotFound):
        await publish.remove_alias(bob.user_id, alias("place"))


@pytest_twisted.ensureDeferred
async def test_only_members_make_aliases_unless_configured_otherwise(rooms: RoomServer) -> None:
    _, publish = publishing(rooms)
    alice, eve = await rooms.users("alice", "eve")
    room_id = await rooms.room(alice)
    refusals = []
    for target in (room_id, RoomID("!nowhere")):
        with pytest.raises(NotAllowed) as caught:
            await publish.add_alias(eve.user_id, alias("mine"), target)
        refusals.append(caught.value.body())
    assert refusals[0] == refusals[1]
    directory, lenient = publishing(rooms, aliases_need_membership=False)
    await lenient.add_alias(eve.user_id, alias("mine"), room_id)
    assert room_id == await directory.find(alias("mine"))


@pytest.mark.parametrize("text", ["#a:elsewhere.example", f"#a b:{SERVER}", f"#a\n:{SERVER}"])
@pytest_twisted.ensureDeferred
async def test_an_alias_of_another_server_or_with_white_space_is_refused(rooms: RoomServer, text: str) -> None:
    _, publish = publishing(rooms)
    [alice] = await rooms.users("alice")
    room_id = await rooms.room(alice)
    with pytest.raises(InvalidParam):
        await publish.add_alias(alice.user_id, RoomAlias.parse(text), room_id)


@pytest_twisted.ensureDeferred
async def test_who_may_remove_an_alias(rooms: RoomServer) -> None:
    _, publish = publishing(rooms)
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room_id = await rooms.room(alice, members=[bob, carol])
    for name in ("one", "two", "three"):
        await publish.add_alias(bob.user_id, alias(name), room_id)
    with pytest.raises(NotAllowed):
        await publish.remove_alias(carol.user_id, alias("one"))
    await publish.remove_alias(bob.user_id, alias("one"))  # who made it
    await publish.remove_alias(alice.user_id, alias("two"))  # a moderator
    await publish.remove_alias(carol.user_id, alias("three"), is_admin=True)


@pytest_twisted.ensureDeferred
async def test_removing_an_alias_takes_it_from_the_canonical_alias_event_if_the_user_may(rooms: RoomServer) -> None:
    _, publish = publishing(rooms)
    alice, bob = await rooms.users("alice", "bob")
    room_id = await rooms.room(alice, members=[bob])
    content = {"alias": alias("main"), "alt_aliases": [alias("other"), alias("bobs")]}
    for name, person in (("main", alice), ("other", alice), ("bobs", bob)):
        await publish.add_alias(person.user_id, alias(name), room_id)
    await rooms.send(room_id, alice, CANONICAL, content, state_key="")

    async def present() -> dict[str, Any]:
        event = await rooms.door.state_event(room_id, CANONICAL)
        assert event is not None
        return dict(event.event.content)

    await publish.remove_alias(bob.user_id, alias("bobs"))
    assert content == await present()
    await publish.remove_alias(alice.user_id, alias("main"))
    assert {"alt_aliases": [alias("other"), alias("bobs")]} == await present()
    await publish.remove_alias(alice.user_id, alias("other"))
    assert {"alt_aliases": [alias("bobs")]} == await present()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"alias": "#a:x"}, {}),
        ({"alias": "#b:x", "alt_aliases": ["#a:x"]}, {"alias": "#b:x"}),
        ({"alias": "#b:x", "alt_aliases": ["#a:x", 3], "more": 1}, {"alias": "#b:x", "alt_aliases": [3], "more": 1}),
        ({"alt_aliases": "#a:x"}, {"alt_aliases": "#a:x"}),
    ],
)
def test_without_alias(content: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected == without_alias(content, "#a:x")


@pytest_twisted.ensureDeferred
async def test_the_aliases_of_a_room_are_for_members_and_of_a_world_readable_one_for_all(rooms: RoomServer) -> None:
    _, publish = publishing(rooms)
    alice, eve = await rooms.users("alice", "eve")
    room_id = await rooms.room(alice)
    for target in (room_id, RoomID("!nowhere")):
        with pytest.raises(NotAllowed):
            await publish.aliases_of(eve.user_id, target)
    assert [] == await publish.aliases_of(eve.user_id, room_id, is_admin=True)
    await rooms.set_visibility(room_id, alice, "world_readable")
    assert [] == await publish.aliases_of(eve.user_id, room_id)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({}, None),
        ({"alias": None}, None),
        ({"alias": ""}, None),
        ({"alias": f"#here:{SERVER}", "alt_aliases": [f"#also:{SERVER}"]}, None),
        ({"alias": f"#old:{SERVER}", "alt_aliases": ["not one"]}, None),
        ({"alias": 5}, InvalidParam),
        ({"alias": "here"}, InvalidParam),
        ({"alias": "#here"}, InvalidParam),
        ({"alt_aliases": f"#here:{SERVER}"}, InvalidParam),
        ({"alt_aliases": [None]}, InvalidParam),
        ({"alt_aliases": [f"#a:{SERVER}"] * 1001}, InvalidParam),
        ({"alias": f"#nowhere:{SERVER}"}, BadAlias),
        ({"alias": f"#there:{SERVER}"}, BadAlias),
        ({"alt_aliases": [f"#here:{SERVER}", f"#there:{SERVER}"]}, BadAlias),
        ({"alias": "#here:elsewhere.example"}, BadAlias),
    ],
)
@pytest_twisted.ensureDeferred
async def test_new_canonical_aliases_must_point_to_the_room(
    rooms: RoomServer, content: dict[str, Any], error: type[MatrixError] | None
) -> None:
    _, publish = publishing(rooms)
    [alice] = await rooms.users("alice")
    # What stands there already is not looked at again.
    old = (CANONICAL, "", {"alias": f"#old:{SERVER}", "alt_aliases": ["not one"]})
    here, there = await rooms.room(alice, state=[old]), await rooms.room(alice)
    for name, room_id in (("here", here), ("also", here), ("there", there)):
        await publish.add_alias(alice.user_id, alias(name), room_id)
    if error is None:
        await publish.check_new_canonical_alias(here, content)
    else:
        with pytest.raises(error):
            await publish.check_new_canonical_alias(here, content)


# -- the list of rooms ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_moderators_and_admins_list_rooms(rooms: RoomServer) -> None:
    _, publish = publishing(rooms)
    alice, bob = await rooms.users("alice", "bob")
    room_id = await rooms.room(alice, members=[bob])
    with pytest.raises(NotAllowed):
        await publish.publish(bob.user_id, room_id, True)
    assert not await publish.is_published(room_id)
    await publish.publish(alice.user_id, room_id, True)
    assert await publish.is_published(room_id)
    await publish.publish(bob.user_id, room_id, False, is_admin=True)
    assert not await publish.is_published(room_id)
    with pytest.raises(NotFound):
        await publish.is_published(RoomID("!nowhere"))


@pytest_twisted.ensureDeferred
async def test_rooms_are_paged_in_both_directions(rooms: RoomServer) -> None:
    directory, _ = publishing(rooms)
    sizes = [1, 3, 2, 2, 1]
    expected = [await published(rooms, directory, f"room {size}", size) for size in sizes]
    expected = [
        room
        for _, _, room in sorted(
            (-size, index, room) for index, (size, room) in enumerate(zip(sizes, expected, strict=True))
        )
    ]

    async def pages(since: str | None, forwards: bool) -> list[list[str]]:
        found = []
        for _ in range(10):
            page = await directory.page(since=since, limit=2)
            assert 5 == page.total
            found.append([room.room_id for room in page.rooms])
            since = page.next_batch if forwards else page.prev_batch
            if since is None:
                return found
        raise AssertionError("the paging does not end")

    assert [expected[:2], expected[2:4], expected[4:]] == await pages(None, True)
    second = (await directory.page(limit=2)).next_batch
    last = await directory.page(limit=2, since=(await directory.page(limit=2, since=second)).next_batch)
    assert last.next_batch is None
    assert [expected[2:4], expected[:2]] == await pages(last.prev_batch, False)
    back = await directory.page(limit=2, since=last.prev_batch)
    assert expected[4:] == [room.room_id for room in (await directory.page(limit=2, since=back.next_batch)).rooms]


@pytest.mark.parametrize(
    "since", ["x", "n", "n1", "n1.", "n-1.2", "n1.2x", "N1.2", "n1.2\n", "n" + "9" * 40 + ".1", "\u0661"]
)
@pytest_twisted.ensureDeferred
async def test_a_token_of_somebody_else_is_refused(rooms: RoomServer, since: str) -> None:
    directory, _ = publishing(rooms)
    with pytest.raises(InvalidParam):
        await directory.page(since=since)


@pytest_twisted.ensureDeferred
async def test_a_room_without_members_or_taken_off_the_list_is_not_shown(rooms: RoomServer) -> None:
    directory, _ = publishing(rooms)
    [person] = await rooms.users("user0")
    left = await published(rooms, directory, "left")
    await rooms.leave(left, person)
    hidden = await published(rooms, directory, "hidden")
    await directory.publish((await rooms.door.tip(hidden)).room_nid, False)
    page = await directory.page()
    assert ((), 0) == (page.rooms, page.total)


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
@pytest_twisted.ensureDeferred
async def test_every_character_of_a_search_is_itself(rooms: RoomServer, name: str) -> None:
    directory, _ = publishing(rooms)
    wanted = await published(rooms, directory, name)
    await published(rooms, directory, "something without any of it")
    for term in (name, name.upper(), name[1:-1], name[-3:]):
        assert [wanted] == [room.room_id for room in (await directory.page(term=term)).rooms], term


@pytest.mark.parametrize("term", ["%", "_", "\\", "%%", "a_b", "'", '"', "\x00", "* OR *", "cafe"])
@pytest_twisted.ensureDeferred
async def test_no_character_of_a_search_is_a_wildcard(rooms: RoomServer, term: str) -> None:
    directory, _ = publishing(rooms)
    await published(rooms, directory, "aab caf\u00e9")
    assert () == (await directory.page(term=term)).rooms


@pytest_twisted.ensureDeferred
async def test_name_topic_and_alias_are_searched_and_an_empty_term_finds_all(rooms: RoomServer) -> None:
    directory, _ = publishing(rooms)
    first = await published(rooms, directory, "Cheese", state=[("m.room.topic", "", {"topic": "Tasty \u00c9t\u00e9"})])
    second = await published(
        rooms, directory, "\u0416\u0443\u043a", state=[(CANONICAL, "", {"alias": "#beetle:example.org"})]
    )
    for term, expected in (
        ("CHEESE", [first]),
        ("e\u0301TE\u0301", [first]),
        ("\u0436\u0423\u041a", [second]),
        ("#BEETLE", [second]),
        ("", [first, second]),
        ("   ", [first, second]),
        ("neither", []),
    ):
        assert expected == [room.room_id for room in (await directory.page(term=term)).rooms], term
    [person] = await rooms.users("user0")
    await rooms.send(first, person, "m.room.name", {}, state_key="")
    assert () == (await directory.page(term="cheese")).rooms


@pytest_twisted.ensureDeferred
async def test_rooms_are_filtered_by_type(rooms: RoomServer) -> None:
    directory, _ = publishing(rooms)
    plain = await published(rooms, directory, "plain")
    space = await published(rooms, directory, "space", create={"type": "m.space"})
    for room_types, expected in (
        (None, [plain, space]),
        ((None,), [plain]),
        (("m.space",), [space]),
        (("m.space", None), [plain, space]),
        (("M.SPACE", "m.space "), []),
        ((), []),
    ):
        page = await directory.page(room_types=room_types)
        assert expected == [room.room_id for room in page.rooms], room_types
