"""The WebSocket of docs/stream.md, as one user holds it.

    async with bob.stream() as stream:
        await stream.request("send", room_id=room.id, event_type="m.room.message", content={…})
        await stream.until("Alice's message", lambda view: "hello" in view.room(room).texts)
        code, reason = await stream.closing()

Updates are merged into `stream.view`, as `/sync` is into a user's.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from autobahn.exception import Disconnected
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS

from .asking import LONGEST_RATE_LIMIT_OF_OTHERS_S, LONGEST_RATE_LIMITS_S, sleep
from .clock import REACTOR
from .expect import Failed, Refused, shown
from .http import TooOften, said_of, url_of
from .journal import Exchange, Step, cut
from .view import View

if TYPE_CHECKING:
    from .actors import User

T = TypeVar("T")

PATH: Final = "/_matrix/client/unstable/stream"
WAIT_S: Final = 10.0


class Stream:
    """One open connection of one user."""

    def __init__(self, user: User, parameters: dict[str, Any]) -> None:
        self.user = user
        self.view = View()
        self._parameters = parameters
        self._protocol: Any = None
        self._trouble: Failed | None = None
        self._answers: dict[str, Deferred[dict[str, Any]]] = {}
        self._waiting: list[Deferred[None]] = []
        self._closed: tuple[int | None, str] | None = None
        self._last = 0

    async def __aenter__(self) -> Stream:
        """Open it, with the token in the header; Refused if the server does not let the user in."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        if self._protocol is not None and self._closed is None:
            self._protocol.sendClose(1000)
            # Not every server answers a close; the story does not wait for it.
            self._protocol.transport.loseConnection()

    async def open(self) -> None:
        """Open it."""
        user = self.user
        url = url_of(user.server.url, PATH, self._parameters)
        exchange = Exchange(user.name, "GET (WebSocket)", url, "", time.time())
        user.server.journal.add(exchange)
        place = urlsplit(url)
        secure = place.scheme == "https"
        host, port = place.hostname or "", place.port or (443 if secure else 80)
        factory: Any = _Factory(
            url.replace("http", "ws", 1), headers={"Authorization": f"Bearer {user.token}"}, protocols=["m.json"]
        )
        limit_s = min(WAIT_S, user.server.host.web.patience_s)
        factory.setProtocolOptions(openHandshakeTimeout=limit_s, maxMessagePayloadSize=32 * 1024 * 1024)
        opened: Deferred[None] = Deferred()
        factory.protocol = lambda: _Protocol(self, opened)
        endpoint: Any = HostnameEndpoint(REACTOR, host, port, timeout=5)
        if secure:
            endpoint = wrapClientTLS(optionsForClientTLS(host, user.server.host.web.trust_root), endpoint)
        try:
            self._protocol = await endpoint.connect(factory)
            await opened.addTimeout(limit_s, REACTOR)
        except Failed as failure:
            exchange.trouble = failure.came
            raise
        except defer.TimeoutError:
            exchange.trouble = f"nothing within {limit_s:g} s"
            if self._protocol is not None:
                self._protocol.dropConnection(abort=True)
            raise Failed("the WebSocket of the stream to open", exchange.trouble) from None
        except Exception as trouble:
            exchange.trouble = said_of(trouble)
            raise Failed("the WebSocket of the stream to open", exchange.trouble) from None
        exchange.status = 101

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Make a request and return its result; Refused if it is refused. Limits of others are waited out."""
        host, journal = self.user.server.host, self.user.server.journal
        ends = time.monotonic() + LONGEST_RATE_LIMITS_S
        while True:
            try:
                return await self._request(method, params)
            except Refused as refusal:
                wait_ms = (refusal.body or {}).get("retry_after_ms")
                if host.process is not None or refusal.errcode != "M_LIMIT_EXCEEDED" or not isinstance(wait_ms, int):
                    raise
                if not 0 <= wait_ms <= LONGEST_RATE_LIMIT_OF_OTHERS_S * 1000 or time.monotonic() > ends:
                    raise TooOften(
                        refusal.expected, refusal.came, status=0, errcode=refusal.errcode, body=refusal.body
                    ) from None
                journal.limited -= 1
                with journal.wait():
                    await sleep(wait_ms / 1000 + 0.01)

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._last += 1
        name = f"{self._last}.{time.time_ns()}"
        message = {"id": name, "method": method, "params": params}
        exchange = Exchange(self.user.name, method, "(stream)", cut(json.dumps(params)), time.time())
        self.user.server.journal.add(exchange)
        answer: Deferred[dict[str, Any]] = Deferred()
        self.send_text(json.dumps(message))
        self._answers[name] = answer
        try:
            found = await answer.addTimeout(WAIT_S, REACTOR)
        except defer.TimeoutError:
            exchange.trouble = f"nothing within {WAIT_S:g} s"
            raise Failed(f"an answer to {method} on the stream", exchange.trouble) from None
        finally:
            self._answers.pop(name, None)
        exchange.answered = cut(json.dumps(found))
        if isinstance(found.get("result"), dict):
            exchange.status = 200
            return dict(found["result"])
        failure = found.get("error")
        if not isinstance(failure, dict):
            raise Failed(f"a result or an error in the answer to {method} on the stream", shown(found))
        exchange.trouble = f"{failure.get('errcode')}"
        raise Refused(
            f"{method} on the stream to succeed", shown(failure), status=0, errcode=failure.get("errcode"), body=failure
        )

    def send_text(self, message: str) -> None:
        """Send a text frame as it is."""
        if self._protocol is None or self._closed is not None:
            raise Failed("the stream to be open", f"a close with {self._closed}")
        try:
            self._protocol.sendMessage(message.encode())
        except Disconnected:
            raise Failed("the stream to be open", "a close that is under way") from None

    async def until(self, expected: str, look: Callable[[View], T], *, within_s: float = WAIT_S) -> T:
        """Wait until `look` finds in the view what is wanted (a true value), and return that."""
        journal = self.user.server.journal
        journal.add(Step(f"{self.user.name} waits on the stream for {expected}", time.time()))
        deadline = journal.patience_ends(within_s)
        while True:
            try:
                found = look(self.view)
            except LookupError:
                found = None
            if found:
                return found
            if not await self._news(deadline + journal.waited_s - time.monotonic()):
                came = self.view.sight() if self._closed is None else f"a close with {self._closed}"
                raise Failed(
                    f"{expected} (on the stream of {self.user.name}, within {within_s * journal.time_factor:g} s)", came
                )

    async def closing(self, *, within_s: float = WAIT_S) -> tuple[int | None, str]:
        """Wait until the server closes, and return the code and the reason."""
        journal = self.user.server.journal
        deadline = journal.patience_ends(within_s)
        while self._closed is None:
            if not await self._news(deadline + journal.waited_s - time.monotonic()) and self._closed is None:
                raise Failed(
                    f"the server to close the stream within {within_s * journal.time_factor:g} s", self.view.sight()
                )
        return self._closed

    async def _news(self, within_s: float) -> bool:
        """Wait for something to come; tell whether it did. Failed if it was rubbish."""
        if self._trouble is not None:
            raise self._trouble
        if within_s <= 0 or self._closed is not None:
            return False
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        try:
            await waiting.addTimeout(within_s, REACTOR)
        except defer.TimeoutError:
            return False
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if self._trouble is not None:
            raise self._trouble
        return True

    # -- from the protocol -------------------------------------------------------------------------------------------

    def came(self, message: bytes) -> None:
        """Take in what the server sent."""
        try:
            found = json.loads(message)
            if not isinstance(found, dict):
                raise Failed("a JSON object on the stream", cut(message))
            failure = found.get("error")
            if isinstance(failure, dict) and failure.get("errcode") == "M_LIMIT_EXCEEDED":
                self.user.server.journal.limited += 1
            if "next_batch" in found:
                self.view.merge(found)
            elif found.get("id") in self._answers:
                self._answers[found["id"]].callback(found)
        except Failed as failure:
            self._trouble = failure
        except (ValueError, RecursionError):
            self._trouble = Failed("JSON on the stream", cut(message))
        except (AttributeError, TypeError):
            self._trouble = Failed("an update or an answer on the stream", cut(message))
        self._wake()

    def ended(self, code: int | None, reason: str) -> None:
        """Take note of the close."""
        self._closed = (code, reason)
        for answer in list(self._answers.values()):
            if not answer.called:
                answer.errback(Failed("an answer on the stream", f"a close with {code} {reason}"))
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


# Autobahn is not annotated.
_Factory: Any = WebSocketClientFactory


class _Protocol(WebSocketClientProtocol):
    """Autobahn's side of it."""

    def __init__(self, stream: Stream, opened: Deferred[None]) -> None:
        super().__init__()
        self._stream = stream
        self._opened = opened

    def onOpen(self) -> None:
        """Tell that the server has let us in."""
        if not self._opened.called:
            self._opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Hand on a message."""
        self._stream.came(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell that it is over, or that it never began."""
        if not self._opened.called:
            self._opened.errback(_not_opened(reason or f"a close with {code}"))
        self._stream.ended(code, reason or "")


def _not_opened(reason: str) -> Failed:
    """Return the failure of a handshake: a refusal if the server answered with another status."""
    wanted = "the WebSocket of the stream to open"
    status = re.search(r"upgrade failed \W(\d{3})", reason)
    if status is None:
        return Failed(wanted, reason)
    return Refused(wanted, reason, status=int(status[1]), errcode=None, body=None)
