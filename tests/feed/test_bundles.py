"""Bundles stay right whatever is in memory."""

from __future__ import annotations

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
