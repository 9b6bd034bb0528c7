"""What waits for devices is bounded, and what belongs to devices and accounts goes with them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import InvalidParam, TooLarge, UnknownToken
from homeserver.feed.streams import inbox_bounds
from homeserver.users import one_time_keys, to_device
from homeserver.users.key_backup import read_room_key
from homeserver.users.sessions import Requester
from storage import device_lists
from storage.outbox import load_edus
from storage.to_device import Mark, measure_inboxes, set_mark
from tests.support.encrypted import EncryptedServer
from tests.support.encryption import Keys, public_key
from tests.support.other_server import BOB, OTHER, OtherServer
from tests.support.played_server import until


@pytest_twisted.async_yield_fixture
async def world(database_url: str) -> AsyncIterator[EncryptedServer]:
    made = await EncryptedServer.start(database_url)
    try:
        yield made
    finally:
        await made.stop()


async def _waiting(world: EncryptedServer, device: Requester) -> int:
    nid = device.device_nid or 0
    found = await world.database.read(lambda tx: measure_inboxes(tx, [nid]))
    return found[nid].messages if nid in found else 0


# -- inboxes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["MAX_WAITING", "MAX_WAITING_BYTES"])
@pytest_twisted.ensureDeferred
async def test_a_full_inbox_keeps_what_it_has_until_its_device_comes(
    world: EncryptedServer, bound: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inbox_bounds, bound, 110 if bound == "MAX_WAITING" else 110 * 60)
    alice, away, here = [await world.log_in(*each) for each in (("alice",), ("bob", "AWAY"), ("bob", "HERE"))]
    since: int | None = None
    seen: list[int] = []
    with caplog.at_level(logging.WARNING):
        for number in range(130):
            await world.send(alice, f"{number}", {away.user_id: {"*": {"n": number}}})
            if number % 10 == 9:
                messages, since = await world.sync(here, since)
                seen += [each["n"] for each in messages]
    assert list(range(130)) == seen, "the other device misses nothing"
    kept = await _waiting(world, away)
    assert 100 < kept <= 112
    assert 1 == len([each for each in caplog.records if "AWAY of @bob:example.org" in each.getMessage()])
    # It comes at last, and has the oldest, in order.
    got: list[int] = []
    since = None
    while True:
        messages, since = await world.sync(away, since)
        got += [each["n"] for each in messages]
        if len(got) == 100:
            # A full inbox is weighed again after a while only: nobody makes us count again and again.
            await world.sync(away, since)
            await world.send(alice, "too soon", {away.user_id: {"AWAY": {"n": -1}}})
            world.server.clock.advance(inbox_bounds.WEIGHED_AGAIN_MS / 1000)
            await world.send(alice, "after", {away.user_id: {"AWAY": {"n": 200}}})
        if not messages:
            break
    assert [*range(kept), 200] == got
    await world.send(alice, "at the end", {away.user_id: {"AWAY": {"n": 201}}})
    assert [{"n": 201}] == (await world.sync(away, since))[0]


@pytest_twisted.ensureDeferred
async def test_one_request_makes_so_many_messages_at_most(
    world: EncryptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await world.log_in("alice")
    devices = [await world.log_in("bob", f"D{number}") for number in range(4)]
    everybody = {devices[0].user_id: {"*": {"x": "y" * 100}}}
    for name, most in (("MAX_STORED", 3), ("MAX_STORED_BYTES", 500)):
        with monkeypatch.context() as patch:
            patch.setattr(to_device, name, most)
            with pytest.raises(TooLarge):
                await world.send(alice, "t", everybody)
    assert [0] * 4 == [await _waiting(world, device) for device in devices]
    await world.send(alice, "t", everybody)
    await world.send(alice, "t", everybody)
    assert [1] * 4 == [await _waiting(world, device) for device in devices]


@pytest_twisted.ensureDeferred
async def test_old_requests_and_marks_of_devices_that_are_gone_are_trimmed(
    world: EncryptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "KEPT_OF_DEVICE", 10)
    alice, bob = await world.log_in("alice"), await world.log_in("bob")
    for number in range(100):
        await world.send(alice, f"{number}", {alice.user_id: {"*": {}}})
    await world.send(bob, "0", {alice.user_id: {"*": {}}})
    assert 11 < (await world.sizes())["to_device_transactions"] < 75
    for number in range(90, 100):
        await world.send(alice, f"{number}", {alice.user_id: {"*": {}}})
    assert 101 == await _waiting(world, alice), "what is repeated is nothing new"
    for device_nid in (alice.device_nid or 0, 999_999):
        await world.database.write(lambda tx, nid=device_nid: set_mark(tx, nid, Mark(1, None)))  # type: ignore[misc]
    await world.devices.delete_all(bob.user_id, bob.user_nid)
    found = []
    for days in (1, 7):
        world.server.clock.advance(days * 86_400)
        await world.parts.to_device.trim()
        sizes = await world.sizes()
        found.append((sizes["to_device_transactions"] > 0, sizes["to_device_marks"], sizes["to_device_messages"]))
    assert [(True, 1, 101), (False, 1, 101)] == found


# -- one-time keys ---------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_claims_at_once_get_each_key_once_in_order_and_then_the_fallback_key(world: EncryptedServer) -> None:
    bob = await world.log_in("bob")
    await world.upload(bob, 30, fallback=True)
    claims: Any = gatherResults([Deferred.fromCoroutine(world.claim(bob)) for _ in range(40)])
    names = [name for (name,) in await claims]
    assert [f"signed_curve25519:K{number:04}" for number in range(30)] == names[:30]
    assert ["signed_curve25519:F0000"] * 10 == names[30:]
    assert b'"device_unused_fallback_key_types":[]' in await world.parts.sections.counts(bob.device_nid)


@pytest_twisted.ensureDeferred
async def test_an_upload_that_is_repeated_brings_no_claimed_key_back(world: EncryptedServer) -> None:
    bob = await world.log_in("bob")
    await world.upload(bob, 5)
    claimed = await world.claim(bob) + await world.claim(bob)
    # The client did not get the answer.
    keys = await world.upload(bob, 5)
    upload = world.parts.device_keys.upload
    assert {"signed_curve25519": 3} == await upload(bob, {})
    # A client that has lost its store begins to count anew, with other keys.
    await upload(bob, {"one_time_keys": {"signed_curve25519:K0000": keys.one_time(1, 77)["signed_curve25519:K0077"]}})
    for _ in range(4):
        claimed += await world.claim(bob)
    assert [f"signed_curve25519:K{number:04}" for number in (0, 1, 2, 3, 4, 0)] == claimed
    # However often, and however many were claimed.
    for _ in range(3):
        await upload(bob, {"one_time_keys": keys.one_time(120, 100)})
    for _ in range(110):
        claimed += await world.claim(bob)
    for _ in range(3):
        assert {"signed_curve25519": 10} == await upload(bob, {"one_time_keys": keys.one_time(120, 100)})
    assert len(claimed) == 6 + 110


@pytest_twisted.ensureDeferred
async def test_fallback_keys_of_ever_other_algorithms_are_refused(world: EncryptedServer) -> None:
    bob = await world.log_in("bob")
    for number in range(one_time_keys.MAX_FALLBACK):
        await world.parts.device_keys.upload(bob, {"fallback_keys": {f"a{number}:A": "x"}})
    with pytest.raises(InvalidParam):
        await world.parts.device_keys.upload(bob, {"fallback_keys": {"other:A": "x"}, "one_time_keys": {"a:A": "x"}})
    assert {} == await world.parts.device_keys.upload(bob, {"fallback_keys": {"a0:B": "x"}})


# -- what goes with devices and accounts -----------------------------------------------------------------------------


async def _with_everything(world: EncryptedServer, localpart: str) -> list[Requester]:
    """Return two devices of a user, of which there is something in every table."""
    devices = [await world.log_in(localpart, f"{localpart}{number}") for number in range(2)]
    for device in devices:
        await world.upload(device, 3, fallback=True)
        await world.claim(device)
        await world.send(devices[0], f"to {device.device_id}", {device.user_id: {str(device.device_id): {"n": 1}}})
    first = devices[0]
    keys = Keys(first.user_id, str(first.device_id))
    signing = world.parts.cross_signing
    await signing.store(first, await signing.read_upload(first, keys.cross_signing()))
    signed = {each: keys.sign_by_self(Keys(first.user_id, each).device()) for each in (keys.device_id,)}
    master = keys.sign(keys.public("master", keys.master), keys.device_key, keys.device_id)
    assert {} == await signing.sign(first, {first.user_id: {**signed, public_key(keys.master): master}})
    version = await world.parts.key_backups.create(first.user_nid, {"algorithm": "x", "auth_data": {}})
    room_key = {"first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": {}}
    await world.parts.key_backups.put_keys(first.user_nid, version, [read_room_key("!r", "s", room_key)])
    return devices


async def _settled(world: EncryptedServer) -> dict[str, int]:
    await until(lambda: not world.server.tasks.names)
    sizes = await world.sizes()
    # One row for each user for good, one for each request for a week, and what has nothing to do with this.
    return {name: size for name, size in sizes.items() if name not in ("device_lists", "to_device_transactions")}


@pytest.mark.parametrize("erase", [False, True], ids=["kept", "erased"])
@pytest_twisted.ensureDeferred
async def test_of_a_closed_account_no_key_is_left(world: EncryptedServer, erase: bool) -> None:
    bob, _ = await _with_everything(world, "bob")
    account = await world.accounts.create(bob.user_id.replace("bob", "alice"))  # type: ignore[arg-type]
    before = await _settled(world)
    alice, _ = await _with_everything(world, "alice")
    his, hers = Keys(bob.user_id, str(bob.device_id)), Keys(alice.user_id, str(alice.device_id))
    signing = world.parts.cross_signing
    for signer, signers, other, others in ((bob, his, alice, hers), (alice, hers, bob, his)):
        master = signers.sign_by_user(others.public("master", others.master))
        assert {} == await signing.sign(signer, {other.user_id: {public_key(others.master): master}})
    during = await _settled(world)
    for name in ("device_keys", "one_time_keys", "claimed_keys", "fallback_keys", "cross_signing_keys", "key_backups"):
        assert 2 * before[name] == during[name] > 0, name
    await world.accounts.deactivate(alice.user_id, account.user_nid, erase=erase)
    assert before == await _settled(world)
    query: dict[str, Any] = {"device_keys": {alice.user_id: []}}
    answer = await world.parts.device_keys.query(bob, query, timeout_s=1)
    assert ({}, {}) == (answer["device_keys"], answer["master_keys"])
    await world.send(bob, "too late", {alice.user_id: {"*": {}}})
    assert before == await _settled(world)


@pytest_twisted.ensureDeferred
async def test_with_a_device_goes_all_that_is_its_own(world: EncryptedServer) -> None:
    phone, tablet = await _with_everything(world, "alice")
    before = await _settled(world)
    third = await world.log_in("alice", "third")
    keys = await world.upload(third, 3, fallback=True)
    await world.claim(third)
    owner = Keys(phone.user_id, str(phone.device_id))
    master = owner.sign(owner.public("master", owner.master), keys.device_key, "third")
    signed = {"third": owner.sign_by_self(keys.device()), public_key(owner.master): master}
    assert {} == await world.parts.cross_signing.sign(third, {third.user_id: signed})
    await world.send(phone, "t1", {third.user_id: {"third": {"n": 1}}})
    assert 2 + before["key_signatures"] == (await world.sizes())["key_signatures"]
    await world.devices.delete(third.user_id, third.user_nid, ["third"])
    assert before == await _settled(world)
    # A request that was under way meanwhile stores nothing.
    with pytest.raises(UnknownToken):
        await world.upload(third, 3)
    signing = world.parts.cross_signing
    with pytest.raises(UnknownToken):
        other = Keys(third.user_id, "third", generation=2)
        await signing.store(third, await signing.read_upload(third, other.cross_signing()))
    await world.send(phone, "t2", {third.user_id: {"third": {"n": 1}}})
    assert before == await _settled(world)
    assert [{"n": 1}] == (await world.sync(tablet))[0]


@pytest_twisted.ensureDeferred
async def test_signatures_by_keys_that_were_replaced_go(world: EncryptedServer) -> None:
    alice, bob = await world.log_in("alice"), await world.log_in("bob")
    his = await world.upload(bob)
    hers = await world.upload(alice)
    signing = world.parts.cross_signing
    await signing.store(bob, await signing.read_upload(bob, his.cross_signing()))
    sizes: list[int] = []
    for generation in range(3):
        keys = Keys(alice.user_id, str(alice.device_id), generation=generation)
        await signing.store(alice, await signing.read_upload(alice, keys.cross_signing()))
        signed = {hers.device_id: keys.sign_by_self(hers.device())}
        others = {public_key(his.master): keys.sign_by_user(his.public("master", his.master))}
        assert {} == await signing.sign(alice, {alice.user_id: signed, bob.user_id: others})
        sizes.append((await world.sizes())["key_signatures"])
    assert [2, 2, 2] == sizes


# -- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [1_000, 1], ids=["few changes", "many changes"])
@pytest_twisted.ensureDeferred
async def test_who_comes_back_is_told_of_members_of_the_own_rooms_alone(
    world: EncryptedServer, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_lists, "_FEW", few)
    server = world.server
    alice, bob, carol = [await world.log_in(name) for name in ("alice", "bob", "carol")]
    people = {each: await server.user(each) for each in ("alice", "bob", "carol")}
    await server.room(people["alice"], members=[people["bob"]])
    await server.room(people["carol"])
    old = server.feed.watermark
    for device in (alice, bob, carol):
        await world.upload(device)
    server.forget_memory()
    user = await server.user_feed(people["alice"])
    assert user.floor > old, "memory does not reach back"
    told = await world.parts.lists_stream.between(user, old, server.feed.watermark)
    assert {alice.user_id, bob.user_id} == set(told.changed)
    assert () == told.left
    alone = await server.user_feed(people["carol"])
    assert (carol.user_id,) == (await world.parts.lists_stream.between(alone, old, server.feed.watermark)).changed
    new = await world.parts.lists_stream.between(user, server.feed.watermark, server.feed.watermark)
    assert ((), ()) == (new.changed, new.left)


@pytest_twisted.ensureDeferred
async def test_of_many_devices_at_once_a_single_change_is_told(world: EncryptedServer) -> None:
    """Whoever deletes a hundred devices makes one EDU for each of two thousand servers; they ask for the whole list."""
    bob = await world.log_in("bob")
    server = world.server
    room = await server.room(await server.user("bob"))
    await OtherServer(server.door, server.store).send(room, BOB, "m.room.member", {"membership": "join"}, BOB)
    await world.upload(bob)
    lists = world.parts.device_lists
    told: list[int] = []
    for count in (20, 21, 1):
        names = [f"D{number}" for number in range(count)]
        await world.database.write(lambda tx, names=names: lists.note(tx, bob.user_nid, ["", *names]))
        await lists.tell(bob.user_id, bob.user_nid)
        edus = await world.database.read(lambda tx: load_edus(tx, OTHER, 0, 100))
        updates = [orjson.loads(edu.content) for edu in edus if edu.kind == "m.device_list_update"]
        told.append(len(updates))
    assert [21, 22, 23] == told
    assert [] == updates[-2]["prev_id"]
    assert [updates[-2]["stream_id"]] == updates[-1]["prev_id"], "the next one builds on it"
    assert 3 == len(edus) - len(updates)
    assert 0 == (await world.sizes())["untold_devices"]
    assert updates[-1]["stream_id"] == (await world.parts.device_keys.list_for_server(bob.user_id))["stream_id"]


@pytest_twisted.ensureDeferred
async def test_versions_of_a_list_go_on_after_a_stop_in_the_middle(database_url: str) -> None:
    """What was changed but not told is told at the next start, as the version after the last that was told."""
    world = await EncryptedServer.start(database_url)
    bob = await world.log_in("bob")
    person = await world.server.user("bob")
    room = await world.server.room(person)
    other = OtherServer(world.server.door, world.server.store)
    await other.send(room, BOB, "m.room.member", {"membership": "join"}, BOB)
    await world.upload(bob)
    await world.database.write(lambda tx: world.parts.device_lists.note(tx, bob.user_nid, [str(bob.device_id)]))
    await world.stop()
    for _ in range(2):
        world = await EncryptedServer.start(database_url)
        await world.parts.start()
        tasks = world.server.tasks
        await until(lambda tasks=tasks: all("tell" not in name for name in tasks.names))
        await world.stop()
    world = await EncryptedServer.start(database_url)
    second = await world.log_in("bob", "SECOND")
    await world.upload(second)
    waiting = await world.database.read(lambda tx: load_edus(tx, OTHER, 0, 100))
    updates = [orjson.loads(edu.content) for edu in waiting if edu.kind == "m.device_list_update"]
    ids = [update["stream_id"] for update in updates]
    assert [[], *([each] for each in ids[:-1])] == [update["prev_id"] for update in updates]
    assert sorted(set(ids)) == ids
    assert [bob.device_id, bob.device_id, "SECOND"] == [update["device_id"] for update in updates]
    shown = await world.parts.device_keys.list_for_server(bob.user_id)
    assert ids[-1] == shown["stream_id"]
    assert 0 == (await world.sizes())["untold_devices"]
    await world.stop()
