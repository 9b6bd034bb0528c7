"""Certificates, and a door behind TLS over a real socket."""

from __future__ import annotations

import datetime
import socket
import ssl
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.threads import deferToThread

from homeserver.errors import Misconfigured
from homeserver.runtime.tls import ReloadableTLS
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import WebRequest
from homeserver.web.response import FileResponse, Response
from homeserver.web.router import Route, Router
from homeserver.web.site import make_site


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


def test_mistakes_are_told_by_file(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "one")
    (tmp_path / "other").mkdir()
    _, other_key = write_certificate(tmp_path / "other", "two")
    (tmp_path / "rubbish").write_text("rubbish")
    for paths, words in [
        ((tmp_path / "none", key), "cannot be read"),
        ((cert, tmp_path / "none"), "cannot be read"),
        ((tmp_path / "rubbish", key), "holds no PEM certificate"),
        ((cert, tmp_path / "rubbish"), "is not an unencrypted PEM private key"),
        ((cert, other_key), "does not belong to the certificate"),
    ]:
        with pytest.raises(Misconfigured, match=words):
            ReloadableTLS(*paths)


@pytest_twisted.inlineCallbacks
def test_a_door_behind_tls_uses_the_new_certificate_after_a_reload(tmp_path: Path) -> Any:
    from twisted.internet import reactor

    content = bytes(range(256)) * 4000

    async def download(_: WebRequest) -> FileResponse:
        return FileResponse(BytesIO(content), len(content), "image/png")

    tls = ReloadableTLS(*write_certificate(tmp_path, "one"))
    site = make_site(JsonResource(Router([Route("GET", "/file", download)])), reactor)  # type: ignore[arg-type]
    plain = reactor.listenTCP(0, site, interface="127.0.0.1")  # type: ignore[attr-defined]
    secure = reactor.listenSSL(0, site, tls, interface="127.0.0.1")  # type: ignore[attr-defined]

    def fetch(port: int, is_secure: bool) -> tuple[bytes, bytes | None]:
        connection: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        certificate = None
        if is_secure:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            secured = context.wrap_socket(connection)
            certificate = secured.getpeercert(binary_form=True)
            connection = secured
        with connection:
            connection.sendall(b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            received = b""
            while piece := connection.recv(65_536):
                received += piece
        return received.partition(b"\r\n\r\n")[2], certificate

    body, _ = yield deferToThread(fetch, plain.getHost().port, False)
    assert body == content
    body, first = yield deferToThread(fetch, secure.getHost().port, True)
    assert body == content
    write_certificate(tmp_path, "two")
    tls.reload()
    _, second = yield deferToThread(fetch, secure.getHost().port, True)
    assert first != second
    (tmp_path / "key.pem").write_text("rubbish")
    with pytest.raises(Misconfigured):
        tls.reload()
    _, third = yield deferToThread(fetch, secure.getHost().port, True)
    assert second == third
    yield plain.stopListening()
    yield secure.stopListening()
    site.close_idle()


@pytest_twisted.inlineCallbacks
def test_a_stopped_door_answers_nothing_more_on_connections_that_were_kept(tmp_path: Path) -> Any:
    """Behind TLS a connection is closed only when nothing produces for it any more."""
    from twisted.internet import reactor

    asked = []

    async def answer(_: WebRequest) -> Response:
        asked.append(1)
        return Response(200, b"{}")

    site = make_site(JsonResource(Router([Route("GET", "/it", answer)])), reactor)  # type: ignore[arg-type]
    secure = reactor.listenSSL(  # type: ignore[attr-defined]
        0, site, ReloadableTLS(*write_certificate(tmp_path, "one")), interface="127.0.0.1"
    )
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect_and_ask(port: int) -> ssl.SSLSocket:
        secured = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert ask(secured).startswith(b"HTTP/1.1 200")
        return secured

    def ask(secured: ssl.SSLSocket) -> bytes:
        try:
            secured.sendall(b"GET /it HTTP/1.1\r\nHost: a\r\n\r\n")
            return secured.recv(65_536)
        except OSError:
            return b""

    secured = yield deferToThread(connect_and_ask, secure.getHost().port)
    yield secure.stopListening()
    site.close_idle()
    rest = yield deferToThread(ask, secured)
    secured.close()
    assert b"" == rest
    assert [1] == asked
