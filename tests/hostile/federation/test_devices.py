"""Hostile inputs 40 to 43 over federation: EDUs and answers about devices, made from good ones in every place.

Spec: server-server API, "Device Management", "End-to-End Encryption", "Send-to-device messaging".
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
import pytest_twisted

from homeserver.users.remote_devices import MAX_DEVICES, RemoteList, read_user_devices
from homeserver.users.remote_keys import read_claim_answer, read_query_answer
from tests.hostile.mutations import mutations
from tests.support.encryption import Keys
from tests.support.played_server import PlayedRequest, until

from .world import V1, World

_NUMBERS = count(1)
# One of each kind; the parsers themselves have tables of their own.
WRONG: tuple[Any, ...] = (None, -1, 1.5, 2**53, "\x00", "x" * 70_000, [[]], {"": {"a:b": [1]}})
# All are tried on what reads answers; this many come over the network.
SAMPLES = 20


def update(user_id: str, device_id: str, stream_id: int, *previous: int, **more: Any) -> dict[str, Any]:
    content = {"user_id": user_id, "device_id": device_id, "stream_id": stream_id, "prev_id": list(previous)}
    return {**content, "keys": Keys(user_id, device_id).device(version=stream_id), **more}


def signing_keys(user_id: str, *, generation: int = 1) -> dict[str, Any]:
    keys = Keys(user_id, "D", generation=generation)
    found = keys.cross_signing()
    return {name: found[name] for name in ("master_key", "self_signing_key")}


def message(sender: str, receiver: str, message_id: str, content: Any) -> dict[str, Any]:
    return {"sender": sender, "type": "m.test", "message_id": message_id, "messages": {receiver: {"*": content}}}


def parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


async def tell(world: World, kind: str, *contents: Any) -> None:
    """Send EDUs in transactions of as many as there may be, but none too large."""
    for part in parts(list(contents), 50):
        answer = await world.send(edus=[{"edu_type": kind, "content": content} for content in part])
        assert 200 == answer.status, answer
    world.without_faults()


async def settled(world: World) -> None:
    await until(lambda: not any("fetch devices" in name for name in world.server.parts.base.tasks.names))


@pytest_twisted.async_yield_fixture
async def low(world: World) -> AsyncIterator[str]:
    """A user of the bad server who shares a room with alice."""
    user_id: str = world.evil.user(f"low{next(_NUMBERS)}")
    room_id = await world.alice.create_room(preset="public_chat", room_version="12")
    await world.join_as(world.evil, user_id, room_id)
    world.forgive()
    yield user_id
    world.answers.clear()


def answers(world: World, devices: dict[str, Any], stream_id: Any = 1, **more: Any) -> None:
    """Have the bad server answer so about devices."""

    def user_devices(request: PlayedRequest) -> Any:
        user_id = unquote(request.path.split("/")[6])
        listed = [{"device_id": each, "keys": keys} for each, keys in devices.items()]
        return {"user_id": user_id, "stream_id": stream_id, "devices": listed, **more}

    def keys(request: PlayedRequest) -> Any:
        if request.path.endswith("/claim"):
            return {"one_time_keys": request.json["one_time_keys"]}
        return {"device_keys": dict.fromkeys(request.json["device_keys"], devices)}

    def user(request: PlayedRequest) -> Any:
        return (keys if "/keys/" in request.path else user_devices)(request)

    world.answers["user"] = user


async def query(world: World, user_id: str) -> Any:
    answer = await world.alice.call("POST", "/keys/query", {"device_keys": {user_id: []}})
    return answer["device_keys"].get(user_id, {})


def rows(world: World, table: str) -> int:
    return int(world.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# -- EDUs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["m.device_list_update", "m.signing_key_update", "m.direct_to_device"])
async def test_an_edu_made_bad_in_any_place_is_dropped_or_harmless(world: World, low: str, kind: str) -> None:
    alice = world.alice.user_id
    answers(world, {"D": Keys(low, "D").device(version=1)})
    await query(world, low)
    good = {
        "m.device_list_update": update(low, "D", 2, 1),
        "m.signing_key_update": {"user_id": low, **signing_keys(low)},
        "m.direct_to_device": message(low, alice, "m", {"n": 1}),
    }[kind]
    since = (await world.alice.sync())["next_batch"]
    devices = rows(world, "remote_devices")
    # The large ones are few for each transaction, so that none is refused for its size.
    bad = [changed for _, changed in mutations(good, WRONG)]
    begin = time.process_time()
    await tell(world, kind, *[each for each in bad if len(json.dumps(each)) < 10_000])
    await tell(world, kind, *[each for each in bad if len(json.dumps(each)) >= 10_000][:8])
    await settled(world)
    assert time.process_time() - begin < 10
    assert rows(world, "remote_devices") <= devices + 3
    events = (await world.alice.sync(since)).get("to_device", {}).get("events", [])
    assert all({"type", "sender", "content"} == set(each) and each["sender"] == low for each in events)
    assert all(isinstance(each["content"], dict) for each in events)
    shown = await query(world, low)
    assert all(keys["user_id"] == low and keys["device_id"] == name for name, keys in shown.items())
    await world.check()


async def test_updates_in_every_odd_order_fetch_the_list_now_and_then_alone(world: World, low: str) -> None:
    answers(world, {"D": Keys(low, "D").device(version=1)})
    await query(world, low)
    await tell(world, "m.device_list_update", update(low, "D", 1))
    await settled(world)
    world.evil.requests.clear()
    odd = [
        *(update(low, "D", 1_000 - number, 999 - number) for number in range(40)),
        *(update(low, "D", number, number + 1) for number in range(40)),
        *(update(low, "D", 5_000 + 2 * number, 4_999 + 2 * number, 7, 5) for number in range(40)),
        *(update(low, "D", 9_000 + number, 8_999 + number, deleted=number % 2 == 0) for number in range(40)),
        *(update(low, "D", 2**53 - 1, 2**53 - 1) for _ in range(10)),
        *(update(low, "D", 3, 3, device_display_name="x" * 10_000) for _ in range(10)),
        *(update(low, "D", 1) for _ in range(40)),
    ]
    begin = time.process_time()
    await tell(world, "m.device_list_update", *odd)
    await settled(world)
    assert time.process_time() - begin < 10
    # At most one is under way; one for each transaction, as those come one after the other, is the worst.
    assert len(world.evil.asked(f"{V1}/user/devices")) <= len(odd) // 50 * 4
    assert 1 == len(await query(world, low))
    await world.check()


async def test_devices_without_end_are_kept_up_to_a_bound(world: World, low: str) -> None:
    answers(world, {f"D{number}": Keys(low, "D").device() for number in range(3)})
    await query(world, low)
    before = rows(world, "remote_devices")
    keys = Keys(low, "D0").device()
    many = {f"D{number}": {**keys, "device_id": f"D{number}"} for number in range(MAX_DEVICES + 1_000)}
    answers(world, many, 10)
    await tell(world, "m.device_list_update", update(low, "D0", 10, 9))
    await settled(world)
    assert rows(world, "remote_devices") <= before + MAX_DEVICES
    begin = time.process_time()
    assert len(await query(world, low)) <= MAX_DEVICES
    world.evil.requests.clear()
    for number in range(11, 31):
        await tell(world, "m.device_list_update", update(low, f"E{number}", number, number - 1))
    await settled(world)
    assert len(world.evil.asked(f"{V1}/user/devices")) <= 2
    assert time.process_time() - begin < 5
    assert rows(world, "remote_devices") <= before + MAX_DEVICES
    await world.check()


async def test_messages_are_for_those_who_are_there_and_of_those_who_sent_them(world: World, low: str) -> None:
    alice = world.alice.user_id
    waiting = rows(world, "to_device_messages")
    since = (await world.alice.sync())["next_batch"]
    crowd = {f"@u{number}:{world.server.name}": {"*": {}} for number in range(999)}
    bad = [
        message(alice, alice, "1", {"a": "pwned"}),
        message(world.honest.user("carol"), alice, "2", {"a": "pwned"}),
        {**message(low, alice, "3", {}), "messages": {**crowd, alice: {f"X{number}": {} for number in range(1_000)}}},
        {**message(low, alice, "4", {}), "messages": crowd},
        {**message(low, alice, "5", {}), "messages": {alice: {"*": {"a": "x" * 66_000}}}},
        {**message(low, alice, "6", {}), "messages": {alice: {f"X{number}": {} for number in range(900)}}},
        message(low, world.honest.user("carol"), "7", {"a": "pwned"}),
    ]
    await tell(world, "m.direct_to_device", *bad)
    assert waiting == rows(world, "to_device_messages")
    good = [message(low, alice, f"8.{number}", {"n": number}) for number in range(20)]
    for _ in range(3):
        await tell(world, "m.direct_to_device", *good, *reversed(good))
    events = (await world.alice.sync(since))["to_device"]["events"]
    assert list(range(20)) == [each["content"]["n"] for each in events]
    await world.check()


def check_list(user_id: str, known: RemoteList) -> None:
    """Raise AssertionError unless all that was read is the user's own."""
    for device_id, (content, name) in known.devices.items():
        keys = orjson.loads(content)
        assert (user_id, device_id) == (keys["user_id"], keys["device_id"])
        assert len(content) < 70_000
        assert name is None or len(name) <= 100
    for public, content in known.keys.values():
        assert user_id == orjson.loads(content)["user_id"]
        assert len(public) < 64
    assert known.stream_id is None or 0 <= known.stream_id < 2**53


