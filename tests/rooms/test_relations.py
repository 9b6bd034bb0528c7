"""Children of events, threads, and what is bundled."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest_twisted

from storage.database import Database
from storage.events import StoredEvent
from tests.support.room_reads import RoomReads, bodies
from tests.support.rooms import Person, RoomServer


async def bundle_of(reads: RoomReads, person: Person, room: str, stored: StoredEvent) -> dict[str, Any]:
    _, event = await reads.room(person, room, f"event/{quote(stored.event_id)}")
    bundle: dict[str, Any] = event["unsigned"].get("m.relations", {})
    return bundle


@pytest_twisted.ensureDeferred
async def test_the_latest_valid_edit_is_bundled(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    said = await rooms.say(room, alice, "first")
    reads = RoomReads(rooms)
    assert {} == await bundle_of(reads, alice, room, said)
    await rooms.relate(room, alice, said, "m.replace", "second")
    last = await rooms.relate(room, alice, said, "m.replace", "third")
    await rooms.relate(room, bob, said, "m.replace", "not his")
    await rooms.send(
        room, alice, "m.sticker", {"m.new_content": {}, "m.relates_to": {"rel_type": "m.replace", "event_id": "$no"}}
    )
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        bundle = await bundle_of(reads, bob, room, said)
        assert ["m.replace"] == list(bundle)
        assert last.event_id == bundle["m.replace"]["event_id"]
    await rooms.redact(room, alice, last)
    bundle = await bundle_of(reads, bob, room, said)
    assert "second" == bundle["m.replace"]["content"]["m.new_content"]["body"]
    original = await rooms.store.events.get_by_id(said.room_nid, said.event_id)
    assert original is not None
    await rooms.redact(room, alice, original)
    assert {} == await bundle_of(reads, bob, room, said)


@pytest_twisted.ensureDeferred
async def test_threads_are_bundled_with_their_newest_reply_and_its_edit(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob, carol])
    root = await rooms.say(room, alice, "root")
    await rooms.relate(room, bob, root, "m.thread", "one")
    last = await rooms.relate(room, bob, root, "m.thread", "two")
    await rooms.relate(room, bob, last, "m.replace", "two, edited")
    reads = RoomReads(rooms)
    participated = {}
    for person in (alice, bob, carol):
        thread = (await bundle_of(reads, person, room, root))["m.thread"]
        assert (2, "two") == (thread["count"], thread["latest_event"]["content"]["body"])
        inner = thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]
        assert "two, edited" == inner["content"]["m.new_content"]["body"]
        participated[person.user_id] = thread["current_user_participated"]
    assert {alice.user_id: True, bob.user_id: True, carol.user_id: False} == participated
    reads.ignored[carol.user_id] = frozenset({str(bob.user_id)})
    assert {} == await bundle_of(reads, carol, room, root)


@pytest_twisted.ensureDeferred
async def test_references_are_bundled_and_reactions_are_not(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    said = await rooms.say(room, alice, "hi")
    await rooms.relate(room, alice, said, "m.annotation", "+")
    reads = RoomReads(rooms)
    assert {} == await bundle_of(reads, alice, room, said)
    first = await rooms.relate(room, alice, said, "m.reference", "a")
    second = await rooms.relate(room, alice, said, "m.reference", "b")
    bundle = await bundle_of(reads, alice, room, said)
    assert {"m.reference": {"chunk": [{"event_id": first.event_id}, {"event_id": second.event_id}]}} == bundle


@pytest_twisted.ensureDeferred
async def test_relations_of_another_room_are_none(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room, other = await rooms.room(alice), await rooms.room(alice)
    said = await rooms.say(room, alice, "hi")
    await rooms.relate(other, alice, said, "m.thread", "elsewhere")
    reads = RoomReads(rooms)
    assert {} == await bundle_of(reads, alice, room, said)
    _, answer = await reads.room(alice, room, f"relations/{quote(said.event_id)}", version="v1")
    assert [] == answer["chunk"]


@pytest_twisted.ensureDeferred
async def test_bundles_ask_the_database_once_for_a_page_and_not_again(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    for number in range(20):
        await rooms.say(room, alice, f"m{number}")
    rooms.forget_memory()
    reads = RoomReads(rooms)
    user = await rooms.user_feed(alice)
    view = await reads.access.view(alice, room)
    found = await rooms.timeline.page(view.room_nid, start=view.upto, limit=20, backwards=True)
    count = 0
    read = Database.read

    async def counted(self: Database, function: Any) -> Any:
        nonlocal count
        count += 1
        return await read(self, function)

    rooms.store.database.read = counted.__get__(rooms.store.database)  # type: ignore[method-assign]
    assert {} == await reads.bundles.of(user, found)
    assert 1 == count
    assert {} == await reads.bundles.of(user, found)
    assert 1 == count


@pytest_twisted.ensureDeferred
async def test_children_come_in_pages_by_type_and_direction(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    root = await rooms.say(room, alice, "root")
    for number in range(5):
        await rooms.relate(room, alice, root, "m.thread", f"r{number}")
    await rooms.relate(room, bob, root, "m.annotation", "+")
    await rooms.relate(room, bob, root, "m.reference", "noise")
    reads = RoomReads(rooms)
    base = f"relations/{quote(root.event_id)}"

    async def ask(path: str, **query: Any) -> dict[str, Any]:
        _, answer = await reads.room(alice, room, path, query, version="v1")
        return dict(answer)

    assert 7 == len((await ask(base))["chunk"])
    first = await ask(f"{base}/m.thread", limit=2)
    assert (["r4", "r3"], True, False) == (bodies(first["chunk"]), "next_batch" in first, "prev_batch" in first)
    second = await ask(f"{base}/m.thread", limit=3, **{"from": first["next_batch"]})
    assert (["r2", "r1", "r0"], False) == (bodies(second["chunk"]), "next_batch" in second)
    assert ["r0", "r1"] == bodies((await ask(f"{base}/m.thread", dir="f", limit=2))["chunk"])
    assert 1 == len((await ask(f"{base}/m.annotation/m.reaction"))["chunk"])
    assert [] == (await ask(f"{base}/m.annotation/m.room.message"))["chunk"]
    reads.ignored[alice.user_id] = frozenset({str(bob.user_id)})
    assert 5 == len((await ask(base))["chunk"])


@pytest_twisted.ensureDeferred
async def test_recursion_reaches_three_levels_and_tells_so(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    chain = [await rooms.say(room, alice, "root")]
    for number in range(5):
        chain.append(await rooms.relate(room, alice, chain[-1], "m.reference", f"level {number + 1}"))
    reads = RoomReads(rooms)
    base = f"relations/{quote(chain[0].event_id)}"
    _, flat = await reads.room(alice, room, base, {}, version="v1")
    _, deep = await reads.room(alice, room, base, {"recurse": "true", "dir": "f"}, version="v1")
    _, old = await reads.room(alice, room, base, {"org.matrix.msc3981.recurse": "true"}, version="unstable")
    assert (["level 1"], False) == (bodies(flat["chunk"]), "recursion_depth" in flat)
    assert (["level 1", "level 2", "level 3"], 3) == (bodies(deep["chunk"]), deep["recursion_depth"])
    assert 3 == len(old["chunk"])


@pytest_twisted.ensureDeferred
async def test_threads_come_in_the_order_of_their_newest_replies(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob, carol])
    roots = [await rooms.say(room, alice, f"root {number}") for number in range(3)]
    roots.append(await rooms.say(room, carol, "root 3"))
    for index in (0, 3, 1, 2):
        await rooms.relate(room, bob, roots[index], "m.thread", "reply")
    await rooms.relate(room, carol, roots[0], "m.thread", "again")
    reads = RoomReads(rooms)

    async def ask(person: Person, **query: Any) -> dict[str, Any]:
        _, answer = await reads.room(person, room, "threads", query, version="v1")
        return dict(answer)

    whole = await ask(alice)
    assert ["root 0", "root 2", "root 1", "root 3"] == bodies(whole["chunk"])
    assert 2 == whole["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"]
    first = await ask(alice, limit=3)
    second = await ask(alice, limit=3, **{"from": first["next_batch"]})
    assert (["root 3"], False) == (bodies(second["chunk"]), "next_batch" in second)
    assert ["root 0", "root 3"] == bodies((await ask(carol, include="participated"))["chunk"])
    reads.ignored[bob.user_id] = frozenset({str(carol.user_id)})
    redacted = (await ask(bob))["chunk"][3]
    assert (roots[3].event_id, {}) == (redacted["event_id"], redacted["content"])
    for query in ({"limit": "0"}, {"include": "some"}, {"from": "x"}):
        status, _ = await reads.room(alice, room, "threads", query, version="v1")
        assert 400 == status
