"""The endpoints that answer other servers, on a `RoomServer`, called without a socket, by signed requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import pytest_twisted

from federation.server.auth import Signed
from federation.server.backfill import BackfillAPI
from federation.server.directory import DirectoryAPI
from federation.server.events import EventsAPI
from federation.server.hierarchy import HierarchyAPI
from federation.server.limits import OriginLimits
from federation.server.openid import OpenIDAPI
from federation.server.query import QueryAPI
from federation.x_matrix import build_x_matrix, encode_signed_request
from homeserver.config import Federation, FederationLimit, Profiles, Rooms
from homeserver.model.base64 import encode_base64
from homeserver.model.ids import ServerName, UserID
from homeserver.model.server_keys import ServerKeys
from homeserver.model.signing import VerifyKey, generate_signing_key
from homeserver.rooms.directory import Directory
from homeserver.rooms.server_guard import ServerGuard
from homeserver.rooms.server_hierarchy import ServerHierarchy
from homeserver.rooms.server_reads import ServerReads
from homeserver.rooms.summaries import Summaries
from homeserver.users.openid import OpenID
from homeserver.users.profiles import Profiles as UserProfiles
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import FileResponse, Response
from homeserver.web.router import Router
from storage import accounts, profiles
from tests.support.rooms import SERVER, RoomServer

_KEY: Final = generate_signing_key(b"\x02" * 32, "test")


class OneKey:
    """All servers have the same key."""

    def key_at_hand(self, server: str, key_id: str, at_ts: int) -> VerifyKey | None:
        return _KEY.verify_key if key_id == _KEY.key_id else None

    async def keys_of(
        self, wanted: Mapping[str, int], *, key_ids: Mapping[str, frozenset[str]]
    ) -> Mapping[str, ServerKeys]:
        return {}


class AnsweringServer(RoomServer):
    """A server with the endpoints; the two sections of the configuration are `rooms_config` and `profiles_config`."""

    def build(self, rooms_config: Rooms | None = None, profiles_config: Profiles | None = None) -> AnsweringServer:
        """Make the endpoints, with these sections of the configuration."""
        store, clock, name = self.store, self.clock, ServerName(SERVER)
        self.directory = Directory(store, clock)
        self.openid = OpenID(store.database, clock)
        guard = ServerGuard(store, self.door, SERVER)
        profiles_config = profiles_config or Profiles()
        user_profiles = UserProfiles(
            store.database, self.tasks, server_name=name, config=profiles_config, propagate=self._propagate
        )
        signed = Signed(
            SERVER,
            OneKey(),
            clock,
            Federation(),
            OriginLimits(FederationLimit(sleep_limit=10**6), clock),
            max_transaction_bytes=10**6,
        )
        reads = ServerReads(store, guard)
        summaries = Summaries(store, self.feed, self.door, self.directory, server_name=SERVER)
        rooms_config = rooms_config or Rooms(public_rooms_over_federation=True)
        self.endpoints = [
            *EventsAPI(signed, reads, clock, SERVER).routes(),
            *BackfillAPI(signed, reads, clock, SERVER).routes(),
            *QueryAPI(signed, self.directory, self.door, user_profiles, profiles_config, name).routes(),
            *DirectoryAPI(signed, self.directory, rooms_config).routes(),
            *HierarchyAPI(signed, ServerHierarchy(store, summaries, guard)).routes(),
            *OpenIDAPI(self.openid, clock).routes(),
        ]
        self.web = JsonResource(Router(self.endpoints))
        return self

    async def ask(
        self, origin: str | None, method: str, path: str, content: Any = None, query: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        """Return status and JSON; segments of `path` are below `/_matrix/federation/v1/`, origin None does not sign."""
        status, body = await self.ask_bytes(origin, method, path, content, query)
        return status, json.loads(body)

    async def ask_bytes(
        self, origin: str | None, method: str, path: str, content: Any = None, query: Mapping[str, Any] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body."""
        path = "/_matrix/federation/v1/" + "/".join(quote(segment, safe="") for segment in path.split("/"))
        raw_query = urlencode(query or {}, doseq=True)
        body = None if content is None else json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        headers: dict[str, str] = {}
        if origin is not None:
            uri = f"{path}?{raw_query}" if raw_query else path
            signature = encode_base64(_KEY.sign(encode_signed_request(method, uri, origin, SERVER, body)))
            headers["Authorization"] = build_x_matrix(origin, SERVER, _KEY.key_id, signature)
        request = WebRequest(method, path, raw_query.encode(), Headers.of(headers), body=body or b"")
        answer = await self.web.respond(request)
        if isinstance(answer, FileResponse):
            raw = answer.file.read()
            answer.file.close()
            assert answer.length == len(raw)
            return answer.status, raw
        assert isinstance(answer, Response)
        return answer.status, answer.body

    async def account(self, localpart: str, **fields: Any) -> UserID:
        """Make an account with a profile."""
        person = await self.user(localpart)
        user_id, user_nid = person.user_id, person.user_nid

        def write(tx: Any) -> None:
            accounts.create_account(
                tx,
                user_nid=user_nid,
                user_id=user_id,
                password_hash=None,
                is_admin=False,
                is_guest=False,
                created_ts=0,
                appservice=None,
            )
            for field, value in fields.items():
                profiles.set_field(tx, user_nid, field, json.dumps(value).encode())

        await self.store.database.write(write)
        return user_id

    async def _propagate(self, *changes: Any) -> None: ...


@pytest_twisted.async_yield_fixture
async def answering(database_url: str) -> AsyncIterator[AnsweringServer]:
    """A running server with the endpoints and no rooms."""
    server = AnsweringServer(database_url)
    await server.store.start()
    try:
        yield server.build()
    finally:
        await server.stop()
