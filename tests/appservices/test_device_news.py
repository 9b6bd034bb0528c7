"""A service that encrypts is told of devices in its transactions: messages once, changed lists, keys that are left."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.appservices import device_news
from tests.support.appservice import AS_TOKEN, SERVER, Bridged
from tests.support.encryption import Keys

BOT = f"@_bridge_bot:{SERVER}"
DEVICE = "BRIDGE"


def _encrypting(bridged: Bridged, **more: Any) -> None:
    bridged.registrations = [bridged.registration(**{"org.matrix.msc3202": True, "io.element.msc4190": True, **more})]


async def _device(bridged: Bridged, user_id: str = BOT, keys: int = 2) -> Keys:
    """A device of a user of the service, as mautrix makes it: without logging in."""
    status, _ = await bridged.call("PUT", f"devices/{DEVICE}", {}, token=AS_TOKEN, user_id=user_id)
    assert 201 == status
    made = Keys(user_id, DEVICE)
    uploaded = {
        "device_keys": made.device(),
        "one_time_keys": made.one_time(keys),
        "fallback_keys": made.one_time(1, fallback=True),
    }
    query = {"user_id": user_id, "org.matrix.msc3202.device_id": DEVICE}
    counts = await bridged.act("POST", "keys/upload", uploaded, **query)
    assert {"signed_curve25519": keys} == counts["one_time_key_counts"]
    return made


async def _send(bridged: Bridged, token: str, text: str, user_id: str = BOT, device_id: str = DEVICE) -> None:
    body = {"messages": {user_id: {device_id: {"text": text}}}}
    await bridged.ok("PUT", f"sendToDevice/org.example/{text}", body, token=token)


def _texts(bridged: Bridged, field: str = "to_device") -> list[str]:
    return [message["content"]["text"] for message in bridged.service.taken(field)]


def _last(bridged: Bridged, field: str) -> Any:
    found = [asked.body[field] for asked in bridged.service.transactions if field in asked.body]
    return found[-1] if found else None


def _lists(bridged: Bridged, kind: str = "changed") -> list[str]:
    return [
        user_id
        for asked in bridged.service.transactions
        for user_id in asked.body.get("org.matrix.msc3202.device_lists", {}).get(kind, ())
    ]


@pytest_twisted.ensureDeferred
async def test_messages_for_its_devices_are_sent_with_the_counts_of_their_keys(bridged: Bridged) -> None:
    _encrypting(bridged)
    await bridged.start()
    alice = await bridged.user("alice")
    await _device(bridged)
    wanted = {"one_time_keys": {BOT: {DEVICE: "signed_curve25519"}}}
    await bridged.ok("POST", "keys/claim", wanted, token=alice)
    await _send(bridged, alice, "hello")
    await bridged.until(lambda: _texts(bridged) == ["hello"])
    expected = {
        "to_user_id": BOT,
        "to_device_id": DEVICE,
        "type": "org.example",
        "sender": f"@alice:{SERVER}",
        "content": {"text": "hello"},
    }
    body = bridged.service.transactions[-1].body
    assert [] == body["events"]
    for name in ("to_device", "de.sorunome.msc2409.to_device"):
        assert [expected] == body[name]
    for prefix in ("", "org.matrix.msc3202."):
        assert {BOT: {DEVICE: {"signed_curve25519": 1}}} == body[f"{prefix}device_one_time_keys_count"]
        assert {BOT: {DEVICE: ["signed_curve25519"]}} == body[f"{prefix}device_unused_fallback_key_types"]
    for _ in range(2):
        await bridged.ok("POST", "keys/claim", wanted, token=alice)
    await _send(bridged, alice, "again")
    await bridged.until(lambda: _texts(bridged) == ["hello", "again"])
    assert {BOT: {DEVICE: {"signed_curve25519": 0}}} == _last(bridged, "device_one_time_keys_count")
    assert {BOT: {DEVICE: []}} == _last(bridged, "device_unused_fallback_key_types")


@pytest_twisted.ensureDeferred
async def test_no_message_is_lost_or_doubled_by_faults_and_restarts(bridged: Bridged) -> None:
    _encrypting(bridged)
    await bridged.start()
    alice = await bridged.user("alice")
    await _device(bridged)
    expected = [f"m{number}" for number in range(9)]
    for start in (0, 3, 6):
        # Of the first batch the answer is lost, the others wait in the inbox; then the server goes.
        bridged.service.answer = lambda asked: 500 if asked.path.rpartition("/")[2] else None
        for text in expected[start : start + 3]:
            await _send(bridged, alice, text)
        await bridged.stop()
        bridged.service.answer = lambda asked: 200
        await bridged.start()
    await bridged.until(lambda: len(_texts(bridged)) >= 9)
    assert expected == _texts(bridged)


@pytest_twisted.ensureDeferred
async def test_messages_of_people_and_of_services_that_do_not_encrypt_are_left_to_syncs(bridged: Bridged) -> None:
    users = [{"exclusive": True, "regex": "@_bridge_.*"}, {"exclusive": False, "regex": "@alice:.*"}]
    _encrypting(bridged, namespaces={"users": users})
    syncing = {"id": "syncing", "as_token": "another", "hs_token": "x", "sender_localpart": "_other", "namespaces": {}}
    bridged.registrations.append(bridged.registration(**syncing))
    await bridged.start()
    alice, bob = await bridged.user("alice"), await bridged.user("bob")
    await _device(bridged)
    login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": "_other"}}
    other = (await bridged.ok("POST", "login", login, token="another"))["access_token"]
    for token, text in ((alice, "person"), (other, "other")):
        whoami = await bridged.ok("GET", "account/whoami", token=token)
        await _send(bridged, bob, text, whoami["user_id"], whoami["device_id"])
    await _send(bridged, bob, "bot")
    await bridged.until(lambda: _texts(bridged) == ["bot"])
    for token, text in ((alice, "person"), (other, "other")):
        events = (await bridged.ok("GET", "sync", token=token))["to_device"]["events"]
        assert [text] == [event["content"]["text"] for event in events]


@pytest_twisted.ensureDeferred
async def test_lists_of_who_shares_a_room_with_its_users_are_told(bridged: Bridged) -> None:
    _encrypting(bridged)
    await bridged.start()
    alice, bob, carol = [await bridged.user(name) for name in ("alice", "bob", "carol")]
    ghost = await bridged.ghost("_bridge_ghost")
    room_id = (await bridged.ok("POST", "createRoom", {"preset": "public_chat"}, token=alice))["room_id"]
    await bridged.ok("POST", f"join/{room_id}", {}, token=bob)
    # Coming into the room, it has to learn of all who are there.
    await bridged.act("POST", f"join/{room_id}", {}, user_id=ghost)
    await bridged.until(lambda: {f"@alice:{SERVER}", f"@bob:{SERVER}"} <= set(_lists(bridged)))
    assert f"@carol:{SERVER}" not in _lists(bridged)
    before = len(_lists(bridged))
    for token, name in ((carol, "carol"), (bob, "bob")):
        device_id = (await bridged.ok("GET", "account/whoami", token=token))["device_id"]
        keys = Keys(f"@{name}:{SERVER}", device_id)
        await bridged.ok("POST", "keys/upload", {"device_keys": keys.device()}, token=token)
    await bridged.until(lambda: len(_lists(bridged)) > before)
    assert [f"@bob:{SERVER}"] == _lists(bridged)[before:], "carol is in no room of its users"
    await bridged.ok("POST", f"join/{room_id}", {}, token=carol)
    await bridged.until(lambda: len(_lists(bridged)) > before + 1)
    assert f"@carol:{SERVER}" == _lists(bridged)[-1]
    await bridged.ok("PUT", f"profile/@carol:{SERVER}/displayname", {"displayname": "C"}, token=carol)
    await bridged.ok("POST", f"rooms/{room_id}/leave", {}, token=bob)
    await bridged.until(lambda: _lists(bridged, "left") == [f"@bob:{SERVER}"])
    assert before + 2 == len(_lists(bridged)), "a new name is no new device"


@pytest_twisted.ensureDeferred
async def test_lists_that_changed_while_the_service_was_away_are_told_after_a_restart(bridged: Bridged) -> None:
    _encrypting(bridged)
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = (await bridged.ok("POST", "createRoom", {"preset": "public_chat"}, token=alice))["room_id"]
    await bridged.act("POST", f"join/{room_id}", {})
    await bridged.until(lambda: bool(_lists(bridged)))
    bridged.service.answer = lambda asked: 500
    before = len(bridged.service.transactions)
    await bridged.say(room_id, "goes into a transaction that fails", alice)
    await bridged.until(lambda: len(bridged.service.transactions) > before)
    device_id = (await bridged.ok("GET", "account/whoami", token=alice))["device_id"]
    keys = Keys(f"@alice:{SERVER}", device_id)
    await bridged.ok("POST", "keys/upload", {"device_keys": keys.device()}, token=alice)
    await bridged.stop()
    bridged.service.answer = lambda asked: 200
    bridged.service.asked.clear()
    await bridged.start()
    await bridged.until(lambda: f"@alice:{SERVER}" in _lists(bridged))


@pytest_twisted.ensureDeferred
async def test_many_messages_for_many_devices_go_into_several_transactions(
    bridged: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_news, "MAX_MESSAGES", 2)
    monkeypatch.setattr(device_news, "MAX_DEVICES", 2)
    monkeypatch.setattr(device_news, "CHUNK", 2)
    _encrypting(bridged)
    await bridged.start()
    alice = await bridged.user("alice")
    ghosts = [await bridged.ghost(f"_bridge_{number}") for number in range(4)]
    for ghost in ghosts:
        await _device(bridged, ghost)
    bridged.service.answer = lambda asked: 500
    expected = []
    for number in range(3):
        messages = {ghost: {"*": {"text": f"{number}{ghost}"}} for ghost in ghosts}
        expected += [message["*"]["text"] for message in messages.values()]
        await bridged.ok("PUT", f"sendToDevice/org.example/{number}", {"messages": messages}, token=alice)
    bridged.service.answer = lambda asked: 200
    await bridged.act("POST", "/_matrix/client/v1/appservice/bridge/ping", {})
    await bridged.until(lambda: len(_texts(bridged)) >= len(expected))
    assert sorted(expected) == sorted(_texts(bridged))
    for ghost in ghosts:
        assert [f"{number}{ghost}" for number in range(3)] == [text for text in _texts(bridged) if text[1:] == ghost]
    assert 2 == max(len(asked.body.get("to_device", ())) for asked in bridged.service.transactions)
