"""Cross-signing: who may replace the keys, which signatures are taken, and who sees them."""

from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.device_keys import CrossSigningKeys, devices_of, password_of, publish
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

UPLOAD = "/keys/device_signing/upload"


async def keys_of(asking: User, other: User) -> dict[str, Any]:
    """Return the cross-signing keys of somebody by kind, as the one who asks is told."""
    found = await asking.post("/keys/query", {"device_keys": {other.user_id: []}})
    kinds = ("master_keys", "self_signing_keys", "user_signing_keys")
    return {kind: found[kind][other.user_id] for kind in kinds if other.user_id in found.get(kind, {})}


@story(
    "Alice publishes her cross-signing keys: Bob sees two of them, and the third is hers alone",
    shows="client-server API, 'Cross-signing': the user-signing key is only visible to the user that it belongs to",
    needs=users(2),
)
async def published(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    mine = CrossSigningKeys(alice)
    await alice.post(UPLOAD, mine.published)
    bobs = await keys_of(bob, alice)
    check_equal({"master_keys", "self_signing_keys"}, set(bobs), "the keys that Bob is shown")
    check_equal(mine.published["master_key"]["keys"], bobs["master_keys"]["keys"], "the master key")
    check_equal(mine.published["self_signing_key"], bobs["self_signing_keys"], "the self-signing key")
    own = await keys_of(alice, alice)
    check_equal(mine.published["user_signing_key"], own.get("user_signing_keys"), "the user-signing key, for Alice")


@story(
    "Who has only Alice's token cannot replace her keys; with her password she can",
    shows="client-server API, 'Key management API': POST /keys/device_signing/upload, where UIA must be performed",
    needs=users(2) + feature("password login"),
)
async def replaced(scene: Scene) -> None:
    alice, bob = scene.users
    old, new = CrossSigningKeys(alice), CrossSigningKeys(alice)
    await alice.post(UPLOAD, old.published)
    scene.step("The answer is lost, and the same upload is made again")
    await alice.post(UPLOAD, old.published)
    asked = await alice.request("POST", UPLOAD, new.published)
    check_equal(401, asked.status, "the answer to other keys, without the password")
    check_equal(
        old.published["master_key"]["keys"], (await keys_of(bob, alice))["master_keys"]["keys"], "the key still"
    )
    await alice.post(UPLOAD, {**new.published, "auth": password_of(alice, asked.json["session"])})
    found = await keys_of(bob, alice)
    check_equal(new.published["master_key"]["keys"], found["master_keys"]["keys"], "the new master key")
    check_equal(new.published["self_signing_key"], found["self_signing_keys"], "the new self-signing key")


@story(
    "A self-signing key that the master key has not signed is refused",
    shows="client-server API, 'Key management API': POST /keys/device_signing/upload, M_INVALID_SIGNATURE",
    needs=users(1),
)
async def not_by_master(scene: Scene) -> None:
    (alice,) = scene.users
    mine, others = CrossSigningKeys(alice), CrossSigningKeys(alice)
    forged = {**mine.published, "self_signing_key": others.by_master(mine.key("self_signing", mine.self_signing))}
    forged["self_signing_key"]["signatures"] = {
        alice.user_id: {f"ed25519:{mine.master.public}": "A" * 86},
    }
    with refused(400, "M_INVALID_SIGNATURE", what="a self-signing key with a made-up signature"):
        await alice.post(UPLOAD, forged)
    only = {"self_signing_key": mine.published["self_signing_key"]}
    with refused(400, what="a self-signing key where there is no master key"):
        await alice.post(UPLOAD, only)
    check_equal({}, await keys_of(alice, alice), "Alice's cross-signing keys")


@story(
    "Alice vouches for her own device, and Bob sees it; a signature that is wrong is not taken",
    shows="client-server API, 'Key management API': POST /keys/signatures/upload, failures",
    needs=users(2),
)
async def own_device(scene: Scene) -> None:
    alice, bob = scene.users
    device, mine, forger = await publish(alice), CrossSigningKeys(alice), CrossSigningKeys(alice)
    await alice.post(UPLOAD, mine.published)
    key_id = f"ed25519:{mine.self_signing.public}"
    wrong = forger.by_self_signing(device.published)
    signatures = wrong["signatures"][alice.user_id]
    signatures[key_id] = signatures.pop(f"ed25519:{forger.self_signing.public}")
    answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: wrong}})
    failure = answer.get("failures", {}).get(alice.user_id, {}).get(alice.device_id, {})
    check_equal("M_INVALID_SIGNATURE", failure.get("errcode"), "the failure of the wrong signature")
    check(
        key_id not in (await devices_of(bob, alice))[alice.device_id]["signatures"][alice.user_id],
        "the wrong signature not to be shown",
        came=failure,
    )
    good = mine.by_self_signing(device.published)
    answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: good}})
    check_equal({}, answer.get("failures", {}), "what of the good one is refused")
    seen = (await devices_of(bob, alice))[alice.device_id]["signatures"][alice.user_id]
    check_equal(good["signatures"][alice.user_id], seen, "the signatures that Bob sees")


@story(
    "Alice vouches for Bob: she sees her signature, and neither Bob nor Carol does",
    shows="client-server API, 'Cross-signing': signatures that are only visible to the user who created them",
    needs=users(3),
)
async def anothers_key(scene: Scene) -> None:
    alice, bob, carol = scene.users
    await alice.create_room_with(bob, carol)
    alices, bobs = CrossSigningKeys(alice), CrossSigningKeys(bob)
    await alice.post(UPLOAD, alices.published)
    await bob.post(UPLOAD, bobs.published)
    signed = alices.by_user_signing(bobs.published["master_key"])
    answer = await alice.post("/keys/signatures/upload", {bob.user_id: {bobs.master.public: signed}})
    check_equal({}, answer.get("failures", {}), "what is refused")
    seen = {each.name: (await keys_of(each, bob))["master_keys"].get("signatures", {}) for each in (alice, bob, carol)}
    check_equal(
        signed["signatures"][alice.user_id], seen["Alice"].get(alice.user_id), "her signature, as Alice sees it"
    )
    check(alice.user_id not in seen["Bob"], "Bob not to see it", came=seen["Bob"])
    check(alice.user_id not in seen["Carol"], "Carol not to see it", came=seen["Carol"])
    scene.step("Carol would have others believe that she has signed Bob's key, too")
    forged = {**bobs.published["master_key"], "signatures": {carol.user_id: {"ed25519:made-up": "A" * 86}}}
    answer = await carol.post("/keys/signatures/upload", {bob.user_id: {bobs.master.public: forged}})
    check(answer.get("failures", {}).get(bob.user_id), "the forged signature to fail", came=answer)
