"""What power levels allow: speaking, changing the room, giving power to others, and taking it away."""

from collections.abc import Awaitable, Callable

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

LEVELS = "client-server API, 'Permissions'; m.room.power_levels"
RULES = "room version 11, 'Authorisation rules', 9: m.room.power_levels"


@story("Bob is silent until Alice gives him the word", shows=f"{LEVELS}: events_default", needs=users(3))
async def muted(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    await alice.set_power(room, (bob, 10), events_default=20)
    for who in (bob, carol):
        with refused(403, "M_FORBIDDEN", what=f"a message by {who}"):
            await who.say(room, "me?")
    await alice.set_power(room, (bob, 20))
    await bob.say(room, "at last")
    with refused(403, "M_FORBIDDEN", what="a message by Carol"):
        await carol.say(room, "and me?")
    check_equal(["at last"], await carol.texts(room), "what was said")


@story("Each kind of event has its level", shows=f"{LEVELS}: events, state_default", needs=users(2))
async def by_event_type(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_power(room, (bob, 30), state_default=40, events={"m.room.topic": 30, "org.example.vote": 31})
    await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
    with refused(403, "M_FORBIDDEN", what="state of a kind that is not mentioned"):
        await bob.set_state(room, "org.example.color", {"color": "red"})
    with refused(403, "M_FORBIDDEN", what="a message of a kind that needs one more"):
        await bob.send(room, "org.example.vote", {"for": "Bob"})
    await bob.send(room, "org.example.other", {})
    await alice.set_power(room, (bob, 40))
    await bob.set_state(room, "org.example.color", {"color": "red"})
    await bob.send(room, "org.example.vote", {"for": "Bob"})


@story("Those who are not mentioned have the default", shows=f"{LEVELS}: users_default", needs=users(3))
async def users_default(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_power(room, (carol, 0), users_default=50)
    await bob.invite(room, carol)
    await carol.join(room)
    await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
    with refused(403, "M_FORBIDDEN", what="a topic by Carol, who is mentioned, with nothing"):
        await carol.set_state(room, "m.room.topic", {"topic": "Carol's"})
    await bob.kick(room, carol)
    with refused(403, "M_FORBIDDEN", what="Bob's kick of Alice"):
        await bob.kick(room, alice)


@story(
    "Inviting, kicking and banning need the level of each, and more than who it is done to has",
    shows=f"{LEVELS}: invite, kick, ban",
    needs=users(5),
)
async def invite_kick_ban(scene: Scene) -> None:
    alice, bob, carol, dan, eve = scene.users
    room = await alice.create_room_with(bob, carol, dan)
    await alice.set_power(room, (bob, 30), (carol, 30), invite=20, kick=30, ban=40)
    with refused(403, "M_FORBIDDEN", what="an invite by Dan"):
        await dan.invite(room, eve)
    await bob.invite(room, eve)
    with refused(403, "M_FORBIDDEN", what="Bob's kick of Carol, who is his equal"):
        await bob.kick(room, carol)
    with refused(403, "M_FORBIDDEN", what="Bob's ban of Dan"):
        await bob.ban(room, dan)
    await bob.kick(room, dan)
    await alice.set_power(room, (bob, 40))
    await bob.ban(room, carol)
    with refused(403, "M_FORBIDDEN", what="Bob's ban of Alice"):
        await bob.ban(room, alice)
    await bob.unban(room, carol)
    members = await alice.members(room)
    check_equal(
        ["join", "join", "leave", "leave", "invite"],
        [members.get(each.user_id) for each in (alice, bob, carol, dan, eve)],
        "the memberships of all",
    )


@story(
    "Nobody unbans whom they could not have banned",
    shows="room version 12, 'Authorisation rules': 'To unban somebody, you must have power level greater than or "
    "equal to both the kick and ban levels'",
    needs=users(3),
)
async def unban(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    await alice.set_power(room, (bob, 50), kick=50, ban=60)
    await alice.ban(room, carol)
    for act in (bob.unban, bob.kick):
        with refused(403, what="Bob, who may kick, undoing the ban"):
            await act(room, carol)
    await alice.set_power(room, (bob, 60))
    await bob.unban(room, carol)
    check_equal("leave", (await alice.members(room)).get(carol.user_id), "Carol's membership")


@story("Nobody gives more than they have, or takes from their equals", shows=RULES, needs=users(4))
async def gives_what_one_has(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    room = await alice.create_room_with(bob, carol, dan, room_version="11")
    await alice.set_power(room, (bob, 50), (carol, 50), events={"m.room.power_levels": 50})
    attempts: dict[str, Callable[[], Awaitable[None]]] = {
        "Bob raising Dan above himself": lambda: bob.set_power(room, (dan, 51)),
        "Bob raising himself": lambda: bob.set_power(room, (bob, 51)),
        "Bob lowering Carol, his equal": lambda: bob.set_power(room, (carol, 49)),
        "Bob lowering Alice": lambda: bob.set_power(room, (alice, 0)),
        "Bob raising everybody above himself": lambda: bob.set_power(room, users_default=51),
        "Bob asking for more than he has": lambda: bob.set_power(room, kick=51),
        "Bob asking for more than he has for a kind": lambda: bob.set_power(room, events={"org.example.vote": 51}),
        "Bob making cheaper what is beyond him": lambda: bob.set_power(room, events={"m.room.server_acl": 0}),
        "Bob asking for more for @room": lambda: bob.set_power(room, notifications={"room": 51}),
    }
    await alice.set_power(room, events={"m.room.server_acl": 80})
    before = await alice.state(room, "m.room.power_levels")
    for what, attempt in attempts.items():
        with refused(403, "M_FORBIDDEN", what=what):
            await attempt()
    check_equal(before, await alice.state(room, "m.room.power_levels"), "the power levels")
    await bob.set_power(room, (dan, 50), (bob, 10))
    with refused(403, "M_FORBIDDEN", what="Bob, who lowered himself, taking it back"):
        await bob.set_power(room, (bob, 50))
    await dan.set_state(room, "m.room.topic", {"topic": "Dan's"})


@story(
    "Power levels are whole numbers, in objects of the right form",
    shows="room version 10, 'Values in m.room.power_levels events must be integers'",
    needs=users(2),
)
async def whole_numbers(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, room_version="11")
    before = await alice.state(room, "m.room.power_levels")
    wrong = (
        {"ban": "50"},
        {"events_default": 1.5},
        {"kick": None},
        {"users": {**before["users"], bob.user_id: "100"}},
        {"users": {**before["users"], "bob": 50}},
        {"users": [alice.user_id]},
        {"events": {"m.room.topic": [0]}},
        {"notifications": {"room": "0"}},
        {"invite": 2**53},
    )
    for change in wrong:
        with refused(400, 403, what=f"power levels with {change}"):
            await alice.set_state(room, "m.room.power_levels", {**before, **change})
    check_equal(before, await alice.state(room, "m.room.power_levels"), "the power levels")
    with refused(400, 403, what="a new room with a level that is a text"):
        await alice.create_room(room_version="11", power_level_content_override={"ban": "50"})


@story(
    "Bob may not shout at the whole room; Alice may, and to Carol it is a highlight",
    shows="client-server API, 'Push Rules': .m.rule.is_room_mention; m.room.power_levels: notifications",
    needs=users(3),
)
async def at_room(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    await carol.catch_up()
    mention = {"m.mentions": {"room": True}}
    said = await bob.say(room, "@room dinner!", **mention)
    await carol.sees(room, said)
    check_equal([1, 0], [carol.view.room(room).unread, carol.view.room(room).highlights], "Carol's counts after Bob")
    said = await alice.say(room, "@room dinner!", **mention)
    await carol.until("a highlight", lambda view: view.room(room).highlights == 1)
    await alice.set_power(room, notifications={"room": 0})
    await bob.say(room, "@room dinner, really!", **mention)
    await carol.until("another highlight", lambda view: view.room(room).highlights == 2)


@story(
    "Where the levels say nothing, members speak and invite, and change nothing",
    shows=f"{LEVELS}: 'the state_default is 50', kick and ban default to 50, invite to 0",
    needs=users(2),
)
async def defaults(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, room_version="11")
    await alice.set_state(room, "m.room.power_levels", {"users": {alice.user_id: 100}})
    for act, what in ((bob.kick, "kick"), (bob.ban, "ban")):
        with refused(403, "M_FORBIDDEN", what=f"Bob's {what} of Alice where no level is said"):
            await act(room, alice)
    with refused(403, "M_FORBIDDEN", what="Bob's topic where no level is said"):
        await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
    await bob.say(room, "I may speak")
    friend = await scene.new_user("Carol")
    await bob.invite(room, friend)
    await alice.set_state(room, "m.room.topic", {"topic": "Alice's"})
