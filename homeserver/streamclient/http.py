"""What the stream does not have, over HTTP: logging in, joining, and any other endpoint of the client-server API.

treq is loaded when the first request is made, for who needs none.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote, urlencode

from twisted.internet.defer import TimeoutError as NoAnswerInTime
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.client import Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from .address import CONNECT_TIMEOUT_S, Address, Trust
from .errors import StreamError

TIMEOUT_S: Final = 60.0
# LIMIT: of one answer.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
API: Final = "/_matrix/client/v3"
NO_ANSWER: Final = (
    ConnectError,
    ConnectionClosed,
    NoAnswerInTime,
    OSError,
    RequestTransmissionFailed,
    ResponseFailed,
)


def segment(text: str) -> str:
    """Return text as a segment of a path."""
    return quote(text, safe="")


class HTTP:
    """Makes requests to one server; keeps no connections."""

    def __init__(self, reactor: Any, address: Address, trust: Trust, *, user_agent: str | None) -> None:
        """ValueError if the address is none of HTTP."""
        if address.is_lines:
            raise ValueError(f"no HTTP at {address.scheme}://{address.netloc}")
        self._reactor = reactor
        self._base = f"{address.scheme}://{address.netloc}{address.path}"
        self._user_agent = user_agent
        self._agent = Agent(
            reactor,
            _Policy(trust),
            connectTimeout=CONNECT_TIMEOUT_S,
            pool=HTTPConnectionPool(reactor, persistent=False),
        )

    async def call(
        self, method: str, path: str, content: Any = None, *, token: str | None = None, query: Any = None
    ) -> dict[str, Any]:
        """Return the answer; raises StreamError if it is a refusal, and what Twisted raises if there is none.

        `path` begins with `/_matrix` or is one below `/_matrix/client/v3`.
        """
        from treq.client import HTTPClient

        url = self._base + (path if path.startswith("/_matrix/") else API + path)
        if query:
            url += "?" + urlencode(query, doseq=True)
        headers: dict[bytes | str, bytes | str] = {"Accept": "application/json"}
        if self._user_agent:
            headers["User-Agent"] = self._user_agent
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        body = None
        if content is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
        response = await HTTPClient(self._agent).request(
            method, url, headers=headers, data=body, allow_redirects=False, timeout=TIMEOUT_S, reactor=self._reactor
        )
        answer = await _read(self._reactor, response)
        if not 200 <= response.code < 300:
            raise StreamError.from_body(answer, f"HTTP {response.code}")
        return answer if isinstance(answer, dict) else {}


async def _read(reactor: Any, response: Any) -> Any:
    """Return the JSON of an answer, None if it is none; StreamError if it is too large."""
    pieces: list[bytes] = []
    size = 0

    def collect(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise StreamError("M_TOO_LARGE", "The answer is too large")
        pieces.append(piece)

    from treq import collect as collect_response

    await collect_response(response, collect).addTimeout(TIMEOUT_S, reactor)
    try:
        return json.loads(b"".join(pieces))
    except (ValueError, RecursionError):
        return None


@implementer(IPolicyForHTTPS)
class _Policy:
    """Believes whom the stream believes."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return self._trust.creator(hostname.decode("ascii"))
