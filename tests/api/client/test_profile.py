"""Profiles, through the door."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.config import Profiles as ProfilesConfig
from tests.support.accounts import MakeServer, Settings

ALICE = "profile/@alice:example.org"


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("displayname", "Alice 😀 'x' \\ %_ "),
        ("avatar_url", "mxc://example.org/abc"),
        ("m.tz", "Europe/London"),
        ("org.example.job-title", {"a": [1, None, True, {"b": "c"}]}),
        ("com.example.nothing", None),
    ],
)
@pytest.mark.parametrize("prefix", ["v3/", "r0/", "unstable/uk.tcpip.msc4133/"])
@pytest_twisted.ensureDeferred
async def test_field_is_set_read_and_deleted(make_server: MakeServer, prefix: str, field: str, value: Any) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    prefix = f"/_matrix/client/{prefix}"
    path = f"{prefix}{ALICE}/{field}"
    assert (200, {}) == await server.call("PUT", path, {field: value}, token=token)
    assert (200, {field: value}) == await server.call("GET", path)
    _, profile = await server.call("GET", prefix + ALICE)
    assert value == profile[field]
    for _ in range(2):
        assert (200, {}) == await server.call("DELETE", path, token=token)
    status, answer = await server.call("GET", path)
    assert (404, "M_NOT_FOUND") == (status, answer["errcode"])


BAD: list[tuple[str, Any, int, str]] = [
    ("displayname", {}, 400, "M_MISSING_PARAM"),
    ("displayname", {"displayname": 5}, 400, "M_BAD_JSON"),
    ("displayname", {"displayname": {}}, 400, "M_BAD_JSON"),
    ("displayname", {"displayname": "x" * 300}, 400, "M_INVALID_PARAM"),
    ("avatar_url", {"avatar_url": "https://example.org/a.png"}, 400, "M_INVALID_PARAM"),
    ("avatar_url", {"avatar_url": "mxc://"}, 400, "M_INVALID_PARAM"),
    ("avatar_url", {"avatar_url": ["mxc://a/b"]}, 400, "M_BAD_JSON"),
    ("m.tz", {"m.tz": 5}, 400, "M_BAD_JSON"),
    ("Upper.case", {"Upper.case": 1}, 400, "M_INVALID_PARAM"),
    ("a%20b", {"a b": 1}, 400, "M_INVALID_PARAM"),
    ("a%0A", {"a\n": 1}, 400, "M_INVALID_PARAM"),
    ("a%00", {"a\0": 1}, 400, "M_INVALID_PARAM"),
    ("x" * 256, {"x" * 256: 1}, 400, "M_KEY_TOO_LARGE"),
    ("%C3%A9" * 128, {"é" * 128: 1}, 400, "M_KEY_TOO_LARGE"),
    ("org.example.float", {"org.example.float": 1.5}, 400, "M_BAD_JSON"),
    ("org.example.big", {"org.example.big": 2**60}, 400, "M_BAD_JSON"),
    ("org.example.large", {"org.example.large": "x" * 65_536}, 400, "M_PROFILE_TOO_LARGE"),
]


@pytest_twisted.ensureDeferred
async def test_bad_fields_are_refused(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    for field, body, status, errcode in BAD:
        got, answer = await server.call("PUT", f"{ALICE}/{field}", body, token=token)
        assert (field[:30], status, errcode) == (field[:30], got, answer["errcode"])
    assert (200, {"displayname": "alice"}) == await server.call("GET", ALICE)


@pytest_twisted.ensureDeferred
async def test_whole_profile_is_bounded(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    statuses = []
    for number in range(4):
        field = f"org.example.f{number}"
        statuses.append((await server.call("PUT", f"{ALICE}/{field}", {field: "x" * 20_000}, token=token))[0])
    assert [200, 200, 200, 400] == statuses
    # What is replaced does not count twice.
    body = {"org.example.f0": "y" * 20_000}
    assert 200 == (await server.call("PUT", f"{ALICE}/org.example.f0", body, token=token))[0]


@pytest_twisted.ensureDeferred
async def test_profiles_of_others_are_not_changed(make_server: MakeServer) -> None:
    server = await make_server()
    await server.register("alice")
    mallory = (await server.register("mallory"))["access_token"]
    for method in ("PUT", "DELETE"):
        status, answer = await server.call(method, f"{ALICE}/displayname", {"displayname": "x"}, token=mallory)
        assert (403, "M_FORBIDDEN") == (status, answer["errcode"])
    assert 401 == (await server.call("PUT", f"{ALICE}/displayname", {"displayname": "x"}))[0]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("user", "status"),
    [
        ("@nobody:example.org", 404),
        ("@a:other.org", 404),
        ("alice", 400),
        ("@alice", 400),
        ("@a:example.org%00", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_unknown_users_have_no_profile(make_server: MakeServer, user: str, status: int) -> None:
    server = await make_server()
    assert status == (await server.call("GET", f"profile/{user}"))[0]
    assert status == (await server.call("GET", f"profile/{user}/displayname"))[0]


@pytest.mark.parametrize("empty", ["", None])
@pytest_twisted.ensureDeferred
async def test_empty_name_takes_it_away(make_server: MakeServer, empty: str | None) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    assert 200 == (await server.call("PUT", f"{ALICE}/displayname", {"displayname": empty}, token=token))[0]
    assert (200, {}) == await server.call("GET", ALICE)
    await server.until(lambda: server.propagated == [("@alice:example.org", {})])


@pytest_twisted.ensureDeferred
async def test_only_name_and_avatar_go_into_rooms_and_the_newest_wins(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    await server.call("PUT", f"{ALICE}/m.tz", {"m.tz": "UTC"}, token=token)
    assert [] == server.propagated
    held = server.hold_propagation = Deferred()
    for name in ("A", "B", "C"):
        await server.call("PUT", f"{ALICE}/displayname", {"displayname": name}, token=token)
    await server.until(lambda: bool(server.propagated))
    server.hold_propagation = None
    held.callback(None)
    newest = ("@alice:example.org", {"displayname": "C"})
    await server.until(lambda: server.propagated[-1] == newest)
    assert 2 >= len(server.propagated)


@pytest_twisted.ensureDeferred
async def test_changes_and_reading_can_be_restricted(make_server: MakeServer) -> None:
    config = ProfilesConfig(need_login=True, need_shared_room=True, allow_displayname_changes=False)
    server = await make_server(Settings(profiles=config))
    token = (await server.register("alice"))["access_token"]
    bob = (await server.register("bob"))["access_token"]
    assert 401 == (await server.call("GET", ALICE))[0]
    assert 403 == (await server.call("GET", ALICE, token=bob))[0]
    assert 200 == (await server.call("GET", ALICE, token=token))[0]
    assert 403 == (await server.call("PUT", f"{ALICE}/displayname", {"displayname": "x"}, token=token))[0]
    _, answer = await server.call("GET", "capabilities", token=token)
    assert {"enabled": True, "disallowed": ["displayname"]} == answer["capabilities"]["m.profile_fields"]
    assert {"enabled": False} == answer["capabilities"]["m.set_displayname"]


@pytest_twisted.ensureDeferred
async def test_suspended_user_cannot_change_the_profile(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    account = await server.accounts.get("@alice:example.org")
    await server.accounts.set_flags(account.user_nid, is_suspended=True)
    status, answer = await server.call("PUT", f"{ALICE}/displayname", {"displayname": "x"}, token=token)
    assert (403, "M_USER_SUSPENDED") == (status, answer["errcode"])
