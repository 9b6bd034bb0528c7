"""Devices, keys and to-device messages between servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest_twisted

from tests.support.encryption import Keys
from tests.support.federation import (  # noqa: F401
    FederatedUser,
    Federation,
    federation,
    new_database,
    sqlite_federation,
)
from tests.support.played_server import until


async def _with_keys(user: FederatedUser, count: int = 0, **more: Any) -> Keys:
    keys = Keys(user.user_id, user.device_id)
    body = {"device_keys": keys.device(**more), "one_time_keys": keys.one_time(count)}
    await user.call("POST", "/keys/upload", body)
    return keys


async def _query(asker: FederatedUser, *users: str) -> Any:
    return await asker.call("POST", "/keys/query", {"device_keys": {user: [] for user in users}})


@pytest_twisted.ensureDeferred
async def test_two_servers_share_keys_lists_and_messages(federation: Federation) -> None:  # noqa: F811
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    hers = await _with_keys(alice)
    his = await _with_keys(bob, 1)
    await bob.call("POST", "/keys/device_signing/upload", his.cross_signing())

    # Keys are had before a room is shared; nothing is kept then.
    found = await _query(alice, bob.user_id)
    assert his.device() | {"unsigned": {}} == found["device_keys"][bob.user_id][bob.device_id]
    assert his.cross_signing()["master_key"] == found["master_keys"][bob.user_id]
    assert his.cross_signing()["self_signing_key"] == found["self_signing_keys"][bob.user_id]
    assert {} == found["failures"]

    room = await alice.create_room(preset="public_chat")
    since = (await alice.sync())["next_batch"]
    await bob.join(room, via=one)

    async def told() -> Any:
        return bob.user_id in (await alice.sync(since)).get("device_lists", {}).get("changed", [])

    await until(told)
    await _query(alice, bob.user_id)

    # An update is told and applied.
    since = (await alice.sync())["next_batch"]
    his_new = await _with_keys(bob, 0, more="new")
    await until(told)

    async def has_new() -> Any:
        found = await _query(alice, bob.user_id)
        return found["device_keys"][bob.user_id][bob.device_id].get("more") == "new"

    await until(has_new)

    # Each key is claimed once, over federation too.
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    claimed = await alice.call("POST", "/keys/claim", wanted)
    assert ["signed_curve25519:K0000"] == list(claimed["one_time_keys"][bob.user_id][bob.device_id])
    assert {} == (await alice.call("POST", "/keys/claim", wanted))["one_time_keys"]

    # Messages arrive once.
    since = (await bob.sync())["next_batch"]
    await alice.call("PUT", "/sendToDevice/m.test/1", {"messages": {bob.user_id: {bob.device_id: {"n": 1}}}})

    async def messages() -> Any:
        return (await bob.sync(since)).get("to_device", {}).get("events")

    assert [{"type": "m.test", "sender": alice.user_id, "content": {"n": 1}}] == await until(messages)

    # Other cross-signing keys, and a device that goes.
    since = (await alice.sync())["next_batch"]
    his_new.master, his_new.self_signing = hers.master, hers.self_signing
    answer = await bob.try_call("POST", "/keys/device_signing/upload", his_new.cross_signing())
    identifier = {"type": "m.id.user", "user": bob.user_id}
    proof = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
    proof["session"] = answer.json["session"]
    await bob.call("POST", "/keys/device_signing/upload", {**his_new.cross_signing(), "auth": proof})

    async def other_master() -> Any:
        return (await _query(alice, bob.user_id))["master_keys"][bob.user_id]["keys"] == his_new.public(
            "master", his_new.master
        )["keys"]

    await until(other_master)
    await bob.call("POST", "/logout", {})

    async def gone() -> Any:
        return (await _query(alice, bob.user_id))["device_keys"] == {bob.user_id: {}}

    await until(gone)

    odd: dict[str, list[str]] = {"nobody": [], "@": [], "@a:": [], "@a:b c": []}
    found = await alice.call("POST", "/keys/query", {"device_keys": odd})
    assert ({}, {}) == (found["device_keys"], found["failures"])

    # What is kept needs no server; what is not, is a failure of that server alone.
    await two.stop()
    found = await _query(alice, bob.user_id, f"@other:{two.name}", alice.user_id)
    assert {bob.user_id, alice.user_id} == set(found["device_keys"])
    assert [two.name] == list(found["failures"])
    assert [two.name] == list((await alice.call("POST", "/keys/claim", wanted))["failures"])


@pytest_twisted.ensureDeferred
async def test_keys_of_a_user_elsewhere_are_asked_for_when_they_are_signed(
    sqlite_federation: Federation,  # noqa: F811
) -> None:
    """A client may have had them before a room was shared, or from a server that has forgotten them since."""
    one, two = await sqlite_federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    hers, his = await _with_keys(alice), await _with_keys(bob)
    await alice.call("POST", "/keys/device_signing/upload", hers.cross_signing())
    await bob.call("POST", "/keys/device_signing/upload", his.cross_signing())
    master = hers.sign_by_user(his.public("master", his.master))
    body = {bob.user_id: {his.master.verify_key_base64: master, "OTHER": master}}
    failures = (await alice.call("POST", "/keys/signatures/upload", body))["failures"]
    assert 2 == len(failures[bob.user_id]), "of whom no room is shared with, no keys are kept"
    room = await alice.create_room(preset="public_chat")
    await bob.join(room, via=one)
    failures = (await alice.call("POST", "/keys/signatures/upload", body))["failures"]
    assert ["OTHER"] == list(failures[bob.user_id])
    assert alice.user_id in (await _query(alice, bob.user_id))["master_keys"][bob.user_id]["signatures"]


@pytest_twisted.ensureDeferred
async def test_others_are_told_of_our_users_alone(sqlite_federation: Federation) -> None:  # noqa: F811
    (server,) = await sqlite_federation.start()
    remote = await sqlite_federation.play()
    alice = await server.register("alice")
    await alice.call("PUT", f"/devices/{alice.device_id}", {"display_name": "secret name"})
    keys = await _with_keys(alice, 1)
    path = "/_matrix/federation/v1/user"
    answer = await remote.get(server.name, f"{path}/devices/{quote(alice.user_id)}")
    assert [{"device_id": alice.device_id, "keys": keys.device()}] == answer.json["devices"]
    assert answer.json["stream_id"] > 0
    for user in (f"@nobody:{server.name}", "@bob:elsewhere.example"):
        assert 404 == (await remote.get(server.name, f"{path}/devices/{quote(user)}")).status
    wanted: dict[str, Any] = {alice.user_id: [], f"@nobody:{server.name}": [], "@bob:elsewhere.example": []}
    answer = await remote.post(server.name, f"{path}/keys/query", {"device_keys": wanted})
    assert {alice.user_id: {alice.device_id: {**keys.device(), "unsigned": {}}}} == answer.json["device_keys"]
    asked = {alice.user_id: {alice.device_id: "signed_curve25519"}, "@bob:elsewhere.example": {"A": "x"}}
    answer = await remote.post(server.name, f"{path}/keys/claim", {"one_time_keys": asked})
    assert [alice.user_id] == list(answer.json["one_time_keys"])
    bad: list[dict[str, Any]] = [{}, {"device_keys": []}, {"device_keys": {alice.user_id: {}}}]
    for body in bad:
        assert 400 == (await remote.post(server.name, f"{path}/keys/query", body)).status


@pytest_twisted.ensureDeferred
async def test_messages_of_other_servers_come_once_and_from_their_own_users(
    sqlite_federation: Federation,  # noqa: F811
) -> None:
    (server,) = await sqlite_federation.start()
    remote = await sqlite_federation.play()
    alice = await server.register("alice")
    mallory = remote.user("mallory")

    def edu(**more: Any) -> dict[str, Any]:
        content = {
            "sender": mallory,
            "type": "m.test",
            "message_id": "m1",
            "messages": {alice.user_id: {"*": {"n": 1}, "NOBODY": {"n": 0}}},
            **more,
        }
        return {"edu_type": "m.direct_to_device", "content": content}

    edus = [
        edu(),
        edu(),
        edu(message_id="m2", sender=alice.user_id),
        edu(message_id="m3", sender="@eve:elsewhere.example"),
        edu(message_id="m4", messages={alice.user_id: {"*": {"n": "x" * 70_000}}}),
        edu(message_id="m5", messages=[]),
        edu(message_id="m6", messages={alice.user_id: {str(n): {} for n in range(2_000)}}),
        edu(message_id=None),
        edu(message_id="m7", messages={"@bob:elsewhere.example": {"*": {}}}),
    ]
    for txn_id in ("1", "2"):
        body = {"origin": remote.name, "origin_server_ts": 1, "pdus": [], "edus": edus}
        assert 200 == (await remote.put(server.name, f"/_matrix/federation/v1/send/{txn_id}", body)).status
    expected = [{"type": "m.test", "sender": mallory, "content": {"n": 1}}]

    async def told() -> Any:
        return (await alice.sync()).get("to_device", {}).get("events")

    assert expected == await until(told)
    assert expected == await told()
