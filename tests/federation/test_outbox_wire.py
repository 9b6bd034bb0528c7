"""Transactions over real connections: a whole server sends to a played one, and takes what that one sends."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from federation.server.transactions import MAX_PDUS
from storage.outbox import OutboxEdu, store_edus
from tests.support.federation import Federation, sqlite_federation  # noqa: F401
from tests.support.played_server import PlayedServer, until

SEND = "/_matrix/federation/v1/send/"


def told(remote: PlayedServer) -> list[Any]:
    return [edu for request in remote.asked(SEND) for edu in request.json.get("edus", [])]


@pytest_twisted.ensureDeferred
async def test_edus_reach_another_server_and_what_was_missed_comes_when_it_writes(
    sqlite_federation: Federation,  # noqa: F811
) -> None:
    (server,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    base = server.parts.base
    outbox, store = base.links.outbox, base.store
    remote.answers[SEND] = lambda request: {"pdus": {}}

    async def write(number: int) -> None:
        row = OutboxEdu(store.numbers.next(), remote.name, "m.direct_to_device", {"n": number}, base.clock.now_ms())
        await store.database.write(lambda tx: store_edus(tx, [row]))
        outbox.wake([remote.name])

    async def greet(txn_id: str) -> None:
        body = {"origin": remote.name, "origin_server_ts": 1, "pdus": []}
        assert 200 == (await remote.put(server.name, SEND + txn_id, body)).status

    # From now on its keys are known here.
    await greet("1")
    outbox.send([remote.name], "m.typing", {"typing": True}, key="x")
    await write(1)
    await until(lambda: len(told(remote)) == 2)
    body = remote.asked(SEND)[0].json
    assert (server.name, []) == (body["origin"], body["pdus"])
    await remote.stop()
    await write(2)
    await until(lambda: not base.links.destinations.is_available(remote.name))
    await remote.start()
    await write(3)
    assert 2 == len(told(remote))
    # It writes to us, so it is there.
    await greet("2")
    await until(lambda: len(told(remote)) == 4)
    assert [{"n": 1}, {"n": 2}, {"n": 3}] == [
        edu["content"] for edu in told(remote) if edu["edu_type"] == "m.direct_to_device"
    ]


@pytest_twisted.ensureDeferred
async def test_a_transaction_is_answered_again_as_before_and_too_large_ones_are_refused(
    sqlite_federation: Federation,  # noqa: F811
) -> None:
    (server,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    head = {"origin": remote.name, "origin_server_ts": 1}
    junk = {"room_id": "!nowhere", "type": "m.x"}
    first = await remote.put(server.name, f"{SEND}a%2Fb", {**head, "pdus": [junk, 1, {}], "edus": [1, {}]})
    again = await remote.put(server.name, f"{SEND}a%2Fb", {**head, "pdus": [junk] * (MAX_PDUS + 1)})
    assert (200, first.body) == (again.status, again.body)
    many = await remote.put(server.name, f"{SEND}2", {**head, "pdus": [junk] * (MAX_PDUS + 1)})
    crowd = await remote.put(server.name, f"{SEND}3", {**head, "pdus": [], "edus": [{}] * 101})
    large = await remote.put(server.name, f"{SEND}4", {**head, "pdus": [], "x": "x" * 13 * 1024**2})
    assert [400, 400, 413] == [many.status, crowd.status, large.status]
