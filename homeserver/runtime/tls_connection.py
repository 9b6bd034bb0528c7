"""One TLS connection of the standard library's, with the face of pyOpenSSL's that Twisted knows.

Twisted encrypts with pyOpenSSL. Python's own `ssl` is OpenSSL too, and for ten thousand connections the better one: on
Debian 12 a connection keeps 16 KiB instead of 23, and each step is one call into C instead of several through cffi.
`TLSConnection` has the methods that `twisted.protocols.tls.TLSMemoryBIOProtocol` calls, and raises what it expects.

The two buffers between OpenSSL and the socket keep the size of the largest piece that went through them, for as long as
the connection lives. So what comes in is handed on in pieces, and what goes out is encrypted in pieces, each small.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from OpenSSL import SSL

# Buffers grow by a third more than is needed. Smaller pieces cost time where much is sent: each is a record of TLS.
PIECE_OUT_BYTES: Final = 2_048
PIECE_IN_BYTES: Final = 1_024


class TLSConnection:
    """The server's side of a connection between two buffers in memory."""

    __slots__ = ("_incoming", "_is_ended", "_object", "_outgoing", "_waiting")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # What has come and is not handed on yet.
        self._waiting: memoryview | bytes = b""
        self._is_ended = False

    def set_accept_state(self) -> None:
        """Be the server's side, as it is anyway."""

    def do_handshake(self) -> None:
        """Go on with the handshake; raises WantReadError while it is not done, Error if it cannot be."""
        while True:
            try:
                self._object.do_handshake()
                return
            except ssl.SSLWantReadError:
                if not self._hand_on():
                    raise SSL.WantReadError from None
            except ssl.SSLError as error:
                raise _translated(error) from None

    def recv(self, size: int) -> bytes:
        """Return what the client said; raises WantReadError when there is no more, ZeroReturnError at the end."""
        while True:
            try:
                data = self._object.read(size)
            except ssl.SSLWantReadError:
                if not self._hand_on():
                    raise SSL.WantReadError from None
            except ssl.SSLError as error:
                raise _translated(error) from None
            else:
                if data:
                    return data
                raise SSL.ZeroReturnError

    def send(self, data: Any) -> int:
        """Encrypt the first piece of `data` and return its size."""
        try:
            return self._object.write(data[:PIECE_OUT_BYTES])
        except ssl.SSLWantReadError:
            raise SSL.WantReadError from None
        except ssl.SSLError as error:
            raise _translated(error) from None

    def bio_write(self, data: bytes) -> int:
        """Take what came from the socket."""
        if self._waiting:
            self._waiting = memoryview(bytes(self._waiting) + data)
        elif len(data) <= PIECE_IN_BYTES:
            self._incoming.write(data)
        else:
            self._incoming.write(data[:PIECE_IN_BYTES])
            self._waiting = memoryview(data)[PIECE_IN_BYTES:]
        return len(data)

    def bio_read(self, size: int) -> bytes:
        """Return what is for the socket; raises WantReadError if there is nothing."""
        data = self._outgoing.read(size)
        if not data:
            raise SSL.WantReadError
        return data

    def bio_shutdown(self) -> None:
        """Note that nothing more will come from the socket."""
        self._is_ended = True
        if not self._waiting:
            self._incoming.write_eof()

    def shutdown(self) -> bool:
        """Say that nothing more will be said; return whether the client has said so, too."""
        try:
            self._object.unwrap()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _translated(error) from None
        return True

    def get_alpn_proto_negotiated(self) -> bytes:
        """Return the protocol that was agreed on, empty for none."""
        return (self._object.selected_alpn_protocol() or "").encode()

    def get_peer_certificate(self) -> None:
        """Return nothing: clients are not asked for certificates."""

    def _hand_on(self) -> bool:
        """Give OpenSSL the next piece of what has come; return whether there was one."""
        waiting = self._waiting
        if not waiting:
            return False
        self._incoming.write(waiting[:PIECE_IN_BYTES])
        # Not a view of nothing, which would keep what it is a view of.
        self._waiting = waiting[PIECE_IN_BYTES:] or b""
        if self._is_ended and not self._waiting:
            self._incoming.write_eof()
        return True


def _translated(error: ssl.SSLError) -> SSL.Error:
    if isinstance(error, ssl.SSLZeroReturnError):
        return SSL.ZeroReturnError()
    if isinstance(error, ssl.SSLEOFError):
        return SSL.SysCallError(-1, "Unexpected EOF")
    return SSL.Error([("SSL routines", "", error.reason or str(error))])
