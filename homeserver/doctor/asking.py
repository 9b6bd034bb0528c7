"""How the doctor asks: the server's own resolver and HTTP client, watched, so that each step can be explained.

`federation.discovery` tells where a server is, and not why it came to that. The watched names and the watched client
remember what each look-up gave, and the checks read there what went wrong on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from federation.discovery import Route
from federation.x_matrix import build_x_matrix, encode_signed_request
from homeserver.model.base64 import encode_base64
from homeserver.model.ids import ServerName
from homeserver.model.signing import SigningKey
from homeserver.runtime.addresses import AddressRules
from homeserver.runtime.client_tls import ClientTLS
from homeserver.runtime.clock import Clock
from homeserver.runtime.connections import Place
from homeserver.runtime.names import LookupFailed, NameNotFound, Names, Service
from homeserver.runtime.outgoing import Answer, Outgoing, OutgoingFault

TIMEOUT_S: Final = 20.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
_MAX_TOLD_CHARACTERS: Final = 200


class WatchedNames:
    """Looks names up and remembers what came."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.services_of: dict[str, Sequence[Service] | NameNotFound | LookupFailed] = {}

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host; NameNotFound, LookupFailed."""
        return await self._names.addresses(host)

    async def services(self, name: str) -> Sequence[Service]:
        """Return the SRV records of a name; NameNotFound, LookupFailed."""
        try:
            self.services_of[name] = found = await self._names.services(name)
        except (NameNotFound, LookupFailed) as fault:
            self.services_of[name] = fault
            raise
        return found


class WatchedOutgoing(Outgoing):
    """Sends requests and remembers what came of those to URLs."""

    def __init__(self, reactor: Any, **options: Any) -> None:
        super().__init__(reactor, **options)
        self.outcomes: dict[str, Answer | OutgoingFault] = {}

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        """Send a request to a URL; see `Outgoing.request`."""
        try:
            self.outcomes[url] = answer = await super().request(method, url, **options)
        except OutgoingFault as fault:
            self.outcomes[url] = fault
            raise
        return answer


@dataclass(frozen=True, slots=True)
class Tools:
    """What the checks work with. `rules` tell which addresses the world can reach, not which the doctor may."""

    reactor: Any
    clock: Clock
    names: WatchedNames
    outgoing: WatchedOutgoing
    tls: ClientTLS
    rules: AddressRules
    chance: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Patient:
    """The server that is looked at, and who looks: `origin` signs with `key`, if there is one."""

    name: ServerName
    is_own: bool
    origin: str | None = None
    key: SigningKey | None = None


class Asker:
    """Asks the server where a remote would, with the Host header and the certificate's name that a remote would use."""

    def __init__(self, tools: Tools, patient: Patient, route: Route, *, verify: bool) -> None:
        """`verify` is False once it has been told that the certificate is no good, to see what else there is."""
        self._tools = tools
        self._patient = patient
        self._route = route
        self._verify = verify

    @property
    def can_sign(self) -> bool:
        """Whether there is a key to sign with, and a server that may be shown what we sign."""
        return self._patient.key is not None and (self._verify or self._patient.is_own)

    async def ask(
        self, method: str, target: str, *, body: bytes | None = None, is_signed: bool = False, encoding: str = ""
    ) -> Answer:
        """Return the answer; `body` is canonical JSON, `encoding` what is accepted of compression. OutgoingFault."""
        headers = {"Accept": "application/json"}
        if encoding:
            headers["Accept-Encoding"] = encoding
        if body is not None:
            headers["Content-Type"] = "application/json"
        key, origin, name = self._patient.key, self._patient.origin, str(self._patient.name)
        if is_signed and key is not None and origin is not None:
            signature = key.sign(encode_signed_request(method, target, origin, name, body))
            headers["Authorization"] = build_x_matrix(origin, name, key.key_id, encode_base64(signature))
        return await self._tools.outgoing.send(
            Place(self._route.hosts, self._route.tls_name, self._verify),
            method,
            target,
            server=name,
            host=self._route.host,
            headers=headers,
            body=body,
            timeout_s=TIMEOUT_S,
            max_bytes=MAX_ANSWER_BYTES,
        )


def json_of(answer: Answer) -> Any:
    """Return what the answer says, None if it is not JSON."""
    try:
        return orjson.loads(answer.body)
    except ValueError:
        return None


def errcode_of(answer: Answer) -> str:
    """Return the errcode of an answer, empty if there is none: then it is not a homeserver's."""
    value = json_of(answer)
    errcode = value.get("errcode") if isinstance(value, dict) else None
    return errcode[:_MAX_TOLD_CHARACTERS] if isinstance(errcode, str) else ""


def shown(value: object) -> str:
    """Return a text that a server has sent, and of anything else only that it is none: it may be nested deeply."""
    return value[:_MAX_TOLD_CHARACTERS] if isinstance(value, str) else "(no text)"


def told(answer: Answer) -> str:
    """Return status and errcode or server software of an answer, for a sentence."""
    value = json_of(answer)
    error = value.get("error") if isinstance(value, dict) else None
    words = [f"status {answer.status}"]
    if errcode_of(answer):
        words.append(errcode_of(answer))
    elif answer.headers.get("server"):
        words.append(f"from {answer.headers['server'][:40]!r}")
    if isinstance(error, str) and error:
        words.append(repr(error[:_MAX_TOLD_CHARACTERS]))
    return ", ".join(words)


def reason_of(fault: OutgoingFault) -> str:
    """Return what went wrong, without the name of the server."""
    return str(fault).removeprefix(f"{fault.server}: ").rstrip(".")