# -- answers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_about_devices_made_bad_in_any_place_is_sifted(world: World, low: str) -> None:
    """What `GET /user/devices` answers; each after an update that leaves a gap."""
    good = {"user_id": low, "stream_id": 5, "devices": [{"device_id": "D", "keys": Keys(low, "D").device()}]}
    good |= signing_keys(low)
    bad = [changed for _, changed in mutations(good, WRONG)]
    for changed in bad:
        check_list(low, read_user_devices(changed, low))
    bad = bad[:: len(bad) // SAMPLES]
    kept = iter(bad)
    asked = 0

    def user(request: PlayedRequest) -> Any:
        nonlocal asked
        if "/keys/" in request.path:
            return {"device_keys": {low: {}}}
        asked += 1
        return next(kept, good)

    world.answers["user"] = user
    await query(world, low)
    for number in range(len(bad) + 2):
        await tell(world, "m.device_list_update", update(low, "D", 100 + 2 * number, 99 + 2 * number))
        await settled(world)
        shown = await query(world, low)
        assert all(keys["user_id"] == low and keys["device_id"] == name for name, keys in shown.items())
    assert asked > len(bad) // 2
    await world.check()


@pytest.mark.parametrize("path", ["query", "claim"])
async def test_an_answer_with_keys_made_bad_in_any_place_is_sifted(world: World, low: str, path: str) -> None:
    own = Keys(low, "D")
    keys = {f"{name}s": {low: key} for name, key in signing_keys(low).items()}
    good = {"device_keys": {low: {"D": own.device()}}, **keys} if path == "query" else {}
    good = good or {"one_time_keys": {low: {"D": own.one_time(1)}}}
    asked = {"query": {"device_keys": {low: []}}, "claim": {"one_time_keys": {low: {"D": "signed_curve25519"}}}}[path]
    found, failures = 0, []
    all_bad = [*mutations(good, WRONG)]
    for _, bad in all_bad:
        if path == "query":
            for known in read_query_answer(bad, [low]).values():
                check_list(low, known)
        else:
            assert set(read_claim_answer(bad, asked["one_time_keys"]).get(low, {})) <= {"D"}
    for what, bad in [*all_bad[:: len(all_bad) // SAMPLES], ("nothing", good)]:
        # Nothing is kept meanwhile, so that each is asked for.
        await tell(world, "m.device_list_update", update(low, "D", 1_000 + next(_NUMBERS), 5, 7))
        await settled(world)
        world.answers["user"] = lambda request, bad=bad: bad
        answer = await world.alice.try_call("POST", f"/keys/{path}", asked)
        assert 200 == answer.status, (what, answer)
        shown = answer.json["device_keys" if path == "query" else "one_time_keys"]
        failures.append((what, answer.json.get("failures")))
        assert set(shown) <= {low}, what
        for device_id, each in shown.get(low, {}).items():
            found += 1
            if path == "query":
                assert (low, device_id) == (each["user_id"], each["device_id"]), what
            else:
                assert ("D", ["signed_curve25519"]) == (device_id, [name.partition(":")[0] for name in each]), what
        for section in ("master_keys", "self_signing_keys"):
            for user_id, key in answer.json.get(section, {}).items():
                assert (low, low) == (user_id, key["user_id"]), what
    assert found > 1, failures[-3:]
    await settled(world)
    await world.check()
