"""A key ring on a real database that asks played servers over TLS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError
from twisted.web.client import ResponseNeverReceived

from federation.keyring import KeyRing
from federation.own_keys import OwnKeys
from homeserver.config import KeyServer
from homeserver.errors import RemoteProtocolError, RemoteRefused, RemoteUnreachable
from homeserver.model.signing import generate_signing_key
from homeserver.runtime.clock import ManualClock, RealClock
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Threads
from storage.database import Database
from storage.schema import migrate
from tests.support.certificates import Authority
from tests.support.played_server import Browser, PlayedAnswer

OWN_NAME = "own.example"
DAY_MS = 24 * 3_600_000


class Fetcher:
    """The way to played servers; counts what it is asked for."""

    def __init__(self, authority: Authority) -> None:
        self._browser = Browser(authority)
        self.calls: list[tuple[str, str]] = []
        # Nobody can be reached.
        self.is_cut_off = False

    async def get_json(self, server: str, path: str, *, max_bytes: int, timeout_s: float) -> Any:
        return await self._ask("GET", server, path, None, max_bytes)

    async def post_json(self, server: str, path: str, content: Any, *, max_bytes: int, timeout_s: float) -> Any:
        return await self._ask("POST", server, path, json.dumps(content).encode(), max_bytes)

    async def _ask(self, method: str, server: str, path: str, body: bytes | None, max_bytes: int) -> Any:
        self.calls.append((server, path))
        if self.is_cut_off:
            raise RemoteUnreachable(server, "cut off")
        try:
            answer: PlayedAnswer = await self._browser.request(method, f"https://{server}{path}", body)
        except (ConnectError, ResponseNeverReceived, DeferredTimeout) as fault:
            raise RemoteUnreachable(server, str(fault)) from fault
        if answer.status != 200:
            raise RemoteRefused(server, answer.status, "M_UNKNOWN", "no")
        try:
            assert len(answer.body) <= max_bytes
            return answer.json
        except (AssertionError, ValueError) as fault:
            raise RemoteProtocolError(server, "no JSON") from fault


class RingServer:
    """Key rings on one database; `restart` makes a new one with an empty memory."""

    def __init__(self, database_url: str, authority: Authority) -> None:
        # The time is that of the played servers; it moves when a test moves it.
        self.clock = ManualClock(RealClock(reactor).now_ms())
        self.threads = Threads(reactor, 4)
        self.database = Database(database_url, reactor=reactor, threads=self.threads)
        self.tasks = Tasks(self.clock, "test")
        self.fetcher = Fetcher(authority)
        self.own = OwnKeys(
            OWN_NAME, [generate_signing_key(b"\x07" * 32, "own")], {}, clock=self.clock, refresh_interval_ms=DAY_MS
        )
        self.ring = self.restart()

    def restart(self, *notaries: KeyServer) -> KeyRing:
        """Forget what is in memory; ask these notaries from now on."""
        self.ring = KeyRing(
            self.database, self.own, self.fetcher, clock=self.clock, tasks=self.tasks, notaries=notaries
        )
        return self.ring

    async def start(self) -> None:
        await self.database.start(migrate)

    async def stop(self) -> None:
        await self.tasks.stop()
        await self.database.stop()
        await self.threads.stop()


@pytest_twisted.async_yield_fixture
async def ring_server(database_url: str, tmp_path: Any) -> AsyncIterator[tuple[RingServer, Authority]]:
    """A ring server on SQLite and MariaDB, and the authority that it trusts."""
    authority = Authority(tmp_path / "certificates")
    server = RingServer(database_url, authority)
    await server.start()
    try:
        yield server, authority
    finally:
        await server.stop()
