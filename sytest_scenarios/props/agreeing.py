"""Servers that agree: they tell the same state of a room and the same events, each by event ID."""

from __future__ import annotations

import time
from typing import Final

from ..actors import Room, User
from ..asking import CLIENT, JsonObject, objects, sleep, text
from ..expect import Failed, shown

WITHIN_S: Final = 15.0
PAGE: Final = 100


async def state_of(user: User, room: Room) -> dict[str, str]:
    """Return the state of the room as the user's server tells it: event IDs by "type state_key"."""
    answer = await user.request("GET", f"{CLIENT}{room.path('state')}")
    if answer.status != 200:
        answer.good()
    return {f"{text(each, 'type')} {each.get('state_key', '')}".strip(): each["event_id"] for each in answer.json}


async def same_state(room: Room, *users: User, within_s: float = WITHIN_S) -> dict[str, str]:
    """Wait until the servers of all these users tell the same state of the room, and return it."""
    deadline = time.monotonic() + within_s
    while True:
        told = [await state_of(each, room) for each in users]
        if all(each == told[0] for each in told):
            return told[0]
        if time.monotonic() > deadline:
            keys = sorted({key for each in told for key in each})
            differing = {
                key: [each.get(key) for each in told] for key in keys if len({each.get(key) for each in told}) > 1
            }
            names = " and ".join(each.server.name for each in users)
            raise Failed(f"{names} to tell the same state of {room} within {within_s:g} s", shown(differing))
        await sleep(0.1)


async def all_texts(user: User, room: Room) -> list[str]:
    """Page back to the beginning of the room and return what was said, oldest first."""
    found = await whole_history(user, room)
    return [each["content"]["body"] for each in found if "body" in each.get("content", {})]


async def whole_history(user: User, room: Room) -> list[JsonObject]:
    """Page back to the beginning of the room and return its events, oldest first; Failed if it never ends."""
    found: list[JsonObject] = []
    place = None
    for _ in range(200):
        page = await user.get(room.path("messages"), dir="b", limit=PAGE, **({} if place is None else {"from": place}))
        found += objects(page.get("chunk"))
        place = page.get("end")
        if place is None:
            return found[::-1]
    raise Failed("the history to end", f"{len(found)} events")
