"""Who has lost the right to an answer while waiting for it, does not get it."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from api.auth import Access
from homeserver.web.request import WebRequest
from homeserver.web.router import Route
from tests.support.accounts import AccountServer, MakeServer, password_proof

PASSWORD = "correct horse"


class Poll:
    """A request that waits until `news()`."""

    def __init__(self, server: AccountServer, token: str) -> None:
        self._happened: Deferred[None] = Deferred()
        path = "/_matrix/client/v3/poll"
        server.door.router.add(Route("GET", path, self._wait, auth=Access.USERS, is_long_poll=True))
        self._answer = Deferred.fromCoroutine(server.call("GET", path, token=token))

    async def _wait(self, request: WebRequest) -> dict[str, Any]:
        await self._happened
        return {"news": "secret"}

    async def news(self) -> tuple[int, dict[str, Any]]:
        self._happened.callback(None)
        answer: tuple[int, dict[str, Any]] = await self._answer
        return answer


async def _account_nid(server: AccountServer) -> int:
    return (await server.accounts.get("@alice:example.org")).user_nid


async def _log_out(server: AccountServer, token: str) -> None:
    await server.call("POST", "logout", {}, token=token)


async def _log_out_everywhere(server: AccountServer, token: str) -> None:
    await server.call("POST", "logout/all", {}, token=token)


async def _log_out_from_another(server: AccountServer, token: str) -> None:
    other = (await server.login("alice"))[1]["access_token"]
    await server.call("POST", "logout/all", {}, token=other)


async def _change_password(server: AccountServer, token: str) -> None:
    body = {"new_password": "battery staple", "auth": password_proof("alice", PASSWORD)}
    assert (200, {}) == await server.call("POST", "account/password", body)


async def _deactivate(server: AccountServer, token: str) -> None:
    await server.call("POST", "account/deactivate", {"auth": password_proof("alice", PASSWORD)}, token=token)


async def _lock(server: AccountServer, token: str) -> None:
    await server.accounts.set_flags(await _account_nid(server), is_locked=True)


async def _log_in_elsewhere(server: AccountServer, token: str) -> None:
    await server.login("alice")


@pytest.mark.parametrize(
    ("happen", "errcode"),
    [
        (_log_out, "M_UNKNOWN_TOKEN"),
        (_log_out_everywhere, "M_UNKNOWN_TOKEN"),
        (_log_out_from_another, "M_UNKNOWN_TOKEN"),
        (_change_password, "M_UNKNOWN_TOKEN"),
        (_deactivate, "M_UNKNOWN_TOKEN"),
        (_lock, "M_USER_LOCKED"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_long_poll_tells_nothing_to_who_was_shut_out(make_server: MakeServer, happen: Any, errcode: str) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    poll = Poll(server, token)
    await happen(server, token)
    status, answer = await poll.news()
    assert (401, errcode, False) == (status, answer.get("errcode"), "news" in answer)


@pytest_twisted.ensureDeferred
async def test_long_poll_outlives_what_other_devices_do(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    poll = Poll(server, token)
    await _log_in_elsewhere(server, token)
    assert (200, {"news": "secret"}) == await poll.news()


@pytest_twisted.ensureDeferred
async def test_long_poll_outlives_the_refreshing_of_its_token(make_server: MakeServer) -> None:
    """Clients refresh while a sync is waiting; a hard 401 for that one would end their session."""
    server = await make_server()
    first = await server.register("alice", refresh_token=True)
    poll = Poll(server, first["access_token"])
    _, second = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    assert 200 == (await server.call("GET", "account/whoami", token=second["access_token"]))[0]
    assert 401 == (await server.call("GET", "account/whoami", token=first["access_token"]))[0]
    assert (200, {"news": "secret"}) == await poll.news()
