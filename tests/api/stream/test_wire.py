"""Close to the socket, over loopback: what is written at once, what waits, and what has not been taken in."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport

from api.stream.wire import KERNEL_BUFFER_BYTES, is_encrypted, prepare, untaken_bytes, write_now
from homeserver.runtime.tls import ReloadableTLS, lean_factory
from tests.support.certificates import Authority

LARGE: Final = bytes(range(256)) * (4 << 12)  # 4 MiB
TURN_S: Final = 0.005
TURNS: Final = 2000

the_reactor: Any = reactor


class Peer(Protocol):
    """The server's end: counts what it is told about the transport's buffer."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def connectionMade(self) -> None:
        transport: Any = self.transport
        prepare(transport)
        transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.told.append("clogged")

    def resumeProducing(self) -> None:
        self.told.append("drained")

    def stopProducing(self) -> None:
        pass


class Ends:
    """Both ends of a connection; the client's is a socket that does not block."""

    def __init__(self, peer: Peer, client: socket.socket) -> None:
        self.peer = peer
        self.transport: Any = peer.transport
        self.client = client

    def read(self) -> bytes:
        """Return what the kernel has for the client, without a turn of the reactor."""
        found = b""
        try:
            # Over TLS, a call returns one record.
            while part := self.client.recv(1 << 20):
                found += part
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        return found

    async def read_exactly(self, size: int) -> bytes:
        found = bytearray()
        for _ in range(TURNS):
            found += self.read()
            if len(found) >= size:
                break
            await deferLater(the_reactor, 0)
        return bytes(found)


async def _until(is_so: Callable[[], object]) -> None:
    for _ in range(TURNS):
        if is_so():
            return
        await deferLater(the_reactor, TURN_S)
    raise AssertionError("it did not come about")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest_twisted.async_yield_fixture(params=["plain", "listenSSL", "lean"])
async def ends(request: pytest.FixtureRequest, authority: Authority, tmp_path: Path) -> AsyncIterator[Ends]:
    peers: list[Peer] = []

    def build(_: object) -> Peer:
        peers.append(Peer())
        return peers[0]

    factory: Any = Factory()
    factory.noisy = False
    factory.buildProtocol = build
    tls = ReloadableTLS(*authority.certificate("127.0.0.1"))
    if request.param == "plain":
        port = the_reactor.listenTCP(0, factory, interface="127.0.0.1")
    elif request.param == "listenSSL":
        port = the_reactor.listenSSL(0, factory, tls, interface="127.0.0.1")
    else:
        port = the_reactor.listenTCP(0, lean_factory(factory, tls, the_reactor), interface="127.0.0.1")
    client = socket.create_connection(("127.0.0.1", port.getHost().port))
    client.setblocking(False)
    if request.param != "plain":
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        wrapped = context.wrap_socket(client, server_hostname="127.0.0.1", do_handshake_on_connect=False)

        def has_shaken_hands() -> bool:
            try:
                wrapped.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            return True

        await _until(has_shaken_hands)
        client = wrapped
    await _until(lambda: peers and peers[0].transport)
    # Lets the last part of a handshake arrive.
    await deferLater(the_reactor, 0.02)
    yield Ends(peers[0], client)
    client.close()
    await port.stopListening()
    await deferLater(the_reactor, 0.02)


@pytest_twisted.ensureDeferred
async def test_a_small_message_is_in_the_kernel_when_the_call_returns(ends: Ends) -> None:
    for message in (b"one\n", b"two\n", b"x" * 20_000):
        write_now(ends.transport, message)
        found = b""
        while part := ends.read():
            found += part
        assert message == found
    assert [] == ends.peer.told


@pytest_twisted.ensureDeferred
async def test_what_does_not_fit_follows_in_order(ends: Ends) -> None:
    whole = b"first" + LARGE + b"then" + b"last"
    for message in (b"first", LARGE, b"then", b"last"):
        write_now(ends.transport, message)
    assert ["clogged"] == ends.peer.told[:1]
    assert whole == await ends.read_exactly(len(whole))
    await _until(lambda: ends.peer.told[-1] == "drained")
    write_now(ends.transport, b"at once again")
    assert b"at once again" == ends.read()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest_twisted.ensureDeferred
async def test_what_the_peer_does_not_take_in_is_known(ends: Ends) -> None:
    await _until(lambda: untaken_bytes(ends.transport) == 0)
    write_now(ends.transport, LARGE)
    await deferLater(the_reactor, 0.05)
    untaken = untaken_bytes(ends.transport)
    received = ends.client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert untaken is not None and len(LARGE) - 2 * received <= untaken
    await ends.read_exactly(len(LARGE))
    await _until(lambda: untaken_bytes(ends.transport) == 0)


@pytest_twisted.ensureDeferred
async def test_the_kernel_keeps_little(ends: Ends) -> None:
    tcp = ends.transport.transport if is_encrypted(ends.transport) else ends.transport
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        kept = tcp.socket.getsockopt(socket.SOL_SOCKET, buffer)
        assert KERNEL_BUFFER_BYTES <= kept <= 2 * KERNEL_BUFFER_BYTES
    assert tcp.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest_twisted.ensureDeferred
async def test_after_the_loss_nothing_happens(ends: Ends) -> None:
    ends.client.close()
    write_now(ends.transport, LARGE)
    await _until(lambda: untaken_bytes(ends.transport) is None)
    write_now(ends.transport, b"x")
    prepare(ends.transport)
    assert untaken_bytes(ends.transport) is None


def test_other_transports_are_written_to_as_ever() -> None:
    transport: Any = StringTransport()
    prepare(transport)
    write_now(transport, b"x")
    assert (b"x", None, False) == (transport.value(), untaken_bytes(transport), is_encrypted(transport))
