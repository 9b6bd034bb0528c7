"""Signed requests to other servers.

Each says who asks (`federation.x_matrix`), goes where `federation.discovery` finds the server, and is only made if
`federation.destinations` does not know better. The body is canonical JSON, encoded once: the same bytes are signed and
sent. Of what can go wrong three kinds reach the caller: no answer (`RemoteUnreachable`), an error for an answer
(`RemoteRefused`), and an answer that the specification does not know (`RemoteProtocolError`).

Spec: server-server API, "Request Authentication", "TLS".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson
from twisted.internet.defer import CancelledError, Deferred

from homeserver.config import Federation
from homeserver.errors import (
    BadJson,
    HomeserverError,
    RemoteError,
    RemoteProtocolError,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnreachable,
)
from homeserver.model.base64 import encode_base64
from homeserver.model.canonical_json import JsonObject, check_lax, encode_canonical
from homeserver.model.globs import compile_glob
from homeserver.model.signing import SigningKey
from homeserver.runtime.clock import Clock
from homeserver.runtime.connections import Place
from homeserver.runtime.outgoing import Answer, AnswerTooLarge, Body, Outgoing, OutgoingFault, OutgoingTimeout, Sink

from .destinations import Destinations
from .discovery import Finder, Route
from .x_matrix import build_x_matrix, encode_signed_request

# LIMIT: of an answer whose kind has no limit of its own.
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_SMALL_ANSWER_BYTES: Final = 1024 * 1024
MAX_TOLD_CHARACTERS: Final = 300
# Who waits for less has not waited long enough to call a server dead.
LEAST_PATIENCE_S: Final = 10.0
# A receiver may work on a transaction for as long as it takes.
TRANSACTION_TIMEOUT_S: Final = 60.0

_PLAIN: Final[Mapping[str, str]] = {"Accept": "application/json"}


class FederationTransport:
    """Makes signed requests."""

    def __init__(
        self,
        server_name: str,
        key: SigningKey,
        config: Federation,
        clock: Clock,
        *,
        outgoing: Outgoing,
        finder: Finder,
        destinations: Destinations,
    ) -> None:
        self._server_name = str(server_name)
        self._key = key
        self._clock = clock
        self._outgoing = outgoing
        self._finder = finder
        self._destinations = destinations
        self._is_enabled = config.enabled
        self._timeout_s = config.timeout_ms / 1000
        names = config.domain_whitelist
        self._only = None if names is None else frozenset(name.lower() for name in names)
        self._must_verify = certificate_rule(config)

    def may_talk_to(self, server: str) -> bool:
        """Tell whether the operator lets us talk to this server, which is another one than ourselves."""
        return (
            self._is_enabled
            and server.lower() != self._server_name.lower()
            and (self._only is None or server.lower() in self._only)
        )

    async def request(
        self,
        server: str,
        method: str,
        target: str,
        *,
        body: JsonObject | bytes | None = None,
        timeout_s: float | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
        is_background: bool = False,
        is_signed: bool = True,
        is_insistent: bool = False,
        sink: Sink | None = None,
    ) -> Answer:
        """Make a request and return the answer, whose status is 2xx; RemoteError.

        `target`: path and query, encoded. A `body` of bytes has to be canonical JSON. `is_background`: nobody waits for
        this, so it is not made while the server is left alone. Other requests are, unless one failed just now;
        `is_insistent` ones even then, because whoever asks has another way to wait.
        """
        if not self.may_talk_to(server):
            raise RemoteUnreachable(server, "this server does not talk to it")
        health = self._destinations
        is_tried = health.is_available(server) if is_background else health.is_worth_trying(server)
        if not (is_tried or is_insistent):
            raise RemoteUnreachable(server, "it did not answer a moment ago")
        try:
            payload = body if body is None or isinstance(body, bytes) else encode_canonical(body)
        except BadJson as fault:
            raise RemoteProtocolError(server, "the request has no canonical form") from fault
        patience_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        try:
            answer = await self._send(server, method, target, payload, patience_s, max_bytes, is_signed, sink)
        except AnswerTooLarge as fault:
            raise RemoteTooLarge(server, "the answer is too large") from fault
        except (OutgoingFault, RemoteUnreachable) as fault:
            if not isinstance(fault, OutgoingTimeout):
                self._finder.forget(server)
            if not isinstance(fault, OutgoingTimeout) or patience_s >= min(LEAST_PATIENCE_S, self._timeout_s):
                health.failed(server, _without_server(fault))
            raise RemoteUnreachable(server, _without_server(fault)) from fault
        if answer.is_success:
            health.succeeded(server)
            return answer
        refusal = _refusal(server, answer)
        # An error that a homeserver wrote is a sign of life; one without an errcode comes from what stands before it.
        if answer.status >= 500 and (is_background or not isinstance(refusal, RemoteRefused) or not refusal.errcode):
            health.failed(server, _without_server(refusal))
        else:
            health.succeeded(server)
        if isinstance(refusal, RemoteRefused) and not refusal.errcode:
            refusal = RemoteRefused(server, refusal.status, "M_UNKNOWN", refusal.message)
        raise refusal

    async def put_transaction(self, destination: str, txn_id: str, body: bytes) -> JsonObject:
        """Send a transaction, whose body is canonical JSON, and return the answer; RemoteError.

        Spec: "Transactions".
        """
        answer = await self.request(
            destination,
            "PUT",
            f"/_matrix/federation/v1/send/{quote(txn_id, safe='')}",
            body=body,
            timeout_s=TRANSACTION_TIMEOUT_S,
            max_bytes=MAX_SMALL_ANSWER_BYTES,
            is_background=True,
        )
        return json_object(destination, answer.body)

    async def get_json(self, server: str, path: str, *, max_bytes: int, timeout_s: float) -> JsonObject:
        """Ask without a signature and return the JSON object that is answered: for keys; RemoteError."""
        answer = await self.request(
            server, "GET", path, timeout_s=timeout_s, max_bytes=max_bytes, is_signed=False, is_insistent=True
        )
        return json_object(server, answer.body)

    async def post_json(
        self, server: str, path: str, content: JsonObject, *, max_bytes: int, timeout_s: float
    ) -> JsonObject:
        """The same with a body."""
        answer = await self.request(
            server,
            "POST",
            path,
            body=content,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            is_signed=False,
            is_insistent=True,
        )
        return json_object(server, answer.body)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _send(
        self,
        server: str,
        method: str,
        target: str,
        body: bytes | None,
        timeout_s: float,
        max_bytes: int,
        is_signed: bool,
        sink: Sink | None,
    ) -> Answer:
        route = self._finder.known(server)
        if route is None:
            before = self._clock.monotonic()
            route = await self._find(server, timeout_s)
            timeout_s -= self._clock.monotonic() - before
            if timeout_s <= 0:
                raise OutgoingTimeout(server, "was not found in time")
        headers = dict(_PLAIN)
        if body is not None:
            headers["Content-Type"] = "application/json"
        if is_signed:
            signed = encode_signed_request(method, target, self._server_name, server, body)
            signature = encode_base64(self._key.sign(signed))
            headers["Authorization"] = build_x_matrix(self._server_name, server, self._key.key_id, signature)
        return await self._outgoing.send(
            Place(route.hosts, route.tls_name, self._must_verify(server)),
            method,
            target,
            server=server,
            host=route.host,
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            sink=sink,
        )

    async def _find(self, server: str, timeout_s: float) -> Route:
        finding: Deferred[Route] = Deferred.fromCoroutine(_found(self._finder, server))
        is_late = False

        def expire() -> None:
            nonlocal is_late
            is_late = True
            finding.cancel()

        timer = self._clock.call_later(timeout_s, expire)
        try:
            return await finding
        except CancelledError as fault:
            if not is_late:
                raise
            raise OutgoingTimeout(server, "was not found in time") from fault
        except HomeserverError:
            raise
        except Exception as fault:  # of the many kinds that name servers have: it was not found
            raise RemoteUnreachable(server, f"cannot be found: {type(fault).__name__}") from fault
        finally:
            if timer.active():
                timer.cancel()


def certificate_rule(config: Federation) -> Callable[[str], bool]:
    """Return the function that tells of a server or host name whether its certificate has to be good."""
    if not config.verify_certificates:
        return lambda server: False
    patterns = [compile_glob(pattern, ignore_case=True) for pattern in config.unverified_servers]
    return lambda server: not any(matches(server) for matches in patterns)


def json_value(server: str, body: Body) -> Any:
    """Return what the answer says, bounded in nesting; RemoteProtocolError if it is not JSON."""
    try:
        value = orjson.loads(body)
        check_lax(value)
    except (ValueError, BadJson) as fault:
        raise RemoteProtocolError(server, "the answer is not JSON") from fault
    return value


def json_object(server: str, body: Body) -> JsonObject:
    """Return the object that the answer is; RemoteProtocolError if it is none."""
    value = json_value(server, body)
    if not isinstance(value, dict):
        raise RemoteProtocolError(server, "the answer is not an object")
    return value


async def _found(finder: Finder, server: str) -> Route:
    return await finder.find(server)


def _refusal(server: str, answer: Answer) -> RemoteError:
    """Return the error that an answer of another status than 2xx is; without an errcode in it, that is empty."""
    if answer.status < 400:
        return RemoteProtocolError(server, f"the answer has the status {answer.status}")
    errcode, message = "", ""
    try:
        value = orjson.loads(answer.body)
    except ValueError:
        value = None
    if isinstance(value, dict):
        errcode = _told(value.get("errcode"))
        message = _told(value.get("error"))
    return RemoteRefused(server, answer.status, errcode, message)


def _told(text: object) -> str:
    return text[:MAX_TOLD_CHARACTERS] if isinstance(text, str) else ""


def _without_server(fault: RemoteError) -> str:
    return str(fault).removeprefix(f"{fault.server}: ")
