"""A server in a process of its own, at an address that outlives it, and people of it who use the client."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from homeserver.streamclient import StreamClient
from homeserver.streamclient.address import Address, Trust
from homeserver.streamclient.http import HTTP
from tests.support.server import RunningServer, ServerFailed, run_server


class _Forward(ProxyServer):
    def connectionMade(self) -> None:
        self.factory.open.add(self)  # type: ignore[union-attr]
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:
        self.factory.open.discard(self)  # type: ignore[union-attr]
        super().connectionLost(reason)


class RealServer:
    """A server behind a forwarded port; it can be stopped, killed and started again, and its connections cut."""

    def __init__(self, folder: Path, database_url: str, more: str = "") -> None:
        self._folder = folder
        self._database_url = database_url
        self._more = more
        self._people = 0
        self._run: AbstractContextManager[RunningServer] | None = None
        self._forward: Any = ProxyFactory("127.0.0.1", 0)
        self._forward.noisy = False
        self._forward.protocol = _Forward
        self._forward.open = set()
        self._port = reactor.listenTCP(0, self._forward, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"
        self.running: RunningServer

    async def start(self) -> None:
        """Start it, and return when it answers."""
        self._run = run_server(self._folder, self._database_url, more=self._more)
        self.running = await deferToThread(self._run.__enter__)
        self._forward.port = int(self.running.url.rpartition(":")[2])

    async def stop(self, *, kill: bool = False) -> None:
        """End it, with or without a warning."""
        if self._run is None:
            return
        run, self._run = self._run, None
        if kill:
            self.running.process.kill()
            self.running.process.wait()
        try:
            await deferToThread(run.__exit__, None, None, None)
        except ServerFailed:
            if not kill:
                raise

    def cut(self) -> None:
        """Hang up on everybody."""
        for connection in list(self._forward.open):
            connection.transport.abortConnection()

    async def close(self) -> None:
        """End it, and give its address up."""
        closed: Deferred[Any] | None = self._port.stopListening()
        if closed is not None:
            await closed
        self.cut()
        await self.stop()

    async def person(self, name: str, **more: Any) -> StreamClient:
        """Return a client of a new account, not started; its name begins with `name`."""
        self._people += 1
        http = HTTP(reactor, Address.parse(self.url), Trust(), user_agent=None)
        content = {"username": f"{name}{self._people}", "password": "a long secret", "auth": {"type": "m.login.dummy"}}
        answer = await http.call("POST", "/register", content)
        return StreamClient(self.url, answer["access_token"], **{"reactor": reactor, **more})
