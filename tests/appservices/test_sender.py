"""Events reach application services: those that concern them, once, in order, whatever happens between."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from homeserver.appservices import queue
from tests.support.appservice import HS_TOKEN, SERVER, Asked, Bridged


async def _portal(bridged: Bridged, alice: str) -> str:
    """A room of alice's with a ghost in it."""
    ghost = await bridged.ghost("_bridge_ghost")
    room_id: str = (await bridged.ok("POST", "createRoom", {"invite": [ghost]}, token=alice))["room_id"]
    await bridged.act("POST", f"join/{room_id}", {}, user_id=ghost)
    return room_id


@pytest_twisted.ensureDeferred
async def test_events_of_rooms_with_its_users_are_sent_in_order(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    other = (await bridged.ok("POST", "createRoom", {}, token=alice))["room_id"]
    expected = [f"message {number}" for number in range(20)]
    for text in expected:
        await bridged.say(room_id, text, alice)
        await bridged.say(other, f"not for it: {text}", alice)
    await bridged.until(lambda: len(bridged.service.texts()) >= 20)
    assert expected == bridged.service.texts()
    first = bridged.service.transactions[0]
    assert ("PUT", HS_TOKEN) == (first.method, first.token)
    assert first.path.startswith("/_matrix/app/v1/transactions/")
    event = bridged.service.taken()[-1]
    assert {"type", "sender", "content", "event_id", "origin_server_ts", "room_id", "unsigned"} == set(event)
    assert room_id == event["room_id"]


@pytest_twisted.ensureDeferred
async def test_invite_and_leave_of_its_user_are_sent_and_nothing_after(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    ghost = f"@_bridge_ghost:{SERVER}"
    room_id = await _portal(bridged, alice)
    await bridged.say(room_id, "before", alice)
    await bridged.act("POST", f"rooms/{room_id}/leave", {}, user_id=ghost)
    await bridged.say(room_id, "after", alice)
    await bridged.ok("POST", f"rooms/{room_id}/invite", {"user_id": ghost}, token=alice)
    members = lambda: [  # noqa: E731
        event["content"]["membership"] for event in bridged.service.taken() if event.get("state_key") == ghost
    ]
    await bridged.until(lambda: len(members()) >= 4)
    assert ["invite", "join", "leave", "invite"] == members()
    assert ["before"] == bridged.service.texts()


@pytest_twisted.ensureDeferred
async def test_events_of_rooms_with_its_aliases_are_sent(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = (await bridged.ok("POST", "createRoom", {"preset": "public_chat"}, token=alice))["room_id"]
    await bridged.act("POST", f"join/{room_id}", {})
    await bridged.act("PUT", f"directory/room/%23_bridge_room%3A{SERVER}", {"room_id": room_id})
    await bridged.act("POST", f"rooms/{room_id}/leave", {})
    await bridged.say(room_id, "hello", alice)
    await bridged.until(lambda: bridged.service.texts() == ["hello"])


@pytest_twisted.ensureDeferred
async def test_service_that_fails_is_sent_the_same_transaction_again(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    await bridged.until(lambda: len(bridged.service.taken()) >= 2)
    before = len(bridged.service.transactions)
    bridged.service.answer = lambda asked: 503
    await bridged.say(room_id, "one", alice)
    await bridged.until(lambda: len(bridged.service.transactions) > before)
    await bridged.say(room_id, "two", alice)
    await bridged.until(lambda: len(bridged.service.transactions) > before + 1)
    bridged.service.answer = lambda asked: 200
    await bridged.act("POST", "/_matrix/client/v1/appservice/bridge/ping", {"transaction_id": "meow"})
    await bridged.until(lambda: bridged.service.texts() == ["one", "two"])
    failed, repeated = bridged.service.transactions[before : before + 2]
    assert (failed.path, failed.body) == (repeated.path, repeated.body)


@pytest_twisted.ensureDeferred
async def test_restart_between_sending_and_the_answer_loses_and_doubles_nothing(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    await bridged.until(lambda: len(bridged.service.taken()) >= 2)
    sent = 0
    for _ in range(3):
        # The service gets the transaction, and its answer is lost.
        bridged.service.answer = lambda asked: None
        bridged.service.asked.append(Asked("", "", {}, None, None))
        for _ in range(5):
            await bridged.say(room_id, str(sent), alice)
            sent += 1
        await bridged.until(lambda: "/transactions/" in bridged.service.asked[-1].path)
        await bridged.stop()
        bridged.service.answer = lambda asked: 200
        await bridged.start()
        await bridged.say(room_id, str(sent), alice)
        sent += 1
    await bridged.until(lambda: len(bridged.service.texts()) >= sent)
    assert [str(number) for number in range(sent)] == bridged.service.texts()


@pytest_twisted.ensureDeferred
async def test_service_far_behind_gets_everything_in_transactions_of_a_hundred(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    bridged.service.answer = lambda asked: 500
    for number in range(230):
        await bridged.say(room_id, str(number), alice)
    await bridged.stop()
    bridged.service.answer = lambda asked: 200
    await bridged.start()
    await bridged.until(lambda: len(bridged.service.texts()) >= 230)
    assert [str(number) for number in range(230)] == bridged.service.texts()
    assert 100 == max(len(asked.body["events"]) for asked in bridged.service.transactions)


@pytest_twisted.ensureDeferred
async def test_service_that_falls_behind_reads_on_in_the_database(
    bridged: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if a thousand messages were as quickly sent as thirty.
    monkeypatch.setattr(queue, "MAX_WAITING", 30)
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    await bridged.until(lambda: len(bridged.service.taken()) >= 2)
    for turn in range(3):
        bridged.service.answer = lambda asked: 503
        for number in range(80):
            await bridged.say(room_id, str(80 * turn + number), alice)
        bridged.service.answer = lambda asked: 200
        await bridged.act("POST", "/_matrix/client/v1/appservice/bridge/ping", {})
        while len(bridged.service.texts()) < 80 * (turn + 1):
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    assert [str(number) for number in range(240)] == bridged.service.texts()


@pytest_twisted.ensureDeferred
async def test_new_service_is_not_told_of_the_past(bridged: Bridged) -> None:
    bridged.registrations = [bridged.registration(url=None)]
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    await bridged.say(room_id, "past", alice)
    await bridged.stop()
    bridged.registrations = []
    await bridged.start()
    await bridged.say(room_id, "present", alice)
    await bridged.until(lambda: bool(bridged.service.texts()))
    assert ["present"] == bridged.service.texts()


@pytest_twisted.ensureDeferred
async def test_old_service_is_sent_transactions_on_the_old_path(bridged: Bridged) -> None:
    def answer(asked: Asked) -> int:
        return 404 if asked.path.startswith("/_matrix/") else 200

    bridged.service.answer = answer
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    await bridged.say(room_id, "hello", alice)
    on = lambda path: [asked for asked in bridged.service.transactions if asked.path.startswith(path)]  # noqa: E731
    await bridged.until(lambda: "hello" in bridged.service.texts() and bool(on("/transactions/")))
    assert ["hello"] == bridged.service.texts()
    assert HS_TOKEN == on("/transactions/")[0].query["access_token"]
    assert 1 == len(on("/_matrix/"))


@pytest_twisted.ensureDeferred
async def test_typing_receipts_and_presence_are_sent(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    alice_id = f"@alice:{SERVER}"
    room_id = await _portal(bridged, alice)
    event_id = await bridged.say(room_id, "hello", alice)
    await bridged.ok("PUT", f"rooms/{room_id}/typing/{alice_id}", {"typing": True, "timeout": 9000}, token=alice)
    await bridged.ok("POST", f"rooms/{room_id}/receipt/m.read/{event_id}", {}, token=alice)
    await bridged.ok("PUT", f"presence/{alice_id}/status", {"presence": "online"}, token=alice)
    kinds = lambda: {event["type"] for event in bridged.service.taken("ephemeral")}  # noqa: E731
    await bridged.until(lambda: kinds() == {"m.typing", "m.receipt", "m.presence"})
    told = {event["type"]: event for event in bridged.service.taken("ephemeral")}
    assert {"type": "m.typing", "room_id": room_id, "content": {"user_ids": [alice_id]}} == told["m.typing"]
    assert room_id == told["m.receipt"]["room_id"]
    assert alice_id in told["m.receipt"]["content"][event_id]["m.read"]
    assert (alice_id, "online") == (told["m.presence"]["sender"], told["m.presence"]["content"]["presence"])


@pytest_twisted.ensureDeferred
async def test_private_receipts_of_others_are_not_sent(bridged: Bridged) -> None:
    bridged.registrations = [
        bridged.registration(receive_ephemeral=False, **{"de.sorunome.msc2409.push_ephemeral": True})
    ]
    await bridged.start()
    alice = await bridged.user("alice")
    room_id = await _portal(bridged, alice)
    event_id = await bridged.say(room_id, "hello", alice)
    await bridged.ok("POST", f"rooms/{room_id}/receipt/m.read.private/{event_id}", {}, token=alice)
    await bridged.ok("POST", f"rooms/{room_id}/receipt/m.read/{event_id}", {}, token=alice)
    key = "de.sorunome.msc2409.ephemeral"
    receipts = lambda: [event for event in bridged.service.taken(key) if event["type"] == "m.receipt"]  # noqa: E731
    await bridged.until(lambda: bool(receipts()))
    assert ["m.read"] == [kind for event in receipts() for kind in event["content"][event_id]]
