"""The user's devices, through the door."""

from __future__ import annotations

import pytest
import pytest_twisted

from homeserver.users.devices import DeviceRenamed, DevicesDeleted
from tests.support.accounts import MakeServer, password_proof


@pytest_twisted.ensureDeferred
async def test_devices_are_listed_and_renamed(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice", device_id="A B/😀", initial_device_display_name="Phone"))["access_token"]
    await server.login("alice", device_id="TWO")
    one = "devices/A%20B%2F%F0%9F%98%80"
    assert (200, {}) == await server.call("PUT", one, {"display_name": "Telefon"}, token=token)
    assert (200, {}) == await server.call("PUT", one, {}, token=token)
    status, answer = await server.call("GET", one, token=token)
    assert (200, "Telefon", "A B/😀") == (status, answer["display_name"], answer["device_id"])
    _, answer = await server.call("GET", "devices", token=token)
    assert ["A B/😀", "TWO"] == [device["device_id"] for device in answer["devices"]]
    assert {"device_id": "TWO"} == answer["devices"][1]
    assert [DeviceRenamed] == [type(note) for note in server.observed]


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PUT", {"display_name": "x"}), ("PUT", {})])
@pytest_twisted.ensureDeferred
async def test_other_peoples_devices_are_not_found(
    make_server: MakeServer, method: str, body: dict[str, str] | None
) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    await server.register("bob", device_id="BOBS")
    status, answer = await server.call(method, "devices/BOBS", body, token=token)
    assert (404, "M_NOT_FOUND") == (status, answer["errcode"])


@pytest.mark.parametrize(("name", "status"), [("x" * 101, 400), ("a\0b", 400), (5, 400), ("x" * 100, 200)])
@pytest_twisted.ensureDeferred
async def test_device_names_are_bounded(make_server: MakeServer, name: object, status: int) -> None:
    server = await make_server()
    token = (await server.register("alice", device_id="ONE"))["access_token"]
    assert status == (await server.call("PUT", "devices/ONE", {"display_name": name}, token=token))[0]


@pytest_twisted.ensureDeferred
async def test_device_is_deleted_with_its_tokens_after_a_proof(make_server: MakeServer) -> None:
    server = await make_server()
    first = await server.register("alice")
    other = (await server.login("alice", device_id="OTHER"))[1]["access_token"]
    assert 200 == (await server.call("GET", "account/whoami", token=other))[0]
    status, challenge = await server.call("DELETE", "devices/OTHER", token=first["access_token"])
    assert 401 == status
    auth = password_proof("alice", "correct horse", challenge["session"])
    # The proof is for one device.
    assert 403 == (await server.call("DELETE", "devices/ELSE", {"auth": auth}, token=first["access_token"]))[0]
    for _ in range(2):
        answer = await server.call("DELETE", "devices/OTHER", {"auth": auth}, token=first["access_token"])
        if answer[0] == 200:
            auth = password_proof("alice", "correct horse")
        assert (200, {}) == answer
    assert 401 == (await server.call("GET", "account/whoami", token=other))[0]
    assert 200 == (await server.call("GET", "account/whoami", token=first["access_token"]))[0]
    (note,) = server.observed
    assert isinstance(note, DevicesDeleted)
    assert ["OTHER"] == [device_id for _, device_id in note.devices]


@pytest_twisted.ensureDeferred
async def test_nobody_deletes_another_users_device(make_server: MakeServer) -> None:
    server = await make_server()
    bob = (await server.register("bob", device_id="BOBS"))["access_token"]
    token = (await server.register("alice"))["access_token"]
    body = {"devices": ["BOBS"], "auth": password_proof("alice", "correct horse")}
    assert 200 == (await server.call("POST", "delete_devices", body, token=token))[0]
    assert 200 == (await server.call("GET", "account/whoami", token=bob))[0]


@pytest_twisted.ensureDeferred
async def test_whois_is_for_the_user_and_for_administrators(make_server: MakeServer) -> None:
    server = await make_server()
    alice, bob = await server.register("alice"), await server.register("bob")
    await server.operator.create("root", "pw", admin=True)
    root = (await server.login("root", "pw"))[1]["access_token"]
    await server.login("alice", device_id="unused")
    await server.call("GET", "account/whoami", token=alice["access_token"], ip="192.0.2.7")
    now_ms = server.clock.now_ms()
    connection = {"ip": "192.0.2.7", "last_seen": now_ms, "user_agent": "test"}
    devices = {alice["device_id"]: {"sessions": [{"connections": [connection]}]}, "unused": {"sessions": []}}
    expected = (200, {"user_id": alice["user_id"], "devices": devices})
    path = f"admin/whois/{alice['user_id']}"
    assert expected == await server.call("GET", path, token=root)
    await server.sessions.write_last_seen()
    assert expected == await server.call("GET", path, token=root), "from the database"
    assert 200 == (await server.call("GET", path, token=alice["access_token"]))[0]
    for user_id in (alice["user_id"], "@nobody:example.org"):
        status, answer = await server.call("GET", f"admin/whois/{user_id}", token=bob["access_token"])
        assert (403, "M_FORBIDDEN") == (status, answer["errcode"])
    assert 404 == (await server.call("GET", "admin/whois/@nobody:example.org", token=root))[0]
