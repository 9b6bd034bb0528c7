"""A certificate authority for one test run, and certificates for servers on 127.0.0.x.

    authority = Authority(folder)
    certificate, key = authority.certificate("127.0.0.2")      paths of PEM files; made once each
    authority.ca_file                                          what clients have to trust

Its keys are worth nothing: they are for loopback, and gone with the folder.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

_DAY: Final = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for names and addresses; keeps them in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"test authority {x509.random_serial_number()}")]
        )
        root = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def certificate(self, *names: str, days: int = 1) -> tuple[Path, Path]:
        """Return the paths of a certificate for these host names and addresses and of its key.

        With `days` of zero or less it has expired.
        """
        stem = "_".join(names).replace(":", "-").replace("*", "any") + (f"_{days}" if days != 1 else "")
        certificate_path, key_path = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        if certificate_path.exists():
            return certificate_path, key_path
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            _builder(subject, self._name, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return certificate_path, key_path

    def agent(self, *, connect_timeout_s: float = 10.0) -> Agent:
        """Return an HTTP client that trusts this authority alone and keeps no connections."""
        trust = trustRootFromCertificates([Certificate.loadPEM(self.ca_file.read_bytes())])
        pool = HTTPConnectionPool(reactor, persistent=False)
        return Agent(reactor, BrowserLikePolicyForHTTPS(trust), connectTimeout=connect_timeout_s, pool=pool)


def tls_context(certificate_path: Path, key_path: Path) -> SSL.Context:
    """Return a plain OpenSSL context for a server, for tests that serve something odd."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(certificate_path))
    context.use_privatekey_file(str(key_path))
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = 1
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY * (2 - min(days, 1)))
        .not_valid_after(now + _DAY * days - (_DAY / 24 if days < 1 else datetime.timedelta()))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
