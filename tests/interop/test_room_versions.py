"""Rooms of each version, made on one side and joined from the other: both talk, redact, and agree on the state."""

from __future__ import annotations

import pytest

from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS

from .pairs import Pair, agree_on_state, redact, sees, sees_redacted, talk

VERSIONS = [str(number) for number in range(1, 13)]


def test_these_are_the_stable_room_versions() -> None:
    assert set(VERSIONS) <= KNOWN_ROOM_VERSIONS.keys()


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_room_is_joined_and_talked_in(pair: Pair, version: str) -> None:
    room_id = await pair.room(room_version=version, name="A room", topic="Tea")
    await talk(pair, room_id)
    event_id = await pair.bob.say(room_id, "a secret")
    await sees(pair.alice, room_id, event_id)
    await redact(pair.bob, room_id, event_id)
    await sees_redacted(pair.alice, room_id, event_id)
    state = await agree_on_state(pair.alice, pair.bob, room_id)
    assert ("m.room.topic", "") in state
