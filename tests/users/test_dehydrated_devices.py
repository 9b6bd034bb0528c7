"""The dehydrated device: one for each user, sent keys like other devices, read as often as one likes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted

from homeserver.errors import NotFound
from tests.support.encryption import Keys
from tests.support.federation import (  # noqa: F401
    FederatedUser,
    Federation,
    federation,
    new_database,
)

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
# The ID is a key in base64, so there may be anything in it.
DEVICE = "a/b+c" + "x" * 38
DATA = {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "p" * 1000, "nonce": "n"}


def _body(user: FederatedUser, device_id: str = DEVICE, **more: Any) -> dict[str, Any]:
    keys = Keys(user.user_id, device_id)
    return {
        "device_id": device_id,
        "device_data": DATA,
        "initial_device_display_name": "Dehydrated device",
        "device_keys": keys.device(dehydrated=True),
        "one_time_keys": keys.one_time(1),
        "fallback_keys": keys.one_time(1, fallback=True),
        **more,
    }


async def _send(sender: FederatedUser, user: FederatedUser, *texts: str, device_id: str = DEVICE) -> None:
    for text in texts:
        body = {"messages": {user.user_id: {device_id: {"text": text}}}}
        await sender.call("PUT", f"/sendToDevice/org.example/{text}-{device_id[:3].replace('/', '')}", body)


def _events(device_id: str = DEVICE) -> str:
    return f"{PATH}/{quote(device_id, safe='')}/events"


@pytest_twisted.ensureDeferred
async def test_dehydrated_device_is_a_device_that_is_sent_keys(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    for method in ("GET", "DELETE"):
        missing = await alice.try_call(method, PATH)
        assert (404, "M_NOT_FOUND") == (missing.status, missing.json["errcode"])
    await bob.join(await alice.create_room(preset="public_chat"))
    before = (await bob.sync())["next_batch"]
    assert {"device_id": DEVICE} == await alice.call("PUT", PATH, _body(alice))
    assert {"device_id": DEVICE, "device_data": DATA} == await alice.call("GET", PATH)
    assert [alice.user_id] == (await bob.sync(before))["device_lists"]["changed"]
    shown = (await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: []}}))["device_keys"]
    assert {DEVICE} == set(shown[alice.user_id])
    assert True is shown[alice.user_id][DEVICE]["dehydrated"]
    wanted = {"one_time_keys": {alice.user_id: {DEVICE: "signed_curve25519"}}}
    names = [
        *(await bob.call("POST", "/keys/claim", wanted))["one_time_keys"][alice.user_id][DEVICE],
        *(await bob.call("POST", "/keys/claim", wanted))["one_time_keys"][alice.user_id][DEVICE],
    ]
    assert ["signed_curve25519:K0000", "signed_curve25519:F0000"] == names
    listed = (await alice.call("GET", "/devices"))["devices"]
    assert {"device_id": DEVICE, "display_name": "Dehydrated device"} in listed
    assert 404 == (await bob.try_call("GET", PATH)).status, "it is alice's"


@pytest_twisted.ensureDeferred
async def test_messages_are_read_in_batches_and_stay(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    await alice.call("PUT", PATH, _body(alice))
    texts = ["one", "two", "three"]
    await _send(bob, alice, *texts)
    for _ in range(2):
        # As clients of an earlier draft read: until there is nothing.
        read: list[str] = []
        body: dict[str, Any] = {}
        while events := (answer := await alice.call("POST", _events(), body, limit=2))["events"]:
            assert {"type": "org.example", "sender": bob.user_id} == {key: events[0][key] for key in ("type", "sender")}
            read += [event["content"]["text"] for event in events]
            body = {"next_batch": answer["next_batch"]}
        assert texts == read
        # And the others: until there is no token.
        first = await alice.call("GET", _events(), limit=2)
        second = await alice.call("GET", _events(), **{"from": first["next_batch"], "limit": 2})
        assert texts == [event["content"]["text"] for event in first["events"] + second["events"]]
        assert "next_batch" not in second
    for wrong in ({"next_batch": "5"}, {"next_batch": "d-1"}, {"next_batch": "d" + "9" * 40}, {"next_batch": "d²"}):
        assert "M_INVALID_PARAM" == (await alice.try_call("POST", _events(), wrong)).json["errcode"]
    for device_id, user in ((alice.device_id, alice), (DEVICE, bob)):
        refused = await user.try_call("GET", _events(device_id))
        assert (403, "M_FORBIDDEN") == (refused.status, refused.json["errcode"])


@pytest_twisted.ensureDeferred
async def test_operator_sees_which_devices_are_verified_and_removes_some(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    keys = Keys(alice.user_id, alice.device_id)
    await alice.call("POST", "/keys/upload", {"device_keys": keys.device()})
    await alice.call("POST", "/keys/device_signing/upload", keys.cross_signing())
    hydrated = _body(alice)
    # The keys come with the signature.
    await alice.call("PUT", PATH, {**hydrated, "device_keys": keys.sign_by_self(hydrated["device_keys"])})
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": "correct horse",
        "device_id": "phone",
        "initial_device_display_name": "Phone",
    }
    phone = FederatedUser(
        server, alice.user_id, (await server.request("POST", "/login", login)).json["access_token"], "phone"
    )
    operator = server.parts.users.operator
    lines = {line.device_id: line for line in await operator.list_devices("alice")}
    assert [alice.device_id, DEVICE, "phone"] == list(lines), "oldest first"
    shown = {
        name: (line.display_name, line.has_keys, line.is_verified, line.is_dehydrated) for name, line in lines.items()
    }
    expected = {
        alice.device_id: (None, True, False, False),
        DEVICE: ("Dehydrated device", True, True, True),
        "phone": ("Phone", False, False, False),
    }
    assert expected == shown
    assert lines[alice.device_id].last_seen_ts and not lines["phone"].last_seen_ts
    signed = {alice.user_id: {alice.device_id: keys.sign_by_self(keys.device())}}
    assert {"failures": {}} == await alice.call("POST", "/keys/signatures/upload", signed)
    assert (await operator.list_devices(alice.user_id))[0].is_verified, "by a signature that was made later"
    with pytest.raises(NotFound, match="no device tablet"):
        await operator.remove_devices("alice", ["phone", "tablet"])
    with pytest.raises(NotFound):
        await operator.list_devices("nobody")
    await phone.call("GET", "/account/whoami")
    await operator.remove_devices("alice", ["phone", alice.device_id])
    assert 401 == (await phone.try_call("GET", "/account/whoami")).status
    assert [DEVICE] == [line.device_id for line in await operator.list_devices("alice")]
    assert {DEVICE} == set(
        (await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: []}}))["device_keys"][alice.user_id]
    )


@pytest_twisted.ensureDeferred
async def test_new_one_takes_the_place_of_the_old_one_with_all_that_it_had(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    await alice.call("PUT", PATH, _body(alice))
    await _send(bob, alice, "old")
    await alice.call("PUT", PATH, _body(alice, "second"))
    assert "second" == (await alice.call("GET", PATH))["device_id"]
    assert 403 == (await alice.try_call("POST", _events(), {})).status
    assert {alice.device_id, "second"} == {
        device["device_id"] for device in (await alice.call("GET", "/devices"))["devices"]
    }
    await _send(bob, alice, "new", device_id="second")
    # Under the same ID it is another one, too.
    await alice.call("PUT", PATH, _body(alice, "second", one_time_keys={}))
    assert [] == (await alice.call("POST", _events("second"), {}))["events"]
    wanted = {"one_time_keys": {alice.user_id: {"second": "signed_curve25519"}}}
    found = (await bob.call("POST", "/keys/claim", wanted))["one_time_keys"][alice.user_id]["second"]
    assert ["signed_curve25519:F0000"] == list(found), "the keys of the former are gone"
    assert {"device_id": "second"} == await alice.call("DELETE", PATH)
    assert 404 == (await alice.try_call("GET", PATH)).status
    shown = (await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: []}}))["device_keys"]
    assert {alice.user_id: {}} == shown


@pytest_twisted.ensureDeferred
async def test_device_in_use_is_not_touched_and_one_logged_in_on_is_ordinary(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice = await server.register("alice")
    assert 400 == (await alice.try_call("PUT", PATH, _body(alice, alice.device_id))).status
    bad: dict[str, dict[str, Any]] = {
        "no keys": {"device_keys": None},
        "another device's keys": {"device_keys": Keys(alice.user_id, "other").device()},
        "no ID": {"device_id": ""},
        "a number for an ID": {"device_id": 5},
        "a long ID": {"device_id": "x" * 300},
        "no data": {"device_data": None},
        "data without an algorithm": {"device_data": {}},
        "large data": {"device_data": {"algorithm": "x", "p": "x" * 300_000}},
        "bad one-time keys": {"one_time_keys": {"x": 1}},
        "a name that is none": {"initial_device_display_name": 5},
    }
    for name, more in bad.items():
        answer = await alice.try_call("PUT", PATH, _body(alice, **more))
        assert answer.status in (400, 413), (name, answer.body)
    assert 404 == (await alice.try_call("GET", PATH)).status
    await alice.call("PUT", PATH, _body(alice))
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": "correct horse",
        "device_id": DEVICE,
    }
    assert 200 == (await server.request("POST", "/login", login)).status
    assert 404 == (await alice.try_call("GET", PATH)).status, "at once, and after a crash as well"
    await alice.call("PUT", PATH, _body(alice, "next"))
    devices = {device["device_id"] for device in (await alice.call("GET", "/devices"))["devices"]}
    assert {alice.device_id, DEVICE, "next"} == devices, "the one in use stays"
