"""Logging in, refreshing and logging out, through the door."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.config import Limits, RateLimit
from homeserver.config import Sessions as SessionsConfig
from homeserver.model.ids import UserID
from tests.support.accounts import FREE, MakeServer, Settings


@pytest_twisted.ensureDeferred
async def test_flows_are_told(make_server: MakeServer) -> None:
    server = await make_server()
    assert (200, {"flows": [{"type": "m.login.password"}]}) == await server.call("GET", "login")


@pytest.mark.in_turns
@pytest.mark.parametrize("user", ["alice", "Alice", "@alice:example.org", "@ALICE:EXAMPLE.org"])
@pytest_twisted.ensureDeferred
async def test_user_may_be_written_in_any_case(make_server: MakeServer, user: str) -> None:
    server = await make_server()
    await server.register("alice")
    status, answer = await server.login(user, initial_device_display_name="Phone")
    assert (200, "@alice:example.org", "example.org") == (status, answer["user_id"], answer["home_server"])
    assert not answer.keys() & {"refresh_token", "expires_in_ms"}
    status, who = await server.call("GET", "account/whoami", token=answer["access_token"])
    assert (200, {"user_id": "@alice:example.org", "device_id": answer["device_id"], "is_guest": False}) == (
        status,
        who,
    )


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("password", {"password": "wrong"}, 403, "M_FORBIDDEN"),
    ("long password", {"password": "x" * 100_000}, 403, "M_FORBIDDEN"),
    ("nobody", {"identifier": {"type": "m.id.user", "user": "nobody"}}, 403, "M_FORBIDDEN"),
    ("Kelvin sign", {"identifier": {"type": "m.id.user", "user": "ma\u212a"}}, 403, "M_FORBIDDEN"),
    ("other server", {"identifier": {"type": "m.id.user", "user": "@mak:other.org"}}, 403, "M_FORBIDDEN"),
    ("NUL", {"identifier": {"type": "m.id.user", "user": "mak\0"}}, 403, "M_FORBIDDEN"),
    ("space", {"identifier": {"type": "m.id.user", "user": "mak "}}, 403, "M_FORBIDDEN"),
    ("address", {"identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}}, 403, "M_FORBIDDEN"),
    ("identifier type", {"identifier": {"type": "m.id.dog", "user": "mak"}}, 400, "M_INVALID_PARAM"),
    ("no user", {"identifier": {"type": "m.id.user"}}, 400, "M_MISSING_PARAM"),
    ("no identifier", {"identifier": None}, 400, "M_MISSING_PARAM"),
    ("list", {"identifier": []}, 400, "M_BAD_JSON"),
    ("number", {"password": 5}, 400, "M_BAD_JSON"),
    ("type", {"type": "m.login.token"}, 400, "M_UNKNOWN"),
    ("no type", {"type": None}, 400, "M_BAD_JSON"),
    ("device ID", {"device_id": "x" * 300}, 400, "M_INVALID_PARAM"),
    ("device NUL", {"device_id": "x\0"}, 400, "M_INVALID_PARAM"),
    ("device name", {"initial_device_display_name": "x" * 300}, 400, "M_INVALID_PARAM"),
]


@pytest_twisted.ensureDeferred
async def test_wrong_logins_are_refused(make_server: MakeServer) -> None:
    server = await make_server()
    await server.register("mak")
    for name, change, status, errcode in WRONG:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "mak"},
            "password": "correct horse",
            **change,
        }
        got, answer = await server.call("POST", "login", body)
        assert (name, status, errcode) == (name, got, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_login_on_a_known_device_ends_its_old_tokens(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice", device_id="PHONE", initial_device_display_name="Old")
    _, second = await server.login("alice", device_id="PHONE", initial_device_display_name="New")
    status, answer = await server.call("GET", "account/whoami", token=first["access_token"])
    assert (401, "M_UNKNOWN_TOKEN", False) == (status, answer["errcode"], answer["soft_logout"])
    status, answer = await server.call("GET", "devices/PHONE", token=second["access_token"])
    assert (200, "Old") == (status, answer["display_name"])


@pytest_twisted.ensureDeferred
async def test_logout_ends_token_and_device(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice")
    _, second = await server.login("alice")
    assert (200, {}) == await server.call("POST", "logout", token=first["access_token"])
    assert 401 == (await server.call("GET", "account/whoami", token=first["access_token"]))[0]
    _, answer = await server.call("GET", "devices", token=second["access_token"])
    assert [second["device_id"]] == [device["device_id"] for device in answer["devices"]]


@pytest_twisted.ensureDeferred
async def test_logout_all_ends_every_token(make_server: MakeServer) -> None:
    server = await make_server()
    tokens = [(await server.register("alice"))["access_token"], (await server.login("alice"))[1]["access_token"]]
    for token in tokens:
        assert 200 == (await server.call("GET", "account/whoami", token=token))[0]
    assert (200, {}) == await server.call("POST", "logout/all", token=tokens[0])
    for token in tokens:
        assert 401 == (await server.call("GET", "account/whoami", token=token))[0]


@pytest_twisted.ensureDeferred
async def test_locked_user_may_only_log_out(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    assert 200 == (await server.call("GET", "account/whoami", token=token))[0]
    account = await server.accounts.get("@alice:example.org")
    await server.accounts.set_flags(account.user_nid, is_locked=True)
    status, answer = await server.call("GET", "account/whoami", token=token)
    assert (401, "M_USER_LOCKED", True) == (status, answer["errcode"], answer["soft_logout"])
    assert (401, "M_USER_LOCKED") == ((await server.login("alice"))[0], (await server.login("alice"))[1]["errcode"])
    assert 200 == (await server.call("POST", "logout", token=token))[0]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("token", "query", "errcode"),
    [
        (None, "", "M_MISSING_TOKEN"),
        ("wrong", "", "M_UNKNOWN_TOKEN"),
        ("", "", "M_UNKNOWN_TOKEN"),
        ("x" * 8000, "", "M_UNKNOWN_TOKEN"),
        (None, "access_token=wrong", "M_UNKNOWN_TOKEN"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_token_is_refused(make_server: MakeServer, token: str | None, query: str, errcode: str) -> None:
    server = await make_server()
    status, answer = await server.call("GET", "account/whoami", token=token, query=query)
    assert (401, errcode) == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_token_in_the_query_is_taken(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    assert 200 == (await server.call("GET", "account/whoami", query=f"access_token={token}"))[0]


# -- refreshing ---------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_expired_access_token_is_a_soft_logout_and_can_be_refreshed(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice", refresh_token=True)
    assert 300_000 == first["expires_in_ms"]
    assert 200 == (await server.call("GET", "account/whoami", token=first["access_token"]))[0]
    server.clock.advance(301)
    status, answer = await server.call("GET", "account/whoami", token=first["access_token"])
    assert (401, "M_UNKNOWN_TOKEN", True) == (status, answer["errcode"], answer["soft_logout"])
    status, second = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    assert (200, {"access_token", "refresh_token", "expires_in_ms"}) == (status, second.keys())
    _, who = await server.call("GET", "account/whoami", token=second["access_token"])
    assert first["device_id"] == who["device_id"]


@pytest_twisted.ensureDeferred
async def test_old_pair_is_valid_until_the_new_access_token_is_used(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice", refresh_token=True)
    _, lost = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    # The answer was lost: the client asks again, and the lost pair is worth nothing.
    status, second = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    assert 200 == status
    assert 401 == (await server.call("GET", "account/whoami", token=lost["access_token"]))[0]
    assert 200 == (await server.call("GET", "account/whoami", token=first["access_token"]))[0]
    assert 200 == (await server.call("GET", "account/whoami", token=second["access_token"]))[0]
    assert 401 == (await server.call("GET", "account/whoami", token=first["access_token"]))[0]
    status, answer = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    assert (401, "M_UNKNOWN_TOKEN", False) == (status, answer["errcode"], answer["soft_logout"])
    assert 200 == (await server.call("GET", "account/whoami", token=second["access_token"]))[0]


@pytest_twisted.ensureDeferred
async def test_using_the_new_refresh_token_revokes_the_old_one(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice", refresh_token=True)
    _, second = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    status, _ = await server.call("POST", "refresh", {"refresh_token": second["refresh_token"]})
    assert 200 == status
    assert 401 == (await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]}))[0]


@pytest_twisted.ensureDeferred
async def test_expired_refresh_token_is_a_soft_logout(make_server: MakeServer) -> None:
    server = await make_server(Settings(sessions=SessionsConfig(refresh_token_lifetime_ms=1000)))
    first = await server.register("alice", refresh_token=True)
    server.clock.advance(2)
    status, answer = await server.call("POST", "refresh", {"refresh_token": first["refresh_token"]})
    assert (401, "M_UNKNOWN_TOKEN", True) == (status, answer["errcode"], answer["soft_logout"])


@pytest_twisted.ensureDeferred
async def test_access_token_is_no_refresh_token(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice")
    assert 401 == (await server.call("POST", "refresh", {"refresh_token": first["access_token"]}))[0]


# -- limits -------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_guessing_is_bounded_for_each_account_and_successes_are_free(make_server: MakeServer) -> None:
    limits = Limits(
        login_address=FREE,
        login_account=FREE,
        registration=FREE,
        login_failed=RateLimit(per_second=0.1, burst_count=2),
    )
    server = await make_server(Settings(limits=limits))
    await server.register("alice")
    await server.register("bob")
    for _ in range(5):
        assert 200 == (await server.login("alice"))[0]
    spellings = ("alice", "ALICE", "@alice:example.org")
    assert [403, 403, 429] == [(await server.login(name, "wrong"))[0] for name in spellings]
    status, answer = await server.login("alice")
    assert (429, "M_LIMIT_EXCEEDED") == (status, answer["errcode"])
    assert answer["retry_after_ms"] > 0
    assert 200 == (await server.login("bob"))[0]
    server.clock.advance(11)
    assert 200 == (await server.login("alice"))[0]


@pytest_twisted.ensureDeferred
async def test_logins_are_bounded_for_each_address(make_server: MakeServer) -> None:
    limits = Limits(
        login_address=RateLimit(per_second=0.1, burst_count=1), login_account=FREE, registration=FREE, login_failed=FREE
    )
    server = await make_server(Settings(limits=limits))
    await server.register("alice")
    assert [200, 429] == [(await server.login("alice"))[0] for _ in range(2)]


@pytest_twisted.ensureDeferred
async def test_warm_token_is_answered_without_waiting(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    assert None is server.sessions.known_requester(token)
    requester = await server.sessions.requester_for(token)
    assert requester is server.sessions.known_requester(token)
    assert UserID("@alice:example.org") == requester.user_id


@pytest_twisted.ensureDeferred
async def test_last_seen_is_told_at_once_and_written_within_a_minute(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice")
    token, device = first["access_token"], first["device_id"]
    await server.call("GET", "account/whoami", token=token, ip="192.0.2.9")
    seen_ms = server.clock.now_ms()
    _, answer = await server.call("GET", f"devices/{device}", token=token, ip="192.0.2.9")
    assert ("192.0.2.9", seen_ms) == (answer["last_seen_ip"], answer["last_seen_ts"])
    await server.sessions.write_last_seen()
    requester = await server.sessions.requester_for(token)
    assert not server.sessions.is_noted(requester)
    shown = await server.devices.get_device(requester.user_nid, device)
    assert ("192.0.2.9", seen_ms) == (shown["last_seen_ip"], shown["last_seen_ts"])
