"""Bundles stay right whatever is in memory."""

from __future__ import annotations

import orjson
import pytest
import pytest_twisted

from homeserver.feed.bundles import Bundles
from homeserver.feed.feed import UserFeed
from tests.support.rooms import RoomServer, rooms  # noqa: F401


async def ignore_nobody(_: UserFeed) -> frozenset[str]:
    return frozenset()


@pytest_twisted.ensureDeferred
async def test_an_event_that_only_the_feed_holds_learns_of_its_first_relation(rooms: RoomServer) -> None:  # noqa: F811
    alice = await rooms.user("alice")
    user = await rooms.user_feed(alice)
    room = await rooms.room(alice)
    said = await rooms.say(room, alice, "hi")
    # As when the cache is full; the feed goes on showing the event that it has.
    rooms.store.events._drop(said.nid)
    await rooms.relate(room, alice, said, "m.replace", "edited")
    window, _ = await rooms.timeline.window(room, said.room_nid, upto=rooms.feed.watermark, limit=2)
    bundles = await Bundles(rooms.store, rooms.feed, rooms.clock, ignore_nobody).of(user, window)
    assert [said.nid] == list(bundles)


@pytest_twisted.ensureDeferred
async def test_relations_of_a_new_event_cost_no_query(rooms: RoomServer) -> None:  # noqa: F811
    alice = await rooms.user("alice")
    user = await rooms.user_feed(alice)
    room = await rooms.room(alice)
    said = await rooms.say(room, alice, "hi")
    rooms.store.database.read = None  # type: ignore[assignment,method-assign]
    try:
        found = await Bundles(rooms.store, rooms.feed, rooms.clock, ignore_nobody).of(user, [said])
    finally:
        del rooms.store.database.read
    assert {} == found


@pytest_twisted.ensureDeferred
async def test_what_relates_often_to_one_event_hides_nothing_of_another(
    rooms: RoomServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("storage.history.MAX_BUNDLED_EDITS", 2)
    monkeypatch.setattr("storage.history.MAX_BUNDLED_REFERENCES", 2)
    alice, mallory = await rooms.users("alice", "mallory")
    room = await rooms.room(alice, members=[mallory])
    busy = await rooms.say(room, mallory, "busy")
    quiet = await rooms.say(room, alice, "quiet")
    first = [await rooms.relate(room, mallory, busy, "m.reference") for _ in range(3)]
    await rooms.relate(room, alice, quiet, "m.replace", "edited")
    referring = await rooms.relate(room, alice, quiet, "m.reference")
    for number in range(3):
        await rooms.relate(room, mallory, busy, "m.replace", f"edit {number}")
    user = await rooms.user_feed(alice)
    bundles = await Bundles(rooms.store, rooms.feed, rooms.clock, ignore_nobody).of(user, [busy, quiet])
    of_busy, of_quiet = orjson.loads(bundles[busy.nid]), orjson.loads(bundles[quiet.nid])
    assert "edited" == of_quiet["m.replace"]["content"]["body"]
    assert [{"event_id": referring.event_id}] == of_quiet["m.reference"]["chunk"]
    assert "edit 2" == of_busy["m.replace"]["content"]["body"]
    assert [{"event_id": each.event_id} for each in first[:2]] == of_busy["m.reference"]["chunk"]
