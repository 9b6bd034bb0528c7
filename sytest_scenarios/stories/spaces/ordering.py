"""What a space shows of the rooms in it, to members and to others."""

from typing import Any

from sytest_scenarios.actors import Room, User, initial
from sytest_scenarios.asking import JsonObject, objects, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

SPACES = "client-server API, 'Spaces'"
HIERARCHY = f"{SPACES}: GET /rooms/{{roomId}}/hierarchy"


async def _space(user: User, name: str, *children: Room, **settings: Any) -> Room:
    """Make a space; the rooms are ordered as they are given here."""
    space = await user.create_room(name=name, creation_content={"type": "m.space"}, **settings)
    for place, child in enumerate(children):
        await _put_in(user, space, child, order=f"{place:03}")
    return space


async def _put_in(user: User, space: Room, child: Room, **content: Any) -> None:
    via = [user.user_id.partition(":")[2]]
    await user.set_state(space, "m.space.child", {"via": via, **content}, child.id)


async def _hierarchy(user: User, space: Room, **query: Any) -> JsonObject:
    return await user.get(f"/_matrix/client/v1{space.path('hierarchy')}", **query)


async def _seen(user: User, space: Room, **query: Any) -> list[Any]:
    """Return the names of the rooms that the user is shown, in order."""
    return [each.get("name") for each in objects((await _hierarchy(user, space, **query)).get("rooms"))]


async def _public(user: User, *names: str) -> list[Room]:
    return await together(*(user.create_room(preset="public_chat", name=each) for each in names))


@story("Bob sees a space and the rooms in it, in their order, deepest first", shows=HIERARCHY, needs=users(2))
async def in_order(scene: Scene) -> None:
    alice, bob = scene.users
    one, two, three = await _public(alice, "One", "Two", "Three")
    inner = await _space(alice, "Inner", two, preset="public_chat")
    space = await _space(alice, "Outer", preset="public_chat")
    await _put_in(alice, space, three)
    await _put_in(alice, space, one, order="b")
    await _put_in(alice, space, inner, order="a")
    check_equal(["Outer", "Inner", "Two", "One", "Three"], await _seen(bob, space), "what Bob sees")
    (top, *_) = (await _hierarchy(bob, space))["rooms"]
    check_equal(["m.space", 1], [top.get("room_type"), top.get("num_joined_members")], "what the space is")
    children = {each["state_key"] for each in top["children_state"]}
    check_equal({one.id, inner.id, three.id}, children, "the children that it tells")
    keys = {key for each in top["children_state"] for key in each}
    check_equal({"type", "state_key", "content", "sender", "origin_server_ts"}, keys, "what is told of a child")


@story(
    "A private room in a public space is shown to its members alone",
    shows=f"{HIERARCHY}: which rooms are returned",
    needs=users("Alice", "Bob", "Carol", "Eve"),
)
async def private_child(scene: Scene) -> None:
    alice, bob, carol, eve = scene.users
    (public,) = await _public(alice, "Hall")
    readable = initial("m.room.history_visibility", {"history_visibility": "world_readable"})
    knock = initial("m.room.join_rules", {"join_rule": "knock"})
    private = await alice.create_room_with(bob, name="Safe")
    await alice.invite(private, carol)
    stage, door = await together(
        alice.create_room(name="Stage", initial_state=[readable]), alice.create_room(name="Door", initial_state=[knock])
    )
    space = await _space(alice, "House", public, private, stage, door, preset="public_chat")
    everything = ["House", "Hall", "Safe", "Stage", "Door"]
    for who in (alice, bob, carol):
        check_equal(everything, await _seen(who, space), f"what {who} sees, who is in the private room or asked in")
    check_equal(["House", "Hall", "Stage", "Door"], await _seen(eve, space), "what Eve sees")
    told = str(await eve.get(f"/_matrix/client/v1{space.path('hierarchy')}"))
    check("Safe" not in told, "nothing of the name of the private room", came=told)
    await bob.leave(private)
    check_equal(["House", "Hall", "Stage", "Door"], await _seen(bob, space), "what Bob sees, who has left it")


@story("A space that is not for Eve shows her nothing", shows=f"{HIERARCHY}, 403", needs=users("Alice", "Bob", "Eve"))
async def private_space(scene: Scene) -> None:
    alice, bob, eve = scene.users
    (public,) = await _public(alice, "Hall")
    space = await _space(alice, "House", public)
    with refused(403, "M_FORBIDDEN", what="the space, for Eve"):
        await _hierarchy(eve, space)
    await alice.invite(space, bob)
    check_equal(["House", "Hall"], await _seen(bob, space), "what Bob sees, who is asked in")
    with refused(403, "M_FORBIDDEN", what="a space that is not there"):
        await _hierarchy(eve, Room("!nothing:example.org"))


