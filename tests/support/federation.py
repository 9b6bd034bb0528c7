"""Servers that talk to each other over TLS on loopback: whole homeservers, and played ones.

    async def test_…(federation: Federation) -> None:                    once on SQLite, once on MariaDB
        one, two = await federation.start(2)                             named "127.0.0.1:PORT", "127.0.0.2:PORT"
        alice = await one.register("alice")
        room_id = await alice.create_room(preset="public_chat")
        bob = await two.register("bob")
        await bob.join(room_id, via=one)
        await alice.say(room_id, "hello")
        await until(lambda: …)

    async def test_…(federation: Federation) -> None:
        remote = await federation.play()                                 a played server, "127.0.0.101:PORT"
        remote.answers["/_matrix/federation/v1/event/"] = lambda request: {"pdus": []}
        status, body = await remote.put(server.name, "/_matrix/federation/v1/send/1", {"pdus": [], …})
        assert [each.path for each in remote.requests] == […]

`sqlite_federation` is the same on SQLite alone. All servers trust one test authority and no key servers. A test module
imports the fixtures that it uses, and `new_database` with `federation`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import pytest
import pytest_twisted
from twisted.internet import reactor

from homeserver import Config, Homeserver

from .certificates import Authority
from .databases import sqlite_url_in
from .played_server import Browser, PlayedAnswer, PlayedServer
from .ports import free_port
from .server import LIMITS

_NUMBERS: Final = count()


# -- whole servers ---------------------------------------------------------------------------------------------------


class FederatedServer:
    """A whole homeserver of ours."""

    def __init__(self, config: Config, authority: Authority, address: str, port: int) -> None:
        self.config = config
        self.address = address
        self.port = port
        self.name = f"{address}:{port}"
        self.url = f"https://{self.name}"
        self.homeserver = Homeserver(config, reactor=reactor)
        self._browser = Browser(authority)
        self._is_running = False

    async def start(self) -> None:
        """Start; again after `stop`, with what is stored."""
        if not self._is_running:
            self.homeserver = Homeserver(self.config, reactor=reactor)
            await self.homeserver.start()
            self._is_running = True

    async def stop(self) -> None:
        """Stop; what is stored stays."""
        if self._is_running:
            self._is_running = False
            await self.homeserver.stop()

    @property
    def parts(self) -> Any:
        """The parts of the running server, for a look inside."""
        return self.homeserver._built()

    async def request(
        self, method: str, path: str, content: Any = None, *, token: str | None = None, **query: Any
    ) -> PlayedAnswer:
        """Ask the client API; `path` from `/_matrix` on, or behind `/_matrix/client/v3`."""
        path = path if path.startswith(("/_matrix", "/.well-known")) else f"/_matrix/client/v3{path}"
        url = f"{self.url}{path}{'?' + urlencode(query, doseq=True) if query else ''}"
        headers: dict[str, str | list[str]] = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = None if content is None else json.dumps(content).encode()
        return await self._browser.request(method, url, body, headers)

    async def register(self, localpart: str) -> FederatedUser:
        """Make an account and log in."""
        body = {"username": localpart, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        status, answer = await self.request("POST", "/register", body)
        assert 200 == status, answer
        return FederatedUser(self, answer["user_id"], answer["access_token"], answer["device_id"])


@dataclass(frozen=True, slots=True)
class FederatedUser:
    """A user of one of our servers, as a client."""

    server: FederatedServer
    user_id: str
    token: str
    device_id: str

    async def try_call(self, method: str, path: str, content: Any = None, **query: Any) -> PlayedAnswer:
        """Ask the client API and return whatever it answers."""
        return await self.server.request(method, path, content, token=self.token, **query)

    async def call(self, method: str, path: str, content: Any = None, **query: Any) -> Any:
        """Ask the client API and return the JSON; AssertionError unless the status is 200."""
        answer = await self.try_call(method, path, content, **query)
        assert 200 == answer.status, (method, path, answer.status, answer.body[:2000])
        return answer.json

    async def create_room(self, **settings: Any) -> str:
        """Make a room and return its ID."""
        room_id: str = (await self.call("POST", "/createRoom", settings))["room_id"]
        return room_id

    async def join(self, room: str, *, via: FederatedServer | PlayedServer | None = None) -> str:
        """Join a room, through another server if that is said."""
        query = {} if via is None else {"via": via.name, "server_name": via.name}
        room_id: str = (await self.call("POST", f"/join/{quote(room, safe='')}", {}, **query))["room_id"]
        return room_id

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invite."""
        await self.call("POST", f"/rooms/{quote(room_id, safe='')}/invite", {"user_id": user_id})

    async def leave(self, room_id: str) -> None:
        """Leave."""
        await self.call("POST", f"/rooms/{quote(room_id, safe='')}/leave", {})

    async def send(self, room_id: str, kind: str, content: Mapping[str, Any], txn_id: str | None = None) -> str:
        """Send an event and return its ID."""
        txn_id = txn_id or f"t{next(_NUMBERS)}"
        path = f"/rooms/{quote(room_id, safe='')}/send/{quote(kind, safe='')}/{quote(txn_id, safe='')}"
        event_id: str = (await self.call("PUT", path, dict(content)))["event_id"]
        return event_id

    async def say(self, room_id: str, text: str = "hello") -> str:
        """Send a text message and return its event ID."""
        return await self.send(room_id, "m.room.message", {"msgtype": "m.text", "body": text})

    async def set_state(self, room_id: str, kind: str, content: Mapping[str, Any], state_key: str = "") -> str:
        """Send a state event and return its ID."""
        path = f"/rooms/{quote(room_id, safe='')}/state/{quote(kind, safe='')}/{quote(state_key, safe='')}"
        event_id: str = (await self.call("PUT", path, dict(content)))["event_id"]
        return event_id

    async def state(self, room_id: str) -> list[Any]:
        """Return the current state as the server shows it."""
        found: list[Any] = await self.call("GET", f"/rooms/{quote(room_id, safe='')}/state")
        return found

    async def messages(self, room_id: str, *, limit: int = 100, **query: Any) -> list[Any]:
        """Return the newest events, newest first."""
        path = f"/rooms/{quote(room_id, safe='')}/messages"
        found: list[Any] = (await self.call("GET", path, dir="b", limit=limit, **query))["chunk"]
        return found

    async def bodies(self, room_id: str) -> list[str]:
        """Return the texts of the messages, oldest first."""
        found = await self.messages(room_id)
        return [each["content"].get("body", "") for each in reversed(found) if each["type"] == "m.room.message"]

    async def sync(self, since: str | None = None, timeout: int = 0, **query: Any) -> Any:
        """Return an answer of /sync."""
        more = {} if since is None else {"since": since}
        return await self.call("GET", "/sync", timeout=timeout, **more, **query)


