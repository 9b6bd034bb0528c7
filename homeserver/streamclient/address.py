"""Where the server is, and which certificates are believed there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, CertificateOptions, optionsForClientTLS, trustRootFromCertificates
from zope.interface import implementer

CONNECT_TIMEOUT_S: Final = 30.0
_PORTS: Final = {"http": 80, "https": 443, "tcp": None, "tls": None}
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """The base of the client API, `http:` or `https:`, or a port of lines, `tcp:` or `tls:`; no slash ends `path`."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return what the URL says; ValueError if it is no such URL."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"no URL of a server: {url!r}")
        port = parts.port or _PORTS[parts.scheme]
        if port is None:
            raise ValueError(f"no port in {url!r}")
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def is_lines(self) -> bool:
        """Whether it is no HTTP."""
        return self.scheme in ("tcp", "tls")

    @property
    def is_secure(self) -> bool:
        """Whether there is TLS."""
        return self.scheme in ("https", "tls")

    @property
    def netloc(self) -> str:
        """Host and port as URLs write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Trust:
    """Whose certificates are believed: the system's authorities, those of a PEM file, or, for tests, any."""

    def __init__(self, ca_file: str | os.PathLike[str] | None = None, *, verify: bool = True) -> None:
        """Read `ca_file`; ValueError if no certificate is in it."""
        self._verify = verify
        self._root: Any = None
        if ca_file is not None:
            with open(ca_file, "rb") as file:
                certificates = [Certificate.loadPEM(pem) for pem in _PEM.findall(file.read())]
            if not certificates:
                raise ValueError(f"no certificates in {os.fspath(ca_file)!r}")
            self._root = trustRootFromCertificates(certificates)

    def creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """Return what makes the TLS side of connections to `host`."""
        if not self._verify:
            return _Credulous(host)
        creator: IOpenSSLClientConnectionCreator = optionsForClientTLS(host, trustRoot=self._root)
        return creator


def endpoint(reactor: Any, address: Address, trust: Trust) -> IStreamClientEndpoint:
    """Return what connects to the address, IPv6 and IPv4 at once."""
    plain = HostnameEndpoint(reactor, address.host.encode("idna"), address.port, timeout=CONNECT_TIMEOUT_S)
    return wrapClientTLS(trust.creator(address.host), plain) if address.is_secure else plain


@implementer(IOpenSSLClientConnectionCreator)
class _Credulous:
    """Believes any certificate."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._context = CertificateOptions(verify=False).getContext()

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not isIPAddress(self._host) and not isIPv6Address(self._host):
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection
