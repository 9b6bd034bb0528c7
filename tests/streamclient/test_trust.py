"""Whose certificates the client believes, and how addresses are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.ssl import DefaultOpenSSLContextFactory

from homeserver.streamclient import StreamClient, StreamEnded
from homeserver.streamclient.address import Address, Trust
from tests.support.certificates import Authority

from .played_stream import Played, within

NewClient = Callable[..., StreamClient]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificate of the played server."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest_twisted.async_yield_fixture(params=["websocket", "lines"])
async def secure(authority: Authority, request: pytest.FixtureRequest) -> AsyncIterator[Played]:
    """A played server with TLS, at 127.0.0.1, whose certificate says so."""
    certificate, key = authority.certificate("127.0.0.1")
    played = Played(request.param, tls=DefaultOpenSSLContextFactory(str(key), str(certificate)))
    yield played
    await played.stop()


@pytest.mark.parametrize("of", [lambda authority: {"ca_file": authority.ca_file}, lambda _: {"verify": False}])
@pytest_twisted.ensureDeferred
async def test_certificate_is_believed(secure: Played, new_client: NewClient, authority: Authority, of: Any) -> None:
    client = new_client(secure, **of(authority))
    started: Deferred[None] = Deferred.fromCoroutine(client.start())
    connection = await secure.connection()
    await within(started)
    connection.update(1)
    assert "s1" == (await anext(client.updates()))["next_batch"]


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown authority", "wrong name"])
@pytest_twisted.ensureDeferred
async def test_certificate_is_not_believed(
    secure: Played, new_client: NewClient, authority: Authority, is_known: bool
) -> None:
    if is_known:
        secure.host = "localhost"
    client = new_client(secure, ca_file=authority.ca_file if is_known else None)
    with pytest.raises(StreamEnded, match="certificate is not believed") as end:
        await within(Deferred.fromCoroutine(client.start()))
    assert ("another name" in end.value.message) is is_known
    assert 0 == len(secure.admitted)


def test_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ValueError):
        Trust(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.org", Address("http", "example.org", 80, "")),
        ("https://example.org/", Address("https", "example.org", 443, "")),
        ("https://example.org:8448/matrix/", Address("https", "example.org", 8448, "/matrix")),
        ("http://[::1]:8008", Address("http", "::1", 8008, "")),
        ("tls://example.org:8011", Address("tls", "example.org", 8011, "")),
    ],
)
def test_addresses(url: str, expected: Address) -> None:
    assert expected == Address.parse(url)


def test_address_of_ipv6_is_written_in_brackets() -> None:
    assert "[::1]:8008" == Address.parse("http://[::1]:8008").netloc
