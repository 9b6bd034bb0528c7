"""Names: everybody chooses their own, and those around them see it."""

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story("Alice takes a name, and Bob, in the same room, sees it", shows="client-server API, 'Profiles'", needs=users(2))
async def takes_a_name(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_profile("displayname", "Alice Liddell 🐇")
    check_equal("Alice Liddell 🐇", (await bob.profile(alice)).get("displayname"), "the name in Alice's profile")
    await bob.until(
        "the name in the room",
        lambda view: view.room(room).content("m.room.member", alice.user_id)["displayname"] == "Alice Liddell 🐇",
    )


@story(
    "Eve cannot rename Alice",
    shows="client-server API, 'Profiles'",
    needs=users("Alice", "Eve"),
    unlike={"synapse": "answers 400; the spec, PUT /profile/{userId}/{keyName}, says 403"},
)
async def not_anothers(scene: Scene) -> None:
    alice, eve = scene.users
    await alice.set_profile("displayname", "Alice")
    with refused(403, "M_FORBIDDEN", what="Eve's renaming of Alice"):
        await eve.put(path_of("profile", alice.user_id, "displayname"), {"displayname": "Malice"})
    check_equal("Alice", (await alice.profile(alice)).get("displayname"), "Alice's name")
