"""Keys for others: our own list, and those of other servers that this one vouches for as a notary.

Nobody has to say who asks, so what strangers can cause is bounded: how many servers a question may name, and how often
this server goes and asks for them; beyond that it answers with what it knows. It asks the servers themselves and no
further notary.

`/.well-known/matrix/server` tells other servers to come to port 443 of the server name, where the operator wants that.

Spec: server-server API, "Retrieving server keys", "Resolving server names".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from federation.own_keys import OwnKeys
from homeserver.config import Server
from homeserver.errors import BadIdentifier, BadJson, InvalidParam, NotFound, TooLarge
from homeserver.model.ids import ServerName
from homeserver.model.signing import sign_json
from homeserver.runtime.clock import Clock
from homeserver.web.params import MAX_JSON_INTEGER
from homeserver.web.ratelimit import Bucket, RateLimits
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, json_response
from homeserver.web.router import Route

# LIMIT: servers in one question. Of what is known 200 lists are about 200 KiB.
MAX_SERVERS: Final = 200
MAX_BODY_BYTES: Final = 256 * 1024
# LIMIT: servers that are asked because one address wants to know their keys.
_FETCHES: Final = Bucket(per_second=1.0, burst_count=50.0)
# LIMIT: lists that one address gets; each costs a signature.
_LISTS: Final = Bucket(per_second=50.0, burst_count=1000.0)


class NotaryKeys(Protocol):
    """What `federation.keyring.KeyRing` knows of other servers."""

    async def lists_of(
        self, wanted: Mapping[str, int | None], *, may_fetch: Callable[[], bool]
    ) -> list[Mapping[str, Any]]:
        """Return the lists of these servers, as they have signed them."""
        ...


class KeysApi:
    """`/_matrix/key/v2`."""

    def __init__(
        self,
        own: OwnKeys,
        keys: NotaryKeys,
        clock: Clock,
        *,
        whitelist: tuple[str, ...] | None = None,
    ) -> None:
        """`whitelist`: the only servers that this one talks to, if there is one."""
        self._own = own
        self._keys = keys
        self._rates = RateLimits(clock)
        self._whitelist = None if whitelist is None else frozenset((*whitelist, own.server_name))
        self._body: tuple[Mapping[str, Any], Response] | None = None

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/_matrix/key/v2/server", self.get_server),
            # Deprecated, and still asked by old servers: the key ID makes no difference, and may be left out.
            Route("GET", "/_matrix/key/v2/server/", self.get_server),
            Route("GET", "/_matrix/key/v2/server/{key_id}", self.get_server),
            Route("GET", "/_matrix/key/v2/query/{server_name}", self.get_query, cancel_when_gone=True),
            # Old servers name a key ID here too.
            Route("GET", "/_matrix/key/v2/query/{server_name}/{key_id}", self.get_query, cancel_when_gone=True),
            Route(
                "POST",
                "/_matrix/key/v2/query",
                self.post_query,
                max_body_bytes=MAX_BODY_BYTES,
                cancel_when_gone=True,
            ),
        ]

    async def get_server(self, request: WebRequest) -> Response:
        """Our own list."""
        published = self._own.published()
        if self._body is None or self._body[0] is not published:
            self._body = published, json_response(dict(published))
        return self._body[1]

    async def get_query(self, request: WebRequest) -> dict[str, Any]:
        """The list of one server; `server_keys` is empty if it cannot be had."""
        try:
            server = ServerName.parse(request.args["server_name"])
        except BadIdentifier as fault:
            raise InvalidParam("That is no server name") from fault
        valid_until_ts = request.query_int("minimum_valid_until_ts", minimum=0, maximum=MAX_JSON_INTEGER)
        return await self._answer(request, {server: valid_until_ts})

    async def post_query(self, request: WebRequest) -> dict[str, Any]:
        """The lists of several servers; those that cannot be had are left out."""
        wanted = request.json().get("server_keys")
        if type(wanted) is not dict:
            raise BadJson("'server_keys' must be an object")
        if len(wanted) > MAX_SERVERS:
            raise TooLarge(f"Name at most {MAX_SERVERS} servers")
        servers: dict[str, int | None] = {}
        for name, criteria in wanted.items():
            try:
                servers[ServerName.parse(name)] = _latest(criteria)
            except BadIdentifier:
                # There is no such server, so its keys cannot be had.
                continue
        return await self._answer(request, servers)

    async def _answer(self, request: WebRequest, wanted: dict[str, int | None]) -> dict[str, Any]:
        if self._whitelist is not None:
            wanted = {server: ts for server, ts in wanted.items() if server in self._whitelist}
        refusal = self._rates.check(request.client_ip, _LISTS, cost=float(len(wanted)))
        if refusal is not None:
            raise refusal

        def may_fetch() -> bool:
            return self._rates.check(request.client_ip, _FETCHES) is None

        lists = await self._keys.lists_of(wanted, may_fetch=may_fetch)
        # Spec: "The receiving (notary) server must sign the keys returned by the queried server."
        return {"server_keys": [self._vouched(each) for each in lists]}

    def _vouched(self, wire: Mapping[str, Any]) -> dict[str, Any]:
        if wire.get("server_name") == self._own.server_name:
            return dict(wire)
        vouched = dict(wire)
        for key in self._own.keys:
            vouched = sign_json(vouched, self._own.server_name, key)
        return vouched


class ServerWellKnown:
    """`GET /.well-known/matrix/server`; 404 unless it is configured."""

    def __init__(self, server: Server) -> None:
        self._document = server_discovery(server)

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", "/.well-known/matrix/server", self.get_server)]

    async def get_server(self, request: WebRequest) -> dict[str, Any]:
        """Where other servers find this one."""
        if self._document is None:
            raise NotFound("No information is available here")
        return dict(self._document)


def server_discovery(server: Server) -> dict[str, Any] | None:
    """Return what other servers are told, or None where nothing is to be told."""
    # A name with a port is never looked up here: spec, "Resolving server names", 2.
    if not server.serve_server_wellknown:
        return None
    name = str(server.name)
    host = name if name.endswith("]") or ":" not in name else name.rpartition(":")[0]
    return {"m.server": f"{host}:443"}


def _latest(criteria: object) -> int | None:
    """Return the latest `minimum_valid_until_ts` that is asked for, None for none."""
    times = [
        each["minimum_valid_until_ts"]
        for each in (criteria.values() if isinstance(criteria, dict) else ())
        if isinstance(each, dict) and type(each.get("minimum_valid_until_ts")) is int
    ]
    latest = max(times, default=None)
    return None if latest is None else min(max(0, latest), MAX_JSON_INTEGER)
