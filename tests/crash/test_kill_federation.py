"""A federating server that is killed in the middle of work: what it has acknowledged, to clients or servers, is there.

`SENNIT_KILL_ROUNDS` says how often it is killed while events come and go (1), and as often while it joins.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from tests.support.federation import (
    FederatedUser,
    Federation,
    federation,  # noqa: F401
    new_database,  # noqa: F401
)
from tests.support.played_server import pause, until

from .killed_server import V1, KilledServer, Resident

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SENNIT_KILL_ROUNDS", "1"))
MEMBERS = 300


class Acknowledged:
    """What was acknowledged, and what was asked for last: that is uncertain, and asked for again."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}
        self.taken: list[str] = []
        self.unsent: tuple[str, str] | None = None
        self.untaken: tuple[str, Any] | None = None
        self.number = 0


async def send_all(dave: FederatedUser, room_id: str, known: Acknowledged) -> None:
    """Send messages as a client until nobody answers."""
    while True:
        if known.unsent is None:
            known.number += 1
            known.unsent = f"c{known.number}", f"mine {known.number}"
        txn_id, text = known.unsent
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{txn_id}"
        answer = await dave.try_call("PUT", path, {"msgtype": "m.text", "body": text})
        assert 200 == answer.status, answer
        known.sent[answer.json["event_id"]], known.unsent = text, None


async def bring_all(resident: Resident, server: KilledServer, known: Acknowledged) -> None:
    """Send transactions of three events until nobody answers."""
    played, room = resident.played, resident.room
    while True:
        if known.untaken is None:
            known.number += 1
            events = [room.say(resident.alice, f"theirs {known.number}.{each}") for each in range(3)]
            known.untaken = f"s{known.number}", events
        txn_id, events = known.untaken
        body = {"origin": played.name, "origin_server_ts": 1, "pdus": [event.wire for event in events], "edus": []}
        status, answer = await played.put(server.front.name, f"{V1}/send/{txn_id}", body)
        assert 200 == status, answer
        assert [{}] * 3 == list(answer["pdus"].values()), answer
        known.taken += [event.event_id for event in events]
        known.untaken = None


async def kill_among(server: KilledServer, seconds: float, *works: Awaitable[Any]) -> list[Any]:
    """Kill the server while it is asked things; return what they came to, AssertionErrors raised."""
    outcomes: list[Any] = []
    running = [Deferred.fromCoroutine(work).addBoth(outcomes.append) for work in works]  # type: ignore[arg-type]
    await pause(seconds)
    await server.kill()
    await until(lambda: len(outcomes) == len(running), what="the end of what was asked")
    for outcome in outcomes:
        if hasattr(outcome, "check") and outcome.check(AssertionError):
            outcome.raiseException()
    return outcomes


async def test_what_was_acknowledged_is_there_after_kills_and_the_rest_goes_on(federation: Federation) -> None:  # noqa: F811
    resident = Resident(await federation.play(), MEMBERS)
    server = KilledServer(federation.make())
    room_id, via = resident.room.room_id, resident.played.name
    try:
        await server.start()
        dave = await server.front.register("dave")
        is_in = False
        for _ in range(ROUNDS):
            join = dave.try_call("POST", f"/join/{quote(room_id, safe='')}", {}, via=via)
            outcome = (await kill_among(server, random.uniform(0.02, 0.8), join))[0]
            await server.start()
            joined = (await dave.call("GET", "/joined_rooms"))["joined_rooms"]
            # Who was told of the join has it; who was not may have it.
            is_in = is_in or getattr(outcome, "status", None) == 200
            assert room_id in joined or not is_in
            is_in = room_id in joined
        if not is_in:
            answer = await dave.try_call("POST", f"/join/{quote(room_id, safe='')}", {}, via=via)
            assert 200 == answer.status, (answer, server.log)
        known = Acknowledged()
        for _ in range(ROUNDS):
            works = send_all(dave, room_id, known), bring_all(resident, server, known)
            await kill_among(server, random.uniform(0.3, 1.2), *works)
            await server.start()

        async def members() -> bool:
            answer = await dave.call("GET", f"/rooms/{quote(room_id, safe='')}/joined_members")
            return len(answer["joined"]) == MEMBERS + 2

        await until(members, what="all members")
        await until(lambda: known.sent.keys() <= resident.received, what="what was sent, at the other server")
        for event_id in (*known.sent, *known.taken):

            async def is_there(event_id: str = event_id) -> bool:
                path = f"/rooms/{quote(room_id, safe='')}/event/{quote(event_id, safe='')}"
                return (await dave.try_call("GET", path)).status == 200

            # Events that came before the members did wait until these are known.
            await until(is_there, what=f"{event_id} at its place")
        assert len(known.sent) > ROUNDS
        assert len(known.taken) > ROUNDS
        texts = [text for text in (await dave.bodies(room_id)) if text.startswith("mine")]
        assert len(set(texts)) == len(texts)
        await server.stop()
        assert "" == server.check()
    finally:
        await server.kill()
