"""A changed filter holds for what comes after the answer, and the old one for nothing of that."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.feed.live import Place

from .test_session import (
    SERVER,
    World,
    until,
    world,  # noqa: F401
)


@pytest_twisted.ensureDeferred
async def test_an_update_that_is_being_made_comes_before_the_answer(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = await world.log_in("alice")
    room = await world.room("alice")
    wire = await world.connect(login)
    await until(lambda: wire.events)
    live = world.door._live
    gate: Deferred[None] = Deferred()
    following = live.next

    made: list[bytes | None] = []

    async def slow(place: Place) -> bytes | None:
        update = await following(place)
        made.append(update)
        await gate
        return update

    monkeypatch.setattr(live, "next", slow)
    event_id = str(await world.server.as_user(f"@alice:{SERVER}").send(room, "hello"))
    await until(lambda: any(made))
    wire.say("sync", "changed", filter={"room": {"timeline": {"types": ["m.room.topic"]}}})
    await deferLater(reactor, 0.3)  # type: ignore[arg-type]
    gate.callback(None)
    await until(lambda: "changed" in wire.answers and event_id in wire.events)

    def place_of(wanted: Any) -> int:
        return next(place for place, message in enumerate(wire.sent) if wanted(message))

    assert place_of(lambda message: event_id in str(message)) < place_of(lambda message: message.get("id") == "changed")
