"""Rooms that those of another room may join."""

from sytest_scenarios.actors import Room, User, initial
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

RESTRICTED = "client-server API, 'Restricted rooms'"


async def _annex(alice: User, club: Room, *, rule: str = "restricted") -> Room:
    """Return a room that the members of the club may join."""
    allow = [{"type": "m.room_membership", "room_id": club.id}]
    return await alice.create_room(initial_state=[initial("m.room.join_rules", {"join_rule": rule, "allow": allow})])


@story(
    "Bob of the club joins its annex; those who are only asked into the club, or have left it, do not",
    shows=f"{RESTRICTED}, 'Conditions': 'a joined member of another room'",
    needs=users(5),
)
async def members_only(scene: Scene) -> None:
    alice, bob, carol, dan, eve = scene.users
    club = await alice.create_room_with(bob, dan)
    annex = await _annex(alice, club)
    await alice.invite(club, carol)
    await dan.leave(club)
    for who, how in ((carol, "is invited to the club"), (dan, "has left the club"), (eve, "is none of them")):
        with refused(403, "M_FORBIDDEN", what=f"the join of {who}, who {how}"):
            await who.join(annex)
    await bob.join(annex)
    grant = (await alice.state(annex, "m.room.member", bob.user_id)).get("join_authorised_via_users_server")
    check_equal(alice.user_id, grant, "who let Bob in")
    await carol.join(club)
    await carol.join(annex)


@story(
    "One of several conditions is enough; those that mean nothing let nobody in",
    shows=f"{RESTRICTED}: 'at least one of the conditions'; m.room.join_rules: 'Improper or no allow conditions'",
    needs=users("Alice", "Bob", "Eve"),
)
async def several_conditions(scene: Scene) -> None:
    alice, bob, eve = scene.users
    club, other = await alice.create_room(), await alice.create_room_with(bob)
    allow = [{"type": "m.room_membership", "room_id": each.id} for each in (club, other)]
    nothing = [
        {"type": "m.room_membership"},
        {"type": "m.room_membership", "room_id": "!nothing:example.org"},
        {"type": "org.example.anybody", "room_id": other.id},
    ]
    for conditions in ([*nothing, *allow], nothing, []):
        rules = initial("m.room.join_rules", {"join_rule": "restricted", "allow": conditions})
        annex = await alice.create_room(initial_state=[rules])
        with refused(403, 404, what="Eve's join"):
            await eve.join(annex)
        if allow[1] in conditions:
            await bob.join(annex)
        else:
            with refused(403, 404, what="Bob's join, for whom there is no condition"):
                await bob.join(annex)


@story(
    "Bob, who leaves the club, stays in its annex; once he has left that, he is out",
    shows=f"{RESTRICTED}: 'The user does not need to maintain the conditions'",
    needs=users(2),
)
async def stays(scene: Scene) -> None:
    alice, bob = scene.users
    club = await alice.create_room_with(bob)
    annex = await _annex(alice, club)
    await bob.join(annex)
    await bob.leave(club)
    await bob.say(annex, "I am still here")
    await bob.leave(annex)
    with refused(403, "M_FORBIDDEN", what="Bob's return"):
        await bob.join(annex)
    await alice.invite(annex, bob)
    await bob.join(annex)


@story(
    "Who is banned from the annex is not let in for being in the club",
    shows=f"{RESTRICTED}; room version 12, 'Authorisation rules', 5.3.3",
    needs=users(2),
)
async def banned(scene: Scene) -> None:
    alice, bob = scene.users
    club = await alice.create_room_with(bob)
    annex = await _annex(alice, club)
    await bob.join(annex)
    await alice.ban(annex, bob)
    with refused(403, what="Bob's return"):
        await bob.join(annex)
    await alice.unban(annex, bob)
    await bob.join(annex)


@story(
    "Nobody of the club gets into the annex while nobody there may invite",
    shows="room version 12, 'Authorisation rules', 5.3.5.2: a user with sufficient permission to invite",
    needs=users(3),
)
async def nobody_to_let_in(scene: Scene) -> None:
    alice, bob, carol = scene.users
    club = await alice.create_room_with(bob, carol)
    annex = await _annex(alice, club)
    await carol.join(annex)
    await alice.set_power(annex, invite=50)
    await alice.leave(annex)
    with refused(403, 400, 404, what="Bob's join, for which only Carol is there, who may not invite"):
        await bob.join(annex)
    check_equal("join", (await carol.members(annex)).get(carol.user_id), "Carol's membership")


@story(
    "Where one may come by the club or knock, Bob comes by the club and Eve knocks",
    shows=f"{RESTRICTED}; 'Knocking on rooms': knock_restricted",
    needs=users("Alice", "Bob", "Eve"),
)
async def or_knock(scene: Scene) -> None:
    alice, bob, eve = scene.users
    club = await alice.create_room_with(bob)
    annex, strict = await _annex(alice, club, rule="knock_restricted"), await _annex(alice, club)
    await bob.join(annex)
    with refused(403, "M_FORBIDDEN", what="Eve's join"):
        await eve.join(annex)
    with refused(403, "M_FORBIDDEN", what="Eve's knock where only the club is let in"):
        await eve.knock(strict)
    await eve.knock(annex)
    await bob.until("Eve's knock", lambda view: view.room(annex).member(eve.user_id) == "knock")
    await alice.invite(annex, eve)
    await eve.join(annex)
