"""What is remembered of tokens is never older than the last change."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import UnknownToken, UserInUse
from homeserver.model.ids import UserID
from homeserver.users import sessions
from tests.support.accounts import MakeServer


@pytest_twisted.ensureDeferred
async def test_answer_read_before_a_logout_is_not_remembered_after_it(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    asked = Deferred.fromCoroutine(server.sessions.requester_for(token))
    account = await server.accounts.get("@alice:example.org")
    await server.devices.delete_all(UserID(account.user_id), account.user_nid)
    try:
        await asked
    except UnknownToken:
        pass
    assert None is server.sessions.known_requester(token)
    with pytest.raises(UnknownToken):
        await server.sessions.requester_for(token)


@pytest_twisted.ensureDeferred
async def test_memory_of_tokens_is_bounded(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_CACHED", 2)
    server = await make_server()
    tokens = [(await server.register(name))["access_token"] for name in ("a", "b", "c")]
    for token in tokens:
        await server.sessions.requester_for(token)
    assert [False, True, True] == [server.sessions.known_requester(token) is not None for token in tokens]


@pytest_twisted.ensureDeferred
async def test_devices_of_a_user_are_bounded(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_DEVICES", 2)
    server = await make_server()
    await server.register("alice", device_id="ONE")
    assert [200, 400, 200] == [(await server.login("alice", device_id=name))[0] for name in ("TWO", "THREE", "ONE")]


@pytest_twisted.ensureDeferred
async def test_of_two_who_register_a_name_at_once_one_gets_it(make_server: MakeServer) -> None:
    server = await make_server()
    user_id = UserID("@alice:example.org")
    racing = [Deferred.fromCoroutine(server.accounts.create(user_id)) for _ in range(5)]
    outcomes = await gatherResults([each.addErrback(lambda failure: failure.value) for each in racing])
    assert [1, 4] == [
        sum(not isinstance(outcome, Exception) for outcome in outcomes),
        sum(isinstance(outcome, UserInUse) for outcome in outcomes),
    ]


@pytest_twisted.ensureDeferred
async def test_of_two_who_use_up_a_token_at_once_one_gets_in(make_server: MakeServer) -> None:
    server = await make_server()
    await server.registration.create_token("once", uses_allowed=1)
    racing = [
        Deferred.fromCoroutine(server.accounts.create(UserID(f"@{name}:example.org"), registration_token="once"))
        for name in "abc"
    ]
    outcomes = await gatherResults([each.addErrback(lambda failure: failure.value) for each in racing])
    assert 1 == sum(not isinstance(outcome, Exception) for outcome in outcomes)
    assert 1 == len(await server.accounts.list_accounts())


@pytest_twisted.ensureDeferred
async def test_operator_commands_do_what_they_say(make_server: MakeServer) -> None:
    server = await make_server()
    assert not await server.operator.has_any()
    assert "@root:example.org" == await server.operator.create("root", "pw", admin=True)
    assert await server.operator.has_any()
    _, answer = await server.login("root", "pw")
    await server.operator.set_password("root", "other")
    assert 401 == (await server.call("GET", "account/whoami", token=answer["access_token"]))[0]
    assert 200 == (await server.login("root", "other"))[0]
    await server.operator.deactivate("@root:example.org")
    assert [("@root:example.org", True, True)] == [
        (account.user_id, account.is_admin, account.is_deactivated) for account in await server.operator.list_accounts()
    ]
