"""An application service that stories play: it listens, writes down what the server pushes, and acts as its users.

    bridge = await bridge_of(scene)
    puppet = await bridge.new_puppet("heron")
    await puppet.say(room, "from another network")
    await bridge.until("Bob's answer", lambda: bridge.texts(room) == ["Hello, heron"])

The servers of the setting "application service" know it by the registration in their start files; it listens at
`${address}:${extra_port}` for as long as the run lasts, for all stories of that server: each looks at its own rooms.

Spec: application service API.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ..actors import Room, Server, User
from ..asking import JsonObject, sleep
from ..clock import REACTOR
from ..expect import Failed, shown
from ..http import Answer
from ..journal import Step
from ..scene import Scene
from ..story import Needs, setting

T = TypeVar("T")

BRIDGE: Final[Needs] = setting("application service")
ID: Final = "bridge"
PREFIX: Final = "_bridge_"
WAIT_S: Final = 10.0
_NUMBERS: Final = count(1)


@dataclass(slots=True)
class Puppet(User):
    """A user of the application service, as whom it acts with its own token."""

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """Ask as this user: with `user_id`."""
        acting = {"user_id": self.user_id, **(query or {})}
        return await User.request(self, method, path, body, query=acting, headers=headers, patience_s=patience_s)


@dataclass(slots=True)
class Transaction:
    """What the server has pushed at once."""

    id: str
    body: JsonObject
    authorization: str
    legacy: bool
    accepted: bool


@dataclass(slots=True, eq=False)
class Bridge:
    """The application service of one server."""

    address: str
    port: int
    as_token: str
    hs_token: str
    transactions: list[Transaction] = field(default_factory=list)
    """All that came, in order; repeated ones, too."""
    pings: list[JsonObject] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """The users and aliases that the server asked for."""
    status: int = 200
    """How it answers to what is pushed."""
    makes: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """What it does when it is asked for an alias: an `async` function that makes it."""
    _port: Any = None

    def listen(self) -> None:
        """Begin to listen."""
        site: Any = Site(_Pushed(self))
        site.noisy = False
        self._port = REACTOR.listenTCP(self.port, site, interface=self.address)

    async def stop(self) -> None:
        """Listen no more: the server cannot reach it."""
        port, self._port = self._port, None
        await port.stopListening()

    @property
    def taken(self) -> list[Transaction]:
        """The transactions that were accepted, each once."""
        found: dict[str, Transaction] = {}
        for each in self.transactions:
            if each.accepted:
                found.setdefault(each.id, each)
        return list(found.values())

    def events(self, room: Room, event_type: str | None = None) -> list[JsonObject]:
        """Return the events of a room that came in accepted transactions, in order."""
        return [
            event
            for each in self.taken
            for event in each.body.get("events", [])
            if event.get("room_id") == room.id and event_type in (None, event.get("type"))
        ]

    def texts(self, room: Room) -> list[str]:
        """Return what was said in a room, as it was pushed."""
        return [each["content"].get("body", "") for each in self.events(room, "m.room.message")]

    def ephemeral(self, event_type: str) -> list[JsonObject]:
        """Return the ephemeral events of a type."""
        return [
            event for each in self.taken for event in each.body.get("ephemeral", []) if event.get("type") == event_type
        ]

    async def until(self, expected: str, look: Callable[[], T], *, within_s: float = WAIT_S) -> T:
        """Wait until `look` finds what is wanted (a true value)."""
        deadline = time.monotonic() + within_s
        while not (found := look()):
            if time.monotonic() > deadline:
                last = [each.body for each in self.transactions[-3:]]
                raise Failed(f"{expected} (as pushed to the application service)", shown(last))
            await sleep(0.05)
        return found

    async def ask(self, server: Server, method: str, path: str, body: Any = None, **query: Any) -> Answer:
        """Ask the server with the token of the application service."""
        headers = {"Authorization": f"Bearer {self.as_token}"}
        return await server.request(method, path, body, who="The bridge", headers=headers, query=query)

    async def register(self, server: Server, localpart: str) -> Answer:
        """Ask for an account of this name."""
        body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True}
        return await self.ask(server, "POST", "/register", body)

    async def new_puppet(self, scene: Scene, name: str) -> Puppet:
        """Make a user of the application service."""
        server = scene.server
        scene.step(f"The bridge makes its user {name}")
        localpart = f"{PREFIX}{name}{next(_NUMBERS)}"
        found = (await self.register(server, localpart)).good()
        return Puppet(name, server, found["user_id"], "", self.as_token, "")

    # -- from the server ---------------------------------------------------------------------------------------------

    def pushed(self, transaction_id: str, body: JsonObject, authorization: str, *, legacy: bool) -> int:
        """Take a transaction and return the status of the answer."""
        accepted = self.status == 200
        self.transactions.append(Transaction(transaction_id, body, authorization, legacy, accepted))
        return self.status


_BRIDGES: Final[dict[tuple[str, int], Bridge]] = {}


async def bridge_of(scene: Scene) -> Bridge:
    """Return the application service of the story's server, listening; it is the same for all its stories."""
    process = scene.server.host.process
    assert process is not None
    place = (process.address, process.extra_port)
    if place not in _BRIDGES:
        _BRIDGES[place] = bridge = Bridge(*place, f"as-{process.secret}", f"hs-{process.secret}")
        bridge.listen()
    scene.journal.add(Step("The bridge listens", time.time()))
    return _BRIDGES[place]


class _Pushed(Resource):
    """What the server asks the application service."""

    isLeaf = True

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def render(self, request: Request) -> Any:
        """Answer."""
        bridge = self._bridge
        path = unquote(request.path.decode())
        legacy = not path.startswith("/_matrix/app/")
        kind, _, name = path.removeprefix("/_matrix/app/v1/").lstrip("/").partition("/")
        authorization = request.getHeader("authorization") or ""
        if authorization != f"Bearer {bridge.hs_token}":
            return _answer(request, 403, {"errcode": "M_FORBIDDEN"})
        if kind == "transactions" and request.method == b"PUT":
            body = _body(request)
            status = bridge.pushed(name, body, authorization, legacy=legacy)
            return _answer(request, status, {} if status == 200 else {"errcode": "M_UNKNOWN"})
        if kind == "ping":
            bridge.pings.append(_body(request))
            return _answer(request, 200, {})
        if not legacy:
            bridge.asked.append(name)
        if name not in bridge.makes:
            return _answer(request, 404, {"errcode": "M_NOT_FOUND"})
        making: Deferred[Any] = Deferred.fromCoroutine(bridge.makes[name]())

        def made(_: object) -> None:
            request.write(_answer(request, 200, {}))
            request.finish()

        making.addCallbacks(made, lambda _: request.loseConnection())
        return NOT_DONE_YET


def _body(request: Request) -> JsonObject:
    assert request.content is not None
    found: JsonObject = json.loads(request.content.read())
    return found


def _answer(request: Request, status: int, body: JsonObject) -> bytes:
    request.setResponseCode(status)
    request.setHeader("Content-Type", "application/json")
    content = json.dumps(body).encode()
    request.setHeader("Content-Length", str(len(content)))
    return content
