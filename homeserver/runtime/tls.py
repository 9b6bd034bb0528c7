"""Certificates for listeners, replaced while running.

A `ReloadableTLS` is what `reactor.listenSSL` and Twisted's SSL endpoints take as context factory.  `reload()` reads the
files again; connections made from then on use the new certificate, the others keep theirs.
"""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from homeserver.errors import Misconfigured

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

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return a connection for a new client; called by Twisted."""
        return SSL.Connection(self._context, None)

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
