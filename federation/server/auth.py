"""Who asks: every request of another server is signed, and nothing of it is believed before that is checked.

    signed = Signed("example.org", keys, …)
    signed.route("PUT", "/_matrix/federation/v1/send/{txn_id}", self.put_send)

    async def put_send(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult: …

`content` is the body, read strictly: of two readings of the same bytes (a key twice) there is none. Handlers that take
events cut them out of `request.body_bytes()`, which is what was signed, so that nothing is lost in numbers.

The signature covers the method, the target as it came, who asks, who is asked, and the body in canonical form. Nearly
all servers send it in that form, and then the bytes that came are what the signature is over; only of other bodies the
canonical form is made.

Spec: server-server API, "Request Authentication"; appendices, "Signing JSON".
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import orjson

from federation.x_matrix import XMatrix, encode_signed_request, parse_x_matrix
from homeserver.config import Federation
from homeserver.errors import BadJson, NotAllowed, NotJson, Unauthenticated
from homeserver.model.base64 import decode_base64
from homeserver.model.canonical_json import JsonObject, check_lax, encode_lax, parse_exactly
from homeserver.model.signing import BadSignature, VerifyKey
from homeserver.ports import KeySource
from homeserver.runtime.clock import Clock
from homeserver.web.ratelimit import Bucket, RateLimits
from homeserver.web.request import UnsupportedEncoding, WebRequest
from homeserver.web.response import HandlerResult
from homeserver.web.router import DEFAULT_MAX_BODY_BYTES, Route

from .limits import OriginLimits

SignedHandler = Callable[[WebRequest, str, JsonObject | None], Awaitable[HandlerResult]]

# LIMIT: origins whose keys are not at hand, named by one address: each costs requests to wherever the name leads.
_STRANGERS: Final = Bucket(per_second=5.0, burst_count=200.0)
_SORTED: Final = orjson.OPT_SORT_KEYS


class RequestKeys(KeySource, Protocol):
    """Keys of other servers, with a way to those at hand that costs nothing."""

    def key_at_hand(self, server: str, key_id: str, at_ts: int) -> VerifyKey | None:
        """Return a key that is in memory and valid at that time, or None."""
        ...


class Signed:
    """Makes routes whose handlers are told which server asks. `max_transaction_bytes` is for the route of `/send`."""

    def __init__(
        self,
        server_name: str,
        keys: RequestKeys,
        clock: Clock,
        config: Federation,
        limits: OriginLimits,
        *,
        max_transaction_bytes: int,
        woken: Callable[[str], object] = lambda origin: None,
    ) -> None:
        """`woken(origin)` is called with every server that proved to be there."""
        self.max_transaction_bytes = max_transaction_bytes
        self._server_name = server_name
        self._keys = keys
        self._clock = clock
        self._is_enabled = config.enabled
        self._whitelist = (
            None if config.domain_whitelist is None else frozenset((*config.domain_whitelist, server_name))
        )
        self._limits = limits
        self._woken = woken
        self._rates = RateLimits(clock)

    def route(
        self,
        method: str,
        path_template: str,
        handler: SignedHandler,
        *,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        cancel_when_gone: bool = False,
    ) -> Route:
        """Return a route that only signed requests reach; the handler works within the origin's limits."""

        async def respond(request: WebRequest) -> HandlerResult:
            origin, content = await self.check(request)
            async with self._limits.turn(origin):
                return await handler(request, origin, content)

        return Route(method, path_template, respond, max_body_bytes=max_body_bytes, cancel_when_gone=cancel_when_gone)

    async def check(self, request: WebRequest) -> tuple[str, JsonObject | None]:
        """Return who asks and the body, None without one; raise Unauthenticated, NotAllowed, NotJson or BadJson."""
        header = self._header(request)
        content, canonical = _read_body(request)
        message = encode_signed_request(
            request.method,
            request.uri,
            header.origin,
            # Spec: "recipients should accept requests without this parameter".
            self._server_name,
            canonical,
        )
        signature = decode_base64(header.signature)
        key = await self._key(request, header)
        try:
            key.check(message, signature)
        except BadSignature as fault:
            raise Unauthenticated(f"The signature of {header.origin} is not over this request") from fault
        origin = str(header.origin)
        self._woken(origin)
        return origin, content

    def _header(self, request: WebRequest) -> XMatrix:
        headers: Sequence[str] = request.headers.get_all("Authorization")
        if not headers:
            raise Unauthenticated("The request is not signed: there is no Authorization header")
        if len(headers) > 1:
            raise Unauthenticated("There are two Authorization headers")
        try:
            header = parse_x_matrix(headers[0])
        except ValueError as fault:
            raise Unauthenticated(str(fault)) from fault
        # Spec: "If this property is included, but the value does not match the receiving server's name, the receiving
        # server must deny the request with an HTTP status code 401 Unauthorized."
        if header.destination is not None and header.destination != self._server_name:
            raise Unauthenticated("The request is for another server")
        if not self._is_enabled or (self._whitelist is not None and header.origin not in self._whitelist):
            raise NotAllowed("This server does not talk to yours")
        return header

    async def _key(self, request: WebRequest, header: XMatrix) -> VerifyKey:
        # A request is made now, so a key that was used until yesterday does not do.
        now = self._clock.now_ms()
        key = self._keys.key_at_hand(header.origin, header.key_id, now)
        if key is None:
            refusal = self._rates.check(request.client_ip, _STRANGERS)
            if refusal is not None:
                raise refusal
            found = await self._keys.keys_of({header.origin: now}, key_ids={header.origin: frozenset((header.key_id,))})
            keys = found.get(header.origin)
            key = None if keys is None else keys.key(header.key_id, now)
        if key is None:
            raise Unauthenticated(f"The key {header.key_id} of {header.origin} is not known")
        return key


