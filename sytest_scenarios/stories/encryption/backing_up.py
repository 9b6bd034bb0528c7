"""The backup of room keys: versions, what is kept of a key that comes twice, and whose it is."""

from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"


def session(text: str, *, verified: bool = False, index: int = 0, forwarded: int = 0) -> dict[str, Any]:
    """Return a room key as a client encrypts it for the backup; the text stands for the ciphertext."""
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ephemeral": "base64", "ciphertext": text, "mac": "base64"},
    }


async def new_backup(user: User, public_key: str = "abcdef") -> str:
    """Begin a new backup and return its version."""
    body = {"algorithm": ALGORITHM, "auth_data": {"public_key": public_key, "signatures": {}}}
    return str((await user.post("/room_keys/version", body))["version"])


@story(
    "Alice begins a backup, mends what is known of it, replaces it, and deletes it",
    shows="client-server API, 'Server-side key backups': POST, GET, PUT and DELETE /room_keys/version",
    needs=users(1),
)
async def versions(scene: Scene) -> None:
    (alice,) = scene.users
    with refused(404, "M_NOT_FOUND", what="the backup of who has none"):
        await alice.get("/room_keys/version")
    first = await new_backup(alice, "first")
    found = await alice.get("/room_keys/version")
    check_equal((first, ALGORITHM, 0), (found["version"], found["algorithm"], found["count"]), "the backup")
    mended = {"algorithm": ALGORITHM, "auth_data": {"public_key": "first", "signatures": {alice.user_id: {"a:b": "c"}}}}
    await alice.put(f"/room_keys/version/{first}", mended)
    check_equal(mended["auth_data"], (await alice.get("/room_keys/version"))["auth_data"], "what is known of it")
    with refused(400, "M_INVALID_PARAM", what="another algorithm for the same backup"):
        await alice.put(f"/room_keys/version/{first}", {**mended, "algorithm": "org.example.another"})
    second = await new_backup(alice, "second")
    check_equal(second, (await alice.get("/room_keys/version"))["version"], "the latest version")
    check_equal("first", (await alice.get(f"/room_keys/version/{first}"))["auth_data"]["public_key"], "the old one")
    await alice.delete(f"/room_keys/version/{second}")
    with refused(404, "M_NOT_FOUND", what="the backup that was deleted"):
        await alice.get(f"/room_keys/version/{second}")


@story(
    "Room keys are put into the backup, fetched and deleted: one, those of a room, all",
    shows="client-server API, 'Server-side key backups': /room_keys/keys and its variants, count and etag",
    needs=users(1),
)
async def keys(scene: Scene) -> None:
    (alice,) = scene.users
    version = await new_backup(alice)
    one, two = "!one:example.org", "!two:example.org"
    single = "/room_keys/keys" + path_of(one, "session1")
    first = await alice.put(single, session("a"), version=version)
    check_equal(1, first["count"], "the number of keys")
    second = await alice.put(
        "/room_keys/keys" + path_of(one),
        {"sessions": {"session2": session("b"), "session3": session("c")}},
        version=version,
    )
    check_equal(3, second["count"], "the number of keys with two more of the room")
    third = await alice.put(
        "/room_keys/keys", {"rooms": {two: {"sessions": {"session1": session("d")}}}}, version=version
    )
    check_equal(4, third["count"], "the number of keys with one of another room")
    check_equal(3, len({each["etag"] for each in (first, second, third)}), "the number of different etags")
    check_equal(session("a"), await alice.get(single, version=version), "the first key")
    everything = await alice.get("/room_keys/keys", version=version)
    check_equal(
        {one: 3, two: 1}, {room: len(each["sessions"]) for room, each in everything["rooms"].items()}, "the keys"
    )
    left = await alice.delete(single, version=version)
    check_equal(3, left["count"], "the number of keys without the first")
    with refused(404, "M_NOT_FOUND", what="the key that was deleted"):
        await alice.get(single, version=version)
    of_room = await alice.get("/room_keys/keys" + path_of(one), version=version)
    check_equal({"session2", "session3"}, set(of_room["sessions"]), "the keys that are left of the room")
    await alice.delete("/room_keys/keys" + path_of(one), version=version)
    everything = await alice.get("/room_keys/keys", version=version)
    check_equal(
        [two], [room for room, each in everything["rooms"].items() if each["sessions"]], "the rooms that are left"
    )
    check_equal(0, (await alice.delete("/room_keys/keys", version=version))["count"], "the number of keys in the end")


