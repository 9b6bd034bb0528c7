"""Keys, to-device messages, device lists and key backups through the client API of a whole server."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.feed.streams import to_device as to_device_stream
from tests.support.encryption import Keys
from tests.support.federation import (  # noqa: F401
    FederatedServer,
    FederatedUser,
    Federation,
    federation,
    new_database,
)
from tests.support.played_server import pause

NONE_LEFT = {"signed_curve25519": 0}


async def _log_in(server: FederatedServer, user: FederatedUser) -> FederatedUser:
    identifier = {"type": "m.id.user", "user": user.user_id}
    body = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
    answer = (await server.request("POST", "/login", body)).json
    return FederatedUser(server, user.user_id, answer["access_token"], answer["device_id"])


async def _with_keys(user: FederatedUser, count: int = 0) -> Keys:
    keys = Keys(user.user_id, user.device_id)
    await user.call("POST", "/keys/upload", {"device_keys": keys.device(), "one_time_keys": keys.one_time(count)})
    return keys


def _password(user: FederatedUser, session: str) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": "correct horse", "session": session}


@pytest_twisted.ensureDeferred
async def test_keys_are_shown_as_they_were_uploaded(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    keys = Keys(alice.user_id, alice.device_id)
    answer = await alice.call(
        "POST",
        "/keys/upload",
        {
            "device_keys": keys.device(),
            "one_time_keys": keys.one_time(3),
            "fallback_keys": keys.one_time(1, fallback=True),
        },
    )
    assert {"signed_curve25519": 3} == answer["one_time_key_counts"]
    await alice.call("PUT", f"/devices/{alice.device_id}", {"display_name": "phone"})
    found = await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: [], "@nobody:" + server.name: []}})
    expected = {**keys.device(), "unsigned": {"device_display_name": "phone"}}
    assert {alice.user_id: {alice.device_id: expected}} == found["device_keys"]
    assert {} == found["failures"]
    found = await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: ["OTHER"]}})
    assert {alice.user_id: {}} == found["device_keys"]


@pytest_twisted.ensureDeferred
async def test_each_one_time_key_is_claimed_once_in_order_then_the_fallback_key(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    keys = await _with_keys(alice, 2)
    await alice.call("POST", "/keys/upload", {"one_time_keys": keys.one_time(2, 2)})
    await alice.call("POST", "/keys/upload", {"fallback_keys": keys.one_time(1, fallback=True)})
    synced = await alice.sync()
    assert {"signed_curve25519": 4} == synced["device_one_time_keys_count"]
    assert ["signed_curve25519"] == synced["device_unused_fallback_key_types"]
    wanted = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
    names = []
    for _ in range(6):
        found = (await bob.call("POST", "/keys/claim", wanted))["one_time_keys"][alice.user_id][alice.device_id]
        names += list(found)
    assert [f"signed_curve25519:K000{n}" for n in range(4)] + ["signed_curve25519:F0000"] * 2 == names
    synced = await alice.sync(synced["next_batch"])
    assert NONE_LEFT == synced["device_one_time_keys_count"]
    assert [] == synced["device_unused_fallback_key_types"]
    await alice.call("POST", "/keys/upload", {"fallback_keys": keys.one_time(1, fallback=True)})
    assert [] == (await alice.sync())["device_unused_fallback_key_types"], "the same key again is not a fresh one"
    await alice.call("POST", "/keys/upload", {"fallback_keys": keys.one_time(1, 1, fallback=True)})
    assert ["signed_curve25519"] == (await alice.sync())["device_unused_fallback_key_types"]


BAD_UPLOADS: dict[str, dict[str, Any]] = {
    "keys as a list": {"one_time_keys": []},
    "keys as a number": {"one_time_keys": 5},
    "key as null": {"one_time_keys": {"signed_curve25519:A": None}},
    "key as a list": {"one_time_keys": {"signed_curve25519:A": []}},
    "key as a number": {"one_time_keys": {"signed_curve25519:A": 1}},
    "no algorithm": {"one_time_keys": {"AAAA": "x"}},
    "no ID": {"one_time_keys": {"signed_curve25519:": "x"}},
    "a float": {"one_time_keys": {"signed_curve25519:A": {"key": "x", "n": 1.5}}},
    "a large integer": {"one_time_keys": {"signed_curve25519:A": {"key": "x", "n": 2**53}}},
    "signatures as a list": {"one_time_keys": {"signed_curve25519:A": {"key": "x", "signatures": []}}},
    "a long ID": {"one_time_keys": {"signed_curve25519:" + "A" * 300: "x"}},
    "many": {"one_time_keys": {f"curve25519:{n}": "x" for n in range(1_001)}},
    "two fallback keys": {"fallback_keys": {"curve25519:A": "x", "curve25519:B": "y"}},
    "device keys as a list": {"device_keys": []},
    "another user's": {"device_keys": {"user_id": "@eve:example.org"}},
}


@pytest_twisted.ensureDeferred
async def test_bad_keys_are_refused_whole(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice = await server.register("alice")
    keys = Keys(alice.user_id, alice.device_id)
    good = keys.one_time(1)
    bad = dict(BAD_UPLOADS)
    bad["another device's"] = {"device_keys": {**keys.device(), "device_id": "OTHER"}}
    bad["a float in device keys"] = {"device_keys": keys.device() | {"n": 0.5}}
    bad["deep"] = {"device_keys": keys.device() | {"n": _nested(500)}}
    bad["a key that is no string"] = {"device_keys": keys.device() | {"keys": {"ed25519:A": 1}}}
    for name, body in bad.items():
        body = (
            {**body, "one_time_keys": {**good, **body["one_time_keys"]}}
            if isinstance(body.get("one_time_keys"), dict)
            else {"one_time_keys": good, **body}
        )
        answer = await alice.try_call("POST", "/keys/upload", body)
        assert 400 == answer.status, (name, answer.body)
    assert {} == (await alice.call("POST", "/keys/upload", {}))["one_time_key_counts"], "nothing was stored"
    await alice.call("POST", "/keys/upload", {"one_time_keys": good})
    await alice.call("POST", "/keys/upload", {"one_time_keys": good})
    other = {name: {**key, "key": "other"} for name, key in good.items()}
    assert 400 == (await alice.try_call("POST", "/keys/upload", {"one_time_keys": other})).status
    assert {"signed_curve25519": 1} == (await alice.call("POST", "/keys/upload", {}))["one_time_key_counts"]
    for path, body in (
        ("/keys/query", {}),
        ("/keys/query", {"device_keys": []}),
        ("/keys/query", {"device_keys": {alice.user_id: [5]}}),
        ("/keys/query", {"device_keys": {"@a:b": [f"{n}" for n in range(10_001)]}}),
        ("/keys/claim", {}),
        ("/keys/claim", {"one_time_keys": {alice.user_id: []}}),
        ("/keys/claim", {"one_time_keys": {alice.user_id: {"A": 5}}}),
        ("/keys/signatures/upload", {alice.user_id: []}),
        ("/keys/device_signing/upload", {"master_key": []}),
    ):
        assert 400 == (await alice.try_call("POST", path, body)).status, (path, str(body)[:100])


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest_twisted.ensureDeferred
async def test_cross_signing_keys_need_a_proof_from_the_second_time_on(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    keys = await _with_keys(alice)
    body = keys.cross_signing()
    since = (await alice.sync())["next_batch"]
    await alice.call("POST", "/keys/device_signing/upload", body)
    await alice.call("POST", "/keys/device_signing/upload", body)
    assert [alice.user_id] == (await alice.sync(since))["device_lists"]["changed"]
    forged = {**body, "self_signing_key": {**body["self_signing_key"], "signatures": {}}}
    answer = await alice.try_call("POST", "/keys/device_signing/upload", forged)
    assert (400, "M_INVALID_SIGNATURE") == (answer.status, answer.json["errcode"])
    new = Keys(alice.user_id, alice.device_id, generation=2).cross_signing()
    answer = await alice.try_call("POST", "/keys/device_signing/upload", new)
    assert 401 == answer.status
    proof = _password(alice, answer.json["session"])
    await alice.call("POST", "/keys/device_signing/upload", {**new, "auth": proof})
    wanted: dict[str, Any] = {"device_keys": {alice.user_id: []}}
    shown = await alice.call("POST", "/keys/query", wanted)
    assert {alice.user_id: new["user_signing_key"]} == shown["user_signing_keys"]
    shown = await bob.call("POST", "/keys/query", wanted)
    assert {alice.user_id: new["master_key"]} == shown["master_keys"]
    assert {alice.user_id: new["self_signing_key"]} == shown["self_signing_keys"]
    assert {} == shown["user_signing_keys"]


@pytest_twisted.ensureDeferred
async def test_only_good_signatures_are_stored(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    mine, his = await _with_keys(alice), await _with_keys(bob)
    await alice.call("POST", "/keys/device_signing/upload", mine.cross_signing())
    await bob.call("POST", "/keys/device_signing/upload", his.cross_signing())
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    since = (await alice.sync())["next_batch"]
    device = mine.sign_by_self(mine.device())
    his_master = his.public("master", his.master)
    master = his.master.verify_key_base64
    signed = mine.sign_by_user(his_master)
    body = {alice.user_id: {alice.device_id: device}, bob.user_id: {master: signed}}
    assert {} == (await alice.call("POST", "/keys/signatures/upload", body))["failures"]
    assert {alice.user_id, bob.user_id} == set((await alice.sync(since))["device_lists"]["changed"])
    wanted: dict[str, Any] = {"device_keys": {alice.user_id: [], bob.user_id: []}}
    shown = await alice.call("POST", "/keys/query", wanted)
    assert (
        device
        == {**shown["device_keys"][alice.user_id][alice.device_id], "unsigned": {}}
        | {"signatures": device["signatures"]}
        or device["signatures"] == shown["device_keys"][alice.user_id][alice.device_id]["signatures"]
    )
    assert alice.user_id in shown["master_keys"][bob.user_id]["signatures"]
    shown = await bob.call("POST", "/keys/query", wanted)
    assert alice.user_id not in shown["master_keys"][bob.user_id]["signatures"], "for the signer's eyes only"
    wrong: dict[str, tuple[str, str, Any]] = {
        "unsigned": (alice.user_id, alice.device_id, mine.device()),
        "forged": (alice.user_id, alice.device_id, {**device, "algorithms": []}),
        "changed": (alice.user_id, alice.device_id, mine.sign_by_self({**mine.device(), "algorithms": []})),
        "unknown device": (alice.user_id, "OTHER", device),
        "by a stranger": (bob.user_id, master, his.sign_by_user(his_master)),
        "on a device of another": (bob.user_id, bob.device_id, mine.sign_by_user(his.device())),
        "no object": (bob.user_id, master, []),
        "a float": (bob.user_id, master, {**signed, "n": 0.5}),
        "nobody": ("@nobody:example.org", master, signed),
    }
    for name, (user, target, value) in wrong.items():
        failures = (await alice.call("POST", "/keys/signatures/upload", {user: {target: value}}))["failures"]
        assert [target] == list(failures.get(user, ())), name


@pytest_twisted.ensureDeferred
async def test_device_lists_tell_who_changed_came_and_went(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(preset="public_chat")
    start = (await alice.sync())["next_batch"]
    await bob.join(room)
    told = await alice.sync(start)
    assert [bob.user_id] == told["device_lists"]["changed"]
    await _with_keys(bob)
    await _with_keys(carol)
    told = await alice.sync(told["next_batch"])
    assert {"changed": [bob.user_id], "left": []} == told["device_lists"]
    assert "device_lists" not in await alice.sync(told["next_batch"])
    before = told["next_batch"]
    his_since = (await bob.sync())["next_batch"]
    await bob.leave(room)
    told = await alice.sync(before)
    assert {"changed": [], "left": [bob.user_id]} == told["device_lists"]
    assert [alice.user_id] == (await bob.sync(his_since))["device_lists"]["left"]
    changes = await alice.call("GET", "/keys/changes", **{"from": start, "to": told["next_batch"]})
    assert {"changed": [], "left": [bob.user_id]} == changes
    await bob.join(room)
    await server.stop()
    await server.start()
    changes = await alice.call("GET", "/keys/changes", **{"from": start, "to": (await alice.sync())["next_batch"]})
    assert {"changed": [bob.user_id], "left": []} == changes, "the database says the same"
    assert [bob.user_id] == (await alice.sync(start))["device_lists"]["changed"]
    his_since = (await alice.sync())["next_batch"]
    await bob.call("POST", "/logout", {})
    told = await alice.sync(his_since, timeout=5000)
    assert {"changed": [bob.user_id], "left": []} == told["device_lists"]
    shown = await alice.call("POST", "/keys/query", {"device_keys": {bob.user_id: []}})
    assert {bob.user_id: {}} == shown["device_keys"]


@pytest_twisted.ensureDeferred
async def test_messages_reach_devices_once_and_stay_until_acknowledged(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    tablet = await _log_in(server, bob)
    since = (await bob.sync())["next_batch"]
    body = {"messages": {bob.user_id: {bob.device_id: {"n": 1}}}}
    for _ in range(2):
        await alice.call("PUT", "/sendToDevice/m.test/t1", body)
    await alice.call("PUT", "/sendToDevice/m.test/t2", {"messages": {bob.user_id: {"*": {"n": 2}, "NOBODY": {}}}})
    expected = [{"type": "m.test", "sender": alice.user_id, "content": {"n": n}} for n in (1, 2)]
    told = await bob.sync(since, timeout=5000)
    assert expected == told["to_device"]["events"]
    assert expected == (await bob.sync(since))["to_device"]["events"], "the answer may have been lost"
    await server.stop()
    await server.start()
    assert expected == (await bob.sync(since))["to_device"]["events"]
    assert expected[1:] == (await tablet.sync())["to_device"]["events"]
    assert "to_device" not in await bob.sync(told["next_batch"])
    assert "to_device" not in await bob.sync(since), "acknowledged is gone"
    refused: list[dict[str, Any]] = [{}, {"messages": []}]
    refused += [{"messages": {bob.user_id: []}}, {"messages": {bob.user_id: {"A": 1}}}]
    for bad in refused:
        assert 400 == (await alice.try_call("PUT", "/sendToDevice/m.test/t3", bad)).status
    large = {"messages": {bob.user_id: {"*": {"n": "x" * 70_000}}}}
    assert 413 == (await alice.try_call("PUT", "/sendToDevice/m.test/t4", large)).status


@pytest_twisted.ensureDeferred
async def test_a_long_inbox_is_told_in_parts(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(to_device_stream, "MAX_MESSAGES", 3)
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    since = (await bob.sync())["next_batch"]
    for number in range(8):
        body = {"messages": {bob.user_id: {bob.device_id: {"n": number}}}}
        await alice.call("PUT", f"/sendToDevice/m.test/{number}", body)
    seen: list[list[int]] = []
    for _ in range(4):
        answers = []
        for _ in range(2):
            answer = await bob.sync(since)
            answers.append([each["content"]["n"] for each in answer.get("to_device", {"events": []})["events"]])
        assert answers[0] == answers[1], "asked again, the same is told"
        seen.append(answers[0])
        since = answer["next_batch"]
    assert [[0, 1, 2], [3, 4, 5], [6, 7], []] == seen


@pytest_twisted.ensureDeferred
async def test_a_deleted_device_leaves_nothing(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    keys = await _with_keys(bob, 3)
    await bob.call("POST", "/keys/upload", {"fallback_keys": keys.one_time(1, fallback=True)})
    await alice.call("PUT", "/sendToDevice/m.test/1", {"messages": {bob.user_id: {"*": {}}}})
    await bob.call("POST", "/logout", {})
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    assert {} == (await alice.call("POST", "/keys/claim", wanted))["one_time_keys"]
    counts = await server.parts.base.store.database.read(_count_all)
    assert {"device_keys": 0, "one_time_keys": 0, "fallback_keys": 0, "to_device_messages": 0} == counts


def _count_all(tx: Any) -> dict[str, int]:
    from sqlalchemy import func, select

    from storage.tables import e2ee

    tables = (e2ee.device_keys, e2ee.one_time_keys, e2ee.fallback_keys, e2ee.to_device_messages)
    return {table.name: tx.scalar(select(func.count()).select_from(table)) for table in tables}


def _room_key(index: int = 0, forwarded: int = 0, verified: bool = False, data: str = "x") -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": data},
    }


@pytest_twisted.ensureDeferred
async def test_key_backups_keep_the_better_key(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice = await server.register("alice")
    assert 404 == (await alice.try_call("GET", "/room_keys/version")).status
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "abc"}}
    assert {"version": "1"} == await alice.call("POST", "/room_keys/version", backup)
    told = await alice.call("GET", "/room_keys/version")
    assert {**backup, "version": "1", "count": 0, "etag": "0"} == told
    path, query = "/room_keys/keys/!r:example.org/s", {"version": "1"}
    middle = _room_key(5, 5)
    assert {"count": 1, "etag": "1"} == await alice.call("PUT", path, middle, **query)
    for worse in (middle, _room_key(6, 0), _room_key(5, 6)):
        assert {"count": 1, "etag": "1"} == await alice.call("PUT", path, worse, **query)
    for number, better in enumerate([_room_key(5, 4), _room_key(4, 9), _room_key(9, 9, True), _room_key(8, 9, True)]):
        assert {"count": 1, "etag": str(number + 2)} == await alice.call("PUT", path, better, **query)
        assert better == await alice.call("GET", path, **query)
    more = {"rooms": {"!r:example.org": {"sessions": {"a": middle, "b": middle}}, "!q:x": {"sessions": {"a": middle}}}}
    assert 4 == (await alice.call("PUT", "/room_keys/keys", more, **query))["count"]
    assert {"a", "b", "s"} == set((await alice.call("GET", "/room_keys/keys/!r:example.org", **query))["sessions"])
    assert {"!r:example.org", "!q:x"} == set((await alice.call("GET", "/room_keys/keys", **query))["rooms"])
    assert {"sessions": {}} == await alice.call("GET", "/room_keys/keys/!none:x", **query)
    assert 404 == (await alice.try_call("GET", "/room_keys/keys/!none:x/s", **query)).status
    assert 3 == (await alice.call("DELETE", path, **query))["count"]
    assert 1 == (await alice.call("DELETE", "/room_keys/keys/!r:example.org", **query))["count"]
    await alice.call("POST", "/room_keys/version", backup)
    refused = await alice.try_call("PUT", path, middle, **query)
    assert (403, "M_WRONG_ROOM_KEYS_VERSION", "2") == (
        refused.status,
        refused.json["errcode"],
        refused.json["current_version"],
    )
    assert 400 == (await alice.try_call("PUT", "/room_keys/version/2", {**backup, "algorithm": "x"})).status
    assert 400 == (await alice.try_call("PUT", "/room_keys/version/2", {**backup, "version": "1"})).status
    await alice.call("PUT", "/room_keys/version/2", {**backup, "auth_data": {"new": 1}})
    assert {"new": 1} == (await alice.call("GET", "/room_keys/version/2"))["auth_data"]
    for _ in range(2):
        await alice.call("DELETE", "/room_keys/version/2")
    assert "1" == (await alice.call("GET", "/room_keys/version"))["version"]
    assert {"version": "3"} == await alice.call("POST", "/room_keys/version", backup)
    for version in ("9", "x", "-1", "01", "9" * 40):
        assert 404 == (await alice.try_call("GET", f"/room_keys/version/{version}")).status
    for bad in ({}, _room_key(-1), _room_key() | {"is_verified": 1}, _room_key() | {"session_data": "x"}):
        assert 400 == (await alice.try_call("PUT", path, bad, version="3")).status


@pytest_twisted.ensureDeferred
async def test_nothing_is_read_or_written_for_whom_nothing_changed(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob = await server.register("alice"), await server.register("bob")
    await _with_keys(alice, 1)
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    since = (await alice.sync())["next_batch"]
    for _ in range(3):
        # What follows from the join comes to rest, and every stream has answered once.
        await alice.say(room)
        await pause(0.05)
        since = (await alice.sync(since))["next_batch"]
    database = server.parts.base.store.database

    def refuse(function: Any) -> None:
        raise AssertionError(f"{function} touched the database")

    database.read = database.write = refuse
    try:
        for _ in range(3):
            answer = await alice.sync(since, timeout=10)
            assert {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"} == set(answer)
    finally:
        del database.read, database.write
    await _with_keys(bob)
    database.read = database.write = refuse
    try:
        assert [bob.user_id] == (await alice.sync(since))["device_lists"]["changed"], "a new device costs no read"
    finally:
        del database.read, database.write
