"""One connection, from the first byte to the last: it connects, authenticates, and then passes messages on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed

from .inbox import Inbox
from .loss import Loss
from .requests import Requests, encode
from .wire import CLOSE_TIMEOUT_S, Wire, Wires

# From the first attempt to the answer to `auth`. After a restart the server lets in so many a second.
OPEN_TIMEOUT_S: Final = 90.0
# The server says something every 45 s to a silent client: docs/stream.md, "Heartbeat".
HEARTBEAT_S: Final = 60.0

_NOT_CONNECTED: Final = (ConnectError, ConnectionClosed, ConnectingCancelledError, CancelledError, OSError, SSL.Error)

_log = logging.getLogger("homeserver.streamclient")


class Conversation:
    """Talks over one connection; `run` does all of it and returns why it is over."""

    def __init__(
        self,
        reactor: Any,
        wires: Wires,
        inbox: Inbox,
        requests: Requests,
        auth: Mapping[str, Any],
        admitted: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`auth` are the parameters of the first message, `admitted(result)` is told the answer."""
        self._reactor = reactor
        self._wires = wires
        self._inbox = inbox
        self._requests = requests
        self._auth = auth
        self._admitted = admitted
        self._auth_id = requests.new_id()
        self._wire: Wire | None = None
        self._connecting: Deferred[Wire] | None = None
        self._lost: Deferred[Loss] = Deferred()
        self._told: Loss | None = None
        self._timer: Any = None
        self._has_heard = False
        self._has_pinged = False
        self._is_paused = False
        self._is_closing = False
        self.opened_at: float | None = None
        """When the server let us in."""
        self.is_renewing = False
        """Whether it is ended by us so that another can begin."""

    async def run(self) -> Loss:
        """Connect, and talk until the connection is lost."""
        self._timer = self._reactor.callLater(OPEN_TIMEOUT_S, self._give_up, "the server does not answer")
        self._connecting = Deferred.fromCoroutine(self._wires.connect(self))
        try:
            self._wire = await self._connecting
            if self._is_closing:
                self._wire.abort()
            loss = await self._lost
        except _NOT_CONNECTED as fault:
            loss = self._told or Loss(str(fault) or type(fault).__name__)
        finally:
            if self._timer.active():
                self._timer.cancel()
        self._wire = None
        self._requests.disconnected(was_too_large=loss.is_too_large)
        return loss

    def close(self) -> None:
        """End it in a friendly way."""
        self._is_closing = True
        if self._wire is not None:
            self.flow()
            self._wire.close()
        elif self._connecting is not None:
            self._connecting.cancel()

    def flow(self) -> None:
        """Read on, or not: not while the program is behind, unless it waits for an answer."""
        if self._wire is None or self._lost.called:
            return
        pause = self._inbox.is_full and not self._requests.are_awaited and not self._is_closing
        if pause != self._is_paused:
            self._is_paused = pause
            self._has_heard = True
            if pause:
                self._wire.pause()
            else:
                self._wire.resume()
        if self._inbox.is_cut and self._inbox.is_empty and not self._is_closing:
            _log.debug("connecting again for what was left out")
            self.is_renewing = True
            self.close()

    # -- what the wire tells ------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """Authenticate."""
        # A wire may open before its endpoint has handed it over.
        self._reactor.callLater(0, self._authenticate)

    def heard(self) -> None:
        """Note a sign of life."""
        self._has_heard = True

    def received(self, message: bytes) -> None:
        """Pass a message on to where it belongs."""
        if self._told is not None:
            # What follows a message that could not be read would leave a gap.
            return
        try:
            said = json.loads(message)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self._give_up("the server sent something that is no message")
        elif isinstance(said.get("next_batch"), str):
            if not self._is_closing:
                self._inbox.put(said, len(message))
                self.flow()
        elif "id" in said:
            if self.opened_at is not None:
                self._requests.answered(said)
            elif said["id"] == self._auth_id and isinstance(said.get("result"), dict):
                self._is_admitted(said["result"])
        elif said.get("method") == "ping":
            if self._wire is not None:
                self._wire.send(b'{"method":"pong"}')
        elif isinstance(said.get("close"), dict):
            self._told = Loss.of_close_message(said["close"])
            self._restart_timer(CLOSE_TIMEOUT_S, self._give_up, self._told.text)

    def lost(self, loss: Loss) -> None:
        """Note the end."""
        if not self._lost.called:
            self._lost.callback(self._told or loss)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _authenticate(self) -> None:
        if self._wire is not None and not self._lost.called:
            # The place from which this connection starts is that of the inbox.
            self._inbox.mend()
            self._wire.send(encode(self._auth_id, "auth", self._auth))

    def _is_admitted(self, result: Mapping[str, Any]) -> None:
        assert self._wire is not None
        self.opened_at = self._reactor.seconds()
        self._restart_timer(HEARTBEAT_S, self._beat)
        self._requests.connected(self._wire.send)
        self._admitted(result)
        self.flow()

    def _beat(self) -> None:
        """Find out whether the server is still there, and tell it that we are."""
        if self._wire is None:
            return
        if self._has_pinged and not self._has_heard and not self._is_paused:
            self._give_up("the server is silent")
            return
        self._has_pinged = self._is_paused or not self._has_heard
        if self._has_pinged:
            self._wire.ping()
        self._has_heard = False
        self._restart_timer(HEARTBEAT_S, self._beat)

    def _give_up(self, why: str) -> None:
        if self._told is None:
            self._told = Loss(why)
        if self._wire is not None:
            self._wire.abort()
        elif self._connecting is not None:
            self._connecting.cancel()

    def _restart_timer(self, seconds: float, then: Callable[..., None], *arguments: Any) -> None:
        if self._timer.active():
            self._timer.cancel()
        self._timer = self._reactor.callLater(seconds, then, *arguments)
