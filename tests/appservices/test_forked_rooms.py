"""Application services follow rooms in which branches meet: memberships may change without events that say so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted

from homeserver.appservices import queue
from homeserver.model.event import EventTemplate
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.receipt_of_events import trust_own
from storage.events import StoredEvent
from tests.support.appservice import SERVER, Bridged
from tests.support.forks import compose_at

ALICE = UserID(f"@alice:{SERVER}")


def _server(bridged: Bridged) -> Any:
    """Return as much of a server as it takes to compose events on branches."""
    assert bridged.homeserver is not None and bridged.homeserver._parts is not None
    base = bridged.homeserver._parts.base
    return SimpleNamespace(door=base.door, store=base.store, clock=base.clock, identity=base.door._identity)


async def _receive(server: Any, room_id: RoomID, at: StoredEvent, template: EventTemplate) -> StoredEvent:
    stored: StoredEvent = await server.door.receive(room_id, trust_own(await compose_at(server, room_id, at, template)))
    return stored


async def _end(server: Any, room_id: RoomID) -> StoredEvent:
    nid = (await server.door.tip(room_id)).extremities[-1].nid
    stored: StoredEvent = (await server.store.events.get([nid]))[nid]
    return stored


@pytest.mark.parametrize("is_behind", [False, True], ids=["following", "behind"])
@pytest_twisted.ensureDeferred
async def test_who_is_in_the_room_no_more_on_resolution_is_sent_nothing_after(
    bridged: Bridged, is_behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is closed on a branch from before the ghost joined: no event says that it is not in the room."""
    if is_behind:
        monkeypatch.setattr(queue, "MAX_WAITING", 0)
    await bridged.start()
    alice = await bridged.user("alice")
    ghost = await bridged.ghost("_bridge_ghost")
    room_id = RoomID((await bridged.ok("POST", "createRoom", {"preset": "public_chat"}, token=alice))["room_id"])
    other = (await bridged.ok("POST", "createRoom", {"invite": [ghost]}, token=alice))["room_id"]
    await bridged.act("POST", f"join/{other}", {}, user_id=ghost)
    server = _server(bridged)
    early = await _end(server, room_id)
    await bridged.act("POST", f"join/{room_id}", {}, user_id=ghost)
    await bridged.say(room_id, "before", alice)
    closed = EventTemplate("m.room.join_rules", {"join_rule": "invite"}, ALICE, "")
    await _receive(server, room_id, early, closed)
    await bridged.say(room_id, "after", alice)
    inert = EventTemplate("m.room.redaction", {"redacts": "$unknown"}, ALICE, redacts=EventID("$unknown"))
    inert_id = (await _receive(server, RoomID(other), await _end(server, RoomID(other)), inert)).event_id
    await bridged.say(other, "last", alice)
    await bridged.until(lambda: "last" in bridged.service.texts())
    assert ["before", "last"] == bridged.service.texts()
    assert inert_id not in [event["event_id"] for event in bridged.service.taken()]