def _read_body(request: WebRequest) -> tuple[JsonObject | None, bytes | None]:
    """Return the body and its canonical form; both None without a body."""
    if not request.body_length:
        # Spec: "API standards": "All POST and PUT endpoints require the requesting server to supply a request body".
        if request.method in ("POST", "PUT"):
            raise NotJson("There is no body")
        return None, None
    encoding = request.header("Content-Encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise UnsupportedEncoding("compressed request bodies are not accepted")
    return read_strictly(request.body_bytes())


def read_strictly(raw: bytes) -> tuple[JsonObject, bytes]:
    """Return the object that `raw` is, and its canonical form; raise NotJson or BadJson.

    A key twice in an object is refused, and so is what is no JSON or nested too deeply.
    """
    try:
        value: Any = orjson.loads(raw)
        # The encoder knows depths of 254 at most. Equal bytes prove that nothing was lost: no key, no digit.
        canonical = orjson.dumps(value, option=_SORTED)
        if canonical != raw and orjson.dumps(value) != raw:
            return _read_slowly(raw)
    except orjson.JSONDecodeError as fault:
        # So it says of integers that are over the greatest double.
        if "infinity" in str(fault):
            return _read_slowly(raw)
        raise NotJson("The body is not JSON") from fault
    except (TypeError, ValueError) as fault:
        raise BadJson("The JSON is nested too deeply") from fault
    if type(value) is not dict:
        raise BadJson("The body must be a JSON object")
    return value, canonical


def _read_slowly(raw: bytes) -> tuple[JsonObject, bytes]:
    value = parse_exactly(raw)
    check_lax(value)
    if type(value) is not dict:
        raise BadJson("The body must be a JSON object")
    try:
        json.loads(raw.decode(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as fault:
        raise BadJson("The JSON is nested too deeply") from fault
    return value, encode_lax(value)


def _without_repetition(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise BadJson("The JSON has a key twice in an object")
