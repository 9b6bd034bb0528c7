"""What somebody keeps for themselves: on all their devices, and nobody else's."""

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Alice's remark on Bob is on her phone too",
    shows="client-server API, 'Client config'",
    needs=users(2) + feature("password login"),
)
async def remark_on_a_contact(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await alice.log_in("Alice's phone")
    await phone.catch_up()
    remarks = {bob.user_id: {"remark": "the one from the chess club"}}
    await alice.set_account_data("org.example.remarks", remarks)
    await phone.until("the remark", lambda view: view.account_data["org.example.remarks"] == remarks)
    check_equal(remarks, await phone.account_data("org.example.remarks"), "the remarks that the phone fetches")


@story(
    "Eve can neither read nor change what Alice keeps",
    shows="client-server API, 'Client config'",
    needs=users("Alice", "Eve"),
)
async def nobody_elses(scene: Scene) -> None:
    alice, eve = scene.users
    await alice.set_account_data("org.example.diary", {"monday": "rain"})
    path = path_of("user", alice.user_id, "account_data", "org.example.diary")
    with refused(403, "M_FORBIDDEN", what="Eve's look into Alice's diary"):
        await eve.get(path)
    with refused(403, "M_FORBIDDEN", what="Eve's entry in Alice's diary"):
        await eve.put(path, {"monday": "sun"})
    check_equal({"monday": "rain"}, await alice.account_data("org.example.diary"), "the diary")


@story("Alice tags a room as a favourite, for herself alone", shows="client-server API, 'Room tagging'", needs=users(2))
async def tags_a_room(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.put(path_of("user", alice.user_id, "rooms", room.id, "tags", "m.favourite"), {"order": 0.5})
    tagged = {"tags": {"m.favourite": {"order": 0.5}}}
    await alice.until("the tag", lambda view: view.room(room).account_data["m.tag"] == tagged)
    found = await bob.get(path_of("user", bob.user_id, "rooms", room.id, "tags"))
    check_equal({}, found.get("tags"), "Bob's tags of the room")
