"""Keeps a connection: makes one after another, until the client is stopped or the server says that it is over."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from homeserver.runtime.backoff import Backoff

from .conversation import Conversation
from .errors import StreamEnded, StreamError
from .inbox import Inbox
from .loss import Loss, Remedy
from .requests import Requests
from .wire import Wires

# docs/stream.md, "Closing".
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
RESTART_WAIT_S: Final = 5.0
# A connection that held this long was a good one.
STABLE_S: Final = 30.0
# LIMIT: no server makes us wait longer than this.
MOST_WAIT_S: Final = 600.0

Refresh = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class LinkState:
    """What has become of the connection, for people to see.

    Without one, `wait_s` is the time from now to the next attempt, None while it is being made; `why` there is none.
    """

    is_connected: bool
    wait_s: float | None = None
    why: str = ""


Watch = Callable[[LinkState], None]

_log = logging.getLogger("homeserver.streamclient")


def chance() -> float:
    """Return a number from 0 to 1, by chance."""
    return secrets.randbelow(1_000_001) / 1_000_000


class Link:
    """The connections of one client, never two at a time."""

    def __init__(
        self,
        reactor: Any,
        wires: Wires,
        inbox: Inbox,
        requests: Requests,
        *,
        auth: Callable[[], Mapping[str, Any]],
        refreshed: Callable[[], Awaitable[bool]],
        watch: Watch = lambda _state: None,
        chance: Callable[[], float] = chance,
    ) -> None:
        """`auth()` gives the parameters of the first message of a connection.

        `refreshed()` gets another token and says whether there is one.
        """
        self._reactor = reactor
        self._wires = wires
        self._inbox = inbox
        self._requests = requests
        self._auth = auth
        self._refreshed = refreshed
        self._watch = watch
        self._chance = chance
        self._backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, chance=chance)
        self._conversation: Conversation | None = None
        self._waiting: Deferred[None] | None = None
        self._running: Deferred[None] | None = None
        self._is_stopping = False
        self._shutdown: Any = None
        self._opening: Deferred[Mapping[str, Any]] | None = None
        self._result: Mapping[str, Any] | None = None
        self._end: StreamEnded | None = None

    @property
    def has_ended(self) -> bool:
        """Whether no more connections will be made."""
        return self._end is not None

    async def start(self) -> Mapping[str, Any]:
        """Return what the server says about us when it lets us in for the first time.

        Raises StreamEnded if it never will.
        """
        if self._running is None:
            self._shutdown = self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._failed)
        if self._end is not None:
            raise self._end
        if self._result is None:
            self._opening = Deferred()
            try:
                await self._opening
            finally:
                self._opening = None
        assert self._result is not None
        return self._result

    async def stop(self) -> None:
        """End the connection, and make no other."""
        self._is_stopping = True
        self._over(None)
        if self._waiting is not None:
            self._waiting.cancel()
        if self._conversation is not None:
            self._conversation.close()
        if self._running is not None and not self._running.called:
            done: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: done.callback(None))
            await done

    def flow(self) -> None:
        """Look again whether to read on."""
        if self._conversation is not None:
            self._conversation.flow()

    async def _run(self) -> None:
        while not self._is_stopping:
            conversation = Conversation(
                self._reactor, self._wires, self._inbox, self._requests, self._auth(), self._admitted
            )
            self._conversation = conversation
            loss = await conversation.run()
            self._conversation = None
            if not conversation.is_renewing:
                await self._recover(loss, conversation.opened_at)

    async def _recover(self, loss: Loss, opened_at: float | None) -> None:
        """Wait until it is time for the next connection, if there shall be one."""
        if self._is_stopping:
            return
        seconds = await self._wait_after(loss, opened_at)
        if seconds is None:
            self._is_stopping = True
        else:
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Return after that time, or when the client is stopped."""
        if self._is_stopping:
            return
        self._waiting = deferLater(self._reactor, seconds, lambda: None)
        try:
            await self._waiting
        except CancelledError:
            pass
        finally:
            self._waiting = None

    async def _wait_after(self, loss: Loss, opened_at: float | None) -> float | None:
        """Return how long to wait before the next connection; None if there is to be none."""
        if opened_at is not None and self._reactor.seconds() - opened_at >= STABLE_S:
            self._backoff.reset()
        # Too large before anything else was said: that will not shrink.
        remedy = loss.remedy(was_ever_open=self._result is not None)
        if remedy is Remedy.RESTARTED:
            wait_s = RESTART_WAIT_S * self._chance()
        elif remedy is Remedy.REFRESH and not await self._refreshed_after(loss):
            return None
        elif remedy is Remedy.END or (loss.is_too_large and opened_at is None):
            self._ended_by(loss)
            return None
        elif remedy is Remedy.REFRESH and opened_at is not None:
            wait_s = 0.0
        else:
            wait_s = self._backoff.next_s()
        if loss.retry_after_ms is not None:
            # Whom it told the same shall not all come back together.
            told_s = min(loss.retry_after_ms / 1000, MOST_WAIT_S)
            wait_s = max(wait_s, told_s * (1.0 + 0.25 * self._chance()))
        log = _log.info if remedy is not Remedy.RETRY else _log.warning
        log("no connection (%s); trying again in %.1f s", loss, wait_s)
        self._watch(LinkState(False, wait_s, str(loss)))
        return wait_s

    async def _refreshed_after(self, loss: Loss) -> bool:
        """Return whether it is worth trying again after a soft logout."""
        try:
            if await self._refreshed():
                return True
        except StreamError as error:
            loss = Loss(error.message, code=loss.code, errcode=error.errcode)
        except Exception:
            # The caller's code, and most likely its network: a boundary.
            _log.exception("the access token could not be refreshed")
            return True
        self._ended_by(loss)
        return False

    def _shut_down(self) -> Deferred[None]:
        """Say goodbye when the program ends."""
        self._shutdown = None
        return Deferred.fromCoroutine(self.stop())

    def _admitted(self, result: Mapping[str, Any]) -> None:
        if self._result is None:
            _log.info("connected as %s", result.get("user_id"))
        else:
            _log.info("connected again")
        self._result = result
        self._watch(LinkState(True))
        if self._opening is not None and not self._opening.called:
            self._opening.callback(result)

    def _ended_by(self, loss: Loss) -> None:
        _log.error("the stream is over: %s", loss)
        self._over(StreamEnded(loss.errcode or "M_UNKNOWN", loss.text, code=loss.code))

    def _failed(self, failure: Failure) -> None:
        _log.error("the stream client failed", exc_info=(failure.type, failure.value, failure.getTracebackObject()))  # type: ignore[arg-type]
        self._over(StreamEnded("M_UNKNOWN", f"the client failed: {failure.value}"))

    def _over(self, error: StreamEnded | None) -> None:
        if self._end is not None:
            return
        self._end = error or StreamEnded("M_UNKNOWN", "The client has been stopped")
        if self._shutdown is not None:
            self._reactor.removeSystemEventTrigger(self._shutdown)
            self._shutdown = None
        self._inbox.end(error)
        self._requests.end(self._end)
        if self._opening is not None and not self._opening.called:
            self._opening.errback(self._end)
