"""Contacts: whom one talks to, kept for oneself; and a direct chat, which the other one is told is one."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Alice's list of contacts is on both of her devices, and a contact that she removes is gone from both",
    shows="client-server API, 'Direct Messaging': m.direct; 'Client Config'",
    needs=users(3) + feature("password login"),
)
async def direct_chats(scene: Scene) -> None:
    alice, bob, carol = scene.users
    phone = await alice.log_in("Alice's phone")
    chat = await alice.create_room_with(bob, is_direct=True, preset="trusted_private_chat")
    contacts = {bob.user_id: [chat.id]}
    await alice.set_account_data("m.direct", contacts)
    await phone.until("Bob among the contacts", lambda view: view.account_data["m.direct"] == contacts)
    await phone.set_account_data("m.direct", {carol.user_id: []})
    await alice.until("Carol alone", lambda view: view.account_data["m.direct"] == {carol.user_id: []})
    said = await alice.say(chat, "Still here")
    await bob.sees(chat, said)
    check("m.direct" not in bob.view.account_data, "nothing of Alice's contacts to be told to Bob", came="m.direct")


@story(
    "Bob, whom Alice asks to a direct chat, is told that it is one",
    shows="client-server API, POST /createRoom: is_direct",
    needs=users(2),
)
async def told_that_it_is_direct(scene: Scene) -> None:
    alice, bob = scene.users
    chat = await alice.create_room(invite=[bob], is_direct=True)
    other = await alice.create_room(invite=[bob])
    await bob.until("both invites", lambda view: {chat.id, other.id} <= set(view.invites))
    invited = bob.view.room(chat).content("m.room.member", bob.user_id)
    check_equal(True, invited.get("is_direct"), "is_direct in the invite to the chat")
    invited = bob.view.room(other).content("m.room.member", bob.user_id)
    check(not invited.get("is_direct"), "the other invite not to be direct", came=invited)


@story(
    "Alice's remarks on people hold whatever she writes, in any script and with any quotes",
    shows="client-server API, 'Client Config'; no injection",
    needs=users(1),
)
async def remarks_hold_anything(scene: Scene) -> None:
    (alice,) = scene.users
    remarks = {
        "@bob:example.org": "'; DROP TABLE account_data; --",
        "@carol:example.org": "<script>alert('x')</script> \\ \" % _ \u0000 \u202e",
        "@ひとみ:example.org": "🐇🥕 \U0001f9d1\u200d\U0001f680",
        "": {"": [None, True, -1, {"deep": {"deeper": []}}]},
    }
    for kind in ("org.example.remarks", "org.example.'; DROP TABLE users; --", "org.example/with/slashes", "org.🐇"):
        await alice.set_account_data(kind, remarks)
        check_equal(remarks, await alice.account_data(kind), f"the remarks kept as {kind}")
        await alice.until("the remarks", lambda view, kind=kind: view.account_data[kind] == remarks)  # type: ignore[misc]
