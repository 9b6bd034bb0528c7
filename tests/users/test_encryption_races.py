"""What comes between two looks of one request: keys of another request, an update of another server, a new device.

The functions that are replaced here do what they did, and let something else happen beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from threading import Event
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import blockingCallFromThread

from homeserver.errors import InvalidParam, UnknownToken
from homeserver.feed.streams import inbox_bounds
from homeserver.users import cross_signing, device_keys
from homeserver.users.dehydrated_devices import DehydratedDevices
from storage import to_device as storage
from tests.support.encrypted import EncryptedServer
from tests.support.encryption import Keys, public_key
from tests.support.other_server import BOB
from tests.users.test_remote_devices import World
from tests.users.test_remote_devices import world as remote_world  # noqa: F401


@pytest_twisted.async_yield_fixture
async def world(database_url: str) -> AsyncIterator[EncryptedServer]:
    """A server with devices and keys."""
    made = await EncryptedServer.start(database_url)
    try:
        yield made
    finally:
        await made.stop()


@pytest_twisted.ensureDeferred
async def test_of_two_first_uploads_of_cross_signing_keys_the_second_needs_a_proof(world: EncryptedServer) -> None:
    """Both may be read before either is stored; who has an access token only may not replace what the other stored."""
    alice = await world.log_in("alice")
    signing = world.parts.cross_signing
    first, second = [Keys(alice.user_id, str(alice.device_id), generation=number) for number in (1, 2)]
    read = [await signing.read_upload(alice, each.cross_signing()) for each in (first, second)]
    assert [False, False] == [each.needs_proof for each in read]
    assert [True, False] == [await signing.store(alice, each) for each in read]
    assert (await signing.read_upload(alice, second.cross_signing())).needs_proof
    shown = await world.parts.device_keys.query(alice, {"device_keys": {alice.user_id: []}}, timeout_s=1)
    expected = first.public("master", first.master)["keys"]
    assert expected == orjson.loads(orjson.dumps(shown["master_keys"]))[alice.user_id]["keys"]


@pytest_twisted.ensureDeferred
async def test_no_device_has_the_id_of_a_cross_signing_key(world: EncryptedServer) -> None:
    """Spec: "Cross-signing": who verifies a master key treats it as a device that has the key as its ID."""
    alice = await world.log_in("alice")
    signing = world.parts.cross_signing
    keys = Keys(alice.user_id, str(alice.device_id))
    await signing.store(alice, await signing.read_upload(alice, keys.cross_signing()))
    later = await world.log_in("alice", keys.master.verify_key_base64)
    with pytest.raises(InvalidParam):
        await world.upload(later)
    bob_keys = Keys("@bob:example.org", "B")
    bob = await world.log_in("bob", bob_keys.self_signing.verify_key_base64)
    with pytest.raises(InvalidParam):
        await signing.store(bob, await signing.read_upload(bob, bob_keys.cross_signing()))


@pytest_twisted.ensureDeferred
async def test_who_has_logged_out_meanwhile_leaves_no_dehydrated_device(world: EncryptedServer) -> None:
    alice = await world.log_in("alice")
    server, parts = world.server, world.parts
    dehydrated = DehydratedDevices(
        server.store, server.tasks, world.sessions, devices=world.devices, keys=parts.device_keys
    )
    body = {"device_id": "D", "device_data": {"algorithm": "x"}, "device_keys": Keys(alice.user_id, "D").device()}
    assert "D" == await dehydrated.store(alice, body)
    await world.devices.delete_all(alice.user_id, alice.user_nid)
    with pytest.raises(UnknownToken):
        await dehydrated.store(alice, body)
    assert 0 == (await world.sizes())["devices"]


@pytest_twisted.ensureDeferred
async def test_a_signature_over_keys_that_were_replaced_meanwhile_is_not_stored(
    world: EncryptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await world.log_in("alice", "PHONE")
    keys = await world.upload(alice)
    signing = world.parts.cross_signing
    assert await signing.store(alice, await signing.read_upload(alice, keys.cross_signing()))
    load = cross_signing._load_signer

    def load_before_a_change(*arguments: Any) -> Any:
        found = load(*arguments)
        monkeypatch.setattr(cross_signing, "_load_signer", load)
        body = {"device_keys": keys.device(more=1)}
        upload = world.parts.device_keys.upload
        blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(upload(alice, body)))
        return found

    monkeypatch.setattr(cross_signing, "_load_signer", load_before_a_change)
    master = keys.sign(keys.public("master", keys.master), keys.device_key, "PHONE")
    body = {alice.user_id: {"PHONE": keys.sign_by_self(keys.device()), public_key(keys.master): master}}
    failures = await signing.sign(alice, body)
    # That by the device neither: it was looked whether its key is good before the change.
    assert {"PHONE", public_key(keys.master)} == set(failures[alice.user_id])
    assert 0 == (await world.sizes())["key_signatures"]
    body[alice.user_id]["PHONE"] = keys.sign_by_self(keys.device(more=1))
    assert {} == await signing.sign(alice, body)
    assert 2 == (await world.sizes())["key_signatures"]


@pytest_twisted.ensureDeferred
async def test_messages_of_one_device_keep_their_order_where_an_inbox_is_weighed(
    world: EncryptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_bounds, "MAX_WAITING", 100)
    alice, bob = await world.log_in("alice"), await world.log_in("bob")
    measure, looks = storage.measure_inboxes, 0

    def measure_late(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        # Whoever comes later must not be through first.
        Event().wait(0.05 if looks == 1 else 0)
        return measure(*arguments)

    monkeypatch.setattr(storage, "measure_inboxes", measure_late)
    await world.send(alice, "0", {bob.user_id: {"*": {"n": 0}}})
    sent = [
        Deferred.fromCoroutine(world.send(alice, f"{number}", {bob.user_id: {"*": {"n": number}}}))
        for number in range(1, 6)
    ]
    await gatherResults(sent)
    assert looks > 0
    assert list(range(6)) == [each["n"] for each in (await world.sync(bob))[0]]


@pytest_twisted.ensureDeferred
async def test_a_list_for_other_servers_never_lacks_what_its_version_has(
    world: EncryptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that got too old a list under the newest version would never ask for it again."""
    alice = await world.log_in("alice", "OLD")
    later = await world.log_in("alice", "NEW")
    await world.upload(alice)
    load = device_keys._load

    def load_with_a_change(*arguments: Any) -> Any:
        found = load(*arguments)
        monkeypatch.setattr(device_keys, "_load", load)
        blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(world.upload(later)))
        return found

    monkeypatch.setattr(device_keys, "_load", load_with_a_change)
    before = await world.parts.device_keys.list_for_server(alice.user_id)
    after = await world.parts.device_keys.list_for_server(alice.user_id)
    assert ["OLD", "NEW"] == [each["device_id"] for each in after["devices"]]
    assert before["devices"] == after["devices"] or before["stream_id"] < after["stream_id"]


@pytest_twisted.ensureDeferred
async def test_an_update_that_comes_right_before_a_fetched_list_is_stored_voids_it(
    remote_world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interner = remote_world.server.store.interner
    find_users, looks = interner.find_users, 0

    async def find_users_late(names: Iterable[str]) -> dict[str, int]:
        nonlocal looks
        found = await find_users(names)
        looks += 1
        # The first look is for what is known, the second for what was fetched.
        if looks == 2:
            remote_world.elsewhere.devices["D"] = Keys(BOB, "D").device(version=2)
            await remote_world.update(2, 1)
        return found

    monkeypatch.setattr(interner, "find_users", find_users_late)
    await remote_world.query()
    answer = await remote_world.query()
    assert 2 == answer["found"][BOB]["D"]["version"]
