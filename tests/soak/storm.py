"""A storm: everybody was connected, the server was killed, and everybody comes back at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .client import CALM, StreamUser
from .http import call, request, segment
from .server import SoakServer
from .world import register

ROOM_MEMBERS: Final = 20


@dataclass(slots=True)
class Storm:
    """What came of it; times in seconds, from when the server answered again."""

    clients: int
    connected_s: float = 0.0
    start_s: float = 0.0
    back_s: float = 0.0
    told_s: float = 0.0
    refusals: int = 0
    attempts: int = 0
    versions_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    rss_kib: int = 0
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the figures."""
        worst = max(self.versions_s, default=0.0)
        return "\n".join(
            [
                f"{self.clients} clients connected within {self.connected_s:.1f} s",
                f"killed; the server answers after {self.start_s:.2f} s",
                f"all are back after {self.back_s:.2f} s, after {self.attempts} attempts and {self.refusals} refusals",
                f"all were told of the message sent meanwhile after {self.told_s:.2f} s",
                f"/versions meanwhile: worst of {len(self.versions_s)} {worst * 1000:.0f} ms",
                f"processor time of the server until then {self.cpu_s:.2f} s, resident {self.rss_kib / 1024:.0f} MiB",
                f"faults: {self.faults[:10]}",
            ]
        )


class _StormUser(StreamUser):
    """Tries again at once, whatever the server said, but for when to come again."""

    is_back = False

    async def _session(self, lost_at: float) -> None:
        self.counts["attempts"] += 1
        await super()._session(lost_at)


async def storm(server: SoakServer, clients: int, *, timeout_s: float) -> Storm:
    """Connect, kill, start and wait until all are back and told; raises TimeoutError."""
    found = Storm(clients)
    await server.start()
    users, rooms, witness = await _people(server, clients)
    running = [asyncio.create_task(user.run()) for user in users]
    probing = asyncio.create_task(asyncio.sleep(0))
    try:
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while not all(user.is_connected and user.journal.since for user in users):
                await asyncio.sleep(0.05)
        found.connected_s = time.monotonic() - began
        await asyncio.sleep(1)
        for user in users:
            user.counts.clear()
        await server.kill()
        for room_user in users:
            assert room_user.journal.since is not None
        found.start_s = await server.start()
        back_at = time.monotonic()
        probing = asyncio.create_task(_probe(server, found))
        last = {room_id: await _say(server, witness, room_id) for room_id in rooms}
        async with asyncio.timeout(timeout_s):
            while not all(user.is_connected and user.counts["connections"] for user in users):
                await asyncio.sleep(0.02)
            found.back_s = time.monotonic() - back_at
            while not all(_is_told(user, last) for user in users):
                await asyncio.sleep(0.02)
            found.told_s = time.monotonic() - back_at
        found.cpu_s = _cpu_s(server)
        sample = server.sample()
        found.rss_kib = sample.rss_kib if sample is not None else 0
    finally:
        for task in (*running, probing):
            task.cancel()
        await asyncio.gather(*running, probing, return_exceptions=True)
    for user in users:
        found.attempts += user.counts["attempts"]
        found.refusals += sum(count for name, count in user.counts.items() if name.startswith(("refused", "closed 4")))
        found.faults += user.faults
        found.faults += [f"{user.name} was told of {what}" for what in _doubled(user)]
    found.faults += server.bad_lines()
    return found


async def _people(server: SoakServer, clients: int) -> tuple[list[_StormUser], list[str], str]:
    witness = (await register(server, "witness"))["access_token"]
    users: list[_StormUser] = []
    rooms: list[str] = []
    for number in range(clients):
        if number % ROOM_MEMBERS == 0:
            rooms.append(
                (await call(server.plain, witness, "POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
            )
        account = await register(server, f"user{number}")
        user = _StormUser(server, "lines" if number % 4 == 3 else "ws", f"u{number}", account, f"storm {number}")
        user.mishaps, user.max_delay_s = CALM, 0.1
        await call(server.plain, user.token, "POST", f"/rooms/{segment(rooms[-1])}/join", {})
        users.append(user)
    return users, rooms, witness


async def _say(server: SoakServer, token: str, room_id: str) -> tuple[str, str]:
    path = f"/rooms/{segment(room_id)}/send/m.room.message/storm"
    answer = await call(server.plain, token, "PUT", path, {"msgtype": "m.text", "body": "are you back?"})
    return room_id, answer["event_id"]


def _is_told(user: StreamUser, last: dict[str, tuple[str, str]]) -> bool:
    return all(last[room_id][1] in room.entries for room_id, room in user.journal.rooms.items())


def _doubled(user: StreamUser) -> list[str]:
    found: list[str] = []
    for room in user.journal.rooms.values():
        told = [entry for entry in room.entries if isinstance(entry, str)]
        found += sorted({entry for entry in told if told.count(entry) > 1})
    return found


async def _probe(server: SoakServer, found: Storm) -> None:
    while True:
        began = time.monotonic()
        try:
            await request(server.plain, "GET", "/_matrix/client/versions", timeout_s=30)
        except (OSError, TimeoutError) as error:
            found.faults.append(f"/versions was not answered: {error!r}")
        found.versions_s.append(time.monotonic() - began)
        await asyncio.sleep(0.05)


def _cpu_s(server: SoakServer) -> float:
    assert server.pid is not None
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
