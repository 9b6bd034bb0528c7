"""A homeserver that a story plays: it has a name, a key and TLS, and says to the others whatever the story wants.

    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        message = mallory.event(room, eve, "m.room.message", {"body": "Hello"})
        await mallory.send(alice.server, message)
        mallory.heard                                             what it was sent

It is in rooms of version 11 (`ROOM_VERSION`). It answers what others ask it about events that it knows, and 404 to all
else. What a story forges it makes with `event` and spoils.

Spec: server-server API, "Signing Events", "Request Authentication", "Joining Rooms".
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final
from urllib.parse import unquote

from nacl.signing import SigningKey
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

from ..actors import Room, Server
from ..asking import JsonObject
from ..clock import REACTOR
from ..expect import Failed, shown
from ..http import Answer, Web, path_of, url_of
from ..journal import Journal
from ..launching import free_port
from ..scene import Scene
from ..view import part
from .signing import authorization, event_id_of, finished_event, signed_json, unpadded

ADDRESS: Final = "127.0.0.9"
FEDERATION: Final = "/_matrix/federation"
ROOM_VERSION: Final = "11"
_TRANSACTIONS: Final = count(1)


class PlayedServer:
    """One played server, in the rooms that it has joined."""

    def __init__(self, name: str, web: Web, journal: Journal) -> None:
        self.name = name
        self.key = SigningKey.generate()
        self.key_id = "ed25519:played"
        self.heard: list[JsonObject] = []
        """Events that others sent to it."""
        self.edus: list[JsonObject] = []
        self.known: dict[str, JsonObject] = {}
        """Events by ID: those that it tells to who asks."""
        self.asked: list[str] = []
        """The paths that others asked it for."""
        self._states: dict[str, dict[tuple[str, str], str]] = {}
        self._last: dict[str, tuple[str, int]] = {}
        self._web = web
        self._journal = journal

    # -- asking others -----------------------------------------------------------------------------------------------

    async def request(
        self,
        server: Server,
        method: str,
        path: str,
        body: Any = None,
        *,
        destination: str | None = None,
        key: SigningKey | None = None,
        signed_body: Any = None,
        is_signed: bool = True,
    ) -> Answer:
        """Ask another server, signed as it must be unless it is said otherwise; return the answer."""
        header = authorization(
            self.name,
            destination or server.name,
            method,
            path,
            body if signed_body is None else signed_body,
            key=key or self.key,
            key_id=self.key_id,
        )
        return await self._web.request(
            self._journal,
            self.name,
            method,
            f"https://{server.name}{path}",
            body=None if body is None else json.dumps(body).encode(),
            headers={
                **({"Authorization": header} if is_signed else {}),
                **({} if body is None else {"Content-Type": "application/json"}),
            },
        )

    async def join(self, room: Room, localpart: str, *, through: Server) -> str:
        """Have a user of this server join; return the user ID."""
        user_id = f"@{localpart}:{self.name}"
        path = url_of("", f"{FEDERATION}/v1/make_join{path_of(room.id, user_id)}", {"ver": ROOM_VERSION})
        template = (await self.request(through, "GET", path)).good().get("event", {})
        member = finished_event(
            {**template, "origin_server_ts": _now_ms()}, server=self.name, key=self.key, key_id=self.key_id
        )
        path = f"{FEDERATION}/v2/send_join{path_of(room.id, event_id_of(member))}"
        found = (await self.request(through, "PUT", path, member)).good()
        for each in (*found.get("auth_chain", []), *found.get("state", []), member):
            self.known[event_id_of(each)] = each
        self._states[room.id] = {
            (each["type"], each["state_key"]): event_id_of(each) for each in (*found.get("state", []), member)
        }
        self._last[room.id] = (event_id_of(member), member["depth"])
        return user_id

    async def send(self, server: Server, *events: JsonObject, edus: Iterable[JsonObject] = ()) -> JsonObject:
        """Send a transaction; return what the server says of each event, by ID."""
        answer = await self.transact(server, f"t{next(_TRANSACTIONS)}", *events, edus=edus)
        return part(answer.good(), "pdus")

    async def transact(
        self, server: Server, transaction_id: str, *events: JsonObject, edus: Iterable[JsonObject] = ()
    ) -> Answer:
        """Send a transaction with this ID and return the answer."""
        body = {"origin": self.name, "origin_server_ts": _now_ms(), "pdus": list(events), "edus": list(edus)}
        return await self.request(server, "PUT", f"{FEDERATION}/v1/send/{transaction_id}", body)

    # -- making events -----------------------------------------------------------------------------------------------

    def event(
        self, room: Room, sender: str, event_type: str, content: JsonObject, *, is_last: bool = True, **more: Any
    ) -> JsonObject:
        """Return an event after the last one that this server knows of, signed; members of it by keyword.

        The next one comes after it, unless it is said not to be the last.
        """
        last, depth = self._last[room.id]
        wanted = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
        state = self._states[room.id]
        event = self.finish(
            {
                "type": event_type,
                "room_id": room.id,
                "sender": sender,
                "content": content,
                "origin_server_ts": _now_ms(),
                "depth": depth + 1,
                "prev_events": [last],
                "auth_events": [state[each] for each in wanted if each in state],
                **more,
            }
        )
        event_id = event_id_of(event)
        self.known[event_id] = event
        if is_last:
            self._last[room.id] = (event_id, event["depth"])
        return event

    def finish(self, event: JsonObject, *, key: SigningKey | None = None) -> JsonObject:
        """Return an event with its hash and the signature of this server."""
        return finished_event(event, server=self.name, key=key or self.key, key_id=self.key_id)

    # -- answering ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: Any) -> JsonObject | None:
        """Return what another server is told; None for what is not known here."""
        self.asked.append(f"{method} {path}")
        if path.startswith("/_matrix/key/v2/server"):
            keys = {
                "server_name": self.name,
                "valid_until_ts": _now_ms() + 86_400_000,
                "verify_keys": {self.key_id: {"key": unpadded(bytes(self.key.verify_key))}},
                "old_verify_keys": {},
            }
            return signed_json(keys, signer=self.name, key=self.key, key_id=self.key_id)
        parts = [unquote(each) for each in path.removeprefix(f"{FEDERATION}/v1/").split("/")]
        if parts[0] == "send" and isinstance(body, dict):
            self.heard += body.get("pdus", [])
            self.edus += body.get("edus", [])
            return {"pdus": {}}
        if parts[0] == "event" and parts[1] in self.known:
            return {"origin": self.name, "origin_server_ts": _now_ms(), "pdus": [self.known[parts[1]]]}
        if parts[0] == "get_missing_events" and isinstance(body, dict):
            return {"events": self._between(body.get("earliest_events", []), body.get("latest_events", []))}
        return None

    def _between(self, earliest: list[str], latest: list[str]) -> list[JsonObject]:
        """Return the events before the latest ones, down to the earliest, oldest first."""
        found: dict[str, JsonObject] = {}
        waiting = [each for event_id in latest if event_id in self.known for each in _prev(self.known[event_id])]
        while waiting:
            event_id = waiting.pop()
            if event_id in self.known and event_id not in earliest and event_id not in found:
                found[event_id] = self.known[event_id]
                waiting += _prev(self.known[event_id])
        return sorted(found.values(), key=lambda each: each["depth"])


@asynccontextmanager
async def played_server(scene: Scene) -> AsyncIterator[PlayedServer]:
    """Play a server as long as the context lasts. The story must need the feature "played servers"."""
    process = scene.server.host.process
    if process is None:
        raise Failed("a server that the suite has started", scene.server.url)
    port = free_port(ADDRESS)
    certificate, key = process.authority.certificate(ADDRESS)
    played = PlayedServer(f"{ADDRESS}:{port}", scene.server.host.web, scene.journal)
    scene.step(f"{played.name} is played by the story")
    context = DefaultOpenSSLContextFactory(str(key), str(certificate))
    listening = REACTOR.listenSSL(port, _Plainly(Site(_Door(played))), context, interface=ADDRESS)
    try:
        yield played
    finally:
        await listening.stopListening()


class _Plainly(Factory):
    """The site without its HTTP/2: for that, Twisted would change the TLS context when a connection is made already."""

    noisy = False

    def __init__(self, site: Site) -> None:
        self._site = site

    def startFactory(self) -> None:
        """Start the site."""
        self._site.startFactory()

    def stopFactory(self) -> None:
        """Stop the site."""
        self._site.stopFactory()

    def buildProtocol(self, address: IAddress) -> Protocol | None:
        """Return the site's."""
        found: Protocol | None = self._site.buildProtocol(address)
        return found


class _Door(Resource):
    """Its side of the HTTP."""

    isLeaf = True

    def __init__(self, played: PlayedServer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._played = played

    def render(self, request: Any) -> bytes:
        """Answer a request."""
        try:
            body = json.loads(request.content.read() or b"null")
        except ValueError:
            body = None
        found = self._played.answer(request.method.decode(), request.path.decode(), body)
        request.setHeader("Content-Type", "application/json")
        if found is None:
            request.setResponseCode(404)
            found = {"errcode": "M_NOT_FOUND", "error": "Not known here"}
        return json.dumps(found).encode()


def accepted(told: JsonObject, event: JsonObject) -> None:
    """Check that an event of a transaction was taken: there is no error for it."""
    said = told.get(event_id_of(event), {})
    if not isinstance(said, dict) or "error" in said:
        raise Failed("an event to be taken", shown(told))


def _prev(event: JsonObject) -> list[str]:
    return [each for each in event.get("prev_events", []) if isinstance(each, str)]


def _now_ms() -> int:
    return int(time.time() * 1000)
