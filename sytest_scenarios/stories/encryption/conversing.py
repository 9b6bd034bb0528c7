"""What is said in encrypted rooms: the server carries it unchanged, counts it, and cannot read it."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.olm import Crypto
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

ENCRYPTION = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 100}
ENCRYPTED = [{"type": "m.room.encryption", "state_key": "", "content": ENCRYPTION}]


@story(
    "Alice and Bob talk in an encrypted room, and Eve, who is in it, too, understands nothing",
    shows="client-server API, 'Messaging Algorithms': m.olm.v1.curve25519-aes-sha2, m.megolm.v1.aes-sha2",
    needs=users("Alice", "Bob", "Eve") + feature("olm"),
)
async def understood(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, eve, initial_state=ENCRYPTED)
    alices, bobs, eves = (Crypto(each) for each in scene.users)
    for each in (alices, bobs, eves):
        await each.publish()
    await alices.share_room_key(room, bob)
    words = "Meet me behind the lighthouse"
    said = await alice.send(room, "m.room.encrypted", alices.encrypt(room, words))
    event = await bob.sees(room, said)
    await bob.until("the room key", lambda view: view.to_device)
    bobs.take_room_key(bob.view.to_device[0])
    understood = bobs.decrypt(event) or {}
    check_equal(words, understood.get("content", {}).get("body"), "what Bob understands")
    check_equal(room.id, understood.get("room_id"), "the room in which it was said")
    check_equal(None, eves.decrypt(await eve.sees(room, said)), "what Eve understands")
    check_equal([], eve.view.to_device, "the messages to Eve's device")
    check("lighthouse" not in str(await bob.history(room)), "the server to know ciphertext only", came=event)
    scene.step("Bob answers, and his key goes to Alice")
    await bobs.share_room_key(room, alice)
    answered = await bob.send(room, "m.room.encrypted", bobs.encrypt(room, "I shall be there"))
    event = await alice.sees(room, answered)
    await alice.until("Bob's room key", lambda view: view.to_device)
    alices.take_room_key(alice.view.to_device[0])
    check_equal("I shall be there", (alices.decrypt(event) or {})["content"]["body"], "what Alice understands")


@story(
    "An encrypted message is carried as it is, and counts as unread",
    shows="client-server API, 'End-to-End Encryption'; 'Predefined Rules': .m.rule.encrypted_room_one_to_one",
    needs=users(2),
)
async def carried(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, initial_state=ENCRYPTED)
    check_equal(ENCRYPTION, await bob.state(room, "m.room.encryption"), "the encryption of the room")
    first = await bob.say(room, "Is this encrypted?")
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "sender_key": "ûnicode\u2028 <b>",
        "session_id": "0+/=",
        "ciphertext": "AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsg" * 40,
        "m.relates_to": {"rel_type": "m.reference", "event_id": first},
    }
    sent = await alice.send(room, "m.room.encrypted", content)
    event = await bob.sees(room, sent)
    check_equal(content, event["content"], "the content as Bob gets it")
    await bob.until("one unread message", lambda view: view.room(room).unread == 1)
    await bob.read(room, sent)
    await bob.until("nothing unread", lambda view: view.room(room).unread == 0)


@story(
    "Bob, a member like others, can neither turn encryption on nor change how the room is encrypted",
    shows="client-server API, 'End-to-End Encryption': m.room.encryption; server-server API, 'Authorisation rules'",
    needs=users(2),
)
async def not_by_everybody(scene: Scene) -> None:
    alice, bob = scene.users
    plain = await alice.create_room_with(bob)
    with refused(403, "M_FORBIDDEN", what="encryption turned on by Bob"):
        await bob.set_state(plain, "m.room.encryption", ENCRYPTION)
    with refused(404, "M_NOT_FOUND", what="the encryption of a room that has none"):
        await alice.state(plain, "m.room.encryption")
    await alice.set_state(plain, "m.room.encryption", ENCRYPTION)
    with refused(403, "M_FORBIDDEN", what="encryption changed by Bob"):
        await bob.set_state(plain, "m.room.encryption", {"algorithm": "org.example.none"})
    check_equal(ENCRYPTION, await bob.state(plain, "m.room.encryption"), "the encryption of the room")
    await bob.until("it to be told", lambda view: view.room(plain).content("m.room.encryption") == ENCRYPTION)
