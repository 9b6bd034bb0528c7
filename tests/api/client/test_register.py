"""Making accounts, through the door."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_twisted

from homeserver.config import Registration as RegistrationConfig
from tests.support.accounts import OPEN, MakeServer, Settings, strict_policy

CLOSED = RegistrationConfig(bcrypt_rounds=4)
BY_TOKEN = RegistrationConfig(enabled=True, requires_token=True, bcrypt_rounds=4)


@pytest_twisted.ensureDeferred
async def test_registration_goes_through_the_dummy_stage(make_server: MakeServer) -> None:
    server = await make_server()
    body: dict[str, Any] = {"username": "Alice", "password": "correct horse", "device_id": "PHONE"}
    status, challenge = await server.call("POST", "register", body)
    assert (401, [{"stages": ["m.login.dummy"]}]) == (status, challenge["flows"])
    proof = {"type": "m.login.dummy", "session": challenge["session"]}
    status, answer = await server.call("POST", "register", {**body, "auth": proof})
    assert (200, "@alice:example.org", "PHONE") == (status, answer["user_id"], answer["device_id"])
    assert (200, {"displayname": "alice"}) == await server.call("GET", "profile/@alice:example.org")


@pytest_twisted.ensureDeferred
async def test_later_requests_of_a_session_need_not_repeat_the_parameters(make_server: MakeServer) -> None:
    server = await make_server()
    _, challenge = await server.call("POST", "register", {"username": "alice", "password": "correct horse"})
    proof = {"type": "m.login.dummy", "session": challenge["session"]}
    status, answer = await server.call("POST", "register", {"auth": proof})
    assert (200, "@alice:example.org") == (status, answer["user_id"])


@pytest_twisted.ensureDeferred
async def test_session_is_good_for_one_account(make_server: MakeServer) -> None:
    server = await make_server()
    _, challenge = await server.call("POST", "register", {"username": "alice", "password": "correct horse"})
    proof = {"type": "m.login.dummy", "session": challenge["session"]}
    assert 200 == (await server.call("POST", "register", {"auth": proof}))[0]
    status, answer = await server.call(
        "POST", "register", {"username": "bob", "password": "correct horse", "auth": proof}
    )
    assert 401 == status
    assert challenge["session"] != answer["session"]


@pytest.mark.parametrize(
    ("username", "errcode"),
    [
        ("taken", "M_USER_IN_USE"),
        ("TAKEN", "M_USER_IN_USE"),
        ("ta\u212aen", "M_INVALID_USERNAME"),
        ("taken ", "M_INVALID_USERNAME"),
        ("", "M_INVALID_USERNAME"),
        ("a:b", "M_INVALID_USERNAME"),
        ("@a", "M_INVALID_USERNAME"),
        ("é", "M_INVALID_USERNAME"),
        ("a\0b", "M_INVALID_USERNAME"),
        ("_bridge", "M_INVALID_USERNAME"),
        ("123", "M_INVALID_USERNAME"),
        ("x" * 250, "M_INVALID_USERNAME"),
        ("x" * 100_000, "M_INVALID_USERNAME"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_names_are_refused_before_any_stage(make_server: MakeServer, username: str, errcode: str) -> None:
    server = await make_server()
    await server.register("taken")
    status, answer = await server.call("POST", "register", {"username": username, "password": "correct horse"})
    assert (400, errcode) == (status, answer["errcode"])
    query = urlencode({"username": username})
    status, answer = await server.call("GET", "register/available", query=query)
    assert (400, errcode) == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_free_name_is_available(make_server: MakeServer) -> None:
    server = await make_server()
    assert (200, {"available": True}) == await server.call("GET", "register/available", query="username=alice")
    assert 400 == (await server.call("GET", "register/available"))[0]


@pytest_twisted.ensureDeferred
async def test_names_in_use_can_be_hidden_until_the_proof(make_server: MakeServer) -> None:
    server = await make_server(Settings(registration=OPEN.model_copy(update={"hide_names_in_use": True})))
    await server.register("alice")
    assert 200 == (await server.call("GET", "register/available", query="username=alice"))[0]
    assert 401 == (await server.call("POST", "register", {"username": "alice", "password": "correct horse"}))[0]
    body = {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    status, answer = await server.call("POST", "register", body)
    assert (400, "M_USER_IN_USE") == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_name_is_made_up_when_none_is_given(make_server: MakeServer) -> None:
    server = await make_server()
    body = {"password": "correct horse", "auth": {"type": "m.login.dummy"}}
    status, answer = await server.call("POST", "register", body)
    assert (200, True) == (status, answer["user_id"].endswith(":example.org"))


@pytest_twisted.ensureDeferred
async def test_inhibited_login_gives_no_token(make_server: MakeServer) -> None:
    server = await make_server()
    assert {"user_id": "@alice:example.org", "home_server": "example.org"} == await server.register(
        "alice", inhibit_login=True
    )


@pytest.mark.parametrize(
    ("password", "errcode"),
    [
        ("short", "M_WEAK_PASSWORD"),
        ("no digits here!", "M_WEAK_PASSWORD"),
        ("N0 symbols".replace(" ", ""), "M_WEAK_PASSWORD"),
        ("no upper 5!", "M_WEAK_PASSWORD"),
        ("NO LOWER 5!", "M_WEAK_PASSWORD"),
        ("", "M_INVALID_PARAM"),
        ("x" * 600, "M_INVALID_PARAM"),
        (5, "M_BAD_JSON"),
        (None, "M_MISSING_PARAM"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_weak_passwords_are_refused(make_server: MakeServer, password: Any, errcode: str) -> None:
    server = await make_server(Settings(registration=OPEN.model_copy(update={"password_policy": strict_policy()})))
    body = {"username": "alice", "password": password, "auth": {"type": "m.login.dummy"}}
    status, answer = await server.call("POST", "register", body)
    assert (400, errcode) == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_long_passwords_count_to_their_last_character(make_server: MakeServer) -> None:
    """bcrypt alone would take two passwords for the same that differ after 72 bytes."""
    server = await make_server()
    await server.register("alice", "é" * 99 + "a")
    assert [200, 403] == [(await server.login("alice", "é" * 99 + end))[0] for end in "ab"]


@pytest_twisted.ensureDeferred
async def test_closed_registration_is_closed(make_server: MakeServer) -> None:
    server = await make_server(Settings(registration=CLOSED))
    for method, path, body in [
        ("POST", "register", {"username": "a", "password": "correct horse", "auth": {"type": "m.login.dummy"}}),
        ("POST", "register", {}),
        ("GET", "register/available", None),
        ("GET", "/_matrix/client/v1/register/m.login.registration_token/validity", None),
    ]:
        status, answer = await server.call(method, path, body, query="username=a&token=b")
        assert (403, "M_FORBIDDEN") == (status, answer["errcode"])
    assert 403 == (await server.call("POST", "register", {}, query="kind=guest"))[0]


@pytest_twisted.ensureDeferred
async def test_token_is_needed_where_configured_and_used_up(make_server: MakeServer) -> None:
    server = await make_server(Settings(registration=BY_TOKEN))
    token = await server.registration.create_token("abc-DEF_1", uses_allowed=1)
    validity = "/_matrix/client/v1/register/m.login.registration_token/validity"
    assert (200, {"valid": True}) == await server.call("GET", validity, query=f"token={token}")
    body: dict[str, Any] = {"username": "alice", "password": "correct horse"}
    status, challenge = await server.call("POST", "register", body)
    assert (401, [{"stages": ["m.login.registration_token"]}]) == (status, challenge["flows"])
    for wrong in ({"type": "m.login.dummy"}, {"type": "m.login.registration_token", "token": "nope"}):
        proof = {**wrong, "session": challenge["session"]}
        status, answer = await server.call("POST", "register", {**body, "auth": proof})
        assert (401, "M_FORBIDDEN", challenge["session"]) == (status, answer["errcode"], answer["session"])
    proof = {"type": "m.login.registration_token", "token": token, "session": challenge["session"]}
    status, answer = await server.call("POST", "register", {**body, "auth": proof})
    assert 200 == status
    assert (200, {"valid": False}) == await server.call("GET", validity, query=f"token={token}")
    assert not (await server.accounts.get("@alice:example.org")).is_admin


@pytest_twisted.ensureDeferred
async def test_first_admin_token_works_once_where_registration_is_closed(make_server: MakeServer) -> None:
    server = await make_server(Settings(registration=CLOSED))
    token = await server.operator.create_first_admin_token()
    proof = {"type": "m.login.registration_token", "token": token}
    body: dict[str, Any] = {"username": "root", "password": "correct horse", "auth": proof}
    assert 200 == (await server.call("POST", "register", body))[0]
    assert (await server.accounts.get("@root:example.org")).is_admin
    assert 403 == (await server.call("POST", "register", {**body, "username": "second"}))[0]


@pytest_twisted.ensureDeferred
async def test_guest_is_named_by_the_server_and_kept_to_guest_endpoints(make_server: MakeServer) -> None:
    server = await make_server()
    body = {"username": "alice", "password": 5, "device_id": "MINE", "initial_device_display_name": "Tab"}
    status, guest = await server.call("POST", "register", body, query="kind=guest")
    assert (200, True) == (status, guest["user_id"][1:].partition(":")[0].isdigit())
    assert "MINE" != guest["device_id"]
    token = guest["access_token"]
    _, who = await server.call("GET", "account/whoami", token=token)
    assert who["is_guest"]
    for method, path in [("GET", "capabilities"), ("GET", "account/3pid"), ("POST", "logout")]:
        status, answer = await server.call(method, path, token=token)
        assert (403, "M_GUEST_ACCESS_FORBIDDEN") == (status, answer["errcode"])
    user = guest["user_id"]
    name = await server.call("PUT", f"profile/{user}/displayname", {"displayname": "Guest"}, token=token)
    assert (200, {}) == name
    status, _ = await server.call("PUT", f"profile/{user}/m.tz", {"m.tz": "UTC"}, token=token)
    assert 403 == status


@pytest_twisted.ensureDeferred
async def test_guest_becomes_a_user(make_server: MakeServer) -> None:
    server = await make_server()
    _, guest = await server.call("POST", "register", {}, query="kind=guest")
    localpart = guest["user_id"][1:].partition(":")[0]
    upgraded = await server.register(localpart, guest_access_token=guest["access_token"])
    assert guest["user_id"] == upgraded["user_id"]
    _, who = await server.call("GET", "account/whoami", token=guest["access_token"])
    assert not who["is_guest"]
    assert 200 == (await server.login(localpart))[0]
    await server.register("alice")
    body = {"username": "alice", "password": "correct horse", "guest_access_token": upgraded["access_token"]}
    status, answer = await server.call("POST", "register", {**body, "auth": {"type": "m.login.dummy"}})
    assert (400, "M_USER_IN_USE") == (status, answer["errcode"])


@pytest.mark.parametrize(
    "auth", ["x", [], 5, True, {"type": 5}, {"session": 5}, {"type": {}, "session": None}, {"session": "nope"}]
)
@pytest_twisted.ensureDeferred
async def test_malformed_auth_is_refused(make_server: MakeServer, auth: Any) -> None:
    server = await make_server()
    body = {"username": "alice", "password": "correct horse", "auth": auth}
    assert (await server.call("POST", "register", body))[0] in (400, 401)
    assert not await server.accounts.has("@alice:example.org")


@pytest.mark.parametrize("raw", [b"", b"[]", b"nope", b'{"a": NaN}', b"\xff", b"{" * 10_000])
@pytest_twisted.ensureDeferred
async def test_malformed_body_is_refused(make_server: MakeServer, raw: bytes) -> None:
    server = await make_server()
    for path in ("register", "login", "refresh"):
        status, answer = await server.call("POST", path, raw=raw)
        assert (400, True) == (status, answer["errcode"] in ("M_NOT_JSON", "M_BAD_JSON"))