class Federation:
    """Starts servers and stops them all at the end."""

    def __init__(
        self,
        folder: Path,
        new_database: Callable[[Path], str],
        *,
        authority: Authority | None = None,
        network: str = "127.0.0",
    ) -> None:
        """`new_database` gives the URL of a fresh database for a server that has its files in a folder.

        Whole servers are at the addresses `network`.1, .2, …; without an `authority` it has one of its own.
        """
        self._folder = folder
        self._new_database = new_database
        self._network = network
        self.authority = authority or Authority(folder / "certificates")
        self.servers: list[FederatedServer] = []
        self.played: list[PlayedServer] = []

    async def start(self, count: int = 1, **sections: Mapping[str, Any]) -> list[FederatedServer]:
        """Start whole servers and return them; `sections` are merged into their configuration."""
        started = []
        for _ in range(count):
            server = self.make(**sections)
            await server.start()
            started.append(server)
        return started

    def make(self, **sections: Mapping[str, Any]) -> FederatedServer:
        """Return a whole server that is not started yet."""
        number = len(self.servers) + 1
        address = f"{self._network}.{number}"
        port = free_port(address)
        certificate, key = self.authority.certificate(address)
        folder = self._folder / f"server{number}"
        folder.mkdir()
        settings: dict[str, Any] = {
            "server": {"name": f"{address}:{port}", "data_dir": str(folder)},
            "listeners": [
                {
                    "port": port,
                    "bind": [address],
                    "tls_certificate_path": str(certificate),
                    "tls_key_path": str(key),
                }
            ],
            "database": {"url": self._new_database(folder), "pool_size": 2},
            "registration": {"enabled": True, "without_verification": True, "bcrypt_rounds": 4},
            "federation": {
                "ca_files": [str(self.authority.ca_file)],
                "ip_range_allowlist": ["127.0.0.0/8"],
                "trusted_key_servers": [],
            },
            "limits": {
                **{name: {"per_second": 1000.0, "burst_count": 1000} for name in LIMITS},
                "federation": {"sleep_limit": 1_000_000, "reject_limit": 1_000_000},
            },
        }
        for name, section in sections.items():
            settings[name] = {**settings.get(name, {}), **section}
        server = FederatedServer(Config.from_mapping(settings, folder), self.authority, address, port)
        self.servers.append(server)
        return server

    async def play(self, address: str | None = None) -> PlayedServer:
        """Start a played server."""
        played = PlayedServer(self.authority, address or f"127.0.0.{101 + len(self.played)}")
        self.played.append(played)
        await played.start()
        return played

    async def stop(self) -> None:
        """Stop everything."""
        for played in self.played:
            await played.stop()
        for server in self.servers:
            await server.stop()


# -- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def new_database(request: pytest.FixtureRequest) -> Any:
    """What gives a server's folder the URL of a fresh database: the test runs once on each kind."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield sqlite_url_in
        else:
            mariadb = request.getfixturevalue("mariadb")
            yield lambda folder: stack.enter_context(mariadb.database())


@pytest_twisted.async_yield_fixture
async def federation(tmp_path: Path, new_database: Callable[[Path], str]) -> AsyncIterator[Federation]:
    """A federation with no servers yet; the test runs on SQLite and on MariaDB."""
    made = Federation(tmp_path, new_database)
    try:
        yield made
    finally:
        await made.stop()


@pytest_twisted.async_yield_fixture
async def sqlite_federation(tmp_path: Path) -> AsyncIterator[Federation]:
    """A federation with no servers yet, on SQLite."""
    made = Federation(tmp_path, sqlite_url_in)
    try:
        yield made
    finally:
        await made.stop()
