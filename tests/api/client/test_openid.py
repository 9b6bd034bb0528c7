"""OpenID tokens, as clients ask for them."""

from __future__ import annotations

import pytest
import pytest_twisted

from api.client.openid import OpenIDAPI
from homeserver.users.openid import OpenID
from tests.support.accounts import SERVER, AccountServer, MakeServer

PATH = "user/@alice:example.org/openid/request_token"


async def _server(make_server: MakeServer) -> tuple[AccountServer, OpenID]:
    server = await make_server()
    openid = OpenID(server.database, server.clock)
    server.door.router.add_all(OpenIDAPI(openid, server_name=SERVER).routes())
    return server, openid


@pytest.mark.parametrize("prefix", ["v3", "r0"])
@pytest_twisted.ensureDeferred
async def test_a_user_gets_a_token_that_says_who_they_are(make_server: MakeServer, prefix: str) -> None:
    server, openid = await _server(make_server)
    access_token = (await server.register("alice"))["access_token"]
    status, answer = await server.call("POST", f"/_matrix/client/{prefix}/{PATH}", {}, token=access_token)
    token = answer.pop("access_token")
    assert (200, {"token_type": "Bearer", "matrix_server_name": "example.org", "expires_in": 3600}) == (status, answer)
    assert "@alice:example.org" == await openid.user_of(token)


@pytest_twisted.ensureDeferred
async def test_an_openid_token_is_no_access_token_nor_the_other_way(make_server: MakeServer) -> None:
    server, _ = await _server(make_server)
    access_token = (await server.register("alice"))["access_token"]
    _, answer = await server.call("POST", PATH, {}, token=access_token)
    status, _ = await server.call("POST", PATH, {}, token=answer["access_token"])
    assert 401 == status


@pytest_twisted.ensureDeferred
async def test_nobody_gets_a_token_for_another_user(make_server: MakeServer) -> None:
    server, _ = await _server(make_server)
    access_token = (await server.register("bob"))["access_token"]
    status, answer = await server.call("POST", PATH, {}, token=access_token)
    assert (403, "M_FORBIDDEN") == (status, answer["errcode"])
    status, _ = await server.call("POST", PATH, {})
    assert 401 == status
