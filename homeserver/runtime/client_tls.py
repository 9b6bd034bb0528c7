"""TLS towards other servers: which certificates are trusted, and for which name they have to be.

A context is made once for all connections, because reading the authorities is dear; what differs by server (the name
that is asked for and checked) belongs to the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509Store
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from homeserver.errors import Misconfigured

from .addresses import literal_address
from .http1 import Connection


class ClientTLS:
    """Makes connections with TLS 1.2 and later; trusts `ca_files` (PEM), or the system's authorities without any.

    Making one reads the files; Misconfigured names the one that is no good.
    """

    def __init__(self, reactor: Any, ca_files: Sequence[Path] = ()) -> None:
        self._reactor = reactor
        self._ca_files = tuple(ca_files)
        self._verifying: SSL.Context | None = None
        self._trusting: SSL.Context | None = None
        if self._ca_files:
            self._context(verify=True)

    def factory(self, connection: Connection, name: str, *, verify: bool) -> TLSMemoryBIOFactory:
        """Return the factory that puts TLS under a connection to the server `name`, a DNS name or an IP literal."""
        return TLSMemoryBIOFactory(
            _Creator(self._context(verify=verify), name), True, OneConnection(connection), clock=self._reactor
        )

    def authorities(self) -> X509Store:
        """Return the certificates that are trusted, to judge one that was received without judging."""
        store = self._context(verify=True).get_cert_store()
        return X509Store() if store is None else store

    def _context(self, *, verify: bool) -> SSL.Context:
        known = self._verifying if verify else self._trusting
        if known is not None:
            return known
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        # Without this, each kept connection would hold buffers of 32 KiB.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        if not verify:
            context.set_verify(SSL.VERIFY_NONE)
            self._trusting = context
            return context
        context.set_verify(SSL.VERIFY_PEER)
        for path in self._ca_files:
            try:
                context.load_verify_locations(str(path))
            except SSL.Error as fault:
                raise Misconfigured(f"federation.ca_files: {str(path)!r} holds no PEM certificates") from fault
        if not self._ca_files:
            context.set_default_verify_paths()
        self._verifying = context
        return context


def check_name(name: str, handle: Any) -> None:
    """Raise unless the certificate that the other side of a connection showed is for `name`."""
    if literal_address(name) is not None:
        verify_ip_address(handle, literal_address(name) or name)
    else:
        verify_hostname(handle, name)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Makes the OpenSSL side of one connection."""

    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        # RFC 6066, "Server Name Indication": "Literal IPv4 and IPv6 addresses are not permitted".
        if literal_address(self._name) is None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


class OneConnection:
    """A factory of one protocol that is there already."""

    noisy = False

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Connection:
        return self._protocol

    def doStart(self) -> None:
        """Nothing is to be started."""

    def doStop(self) -> None:
        """Nothing is to be stopped."""

    def startedConnecting(self, connector: Any) -> None:
        """Whoever connects knows."""

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        """The TCP connection was not made."""
        if not self._protocol.ready.called:
            self._protocol.ready.errback(reason)

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        """The protocol knows."""
