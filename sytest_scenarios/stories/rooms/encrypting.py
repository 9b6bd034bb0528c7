"""Whether a room is encrypted: who turns it on, that all are told, and where the operator does not want it."""

from sytest_scenarios.actors import initial
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import setting, story, users

ALGORITHM = {"algorithm": "m.megolm.v1.aes-sha2"}


@story(
    "Alice has the room encrypted; Bob could not, and cannot undo it",
    shows="client-server API, 'End-to-End Encryption': m.room.encryption",
    needs=users(3),
)
async def turned_on(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob)
    with refused(403, "M_FORBIDDEN", what="Bob turning encryption on"):
        await bob.set_state(room, "m.room.encryption", ALGORITHM)
    await alice.set_state(room, "m.room.encryption", ALGORITHM)
    await bob.until("the encryption", lambda view: view.room(room).content("m.room.encryption") == ALGORITHM)
    with refused(403, "M_FORBIDDEN", what="Bob undoing it"):
        await bob.set_state(room, "m.room.encryption", {})
    secret = {**ALGORITHM, "ciphertext": "AwgAEn…", "session_id": "one", "sender_key": "k", "device_id": bob.device_id}
    said = await bob.send(room, "m.room.encrypted", secret)
    check_equal(secret, (await alice.sees(room, said))["content"], "what Alice gets, untouched")
    await alice.invite(room, carol)
    await carol.until("the invite", lambda view: room.id in view.invites)
    check_equal(ALGORITHM, carol.view.room(room).content("m.room.encryption"), "the encryption in Carol's invite")


@story(
    "Where the operator does not allow encryption, nobody turns it on, by no way",
    shows="docs/configuration.md, [rooms]: allow_encryption",
    needs=users(2) + setting("no encryption"),
)
async def not_allowed(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    with refused(403, what="encryption in a room"):
        await alice.set_state(room, "m.room.encryption", ALGORITHM)
    with refused(403, what="a room that is encrypted from the beginning"):
        await alice.create_room(initial_state=[initial("m.room.encryption", ALGORITHM)])
    with refused(403, what="an encrypted message"):
        await bob.send(room, "m.room.encrypted", {**ALGORITHM, "ciphertext": "AwgAEn…", "session_id": "one"})
    check_equal([room.id], (await alice.get("/joined_rooms"))["joined_rooms"], "the rooms that Alice is in")
    said = await bob.say(room, "in the open")
    check_equal("in the open", (await alice.sees(room, said))["content"]["body"], "what Alice reads")
    check(("m.room.encryption", "") not in await alice.whole_state(room), "no encryption", came="encryption")
