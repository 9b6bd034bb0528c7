"""History between whole servers."""

from __future__ import annotations

import pytest_twisted

from tests.support.federation import Federation, sqlite_federation

__all__ = ["sqlite_federation"]


@pytest_twisted.ensureDeferred
async def test_who_joins_reads_what_was_said_before(sqlite_federation: Federation) -> None:
    one, two = await sqlite_federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    room_id = await alice.create_room(preset="public_chat")
    texts = [str(number) for number in range(40)]
    for text in texts:
        await alice.say(room_id, text)
    await bob.join(room_id, via=one)
    assert texts == await bob.bodies(room_id)
