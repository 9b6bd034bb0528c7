"""Who is typing: for a while, in that room, and only if they may."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "Bob, who falls asleep while typing, types no more after the time he said",
    shows="client-server API, 'Typing Notifications': timeout",
    needs=users(2),
)
async def ends_by_itself(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.catch_up()
    await bob.type(room, for_ms=600)
    await alice.until("Bob typing", lambda view: view.room(room).typing == [bob.user_id])
    # Some servers look at the clock only every few seconds.
    await alice.until("nobody typing", lambda view: not view.room(room).typing, within_s=15)


@story(
    "Several people type, and Alice is told of all of them, in that room and in no other",
    shows="client-server API, 'Typing Notifications': m.typing",
    needs=users(3),
)
async def several(scene: Scene) -> None:
    alice, bob, carol = scene.users
    here = await alice.create_room_with(bob, carol)
    there = await alice.create_room_with(bob, carol)
    await alice.catch_up()
    await bob.type(here)
    await carol.type(here)
    both = {bob.user_id, carol.user_id}
    await alice.until("Bob and Carol typing", lambda view: set(view.room(here).typing) == both)
    await bob.type(here, typing=False)
    await alice.until("Carol alone typing", lambda view: view.room(here).typing == [carol.user_id])
    check_equal([], alice.view.room(there).typing, "who types in the other room")


@story(
    "Eve can neither type in a room that she is not in, nor for Bob, nor see who types there",
    shows="client-server API, PUT /rooms/{roomId}/typing/{userId}",
    needs=users("Alice", "Bob", "Eve"),
)
async def only_where_one_is(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    await alice.invite(room, eve)
    with refused(403, "M_FORBIDDEN", what="Eve's typing"):
        await eve.type(room)
    with refused(400, 403, what="Bob's typing, told by Alice"):
        await alice.put(room.path("typing", bob.user_id), {"typing": True, "timeout": 30000})
    await bob.type(room)
    await alice.until("somebody typing", lambda view: view.room(room).typing)
    check_equal([bob.user_id], alice.view.room(room).typing, "who types")
    told = await eve.sync()
    check("m.typing" not in str(told), "nothing of the typing to be told to Eve, who is invited only", came=told)


@story(
    "Bob, who has left, is not told who types",
    shows="client-server API, 'Typing Notifications': scoped to a room",
    needs=users(3),
)
async def not_after_leaving(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    other = await alice.create_room_with(bob)
    await bob.catch_up()
    await bob.leave(room)
    await carol.type(room)
    await alice.type(other)
    await bob.until("Alice typing in the other room", lambda view: view.room(other).typing == [alice.user_id])
    check_equal([], bob.view.room(room).typing, "who types in the room that Bob has left")
    with refused(403, "M_FORBIDDEN", what="Bob's typing in the room that he has left"):
        await bob.put(path_of("rooms", room.id, "typing", bob.user_id), {"typing": True, "timeout": 30000})
