from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.config import UserDirectory as DirectoryConfig
from homeserver.errors import InvalidParam
from homeserver.model.ids import RoomID, ServerName, UserID
from homeserver.users.directory import UserDirectory
from storage import accounts, profiles
from storage.transaction import Transaction
from tests.support.rooms import SERVER, Person, RoomServer


def directory(rooms: RoomServer, **config: Any) -> UserDirectory:
    return UserDirectory(
        rooms.store.database, rooms.store.interner, server_name=ServerName(SERVER), config=DirectoryConfig(**config)
    )


async def account(rooms: RoomServer, localpart: str, name: str | None = None, avatar: str | None = None) -> Person:
    person = await rooms.user(localpart)

    def write(tx: Transaction) -> None:
        accounts.create_account(
            tx,
            user_nid=person.user_nid,
            user_id=str(person.user_id),
            password_hash=None,
            is_admin=False,
            is_guest=False,
            created_ts=0,
            appservice=None,
        )
        for field, value in (("displayname", name), ("avatar_url", avatar)):
            if value is not None:
                profiles.set_field(tx, person.user_nid, field, orjson.dumps(value))

    await rooms.store.database.write(write)
    return person


async def found(
    rooms: RoomServer, searcher: Person, term: str, limit: int = 50, **config: Any
) -> tuple[list[UserID], bool]:
    users, is_limited = await directory(rooms, **config).search(searcher.user_nid, term, limit)
    return [user.user_id for user in users], is_limited


async def meet(rooms: RoomServer, *people: Person, **more: Any) -> RoomID:
    return await rooms.room(people[0], members=people[1:], **more)


@pytest.mark.parametrize(
    "term",
    ["alice", "ALI", "cooper", "Coop al", "@alice", "@alice:exam", "@ALICE:example.org", "alice c", "  alice  ", "a"],
)
@pytest_twisted.ensureDeferred
async def test_people_are_found_by_the_beginnings_of_their_names(rooms: RoomServer, term: str) -> None:
    me, alice = await account(rooms, "me"), await account(rooms, "alice", "Alice Cooper")
    await meet(rooms, me, alice)
    assert ([alice.user_id], False) == await found(rooms, me, term)


@pytest.mark.parametrize(
    "term", ["", "  ", "@", "@:x", "lice", "%", "_", "alice bob", "@alice:other", "\x00", "=", "' OR 1"]
)
@pytest_twisted.ensureDeferred
async def test_nothing_else_finds_them(rooms: RoomServer, term: str) -> None:
    me, alice = await account(rooms, "me"), await account(rooms, "alice", "Alice Cooper")
    await meet(rooms, me, alice)
    assert ([], False) == await found(rooms, me, term)


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("\u00c9milie", "e\u0301mi"),
        ("\u5c71\u7530\u592a\u90ce", "\u5c71\u7530"),
        ("\U0001f98a fox", "\U0001f98a"),
        ("O'Brien", "o'b"),
        ("100% \\o/", "100% \\"),
        ("$$$", "$$"),
        ("a_b", "a_b"),
        ("\u212a", "k"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_names_of_all_kinds_are_found(rooms: RoomServer, name: str, term: str) -> None:
    me, other = await account(rooms, "me"), await account(rooms, "xyz", name)
    await meet(rooms, me, other)
    assert ([other.user_id], False) == await found(rooms, me, term)


@pytest.mark.parametrize(
    ("room", "is_found"),
    [
        ({"join_rule": "invite"}, False),
        ({"join_rule": "public"}, True),
        ({"join_rule": "invite", "visibility": "world_readable"}, True),
        ({"join_rule": "knock"}, False),
    ],
    ids=["private", "public", "world-readable", "knock"],
)
@pytest_twisted.ensureDeferred
async def test_strangers_are_found_in_public_rooms_only(
    rooms: RoomServer, room: dict[str, Any], is_found: bool
) -> None:
    me, alice = await account(rooms, "me"), await account(rooms, "alice")
    await meet(rooms, alice, **room)
    assert ([alice.user_id] if is_found else [], False) == await found(rooms, me, "alice")
    assert ([alice.user_id], False) == await found(rooms, me, "alice", search_all_users=True)
    assert ([], False) == await found(rooms, me, "alice", search_all_users=True, enabled=False)


@pytest_twisted.ensureDeferred
async def test_who_shares_no_room_any_more_is_not_found(rooms: RoomServer) -> None:
    me, alice = await account(rooms, "me"), await account(rooms, "alice")
    room_id = await rooms.room(me, join_rule="invite")
    await rooms.invite(room_id, me, alice)
    assert ([], False) == await found(rooms, me, "alice")
    await rooms.join(room_id, alice)
    assert ([alice.user_id], False) == await found(rooms, me, "alice")
    assert ([me.user_id], False) == await found(rooms, alice, "me")
    await rooms.leave(room_id, alice)
    assert ([], False) == await found(rooms, me, "alice")
    assert ([], False) == await found(rooms, alice, "me")


@pytest_twisted.ensureDeferred
async def test_locked_and_deactivated_users_are_left_out(rooms: RoomServer) -> None:
    me, alice, bob = await account(rooms, "me"), await account(rooms, "alice"), await account(rooms, "albert")
    await meet(rooms, me, alice, bob)
    await rooms.store.database.write(lambda tx: accounts.set_flags(tx, alice.user_nid, is_locked=True))
    assert ([bob.user_id], False) == await found(rooms, me, "al")
    await rooms.store.database.write(lambda tx: accounts.set_deactivated(tx, bob.user_nid, is_erased=False))
    assert ([], False) == await found(rooms, me, "al")


@pytest_twisted.ensureDeferred
async def test_a_changed_name_is_found_and_the_old_one_is_not(rooms: RoomServer) -> None:
    me, alice = await account(rooms, "me"), await account(rooms, "alice", "Zora")
    await meet(rooms, me, alice)
    write = rooms.store.database.write
    await write(lambda tx: profiles.set_field(tx, alice.user_nid, "displayname", b'"Vera"'))
    assert ([], False) == await found(rooms, me, "zora")
    assert ([alice.user_id], False) == await found(rooms, me, "vera")
    await write(lambda tx: profiles.delete_field(tx, alice.user_nid, "displayname"))
    assert ([], False) == await found(rooms, me, "vera")
    await write(lambda tx: profiles.set_field(tx, alice.user_nid, "displayname", b'"Vera"'))
    await write(lambda tx: profiles.delete_profile(tx, alice.user_nid))
    assert ([], False) == await found(rooms, me, "vera")
    assert ([alice.user_id], False) == await found(rooms, me, "alice")


@pytest_twisted.ensureDeferred
async def test_the_best_match_comes_first(rooms: RoomServer) -> None:
    me = await account(rooms, "me")
    word = await account(rooms, "w", "Old Ann")
    longer = await account(rooms, "ann2")
    named = await account(rooms, "n", "Anna", "mxc://example.org/a")
    plain = await account(rooms, "m", "Annb")
    exact = await account(rooms, "ann")
    await meet(rooms, me, word, longer, named, plain, exact)
    expected = [exact, named, plain, longer, word]
    assert ([person.user_id for person in expected], False) == await found(rooms, me, "ann")
    assert ([exact.user_id, named.user_id], True) == await found(rooms, me, "ann", 2)
    assert ([], False) == await found(rooms, me, "ann", 0)


@pytest_twisted.ensureDeferred
async def test_a_term_that_is_too_long_is_refused(rooms: RoomServer) -> None:
    me = await account(rooms, "me")
    with pytest.raises(InvalidParam):
        await found(rooms, me, "a" * 257)
