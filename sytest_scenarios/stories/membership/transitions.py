"""From which membership one may get into which other: a room with somebody in each, and what each may do."""

from collections.abc import Awaitable, Callable

from sytest_scenarios.actors import Room, User, initial
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

MEMBERSHIPS = ("outside", "knock", "invite", "join", "leave", "ban")
RULES = "room version 12, 'Authorisation rules', 5"
ALL = users(1 + len(MEMBERSHIPS))


async def _room_of_all(alice: User, *others: User) -> tuple[Room, dict[str, User]]:
    """Return a room of Alice's that one may knock on, and somebody of each membership."""
    people = dict(zip(MEMBERSHIPS, others, strict=True))
    room = await alice.create_room(initial_state=[initial("m.room.join_rules", {"join_rule": "knock"})])
    await people["knock"].knock(room)
    for membership in ("invite", "join", "leave"):
        await alice.invite(room, people[membership])
    await together(people["join"].join(room), people["leave"].join(room), alice.ban(room, people["ban"]))
    await people["leave"].leave(room)
    return room, people


async def _try(people: dict[str, User], act: Callable[[User], Awaitable[object]], *allowed: str, what: str) -> None:
    """Have it done with all of them: it succeeds with the allowed ones, and is refused with the others."""
    for membership, person in people.items():
        if membership in allowed:
            await act(person)
        else:
            with refused(403, 400, 404, what=f"{what} who is: {membership}"):
                await act(person)


async def _expect(alice: User, room: Room, people: dict[str, User], **wanted: str) -> None:
    """Expect each to be what is said here, or else what they were."""
    members = await alice.members(room)
    after = {membership: members.get(person.user_id, "outside") for membership, person in people.items()}
    check_equal({each: wanted.get(each, each) for each in MEMBERSHIPS}, after, "the memberships after it")


@story("Only those who are invited join a room by invitation", shows=f"{RULES}.3: join", needs=ALL)
async def join(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    await _try(people, lambda each: each.join(room), "invite", "join", what="the join of somebody")
    await _expect(alice, room, people, invite="join")


@story("Those outside knock, and nobody else", shows=f"{RULES}.7: knock", needs=ALL)
async def knock(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    outside = {each: people[each] for each in MEMBERSHIPS if each != "knock"}
    await _try(outside, lambda each: each.knock(room), "outside", "leave", what="the knock of somebody")
    await _expect(alice, room, people, outside="knock", leave="knock")


@story("All but members and those who are banned can be invited", shows=f"{RULES}.4: invite", needs=ALL)
async def invite(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    allowed = ("outside", "knock", "invite", "leave")
    await _try(people, lambda each: alice.invite(room, each), *allowed, what="an invite of somebody")
    await _expect(alice, room, people, outside="invite", knock="invite", leave="invite")


@story("Nobody invites others who is not a member", shows=f"{RULES}.4: 'If the sender's current membership", needs=ALL)
async def invite_from_outside(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    friend = await scene.new_user()
    await _try(people, lambda each: each.invite(room, friend), "join", what="an invite by somebody")
    check_equal("invite", (await alice.members(room)).get(friend.user_id), "the friend's membership")


@story(
    "Who leaves withdraws a knock, declines an invite or goes; a ban is not left",
    shows=f"{RULES}.5: leave; client-server API, 'Leaving rooms'",
    needs=ALL,
)
async def leave(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    del people["leave"]
    await _try(people, lambda each: each.leave(room), "knock", "invite", "join", what="the leave of somebody")
    members = await alice.members(room)
    left = {each: members.get(person.user_id) for each, person in people.items()}
    wanted = {"outside": None, "knock": "leave", "invite": "leave", "join": "leave", "ban": "ban"}
    check_equal(wanted, left, "the memberships after it")


@story(
    "A kick turns out members, and turns down knocks and invites",
    shows="client-server API, 'Leaving rooms': POST /rooms/{roomId}/kick, 403: the kickee is not in the room",
    needs=ALL,
)
async def kick(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    inside = {each: people[each] for each in MEMBERSHIPS if each != "ban"}
    await _try(inside, lambda each: alice.kick(room, each), "knock", "invite", "join", what="a kick of somebody")
    await _expect(alice, room, people, knock="leave", invite="leave", join="leave")


@story("Anybody can be banned, whether they are there or not", shows=f"{RULES}.6: ban", needs=ALL)
async def ban(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    await _try(people, lambda each: alice.ban(room, each), *MEMBERSHIPS, what="a ban of somebody")
    await _expect(alice, room, people, **dict.fromkeys(MEMBERSHIPS, "ban"))
    await _try(people, lambda each: each.join(room), what="the join of somebody")
    await _try(people, lambda each: alice.invite(room, each), what="an invite of somebody")
    with refused(403, "M_FORBIDDEN", what="a message by the former member"):
        await people["join"].say(room, "still here")


@story(
    "Only who is banned can be unbanned: an unban is no kick",
    shows="client-server API, 'Other error codes': M_BAD_STATE; 'Banning users in a room'",
    needs=ALL,
)
async def unban(scene: Scene) -> None:
    alice, *others = scene.users
    room, people = await _room_of_all(alice, *others)
    there = {each: people[each] for each in MEMBERSHIPS if each not in ("outside", "leave")}
    await _try(there, lambda each: alice.unban(room, each), "ban", what="an unban of somebody")
    await _expect(alice, room, people, ban="leave")
    await alice.invite(room, people["ban"])
    await people["ban"].join(room)