@story("Bob asks for what is suggested only, or for no more than the top", shows=HIERARCHY, needs=users(2))
async def narrowed(scene: Scene) -> None:
    alice, bob = scene.users
    good, plain, deep = await _public(alice, "Good", "Plain", "Deep")
    inner = await _space(alice, "Inner", preset="public_chat")
    await _put_in(alice, inner, deep, suggested=True)
    space = await _space(alice, "Outer", preset="public_chat")
    await _put_in(alice, space, good, order="a", suggested=True)
    await _put_in(alice, space, plain, order="b", suggested=False)
    await _put_in(alice, space, inner, order="c")
    check_equal(["Outer", "Good", "Plain", "Inner", "Deep"], await _seen(bob, space), "all that Bob sees")
    check_equal(["Outer", "Good"], await _seen(bob, space, suggested_only=True), "what is suggested")
    check_equal(["Outer", "Good", "Plain", "Inner"], await _seen(bob, space, max_depth=1), "the first floor")
    check_equal(["Outer"], await _seen(bob, space, max_depth=0), "the door")


@story("Bob pages through a space", shows=f"{HIERARCHY}: limit, from", needs=users(2))
async def paged(scene: Scene) -> None:
    alice, bob = scene.users
    names = [f"Room {each}" for each in range(5)]
    space = await _space(alice, "House", *(await _public(alice, *names)), preset="public_chat")
    pages: list[list[Any]] = []
    told: JsonObject = {}
    while not pages or "next_batch" in told:
        told = await _hierarchy(bob, space, limit=2, **{"from": told.get("next_batch")})
        pages.append([each.get("name") for each in told["rooms"]])
        if len(pages) == 1:
            with refused(400, what="the next page, with another wish"):
                await _hierarchy(bob, space, limit=2, suggested_only=True, **{"from": told["next_batch"]})
    check_equal(["House", *names], [name for page in pages for name in page], "all pages")
    check(all(len(each) <= 2 for each in pages), "no more than two rooms a page", came=pages)
    with refused(400, what="a page by a made-up token"):
        await _hierarchy(bob, space, **{"from": "made-up"})


@story(
    "Spaces in a circle are shown once each",
    shows=f"{SPACES}: 'implementations … must be careful not to loop infinitely'",
    needs=users(2),
)
async def circle(scene: Scene) -> None:
    alice, bob = scene.users
    inner = await _space(alice, "Inner", preset="public_chat")
    outer = await _space(alice, "Outer", inner, preset="public_chat")
    await together(_put_in(alice, inner, outer), _put_in(alice, inner, inner))
    check_equal(["Outer", "Inner"], await _seen(bob, outer), "what Bob sees from without")
    check_equal(["Inner", "Outer"], await _seen(bob, inner), "what Bob sees from within")


@story(
    "Alice puts a room into the space and takes it out again; Bob may not",
    shows=f"{SPACES}, 'm.space.child relationship': 'Child rooms can be removed from a space by omitting the via key'",
    needs=users(2),
)
async def in_and_out(scene: Scene) -> None:
    alice, bob = scene.users
    one, two, bobs = [*(await _public(alice, "One", "Two")), *(await _public(bob, "Bob's"))]
    space = await _space(alice, "House", one, two, preset="public_chat")
    await bob.join(space)
    with refused(403, "M_FORBIDDEN", what="Bob putting his room into Alice's space"):
        await _put_in(bob, space, bobs)
    await alice.set_state(space, "m.space.child", {}, one.id)
    check_equal(["House", "Two"], await _seen(bob, space), "what Bob sees after one was taken out")
    await alice.set_state(space, "m.space.child", {"via": "nowhere"}, two.id)
    check_equal(["House"], await _seen(bob, space), "what Bob sees after the other was put in wrongly")
    await _put_in(alice, space, bobs)
    check_equal(["House", "Bob's"], await _seen(bob, space), "what Bob sees after Alice put his room in")


@story(
    "A room for the members of the space is shown to them, and to them alone",
    shows=f"{HIERARCHY}: 'restricted, provided the user meets one of the specified conditions'",
    needs=users("Alice", "Bob", "Eve"),
)
async def restricted_child(scene: Scene) -> None:
    alice, bob, eve = scene.users
    space = await _space(alice, "House", preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": space.id}]
    rule = initial("m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    room = await alice.create_room(name="Lounge", initial_state=[rule])
    await _put_in(alice, space, room)
    check_equal(["House"], await _seen(eve, space), "what Eve sees")
    with refused(403, "M_FORBIDDEN", what="Eve's join"):
        await eve.join(room)
    await bob.join(space)
    check_equal(["House", "Lounge"], await _seen(bob, space), "what Bob sees, who is in the space")
    lounge = (await _hierarchy(bob, space))["rooms"][1]
    check_equal("restricted", lounge.get("join_rule"), "how one gets in")
    check_equal([space.id], lounge.get("allowed_room_ids"), "from where one gets in")
    await bob.join(room)


@story("Bob sees that he is asked into a space", shows=f"{SPACES}; 'Stripped state': m.room.create", needs=users(2))
async def asked_in(scene: Scene) -> None:
    alice, bob = scene.users
    space = await _space(alice, "House", power_level_content_override={"events_default": 100})
    await alice.invite(space, bob)
    await bob.until("the invite", lambda view: space.id in view.invites)
    check_equal("m.space", bob.view.room(space).content("m.room.create").get("type"), "what Bob is asked into")
    await bob.join(space)
    with refused(403, "M_FORBIDDEN", what="a message by Bob in the space"):
        await bob.say(space, "is this a room?")
    await bob.until("the space", lambda view: space.id in view.joined)
    check_equal("m.space", bob.view.room(space).content("m.room.create").get("type"), "what Bob is in")
