"""A homeserver and a small application service, both on real sockets of loopback, in the reactor of the tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest_twisted
import treq
import yaml
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from homeserver.app import Homeserver
from homeserver.config import Config
from tests.support.server import LIMITS

SERVER = "test.example"
AS_TOKEN = "as-token-of-the-bridge"
HS_TOKEN = "hs-token-of-the-bridge"


@dataclass
class Asked:
    """One request that the service got."""

    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: Any


@dataclass
class FakeAppservice:
    """Answers 200 and remembers, unless told otherwise.

    `answer(asked)` returns a status, or None to leave the request without an answer.
    """

    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], int | None] = lambda asked: 200
    port: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}"

    @property
    def transactions(self) -> list[Asked]:
        return [asked for asked in self.asked if "/transactions/" in asked.path]

    def taken(self, kind: str = "events") -> list[dict[str, Any]]:
        """Return the events of all transactions, each transaction once, as a service that knows repeats sees them."""
        seen: dict[str, list[dict[str, Any]]] = {}
        for asked in self.transactions:
            txn_id = asked.path.rpartition("/")[2]
            events = asked.body.get(kind, [])
            assert seen.setdefault(txn_id, events) == events, "a repeat differs"
        return [event for events in seen.values() for event in events]

    def texts(self) -> list[str]:
        return [event["content"]["body"] for event in self.taken() if event["type"] == "m.room.message"]

    def start(self) -> None:
        resource = _Everything(self)
        self.port = reactor.listenTCP(0, Site(resource), interface="127.0.0.1")  # type: ignore[attr-defined]

    async def stop(self) -> None:
        await self.port.stopListening()


class _Everything(Resource):
    isLeaf = True

    def __init__(self, service: FakeAppservice) -> None:
        super().__init__()
        self._service = service

    def render(self, request: Any) -> Any:
        content = request.content.read()
        header = request.getHeader("Authorization") or ""
        asked = Asked(
            request.method.decode(),
            unquote(request.path.decode()),
            {name.decode(): values[0].decode() for name, values in request.args.items()},
            header.removeprefix("Bearer ") or None,
            json.loads(content) if content else None,
        )
        self._service.asked.append(asked)
        status = self._service.answer(asked)
        if status is None:
            return NOT_DONE_YET
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")
        return b"{}" if status == 200 else b'{"errcode":"M_TEST"}'


class Bridged:
    """A homeserver with one service; `call` speaks to its client API."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.service = FakeAppservice()
        self.homeserver: Homeserver | None = None
        self.registrations: list[dict[str, Any]] = []
        self.limits: dict[str, Any] = {name: {"per_second": 1000.0, "burst_count": 10000} for name in LIMITS}

    def registration(self, **more: Any) -> dict[str, Any]:
        return {
            "id": "bridge",
            "url": self.service.url,
            "as_token": AS_TOKEN,
            "hs_token": HS_TOKEN,
            "sender_localpart": "_bridge_bot",
            "namespaces": {
                "users": [{"exclusive": True, "regex": "@_bridge_.*"}],
                "aliases": [{"exclusive": True, "regex": "#_bridge_.*"}],
            },
            "rate_limited": False,
            "receive_ephemeral": True,
            **more,
        }

    async def start(self) -> None:
        files = []
        for index, registration in enumerate(self.registrations or [self.registration()]):
            files.append(self.folder / f"registration{index}.yaml")
            files[-1].write_text(yaml.safe_dump(registration))
        config = Config.from_mapping(
            {
                "server": {"name": SERVER, "data_dir": str(self.folder / "data")},
                "listeners": [{"port": 0, "bind": ["127.0.0.1"]}],
                "database": {"url": self.database_url},
                "registration": {"enabled": True, "without_verification": True, "bcrypt_rounds": 4},
                "limits": self.limits,
                "appservices": {"files": [str(file) for file in files]},
            }
        )
        self.homeserver = Homeserver(config, reactor=reactor)
        await self.homeserver.start()

    async def stop(self) -> None:
        homeserver, self.homeserver = self.homeserver, None
        if homeserver is not None:
            await homeserver.stop()

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a request; a path without a slash is below /_matrix/client/v3."""
        assert self.homeserver is not None
        where = path if path.startswith("/") else f"/_matrix/client/v3/{path}"
        answer = await treq.request(
            method,
            f"http://127.0.0.1:{self.homeserver.ports[0]}{where}",
            params=query,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            data=None if body is None else json.dumps(body).encode(),
            agent=Agent(reactor),
            timeout=30,
        )
        return answer.code, json.loads(await answer.content())

    async def ok(self, *args: Any, **more: Any) -> dict[str, Any]:
        """Send a request that succeeds."""
        status, answer = await self.call(*args, **more)
        assert 200 == status, answer
        return answer

    async def act(self, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """Send a request of the service that succeeds."""
        return await self.ok(method, path, body, token=AS_TOKEN, **query)

    async def user(self, name: str) -> str:
        """Make an ordinary user and return the access token."""
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        token: str = (await self.ok("POST", "register", body))["access_token"]
        return token

    async def ghost(self, name: str) -> str:
        """Make a user of the service and return the user ID."""
        body = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
        user_id: str = (await self.act("POST", "register", body))["user_id"]
        return user_id

    async def say(self, room_id: str, text: str, token: str, **query: str) -> str:
        path = f"rooms/{room_id}/send/m.room.message/{text.replace(' ', '-')}"
        answer = await self.ok("PUT", path, {"msgtype": "m.text", "body": text}, token=token, **query)
        event_id: str = answer["event_id"]
        return event_id

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for work in the background, ten seconds at most."""
        for _ in range(1000):
            if is_so():
                return
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        raise AssertionError("it did not come to that")


@pytest_twisted.async_yield_fixture
async def bridged(database_url: str, tmp_path: Path) -> AsyncIterator[Bridged]:
    """A homeserver that is not started yet, and its service, which is."""
    built = Bridged(tmp_path, database_url)
    built.service.start()
    yield built
    await built.stop()
    await built.service.stop()
