"""Registration by the shared secret, through the door."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from synapse_compat.shared_secret import NONCE_LIFE_MS, registration_mac
from tests.support.accounts import AccountServer, MakeServer, Settings

PATH = "/_synapse/admin/v1/register"


async def _body(server: AccountServer, username: str = "root", *, admin: bool = True) -> dict[str, Any]:
    status, answer = await server.call("GET", PATH)
    assert 200 == status
    nonce = answer["nonce"]
    mac = registration_mac(b"s3cret", nonce, username, "pässword", is_admin=admin)
    return {"nonce": nonce, "username": username, "password": "pässword", "admin": admin, "mac": mac}


def test_code_is_that_of_the_documented_recipe() -> None:
    # printf 'n\0u\0p\0notadmin' | openssl sha1 -hmac secret
    expected = "0f2b4751fa14a68d6a6878c313b752580706c394"
    assert expected == registration_mac(b"secret", "n", "u", "p", is_admin=False)


@pytest.mark.parametrize("admin", [True, False])
@pytest_twisted.ensureDeferred
async def test_account_is_made_and_logged_in(make_server: MakeServer, admin: bool) -> None:
    server = await make_server()
    status, answer = await server.call("POST", PATH, await _body(server, admin=admin))
    assert (200, "@root:example.org", "example.org") == (status, answer["user_id"], answer["home_server"])
    assert 200 == (await server.call("GET", "account/whoami", token=answer["access_token"]))[0]
    assert 200 == (await server.login("root", "pässword"))[0]
    assert admin == (await server.accounts.get("@root:example.org")).is_admin


@pytest_twisted.ensureDeferred
async def test_nonce_is_good_once_and_for_a_minute(make_server: MakeServer) -> None:
    server = await make_server()
    body = await _body(server)
    assert 200 == (await server.call("POST", PATH, body))[0]
    status, answer = await server.call("POST", PATH, body)
    assert (400, "unrecognised nonce") == (status, answer["error"])
    body = await _body(server, "late")
    server.clock.advance(NONCE_LIFE_MS / 1000 + 1)
    assert 400 == (await server.call("POST", PATH, body))[0]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"mac": "0" * 40}, 403),
        ({"mac": "é"}, 403),
        ({"admin": False}, 403),
        ({"username": "other"}, 403),
        ({"username": "a\0b"}, 400),
        ({"password": ""}, 400),
        ({"user_type": "king"}, 400),
        ({"nonce": 5}, 400),
        ({"admin": "yes"}, 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_request_is_refused(
    make_server: MakeServer,
    change: dict[str, Any],
    status: int,
) -> None:
    server = await make_server()
    assert status == (await server.call("POST", PATH, {**await _body(server), **change}))[0]
    assert not await server.accounts.has_any()


@pytest_twisted.ensureDeferred
async def test_without_a_secret_it_is_off(make_server: MakeServer) -> None:
    server = await make_server(Settings(shared_secret=None))
    assert 400 == (await server.call("GET", PATH))[0]
    assert 400 == (await server.call("POST", PATH, {}))[0]
