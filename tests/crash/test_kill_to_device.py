"""A server that is killed in the midst of messages between devices: each arrives once and in order, and no key twice.

Senders and receivers go on as clients do: what was not answered is asked again, with the same transaction ID, the same
`since`, the same keys. Messages go within the server that is killed, to it from another server, and from it to that.

`SENNIT_KILL_ROUNDS` says how often the server is killed (2).
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.encryption import Keys
from tests.support.federation import (
    FederatedUser,
    Federation,
    federation,  # noqa: F401
    new_database,  # noqa: F401
)
from tests.support.played_server import pause, until

from .killed_server import KilledServer

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SENNIT_KILL_ROUNDS", "2"))
BATCH = 10
# Between two requests of one client: the machine is to be killed in the midst of work, not to be worn out.
PACE_S = 0.02


async def persist(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer; what is no success is a fault."""
    while True:
        try:
            answer = await ask()
        except AssertionError:
            raise
        except Exception:
            await pause(0.1)
            continue
        assert 200 == answer.status, answer
        return answer.json


@dataclass
class Traffic:
    """Who sends and receives until `is_over`; `senders` are those who still send, `running` all works."""

    is_over: bool = False
    senders: int = 3
    running: list[Deferred[Any]] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)
    # sender -> how many of its messages were acknowledged; (sender, receiver) -> what arrived.
    sent: dict[str, int] = field(default_factory=dict)
    arrived: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    expected: list[tuple[str, str]] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)

    def start(self, work: Awaitable[Any]) -> None:
        self.running.append(Deferred.fromCoroutine(work).addErrback(self.faults.append))  # type: ignore[arg-type]

    async def send(self, name: str, sender: FederatedUser, receiver: str) -> None:
        """Send numbered messages to all devices of a user."""
        self.sent[name] = 0
        for number in count():
            if self.is_over:
                self.senders -= 1
                return
            path = f"/sendToDevice/{name}/t{number}"
            body = {"messages": {receiver: {"*": {"n": number}}}}
            await persist(partial(sender.try_call, "PUT", path, body))
            self.sent[name] += 1
            await pause(PACE_S)

    async def receive(self, name: str, receiver: FederatedUser) -> None:
        """Take messages, each response acknowledged by the next request, until all have come; then look once more."""
        since: str | None = None
        async for answer in self._syncs(receiver):
            since = answer["next_batch"]
            for event in answer.get("to_device", {}).get("events", []):
                self.arrived.setdefault((event["type"], name), []).append(event["content"]["n"])
            if not self.senders and self.has_all(name):
                break
        assert "to_device" not in await receiver.sync(since)

    def has_all(self, receiver: str) -> bool:
        """Tell whether as many messages have come as were sent."""
        return all(
            len(self.arrived.get(pair, ())) >= self.sent[pair[0]] for pair in self.expected if pair[1] == receiver
        )

    def fault_of(self, pair: tuple[str, str]) -> str:
        """Say where what arrived is not what was sent."""
        arrived, sent = self.arrived.get(pair, []), self.sent[pair[0]]
        for number in range(max(sent, len(arrived))):
            if arrived[number : number + 1] != [number] or number >= sent:
                return f"{pair}: {sent} sent, {len(arrived)} came, at {number}: {arrived[max(number - 3, 0) :][:12]}"
        return ""

    async def _syncs(self, receiver: FederatedUser) -> AsyncIterator[Any]:
        more: dict[str, Any] = {"timeout": 0}
        while not self.faults:
            answer = await persist(partial(receiver.try_call, "GET", "/sync", **more))
            yield answer
            more = {"timeout": 200, "since": answer["next_batch"]}

    async def upload(self, user: FederatedUser) -> None:
        """Upload one-time keys when there are few left."""
        keys = Keys(user.user_id, user.device_id)
        body: dict[str, Any] = {"device_keys": keys.device()}
        uploaded = 0
        while not self.is_over:
            counts = await persist(partial(user.try_call, "POST", "/keys/upload", body))
            body = {}
            if counts["one_time_key_counts"].get("signed_curve25519", 0) < BATCH:
                body = {"one_time_keys": keys.one_time(BATCH, uploaded)}
                uploaded += BATCH
            await pause(PACE_S)

    async def claim(self, asker: FederatedUser, user: FederatedUser) -> None:
        """Claim these keys."""
        body = {"one_time_keys": {user.user_id: {user.device_id: "signed_curve25519"}}}
        while not self.is_over:
            answer = await persist(partial(asker.try_call, "POST", "/keys/claim", body))
            self.claimed += answer["one_time_keys"].get(user.user_id, {}).get(user.device_id, {})
            await pause(PACE_S)


async def test_every_message_arrives_once_and_in_order_through_kills(federation: Federation) -> None:  # noqa: F811
    (other,) = await federation.start()
    server = KilledServer(federation.make())
    traffic = Traffic()
    try:
        await server.start()
        alice = await other.register("alice")
        bob, carol = await server.front.register("bob"), await server.front.register("carol")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": bob.user_id}}
        answer = (await server.front.request("POST", "/login", {**login, "password": "correct horse"})).json
        second = FederatedUser(server.front, bob.user_id, answer["access_token"], answer["device_id"])
        for name, sender, receiver in (("near", carol, bob), ("in", alice, bob), ("out", bob, alice)):
            traffic.start(traffic.send(name, sender, receiver.user_id))
        for name, receiver, senders in (
            ("bob", bob, ("near", "in")),
            ("second", second, ("near", "in")),
            ("alice", alice, ("out",)),
        ):
            traffic.expected += [(each, name) for each in senders]
            traffic.start(traffic.receive(name, receiver))
        traffic.start(traffic.upload(bob))
        traffic.start(traffic.claim(carol, bob))
        # Each knows the keys of the other from now on: one that cannot be fetched is not asked for again at once.
        await until(lambda: traffic.faults or all(pair in traffic.arrived for pair in traffic.expected))
        for _ in range(ROUNDS):
            before = dict(traffic.sent)
            await pause(random.uniform(0.2, 0.7))
            await server.kill()
            await server.start()
            await until(lambda before=before: all(traffic.sent[each] > before[each] + 3 for each in before))
        traffic.is_over = True
        try:
            await until(lambda: traffic.faults or all(work.called for work in traffic.running), timeout_s=30)
        except AssertionError:
            traffic.faults.append("not all came")
        traffic.faults += [fault for pair in traffic.expected if (fault := traffic.fault_of(pair))]
        assert [] == traffic.faults, server.log
        assert sorted(set(traffic.claimed)) == traffic.claimed, "each key once, in the order of the uploads"
        assert len(traffic.claimed) > ROUNDS
        await server.stop()
    finally:
        traffic.is_over = True
        await server.kill()