@story(
    "Of two copies of a room key the backup keeps the better one, whichever comes first",
    shows="client-server API, 'Server-side key backups': is_verified, first_message_index, forwarded_count",
    needs=users(1),
    unlike={
        "synapse": "puts an unverified key in the place of a verified one if its index is lower; the spec, "
        "'Server-side key backups': 'if the keys have different values for is_verified, then it will keep the key "
        "that has is_verified set to true'"
    },
)
async def better_one(scene: Scene) -> None:
    (alice,) = scene.users
    version = await new_backup(alice)
    cases = {
        "verified": (session("better", verified=True, index=9), session("worse", index=0)),
        "from an earlier message on": (session("better", index=1, forwarded=5), session("worse", index=2)),
        "fewer hands": (session("better", forwarded=1), session("worse", forwarded=2)),
    }
    for number, (why, (better, worse)) in enumerate(cases.items()):
        for name, order in ((f"up{number}", (worse, better)), (f"down{number}", (better, worse))):
            path = "/room_keys/keys" + path_of("!room:example.org", name)
            etags = [(await alice.put(path, each, version=version))["etag"] for each in order]
            check_equal(better, await alice.get(path, version=version), f"the key that is kept ({why}, {name})")
            check_equal(order[1] is better, etags[0] != etags[1], f"whether the etag changes ({why}, {name})")


@story(
    "Keys for a backup that was replaced are refused, and the current version is told",
    shows="client-server API, 'Server-side key backups': M_WRONG_ROOM_KEYS_VERSION",
    needs=users(1),
    unlike={
        "synapse": "names the old version; the spec, 'Server-side key backups', PUT /room_keys/keys, 403: 'The current "
        "version will be included in the current_version field'"
    },
)
async def wrong_version(scene: Scene) -> None:
    (alice,) = scene.users
    old = await new_backup(alice)
    path = "/room_keys/keys" + path_of("!room:example.org", "session")
    await alice.put(path, session("kept"), version=old)
    new = await new_backup(alice)
    answer = await alice.request("PUT", path, session("late"), query={"version": old})
    check_equal((403, "M_WRONG_ROOM_KEYS_VERSION"), (answer.status, answer.errcode), "the answer to an old version")
    check_equal(new, answer.json.get("current_version"), "the current version")
    check_equal(session("kept"), await alice.get(path, version=old), "the key in the old backup")
    with refused(404, "M_NOT_FOUND", what="the key in the new backup"):
        await alice.get(path, version=new)


@story(
    "Bob, who knows version and room of Alice's backup, gets nothing of it and harms nothing",
    shows="client-server API, 'Server-side key backups': backups are per user",
    needs=users(2),
)
async def anothers(scene: Scene) -> None:
    alice, bob = scene.users
    version = await new_backup(alice)
    path = "/room_keys/keys" + path_of("!room:example.org", "session")
    await alice.put(path, session("hers"), version=version)
    with refused(404, what="Alice's backup, for Bob"):
        await bob.get(f"/room_keys/version/{version}")
    with refused(404, what="Alice's key, for Bob"):
        await bob.get(path, version=version)
    for doing in (bob.put(path, session("his"), version=version), bob.delete(f"/room_keys/version/{version}")):
        with refused(404, what="what Bob does to it"):
            await doing
    check_equal(session("hers"), await alice.get(path, version=version), "Alice's key afterwards")
