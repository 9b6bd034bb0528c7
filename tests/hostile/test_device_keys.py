"""Hostile inputs 41 to 43: bad keys, signatures and messages of local users, made from good ones in every place.

Nothing of a refused request is stored, others are shown nothing bad, and nobody else notices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.client import PREFIX, Actor
from tests.hostile.conftest import Bystander
from tests.hostile.mutations import mutations
from tests.support.encryption import Keys, public_key

pytestmark = pytest.mark.slow


def keys_of(actor: Actor) -> Keys:
    return Keys(actor.user_id, actor.device_id)


def upload(actor: Actor) -> dict[str, Any]:
    keys = keys_of(actor)
    return {
        "device_keys": keys.device(),
        "one_time_keys": keys.one_time(1),
        "fallback_keys": keys.one_time(1, fallback=True),
    }


def signatures(actor: Actor) -> dict[str, Any]:
    keys = keys_of(actor)
    return {actor.user_id: {actor.device_id: keys.sign_by_self(keys.device())}}


def room_keys(actor: Actor) -> dict[str, Any]:
    key = {"first_message_index": 1, "forwarded_count": 0, "is_verified": True, "session_data": {"ciphertext": "x"}}
    return {"rooms": {"!r:x": {"sessions": {"s": key}}}}


BODIES: dict[str, tuple[str, Callable[[Actor], dict[str, Any]]]] = {
    "POST /keys/upload": ("/keys/upload", upload),
    "POST /keys/query": ("/keys/query", lambda actor: {"device_keys": {actor.user_id: [actor.device_id]}}),
    "POST /keys/claim": (
        "/keys/claim",
        lambda actor: {"one_time_keys": {actor.user_id: {actor.device_id: "signed_curve25519"}}},
    ),
    "POST /keys/device_signing/upload": ("/keys/device_signing/upload", lambda actor: keys_of(actor).cross_signing()),
    "POST /keys/signatures/upload": ("/keys/signatures/upload", signatures),
    "PUT /sendToDevice/m.test/{txn}": (
        "/sendToDevice/m.test",
        lambda actor: {"messages": {actor.user_id: {actor.device_id: {"a": 1}, "*": {}}}},
    ),
    "PUT /room_keys/keys": ("/room_keys/keys?version=1", room_keys),
}


def send(actor: Actor, name: str, path: str, body: Any, number: int) -> Any:
    method = name.partition(" ")[0]
    where = PREFIX + path + (f"/t{number}" if "{txn}" in name else "")
    return actor.send(method, where, json.dumps(body).encode())


@pytest.mark.parametrize("name", BODIES)
def test_a_good_body_made_bad_in_any_place_does_no_harm(mallory: Actor, bystander: Bystander, name: str) -> None:
    path, good = BODIES[name]
    faults: list[str] = []
    if "signatures" in name:
        mallory.call("POST", "/keys/upload", {"device_keys": keys_of(mallory).device()})
        mallory.call("POST", "/keys/device_signing/upload", keys_of(mallory).cross_signing())
    if "room_keys" in name:
        mallory.call("POST", "/room_keys/version", {"algorithm": "x", "auth_data": {}})
    for number, (what, body) in enumerate(mutations(good(mallory))):
        reply = send(mallory, name, path, body, number)
        if reply.fault() is not None or reply.status not in (200, 400, 401, 403, 404, 413):
            faults.append(f"{what}: {reply}")
    assert [] == faults
    bystander.check()
    shown = bystander.actor.call("POST", "/keys/query", {"device_keys": {mallory.user_id: []}})
    for device_id, keys in shown["device_keys"].get(mallory.user_id, {}).items():
        assert (mallory.device_id, mallory.user_id) == (device_id, keys["user_id"])
        assert "x" * 1_000 not in json.dumps(keys.get("keys"))
        assert not any(isinstance(each, float) for each in keys.values())
    mallory.sync()
    # And the good one still does what it is for.
    reply = send(mallory, name, path, good(mallory), 1_000_000)
    assert reply.status in (200, 401), reply
    if "signatures" in name:
        assert {} == reply.json["failures"]


def test_nothing_of_a_refused_upload_is_stored(mallory: Actor, bystander: Bystander) -> None:
    keys = keys_of(mallory)
    many = {f"curve25519:{number}": "x" for number in range(20_000)}
    for number, bad in enumerate(
        (
            {"one_time_keys": many},
            {"one_time_keys": {f"{'a' * 65}:A": "x"}},
            {"one_time_keys": {"a:A": {"key": "x", "n": 1.0}}},
            {"device_keys": {**keys.device(), "device_id": "OTHER"}},
            {"device_keys": {**keys.device(), "user_id": bystander.actor.user_id}},
            {"device_keys": {**keys.device(), "n": 2**60}},
            {"device_keys": {**keys.device(), "n": "x" * 66_000}},
            {"fallback_keys": {"a:A": "x", "a:B": "y"}},
        )
    ):
        whole: dict[str, Any] = {
            name: {**(upload(mallory)[name] if name != "device_keys" else {}), **bad.get(name, {})}  # type: ignore[dict-item]
            for name in ("device_keys", "one_time_keys", "fallback_keys")
        }
        whole["device_keys"] = bad.get("device_keys", keys.device())
        reply = mallory.send("POST", f"{PREFIX}/keys/upload", json.dumps(whole).encode())
        assert reply.status in (400, 413), (number, reply)
    synced = mallory.sync()
    assert {"signed_curve25519": 0} == synced["device_one_time_keys_count"]
    assert [] == synced["device_unused_fallback_key_types"]
    shown = bystander.actor.call("POST", "/keys/query", {"device_keys": {mallory.user_id: []}})
    assert {mallory.user_id: {}} == shown["device_keys"]
    bystander.check()


def test_forged_signatures_are_failures_and_shown_to_nobody(mallory: Actor, bystander: Bystander) -> None:
    victim = Actor(mallory.url, "victim").register()
    theirs, own = keys_of(victim), keys_of(mallory)
    for actor, keys in ((victim, theirs), (mallory, own)):
        actor.call("POST", "/keys/upload", {"device_keys": keys.device()})
        actor.call("POST", "/keys/device_signing/upload", keys.cross_signing())
    master = theirs.public("master", theirs.master)
    name = public_key(theirs.master)
    forged: dict[str, dict[str, Any]] = {
        "by a key that is not known": own.sign(master, own.device_key, "UNKNOWN"),
        "by the master key": own.sign_by_master(master),
        "in the victim's name": theirs.sign(master, own.user_signing, public_key(own.user_signing)),
        "of another object": {**own.sign_by_user(master), "usage": ["self_signing"]},
        "with rubbish": {**master, "signatures": {mallory.user_id: {f"ed25519:{public_key(own.user_signing)}": "x"}}},
        "by thousands": {
            **master,
            "signatures": {mallory.user_id: {f"ed25519:{number}": "x" * 86 for number in range(5_000)}},
        },
        "none": master,
    }
    for what, signed in forged.items():
        answer = mallory.call("POST", "/keys/signatures/upload", {victim.user_id: {name: signed}})
        assert [name] == list(answer["failures"][victim.user_id]), what
    # A device of somebody else's is signed by nobody but its owner.
    device = own.sign_by_user(theirs.device())
    answer = mallory.call("POST", "/keys/signatures/upload", {victim.user_id: {victim.device_id: device}})
    assert [victim.device_id] == list(answer["failures"][victim.user_id])
    for actor in (victim, mallory, bystander.actor):
        shown = actor.call("POST", "/keys/query", {"device_keys": {victim.user_id: []}})
        assert {victim.user_id} == set(shown["master_keys"][victim.user_id]["signatures"])
        assert {victim.user_id} == set(shown["device_keys"][victim.user_id][victim.device_id]["signatures"])
    bystander.check()


def test_floods_of_messages_are_refused_whole(mallory: Actor, bystander: Bystander) -> None:
    victim = bystander.actor.user_id
    floods: dict[str, Any] = {
        "recipients": {f"@u{number}:test.example": {"*": {}} for number in range(20_000)},
        "devices": {victim: {f"D{number}": {} for number in range(50_000)}},
        "content": {victim: {"*": {"x": "y" * 66_000}}},
    }
    for name, messages in floods.items():
        body = json.dumps({"messages": {victim: {"*": {"first": name}}, **messages}}).encode()
        reply = mallory.send("PUT", f"{PREFIX}/sendToDevice/m.flood/{name}", body)
        assert reply.status in (400, 413), (name, reply)
        assert reply.fault() is None
    for number in range(3):
        largest = {victim: {"*": {"x": "y" * 65_000}}}
        mallory.call("PUT", f"/sendToDevice/m.large/{number}", {"messages": largest})
        # The same again is nothing new.
        mallory.call("PUT", f"/sendToDevice/m.large/{number}", {"messages": largest})
    found = bystander.actor.call("GET", f"/sync?timeout=0&since={quote(bystander.since)}")["to_device"]["events"]
    assert ["m.large"] * 3 == [each["type"] for each in found]
    bystander.check()
