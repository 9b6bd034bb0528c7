"""The endpoints that read rooms, on a `RoomServer`, called without a socket and without tokens."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred

from api.client.events import Events
from api.client.members import Members
from api.client.messages import Messages
from api.client.relations import Relations
from api.client.state import State
from api.client.summaries import RoomSummaries
from api.client.threads import Threads
from api.ratelimit import ClientRates
from homeserver.config import Limits
from homeserver.feed.bundles import Bundles
from homeserver.feed.feed import UserFeed
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.backfill import Backfill
from homeserver.rooms.directory import Directory
from homeserver.rooms.event_stream import EventStream
from homeserver.rooms.history import History
from homeserver.rooms.members import StateReads
from homeserver.rooms.relations import RelationReads
from homeserver.rooms.summaries import Summaries
from homeserver.web.json_resource import JsonResource
from homeserver.web.ratelimit import RateLimits
from homeserver.web.request import WebRequest
from homeserver.web.response import Response
from homeserver.web.router import Route, Router

from .rooms import SERVER, Person, RoomServer


class RoomReads:
    """Everything that reads rooms; `ignored` says whom a user ignores."""

    def __init__(self, server: RoomServer, backfill: Backfill | None = None) -> None:
        store, feed, clock = server.store, server.feed, server.clock
        self.ignored: dict[str, frozenset[str]] = {}
        self.directory = Directory(store, clock)
        self.access = RoomAccess(store, feed, server.door, server.timeline)
        self.bundles = Bundles(store, feed, clock, self._ignored_users)
        self.history = History(store, self.access, self.bundles, clock, self._ignored_users, backfill)
        self.state = StateReads(store, feed, self.access, clock)
        self.relations = RelationReads(store, server.door, self.access, self.bundles, clock, self._ignored_users)
        self.stream = EventStream(
            store,
            feed,
            self.access,
            self.history,
            self.state,
            self.directory,
            clock,
            ignored_users=self._ignored_users,
            blocks_invites=self._blocks_invites,
        )
        self.summaries = Summaries(store, feed, server.door, self.directory, server_name=SERVER)
        self.routes: list[Route] = [
            *Events(self.history, self.stream).routes(),
            *Messages(self.history).routes(),
            *State(self.state).routes(),
            *Members(self.state).routes(),
            *Relations(self.relations).routes(),
            *Threads(self.relations).routes(),
            *RoomSummaries(self.summaries, ClientRates(RateLimits(server.clock), Limits())).routes(),
        ]
        self._people: dict[str, Person] = {}
        self._resource = JsonResource(Router(self.routes), authenticate=self._authenticate)

    async def _blocks_invites(self, _user_nid: int) -> bool:
        return False

    async def _ignored_users(self, user: UserFeed) -> frozenset[str]:
        return self.ignored.get(user.user_id, frozenset())

    def _authenticate(self, request: WebRequest, route: Route) -> Person | None:
        return self._people.get(request.client_ip)

    async def raw(self, person: Person | None, path: str, query: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """GET a path under /_matrix/client (or a whole one); return the status and the body."""
        # Instead of a token: the address says who asks.
        name = str(person.user_id) if person is not None else "nobody"
        if person is not None:
            self._people[name] = person
        if not path.startswith("/_matrix"):
            path = f"/_matrix/client{path}"
        texts = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in (query or {}).items()}
        request = WebRequest("GET", path, urlencode(texts).encode(), client_ip=name)
        answer = await Deferred.fromCoroutine(self._respond(request))
        assert isinstance(answer, Response)
        return answer.status, answer.body

    async def _respond(self, request: WebRequest) -> Any:
        return await self._resource.respond(request)

    async def get(self, person: Person | None, path: str, query: dict[str, Any] | None = None) -> tuple[int, Any]:
        """GET; return the status and the JSON."""
        status, body = await self.raw(person, path, query)
        return status, json.loads(body)

    async def room(
        self, person: Person, room_id: str, path: str, query: dict[str, Any] | None = None, *, version: str = "v3"
    ) -> tuple[int, Any]:
        """GET a path under a room."""
        return await self.get(person, f"/{version}/rooms/{quote(room_id, safe='')}/{path}", query)


def bodies(chunk: list[dict[str, Any]]) -> list[str]:
    """Return the bodies of the messages in a list of events, in order."""
    return [event["content"]["body"] for event in chunk if event["type"] == "m.room.message"]
