"""Certificates for listeners, replaced while running; and connections that cost as little memory as TLS allows.

A `ReloadableTLS` is what `reactor.listenSSL` and Twisted's SSL endpoints take as context factory.  `reload()` reads the
files again; connections made from then on use the new certificate, the others keep theirs.

`lean_factory` is for ports with thousands of connections that are mostly idle: like what `listenSSL` makes, for
`listenTCP`.  OpenSSL itself keeps about 22 KiB for a connection; of what comes on top,

- the two buffers between OpenSSL and the socket grow to the largest piece that went through them (a certificate chain,
  an initial sync) and never shrink: `_LeanConnection` replaces them when they are empty;
- Twisted's gathering of small writes costs each connection five objects in a cycle that only the garbage collector
  can free.  Everything here writes whole answers and messages, so there is nothing to gather.

There are no session tickets, no session cache, and no buffers for records between them: Twisted's
`CertificateOptions` sees to that.  (In TLS 1.3 tickets are still sent, but resume nothing.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from homeserver.errors import Misconfigured

_PEM_END = b"-----END CERTIFICATE-----"
# A buffer of this size is not worth replacing.
_SMALL_BYTES: Final = 64


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

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return a connection for a new client; called by Twisted."""
        return _LeanConnection(self._context)

    def _load(self) -> SSL.Context:
        chain = _certificates(self._cert_path)
        key_text = _read(self._key_path, "private key")
        try:
            # An empty passphrase: otherwise OpenSSL would ask for one on the terminal.
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, key_text, b"")
        except (crypto.Error, ValueError, TypeError) as fault:
            raise Misconfigured(
                f"the TLS private key {str(self._key_path)!r} is not an unencrypted PEM private key"
            ) from fault
        options = CertificateOptions(
            privateKey=key,
            certificate=chain[0],
            extraCertChain=chain[1:],
            raiseMinimumTo=TLSVersion.TLSv1_2,
            acceptableProtocols=[b"http/1.1"],
        )
        try:
            context: SSL.Context = options.getContext()
            context.check_privatekey()
        except SSL.Error as fault:
            raise Misconfigured(
                f"the TLS private key {str(self._key_path)!r} does not belong to the certificate"
                f" {str(self._cert_path)!r}"
            ) from fault
        return context


def lean_factory(factory: IProtocolFactory, tls: ReloadableTLS, reactor: IReactorTime) -> TLSMemoryBIOFactory:
    """Return what to listen with, by `listenTCP`, for the protocols of `factory` to be spoken over TLS."""
    return _LeanFactory(tls, False, factory, reactor)  # type: ignore[no-untyped-call]


class _LeanConnection(SSL.Connection):
    """OpenSSL's side of a connection, between two buffers in memory, which does not keep buffers that have grown.

    Only ever used by one `TLSMemoryBIOProtocol`, which empties the outgoing buffer after each step, and reads until
    there is no more.
    """

    def __init__(self, context: SSL.Context) -> None:
        super().__init__(context, None)
        self._is_open = False
        self._has_grown_in = False
        self._has_grown_out = False

    def do_handshake(self) -> None:
        """Go on with the handshake; raises as ever while it is not done."""
        super().do_handshake()
        self._is_open = True

    def bio_write(self, buf: bytes | bytearray | memoryview) -> int:
        """Take what came from the socket."""
        count = super().bio_write(buf)
        if count > _SMALL_BYTES:
            self._has_grown_in = True
        return count

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Return what the client said; raises WantReadError when there is no more."""
        try:
            return super().recv(bufsiz, flags)
        except SSL.WantReadError:
            if self._has_grown_in and self._is_open:
                self._has_grown_in = not _replace(self, is_incoming=True)
            raise

    def bio_read(self, bufsiz: int) -> bytes:
        """Return what is for the socket."""
        data = super().bio_read(bufsiz)
        if len(data) > _SMALL_BYTES:
            self._has_grown_out = True
        if self._has_grown_out and self._is_open:
            self._has_grown_out = not _replace(self, is_incoming=False)
        return data


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
        self._tlsConnection: SSL.Connection | None = None
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


def _replace(connection: SSL.Connection, *, is_incoming: bool) -> bool:
    """Replace a buffer between OpenSSL and the socket by a new one if it is empty; return whether it was.

    This is allowed at any time (SSL_set_bio(3)): what OpenSSL has taken out of the old one it keeps elsewhere.
    """
    if _binding is None:
        return True
    lib, null = _binding
    if lib.BIO_get_mem_data(connection._into_ssl if is_incoming else connection._from_ssl, null) != 0:
        return False
    new = lib.BIO_new(lib.BIO_s_mem())
    if new == null:
        # No memory: the old one serves as well.
        return True
    if is_incoming:
        connection._into_ssl = new
    else:
        connection._from_ssl = new
    # Frees the one that is replaced, and takes over the new one.
    lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)
    return True


def _find_binding() -> tuple[Any, Any] | None:
    """Return OpenSSL's functions as pyOpenSSL has them, and its NULL; None: it no longer has them, and all stays."""
    lib, ffi = getattr(SSL, "_lib", None), getattr(SSL, "_ffi", None)
    names = ("BIO_get_mem_data", "BIO_new", "BIO_s_mem", "SSL_set_bio")
    if ffi is None or not all(hasattr(lib, name) for name in names):
        return None
    return lib, ffi.NULL


_binding: Final = _find_binding()


def _certificates(path: Path) -> list[crypto.X509]:
    text = _read(path, "certificate")
    parts = [part + _PEM_END + b"\n" for part in text.split(_PEM_END)[:-1]]
    try:
        chain = [crypto.load_certificate(crypto.FILETYPE_PEM, part) for part in parts]
    except (crypto.Error, ValueError) as fault:
        raise Misconfigured(f"the TLS certificate {str(path)!r} is not a PEM certificate") from fault
    if not chain:
        raise Misconfigured(f"the TLS certificate {str(path)!r} holds no PEM certificate")
    return chain


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise Misconfigured(f"the TLS {what} {str(path)!r} cannot be read: {fault.strerror}") from fault
