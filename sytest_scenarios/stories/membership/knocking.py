"""Knocking on a room, and what comes of it."""

from sytest_scenarios.actors import Room, User, initial
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

KNOCKING = "client-server API, 'Knocking on rooms'"


async def _door(alice: User, *others: User, **settings: object) -> Room:
    rule = initial("m.room.join_rules", {"join_rule": "knock"})
    return await alice.create_room_with(*others, initial_state=[rule], **settings)


@story("Bob knocks and says why, Alice lets him in", shows=KNOCKING, needs=users("Alice", "Bob", "Eve"))
async def let_in(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await _door(alice, name="The club")
    await bob.knock(room, reason="I like chess")
    await bob.until("the knock", lambda view: view.room(room).membership == "knock")
    told = bob.view.room(room)
    check_equal("The club", told.content("m.room.name").get("name"), "the name of the room that Bob knocked on")
    check(("m.room.create", "") in told.state, "the create event in knock_state", came=list(told.state))
    await alice.until("Bob's knock", lambda view: view.room(room).member(bob.user_id) == "knock")
    knock = alice.view.room(room).content("m.room.member", bob.user_id)
    check_equal("I like chess", knock.get("reason"), "Bob's reason")
    with refused(403, "M_FORBIDDEN", what="what is said, for Bob, who waits"):
        await bob.history(room)
    await alice.invite(room, bob)
    await bob.until("the invite", lambda view: room.id in view.invites or room.id in view.joined)
    await bob.join(room)
    with refused(403, "M_FORBIDDEN", what="Eve's join, who has not knocked"):
        await eve.join(room)


@story("Bob is turned away, knocks again, and is banned for it", shows=f"{KNOCKING}: deny", needs=users(2))
async def turned_away(scene: Scene) -> None:
    alice, bob = scene.users
    room = await _door(alice)
    await bob.knock(room)
    await bob.until("the knock", lambda view: view.room(room).membership == "knock")
    await alice.kick(room, bob, reason="members only")
    await bob.until("that he is turned away", lambda view: view.room(room).membership == "leave")
    with refused(403, "M_FORBIDDEN", what="Bob's join"):
        await bob.join(room)
    await bob.knock(room)
    await alice.ban(room, bob)
    with refused(403, what="Bob's third knock"):
        await bob.knock(room)
    check_equal("ban", (await alice.members(room)).get(bob.user_id), "Bob's membership")


@story("Bob knocks and thinks better of it", shows=f"{KNOCKING}: 'Knocks can be retracted'", needs=users(2))
async def withdrawn(scene: Scene) -> None:
    alice, bob = scene.users
    room = await _door(alice)
    await bob.knock(room)
    await bob.until("the knock", lambda view: view.room(room).membership == "knock")
    await bob.leave(room)
    await bob.until("no knock any more", lambda view: view.room(room).membership == "leave")
    await alice.until("Bob's leave", lambda view: view.room(room).member(bob.user_id) == "leave")
    with refused(403, "M_FORBIDDEN", what="Bob's join"):
        await bob.join(room)


@story(
    "Letting in needs the power to invite, turning away the power to kick",
    shows=f"{KNOCKING}: 'must have permission to invite users', 'to either kick or ban users'",
    needs=users(4),
)
async def with_power(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    room = await _door(alice, carol, dan)
    await alice.set_power(room, (dan, 20), invite=20, kick=50)
    await bob.knock(room)
    with refused(403, "M_FORBIDDEN", what="Carol, who has no power, letting Bob in"):
        await carol.invite(room, bob)
    for who in (carol, dan):
        with refused(403, "M_FORBIDDEN", what=f"{who}, who may not kick, turning Bob away"):
            await who.kick(room, bob)
    await dan.invite(room, bob)
    await bob.join(room)


@story("Nobody knocks where the room does not have it", shows=f"{KNOCKING}: 'If the join rules allow'", needs=users(2))
async def no_knocker(scene: Scene) -> None:
    alice, bob = scene.users
    for preset in ("private_chat", "public_chat"):
        room = await alice.create_room(preset=preset)
        with refused(403, "M_FORBIDDEN", what=f"a knock on a {preset}"):
            await bob.knock(room)
        check_equal(None, (await alice.members(room)).get(bob.user_id), "Bob's membership")
