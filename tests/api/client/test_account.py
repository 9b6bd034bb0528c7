"""Passwords, deactivation and the authentication that they need, through the door."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.config import Limits, RateLimit
from homeserver.model.ids import UserID
from homeserver.users import interactive_auth
from tests.support.accounts import FREE, AccountServer, MakeServer, Settings, password_proof

PASSWORD = "correct horse"


async def _session(server: AccountServer, path: str, body: dict[str, Any], token: str | None) -> str:
    status, challenge = await server.call("POST", path, body, token=token)
    assert (401, [{"stages": ["m.login.password"]}]) == (status, challenge["flows"])
    assert "errcode" not in challenge
    session: str = challenge["session"]
    return session


@pytest.mark.parametrize(("logout_devices", "others"), [(None, 401), (True, 401), (False, 200)])
@pytest_twisted.ensureDeferred
async def test_password_is_changed_and_other_devices_are_logged_out(
    make_server: MakeServer, logout_devices: bool | None, others: int
) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    other = (await server.login("alice"))[1]["access_token"]
    assert 200 == (await server.call("GET", "account/whoami", token=other))[0]
    body: dict[str, Any] = {"new_password": "battery staple"}
    if logout_devices is not None:
        body["logout_devices"] = logout_devices
    session = await _session(server, "account/password", body, token)
    proof = password_proof("alice", PASSWORD, session)
    assert (200, {}) == await server.call("POST", "account/password", {**body, "auth": proof}, token=token)
    assert 200 == (await server.call("GET", "account/whoami", token=token))[0]
    assert others == (await server.call("GET", "account/whoami", token=other))[0]
    assert [403, 200] == [(await server.login("alice", password))[0] for password in (PASSWORD, "battery staple")]


@pytest_twisted.ensureDeferred
async def test_password_can_be_changed_without_a_session(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    body = {"new_password": "battery staple", "auth": password_proof("alice", PASSWORD)}
    assert (200, {}) == await server.call("POST", "account/password", body)
    assert 200 == (await server.login("alice", "battery staple"))[0]
    assert 401 == (await server.call("GET", "account/whoami", token=token))[0]


@pytest_twisted.ensureDeferred
async def test_wrong_password_is_told_with_the_flows(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    await server.register("mallory")
    body = {"new_password": "battery staple"}
    session = await _session(server, "account/password", body, token)
    for user, password in [("alice", "wrong"), ("mallory", PASSWORD), ("@mallory:example.org", PASSWORD)]:
        proof = password_proof(user, password, session)
        status, answer = await server.call("POST", "account/password", {**body, "auth": proof}, token=token)
        assert (401, "M_FORBIDDEN", session) == (status, answer["errcode"], answer["session"])
        assert [{"stages": ["m.login.password"]}] == answer["flows"]


@pytest_twisted.ensureDeferred
async def test_session_counts_for_nothing_else(make_server: MakeServer) -> None:
    """Spec: client-server API, "User-Interactive Authentication API"; another user, device, operation or parameters."""
    server = await make_server()
    alice = (await server.register("alice"))["access_token"]
    alice_too = (await server.login("alice"))[1]["access_token"]
    mallory = (await server.register("mallory"))["access_token"]
    body = {"new_password": "battery staple"}
    session = await _session(server, "account/password", body, alice)
    proof = password_proof("alice", PASSWORD, session)
    for path, changed, token in [
        ("account/password", body, mallory),
        ("account/password", body, alice_too),
        ("account/password", body, None),
        ("account/password", {"new_password": "other password"}, alice),
        ("account/deactivate", body, alice),
        ("delete_devices", {"devices": []}, alice),
    ]:
        status, answer = await server.call("POST", path, {**changed, "auth": proof}, token=token)
        assert (403, "M_FORBIDDEN") == (status, answer["errcode"]), (path, changed)
    assert 200 == (await server.login("alice"))[0]


@pytest_twisted.ensureDeferred
async def test_used_or_expired_session_begins_a_new_one(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    body = {"devices": ["NONE"]}
    session = await _session(server, "delete_devices", body, token)
    request = {**body, "auth": password_proof("alice", PASSWORD, session)}
    assert 200 == (await server.call("POST", "delete_devices", request, token=token))[0]
    status, answer = await server.call("POST", "delete_devices", request, token=token)
    assert (401, True) == (status, answer["session"] != session)
    server.clock.advance(interactive_auth.SESSION_LIFE_MS / 1000 + 1)
    request["auth"] = password_proof("alice", PASSWORD, answer["session"])
    assert 401 == (await server.call("POST", "delete_devices", request, token=token))[0]


@pytest_twisted.ensureDeferred
async def test_sessions_are_bounded(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive_auth, "MAX_SESSIONS", 2)
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    sessions = [await _session(server, "delete_devices", {"devices": []}, token) for _ in range(3)]
    outcomes = []
    for session in reversed(sessions):
        request = {"devices": [], "auth": password_proof("alice", PASSWORD, session)}
        outcomes.append((await server.call("POST", "delete_devices", request, token=token))[0])
    # The first gave way to the third.
    assert [200, 200, 401] == outcomes


@pytest_twisted.ensureDeferred
async def test_user_without_a_password_cannot_prove_anything(make_server: MakeServer) -> None:
    server = await make_server()
    account = await server.accounts.create(UserID("@nopass:example.org"))
    token = (await server.sessions.log_in(account)).tokens.access_token
    for password in ("", "x", "." * 53):
        body = {"devices": [], "auth": password_proof("nopass", password)}
        assert 401 == (await server.call("POST", "delete_devices", body, token=token))[0]
        assert 403 == (await server.login("nopass", password))[0]


@pytest_twisted.ensureDeferred
async def test_guessing_by_interactive_auth_is_bounded_too(make_server: MakeServer) -> None:
    limits = Limits(
        login_address=FREE, login_account=FREE, registration=FREE, login_failed=RateLimit(per_second=0.1, burst_count=2)
    )
    server = await make_server(Settings(limits=limits))
    token = (await server.register("alice"))["access_token"]
    body = {"devices": [], "auth": password_proof("alice", "wrong")}
    statuses = [(await server.call("POST", "delete_devices", body, token=token))[0] for _ in range(3)]
    assert [401, 401, 429] == statuses
    assert 429 == (await server.login("alice"))[0]


@pytest_twisted.ensureDeferred
async def test_proof_lasts_where_configured(make_server: MakeServer) -> None:
    server = await make_server(Settings(proof_life_ms=60_000))
    token = (await server.register("alice"))["access_token"]
    body: dict[str, Any] = {"devices": []}
    proven = {**body, "auth": password_proof("alice", PASSWORD)}
    assert 200 == (await server.call("POST", "delete_devices", proven, token=token))[0]
    assert 200 == (await server.call("POST", "delete_devices", body, token=token))[0]
    server.clock.advance(61)
    assert 401 == (await server.call("POST", "delete_devices", body, token=token))[0]


@pytest.mark.parametrize("erase", [False, True])
@pytest_twisted.ensureDeferred
async def test_deactivated_account_is_closed_for_good(make_server: MakeServer, erase: bool) -> None:
    server = await make_server()
    token = (await server.register("alice", refresh_token=True))["access_token"]
    assert 200 == (await server.call("GET", "account/whoami", token=token))[0]
    body = {"erase": erase, "auth": password_proof("@alice:example.org", PASSWORD)}
    answer = await server.call("POST", "account/deactivate", body, token=token)
    assert (200, {"id_server_unbind_result": "success"}) == answer
    assert 401 == (await server.call("GET", "account/whoami", token=token))[0]
    status, refusal = await server.login("alice")
    assert (403, "M_FORBIDDEN") == (status, refusal["errcode"])
    again = {"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    status, refusal = await server.call("POST", "register", again)
    assert (400, "M_USER_IN_USE") == (status, refusal["errcode"])
    assert [UserID("@alice:example.org")] == server.left
    _, profile = await server.call("GET", "profile/@alice:example.org")
    assert ({} if erase else {"displayname": "alice"}) == profile
    account = await server.accounts.get("@alice:example.org")
    assert (True, erase, None) == (account.is_deactivated, account.is_erased, account.password_hash)


@pytest_twisted.ensureDeferred
async def test_leaving_rooms_goes_on_after_a_restart(make_server: MakeServer) -> None:
    server = await make_server()
    await server.register("alice")
    account = await server.accounts.get("@alice:example.org")
    await server.tasks.stop()  # nothing in the background any more, as in a crash
    await server.accounts.deactivate(UserID(account.user_id), account.user_nid, erase=False)
    assert [] == server.left
    await server.stop()
    restarted = await make_server()
    await restarted.until(lambda: bool(restarted.left))
    assert [UserID("@alice:example.org")] == restarted.left


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("account/password", {}),
        ("account/password", {"new_password": 5}),
        ("account/password", {"new_password": "long enough", "logout_devices": "no"}),
        ("account/deactivate", {"erase": "yes"}),
        ("delete_devices", {"devices": [5]}),
        ("delete_devices", {"devices": {}}),
        ("delete_devices", {}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_malformed_parameters_are_refused(make_server: MakeServer, path: str, body: dict[str, Any]) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    status, answer = await server.call("POST", path, body, token=token)
    assert (400, True) == (status, answer["errcode"] in ("M_MISSING_PARAM", "M_BAD_JSON"))


@pytest_twisted.ensureDeferred
async def test_no_address_is_bound(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    assert (200, {"threepids": []}) == await server.call("GET", "account/3pid", token=token)
    status, answer = await server.call("POST", "account/3pid/add", {}, token=token)
    assert (404, "M_UNRECOGNIZED") == (status, answer["errcode"])


@pytest.mark.parametrize(
    ("path", "body"), [("account/password", {"new_password": "battery staple"}), ("account/deactivate", {})]
)
@pytest_twisted.ensureDeferred
async def test_locked_account_is_not_changed_by_who_has_its_password(
    make_server: MakeServer, path: str, body: dict[str, Any]
) -> None:
    """Spec: client-server API, "Account locking"; both endpoints also answer without an access token."""
    server = await make_server()
    await server.register("alice")
    account = await server.accounts.get("@alice:example.org")
    await server.accounts.set_flags(account.user_nid, is_locked=True)
    status, answer = await server.call("POST", path, {**body, "auth": password_proof("alice", PASSWORD)})
    assert (401, "M_USER_LOCKED") == (status, answer["errcode"])
    await server.accounts.set_flags(account.user_nid, is_locked=False)
    assert 200 == (await server.login("alice", PASSWORD))[0]
