"""Certificates for listeners, replaced while running; and connections that cost as little memory as TLS allows.

A `ReloadableTLS` makes the connections of a port (see `tls_connection`).  `reload()` reads the files again; connections
made from then on use the new certificate, the others keep theirs.

`lean_factory` is for ports with thousands of connections that are mostly idle: like what `listenSSL` makes, for
`listenTCP`.  Twisted's gathering of small writes is left out: it costs each connection five objects in a cycle that
only the garbage collector can free, and everything here writes whole answers and messages.

There are no session tickets, and no buffers for records between them: Python's `ssl` sees to that.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory, IReactorTime
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from homeserver.errors import Misconfigured

from .tls_connection import TLSConnection

_PEM_END = b"-----END CERTIFICATE-----"


@implementer(IOpenSSLServerConnectionCreator)
class ReloadableTLS:
    """TLS 1.2 and later with the certificate chain of `cert_path` and the private key of `key_path`, both PEM.

    Making one reads the files; raises `Misconfigured` when they cannot be read or do not belong together.
    """

    def __init__(self, cert_path: str | Path, key_path: str | Path) -> None:
        self._cert_path = Path(cert_path)
        self._key_path = Path(key_path)
        self._context = self._load()

    def reload(self) -> None:
        """Read the files again; raises `Misconfigured`, and keeps what is in use, when they are not good."""
        self._context = self._load()

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Any:
        """Return a connection for a new client; called by Twisted."""
        return TLSConnection(self._context)

    def _load(self) -> ssl.SSLContext:
        _check_certificates(self._cert_path)
        key_text = _read(self._key_path, "private key")
        try:
            # An empty passphrase: otherwise OpenSSL would ask for one on the terminal.
            crypto.load_privatekey(crypto.FILETYPE_PEM, key_text, b"")
        except (crypto.Error, ValueError, TypeError) as fault:
            raise Misconfigured(
                f"the TLS private key {str(self._key_path)!r} is not an unencrypted PEM private key"
            ) from fault
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert_path, self._key_path, "")
        except ssl.SSLError as fault:
            what = "does not belong to" if fault.reason == "KEY_VALUES_MISMATCH" else f"is refused ({fault}) with"
            raise Misconfigured(
                f"the TLS private key {str(self._key_path)!r} {what} the certificate {str(self._cert_path)!r}"
            ) from fault
        return context


def lean_factory(factory: IProtocolFactory, tls: ReloadableTLS, reactor: IReactorTime) -> TLSMemoryBIOFactory:
    """Return what to listen with, by `listenTCP`, for the protocols of `factory` to be spoken over TLS."""
    return _LeanFactory(tls, False, factory, reactor)  # type: ignore[no-untyped-call]


class _LeanTransport(TLSMemoryBIOProtocol):
    """TLS between a protocol and a TCP transport, writing what it is given at once."""

    # Every attribute that Twisted gives to an instance, lest each of them has a dictionary.
    __slots__ = (
        "_aborted",
        "_appSendBuffer",
        "_connectWrapped",
        "_handshakeDone",
        "_lostTLSConnection",
        "_producer",
        "_producerPaused",
        "_reason",
        "_tlsConnection",
        "connected",
        "disconnecting",
        "factory",
        "transport",
        "wrappedProtocol",
    )

    # Whoever asks what waits to be gathered need not search the transport below for it.
    _aggregator = None

    def __init__(self, factory: _LeanFactory, wrapped: Any, _connectWrapped: bool = True) -> None:
        # What are attributes of the classes above, which the slots hide.
        self.transport = None
        self._tlsConnection: Any = None
        self._appSendBuffer: list[bytes] = []
        self._reason = None
        self._producer = None
        self._producerPaused = False
        self._handshakeDone = False
        self._lostTLSConnection = False
        self._aborted = False
        self.connected = 0
        self.disconnecting = False
        super().__init__(factory, wrapped, _connectWrapped)  # type: ignore[no-untyped-call]


class _LeanFactory(TLSMemoryBIOFactory):
    protocol = _LeanTransport  # type: ignore[assignment]

    def registerProtocol(self, p: Any) -> None:
        """Nothing: nobody asks which there are."""

    def unregisterProtocol(self, p: Any) -> None:
        """Nothing."""


def _check_certificates(path: Path) -> None:
    text = _read(path, "certificate")
    parts = [part + _PEM_END + b"\n" for part in text.split(_PEM_END)[:-1]]
    try:
        for part in parts:
            crypto.load_certificate(crypto.FILETYPE_PEM, part)
    except (crypto.Error, ValueError) as fault:
        raise Misconfigured(f"the TLS certificate {str(path)!r} is not a PEM certificate") from fault
    if not parts:
        raise Misconfigured(f"the TLS certificate {str(path)!r} holds no PEM certificate")


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise Misconfigured(f"the TLS {what} {str(path)!r} cannot be read: {fault.strerror}") from fault
