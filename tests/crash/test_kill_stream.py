"""A server that is killed while messages come up its streams: what it has answered is there, and everything once.

`SENNIT_KILL_ROUNDS` says how often it is killed (2).
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.client import CALM, StreamUser
from tests.soak.http import call, read_history, segment
from tests.soak.server import SoakServer
from tests.soak.wire import open_lines, open_websocket
from tests.soak.world import Plan, World, register

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SENNIT_KILL_ROUNDS", "2"))
AHEAD = 12
# So many are answered, at least, in each round.
LEAST = 30
# Of the thousand, so many are taken before the connection is lost, at least.
ENOUGH = 600
PLAN = Plan(seconds=120, users=6, rooms=2, seed=7, kinds=("ws", "ws", "lines"), burst_every_s=1e6, mishaps=CALM)


class KilledWorld(World):
    """Everybody sends as fast as it is answered, to rooms and to devices, and the server is killed among it."""

    async def live(self, user: StreamUser, number: int) -> None:
        rng = random.Random()
        rooms = sorted(self.inside[user.user_id])
        notes: asyncio.Task[None] | None = None
        while True:
            if notes is None or notes.done():
                notes = asyncio.create_task(user.send_to_devices(rng.sample(self.users, 2)))
            if len(user.pending) < AHEAD:
                user.send_event(rng.choice(rooms), "m.room.message", {"msgtype": "m.text", "body": "hello"})
            await asyncio.sleep(0 if len(user.pending) < AHEAD else 0.005)

    async def end_servers(self) -> None:
        for number in range(1, ROUNDS + 1):
            while sum(len(user.sent.events) for user in self.users) < number * LEAST:
                await asyncio.sleep(0.01)
            await asyncio.sleep(random.uniform(0, 1))
            await self.server.kill()
            await self.server.start()
        await asyncio.sleep(random.uniform(0.1, 0.5))


def test_what_was_answered_is_there_once_and_everybody_is_told_after_kills(database_url: str, tmp_path: Path) -> None:
    async def run() -> None:
        server = SoakServer(tmp_path / "server", database_url)
        try:
            report = await KilledWorld(server, replace(PLAN, seed=random.randrange(1000))).run()
        finally:
            server.end()
        print(report.text())
        assert [] == report.faults
        assert report.figures["events"] > ROUNDS * LEAST

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["ws", "lines"])
def test_a_thousand_that_were_answered_to_nobody_are_not_doubled(sqlite_url: str, tmp_path: Path, kind: str) -> None:
    """The answers are in the network when the connection is lost: the client repeats all of them."""
    messages = 1000

    async def run() -> None:
        server = SoakServer(tmp_path / "server", sqlite_url)
        try:
            await server.start()
            account = await register(server, "alice")
            token = account["access_token"]
            room_id = (await call(server.plain, token, "POST", "/createRoom", {}))["room_id"]

            async def all_taken() -> None:
                """Wait until the room grows no more."""
                before, now = -1, 0
                while before != now or now < ENOUGH:
                    await asyncio.sleep(0.5)
                    before, now = now, len(await read_history(server.plain, token, room_id))

            async def send_all(*, reads: bool) -> None:
                wire = (
                    await open_websocket(server.web, {}, token=None) if kind == "ws" else await open_lines(server.lines)
                )
                await wire.send({"id": "a", "method": "auth", "params": {"access_token": token, "since": "s1"}})
                assert "result" in await wire.receive()
                answered: set[str] = set()

                async def read() -> None:
                    while len(answered) < messages:
                        message = await wire.receive()
                        if "id" in message:
                            assert "result" in message, message
                            answered.add(message["id"])

                reading = asyncio.create_task(read()) if reads else None
                for number in range(messages):
                    params = {"room_id": room_id, "event_type": "m.room.message", "content": {"body": str(number)}}
                    await wire.send({"id": f"m{number}", "method": "send", "params": params})
                if reading is not None:
                    await asyncio.wait_for(reading, 60)
                else:
                    await asyncio.wait_for(all_taken(), 60)
                wire.abort()

            await send_all(reads=False)
            await send_all(reads=True)
            history = await read_history(server.plain, token, room_id)
            texts = [event["content"]["body"] for event in history if event["type"] == "m.room.message"]
            assert [str(number) for number in range(messages)] == texts
            path = f"/rooms/{segment(room_id)}/joined_members"
            assert 1 == len((await call(server.plain, token, "GET", path))["joined"])
            assert [] == server.bad_lines()
        finally:
            server.end()

    asyncio.run(run())
