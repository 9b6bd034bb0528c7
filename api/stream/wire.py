"""What the two kinds of wire have in common, close to the socket: writing at once, and what the peer has not taken in.

Twisted puts off every write to a later turn of the reactor, which costs two changes of the poll set each time. Where
nothing waits before it, a message goes to the kernel straight away instead. That reaches into private attributes of
Twisted's transports, so it is done for exactly the classes that are known here (a TCP connection that was accepted, and
Twisted's TLS over one); any other transport, as in tests, is written to as ever.

The kernel's buffers are kept small (`prepare`), so that what a client does not read waits as a place in the stream,
and what is not read of a client waits at the client's, and not as megabytes in memory that belongs to nobody.

Nothing here knows of messages; see `lines` and `websocket`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.tcp import Server as TCPServer

if sys.platform == "linux":
    import fcntl
    import termios

# In each direction. The kernel takes it twice, for what it needs around the bytes.
KERNEL_BUFFER_BYTES: Final = 128 * 1024
# Larger pieces would fill Twisted's buffer, which then stops and starts its producer in the middle of the call.
_STRAIGHT_TLS_BYTES: Final = 48 * 1024


def prepare(transport: Any) -> None:
    """Let small messages go at once and bound the kernel's buffers; for a transport that has just been connected."""
    tcp = _tcp_under(transport)
    if tcp is not None and tcp.connected:
        handle = tcp.socket
        try:
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        except OSError:
            # The peer is gone already; the reactor will notice.
            return


def write_now(transport: Any, data: bytes) -> None:
    """Write to the peer, at once if nothing waits to be written; else, or if it does not all fit, in order after that.

    May call `pauseProducing` of a producer that is registered with the transport.
    """
    kind = type(transport)
    if kind is TCPServer:
        if transport.connected and not (
            transport.dataBuffer
            or transport._tempDataBuffer
            or transport.disconnecting
            or transport._writeDisconnecting
        ):
            written = transport.writeSomeData(data)
            if isinstance(written, int) and written >= 0:
                if written < len(data):
                    transport.write(data[written:])
                return
        # Also after an error: writing meets it again, and there it is dealt with.
        transport.write(data)
    elif _is_tls(kind):
        _write_tls(transport, data)
    else:
        transport.write(data)


class TurnWrites:
    """What is written to many connections in one turn of the reactor: one piece for each, in the next turn.

    An answer and the update that it has caused, or the answers to a row of requests, are one call of the system then.
    """

    __slots__ = ("_is_due", "_later", "_pieces")

    def __init__(self, later: Callable[[Callable[[], object]], object]) -> None:
        """`later(work)` calls `work()` in another turn of the reactor."""
        self._later = later
        self._pieces: dict[Any, list[bytes]] = {}
        self._is_due = False

    def write(self, transport: Any, data: bytes) -> None:
        """Write after all that was written before."""
        pieces = self._pieces.get(transport)
        if pieces is not None:
            pieces.append(data)
            return
        self._pieces[transport] = [data]
        if not self._is_due:
            self._is_due = True
            self._later(self._flush_all)

    def flush(self, transport: Any) -> None:
        """Hand on what waits for one connection, for who has something to write at once."""
        pieces = self._pieces.pop(transport, None)
        if pieces is not None:
            write_now(transport, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def forget(self, transport: Any) -> None:
        """Drop what waits for a connection that is gone."""
        self._pieces.pop(transport, None)

    def _flush_all(self) -> None:
        self._is_due = False
        for transport in tuple(self._pieces):
            self.flush(transport)


def untaken_bytes(transport: Any) -> int | None:
    """Return how many bytes the peer has not acknowledged, in the kernel's buffer and before it; None: not known.

    Over TLS a few of them are TLS's own.
    """
    tcp = _tcp_under(transport)
    if tcp is None or not tcp.connected or sys.platform != "linux":
        return None
    count = bytearray(4)
    try:
        # SIOCOUTQ, which has the number of TIOCOUTQ: what is in the send queue and not acknowledged (tcp(7)).
        fcntl.ioctl(tcp.fileno(), termios.TIOCOUTQ, count)
    except OSError:
        return None
    waiting: int = len(tcp.dataBuffer) - tcp.offset + tcp._tempDataLen
    if tcp is not transport:
        waiting += sum(map(len, _gathered(transport))) + sum(map(len, transport._appSendBuffer))
    return int.from_bytes(count, sys.byteorder) + waiting


def is_encrypted(transport: Any) -> bool:
    """Tell whether a transport is TLS."""
    return _is_tls(type(transport))


def _tcp_under(transport: Any) -> Any:
    """Return the TCP connection under a transport of a kind that is known here, or None."""
    if _is_tls(type(transport)):
        transport = transport.transport
    return transport if type(transport) is TCPServer else None


def _is_tls(kind: type) -> bool:
    # Not imported: behind a reverse proxy OpenSSL's memory is not needed.
    module: Any = sys.modules.get("twisted.protocols.tls")
    return module is not None and issubclass(kind, module.TLSMemoryBIOProtocol)


def _gathered(tls: Any) -> list[bytes]:
    """Return what waits for the next turn of the reactor to be encrypted together."""
    aggregator = getattr(tls, "_aggregator", None)
    return [] if aggregator is None else aggregator._buffer


def _write_tls(tls: Any, data: bytes) -> None:
    tcp = tls.transport
    if (
        len(data) > _STRAIGHT_TLS_BYTES
        or type(tcp) is not TCPServer
        or not tls._handshakeDone
        or tls._lostTLSConnection
        or tls.disconnecting
        or tls._appSendBuffer
        or _gathered(tls)
        or tcp.dataBuffer
        or tcp._tempDataBuffer
        or tcp.disconnecting
        or not tcp.connected
    ):
        tls.write(data)
        return
    # Encrypts and hands on to `tcp.write`, without waiting for more to encrypt with it.
    module: Any = sys.modules["twisted.protocols.tls"]
    module.TLSMemoryBIOProtocol.write(tls, data)
    if tcp._tempDataBuffer and tcp.connected and not tcp.disconnecting:
        # What comes back is an error that the reactor meets again, since the transport still waits to write.
        tcp.doWrite()
