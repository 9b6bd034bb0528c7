"""TLS that keeps little memory: over real sockets, and between OpenSSL and itself."""

from __future__ import annotations

import ctypes
import gc
import socket
import ssl
import weakref
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from homeserver.runtime.tls import ReloadableTLS, lean_factory
from tests.support.certificates import Authority

VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)


class Echo(Protocol):
    """Says what it hears; `!` makes it close."""

    factory: EchoFactory

    def connectionMade(self) -> None:
        self.factory.made.append(weakref.ref(self))

    def dataReceived(self, data: bytes) -> None:
        if data == b"!":
            self.transport.write(b"bye")  # type: ignore[attr-defined]
            self.transport.loseConnection()  # type: ignore[attr-defined]
        else:
            self.transport.write(data)  # type: ignore[attr-defined]

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lost.callback(None)


class EchoFactory(Factory):
    protocol = Echo  # type: ignore[assignment]

    def __init__(self) -> None:
        self.made: list[weakref.ref[Echo]] = []
        self.lost: Deferred[Any] = Deferred()


class Listening:
    """An echo behind TLS on loopback."""

    def __init__(self, folder: Path) -> None:
        from twisted.internet import reactor

        self.authority = Authority(folder)
        self.paths = self.authority.certificate("127.0.0.1")
        self.factory = EchoFactory()
        self.tls = ReloadableTLS(*self.paths)
        secured = lean_factory(self.factory, self.tls, reactor)  # type: ignore[arg-type]
        self.port = reactor.listenTCP(0, secured, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.address = ("127.0.0.1", self.port.getHost().port)

    def connect(self, version: ssl.TLSVersion, session: Any = None) -> ssl.SSLSocket:
        context = self.client_context(version) if session is None else session[0]
        raw = socket.create_connection(self.address, timeout=20)
        return context.wrap_socket(  # type: ignore[no-any-return]
            raw, server_hostname="127.0.0.1", session=None if session is None else session[1]
        )

    def client_context(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = context.maximum_version = version
        return context


def exchange(secured: ssl.SSLSocket, data: bytes) -> bytes:
    """Send a message and return as much as it has bytes."""
    secured.sendall(data)
    return receive(secured, len(data))


def receive(secured: ssl.SSLSocket, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := secured.recv(65_536)):
        received += piece
    return received


@VERSIONS
@pytest_twisted.inlineCallbacks
def test_what_is_sent_comes_back_whatever_its_size(tmp_path: Path, version: ssl.TLSVersion) -> Any:
    listening = Listening(tmp_path)
    sizes = [1, 63, 64, 65, 500, 5_000, 16_384, 16_385, 60_000, 400_000, 1, 2, 3]

    def talk() -> tuple[str | None, str | None, list[bool], bytes]:
        with listening.connect(version) as secured:
            came_back = []
            for size in sizes:
                data = bytes(index * size % 251 for index in range(min(size, 5_000))) * max(1, size // 5_000)
                came_back.append(exchange(secured, data) == data)
            secured.sendall(b"!")
            return secured.selected_alpn_protocol(), secured.version(), came_back, receive(secured, 100)

    alpn, spoken, came_back, rest = yield deferToThread(talk)
    yield listening.factory.lost
    yield listening.port.stopListening()
    assert "http/1.1" == alpn
    assert {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version] == spoken
    assert [True] * len(sizes) == came_back
    assert b"bye" == rest


@VERSIONS
@pytest_twisted.inlineCallbacks
def test_records_that_arrive_byte_by_byte_are_put_together(tmp_path: Path, version: ssl.TLSVersion) -> Any:
    listening = Listening(tmp_path)

    def talk() -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = listening.client_context(version).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(listening.address, timeout=20) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def step(call: Any) -> Any:
                while True:
                    try:
                        return call()
                    except ssl.SSLWantReadError:
                        pass
                    finally:
                        for byte in outgoing.read():
                            raw.sendall(bytes([byte]))
                    incoming.write(raw.recv(65_536))

            step(client.do_handshake)
            step(lambda: client.write(b"x" * 1000))
            received = b""
            while len(received) < 1000:
                received += step(lambda: client.read(4096))
            return received

    received = yield deferToThread(talk)
    yield listening.factory.lost
    yield listening.port.stopListening()
    assert b"x" * 1000 == received


@VERSIONS
@pytest_twisted.inlineCallbacks
def test_no_session_is_resumed(tmp_path: Path, version: ssl.TLSVersion) -> Any:
    listening = Listening(tmp_path)

    def talk() -> bool | None:
        with listening.connect(version) as first:
            exchange(first, b"hello")
            context, session = first.context, first.session
            assert version is not ssl.TLSVersion.TLSv1_2 or session is None or not session.has_ticket
        with listening.connect(version, (context, session)) as second:
            exchange(second, b"hello")
            return second.session_reused

    # Two connections are lost; the first one tells.
    losses: list[Any] = []
    listening.factory.lost = Deferred()
    done: Deferred[None] = Deferred()

    def lose(reason: Any) -> None:
        losses.append(reason)
        listening.factory.lost = Deferred().addCallback(lose)
        if len(losses) == 2:
            done.callback(None)

    listening.factory.lost.addCallback(lose)
    is_reused = yield deferToThread(talk)
    yield done
    yield listening.port.stopListening()
    assert False is is_reused


@pytest_twisted.inlineCallbacks
def test_a_closed_connection_is_freed_without_the_garbage_collector(tmp_path: Path) -> Any:
    listening = Listening(tmp_path)

    def talk() -> None:
        with listening.connect(ssl.TLSVersion.TLSv1_3) as secured:
            exchange(secured, b"hello")

    gc.collect()
    gc.disable()
    try:
        yield deferToThread(talk)
        yield listening.factory.lost
        listening.factory.lost = Deferred()
        yield next_turn()
        assert [None] == [reference() for reference in listening.factory.made]
    finally:
        gc.enable()
        yield listening.port.stopListening()


@pytest_twisted.inlineCallbacks
def test_rubbish_instead_of_a_handshake_ends_the_connection(tmp_path: Path) -> Any:
    listening = Listening(tmp_path)

    def talk() -> bytes:
        with socket.create_connection(listening.address, timeout=20) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
            received = b""
            try:
                while piece := raw.recv(4096):
                    received += piece
            except ConnectionError:
                pass
            return received

    received = yield deferToThread(talk)
    yield listening.factory.lost
    yield listening.port.stopListening()
    # An alert, or nothing at all; never plain text.
    assert not received or received[0] == 21


@pytest_twisted.inlineCallbacks
def test_connections_use_the_new_certificate_after_a_reload(tmp_path: Path) -> Any:
    listening = Listening(tmp_path)

    def certificate() -> bytes | None:
        with listening.connect(ssl.TLSVersion.TLSv1_3) as secured:
            exchange(secured, b"hello")
            return secured.getpeercert(binary_form=True)

    first = yield deferToThread(certificate)
    yield listening.factory.lost
    listening.factory.lost = Deferred()
    for used, other in zip(listening.paths, listening.authority.certificate("127.0.0.1", days=2), strict=True):
        used.write_bytes(other.read_bytes())
    listening.tls.reload()
    second = yield deferToThread(certificate)
    yield listening.factory.lost
    yield listening.port.stopListening()
    assert first != second


@VERSIONS
def test_an_idle_connection_keeps_no_buffers_of_what_went_through_it(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """OpenSSL's own need is 22 KiB; what grew to 16 KiB records and more in both directions is given back."""
    used = heap_bytes()
    if used is None:
        pytest.skip("needs glibc's mallinfo2")
    authority = Authority(tmp_path)
    tls = ReloadableTLS(*authority.certificate("127.0.0.1"))
    client_context = ssl.create_default_context(cafile=str(authority.ca_file))
    client_context.minimum_version = client_context.maximum_version = version
    kept = [talked(tls, client_context) for _ in range(10)]
    gc.collect()
    before = heap_bytes()
    kept += [talked(tls, client_context) for _ in range(50)]
    gc.collect()
    after = heap_bytes()
    assert before is not None and after is not None
    assert (after - before) / 50 < 25 * 1024


def talked(tls: ReloadableTLS, client_context: ssl.SSLContext) -> SSL.Connection:
    """Return the server's side of a connection on which much was said in both directions."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    server = tls.serverConnectionForTLS(None)  # type: ignore[arg-type]
    server.set_accept_state()

    def flush() -> None:
        try:
            while True:
                incoming.write(server.bio_read(32_768))
        except SSL.WantReadError:
            pass

    is_open = False
    while not is_open:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        if data := outgoing.read():
            server.bio_write(data)
        try:
            server.do_handshake()
            is_open = True
        except SSL.WantReadError:
            pass
        flush()
    for _ in range(2):
        client.write(b"x" * 60_000)
        while data := outgoing.read(30_000):
            server.bio_write(data)
            heard = b""
            try:
                while True:
                    heard += server.recv(32_768)
            except SSL.WantReadError:
                pass
        server.send(b"y" * 16_384)
        flush()
        assert client.read(100_000)[:1] == b"y"
    return server


def heap_bytes() -> int | None:
    """Return how much the C library has given out; None: not known."""
    fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in fields.split()]

    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return None
    mallinfo2.restype = Info
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def next_turn() -> Deferred[None]:
    from twisted.internet import reactor

    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)  # type: ignore[attr-defined]
    return turn
