"""Aliases: making, resolving, publishing in the room, and removing them."""

from sytest_scenarios.actors import User, initial
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

ALIASES = "client-server API, 'Room aliases'"
CANONICAL = "client-server API, 'Sending events to a room': m.room.canonical_alias, M_BAD_ALIAS"


def _alias(user: User, name: str) -> str:
    return f"#{name}-{user.localpart}:{user.user_id.partition(':')[2]}"


def _path(alias: str) -> str:
    return path_of("directory", "room", alias)


@story("An alias leads to its room until Alice takes it away", shows=ALIASES, needs=users(3))
async def until_removed(scene: Scene) -> None:
    alice, bob, carol = scene.users
    alias = _alias(alice, "Küche")
    room = await alice.create_room(preset="public_chat")
    with refused(404, "M_NOT_FOUND", what="an alias that nobody made"):
        await bob.get(_path(alias))
    await alice.put(_path(alias), {"room_id": room.id})
    check_equal(room.id, (await bob.get(_path(alias)))["room_id"], "where the alias leads")
    check_equal(room, await bob.join(alias), "the room that Bob joins by it")
    await alice.delete(_path(alias))
    with refused(404, "M_NOT_FOUND", what="the alias that was taken away"):
        await carol.join(alias)
    check_equal("join", (await alice.members(room)).get(bob.user_id), "Bob, who is in the room still")


@story(
    "An alias that is taken leads where it did, whoever wants it",
    shows=f"{ALIASES}: PUT /directory/room/{{roomAlias}}, 409",
    needs=users("Alice", "Eve"),
)
async def taken(scene: Scene) -> None:
    alice, eve = scene.users
    alias = _alias(alice, "kitchen")
    room, trap = await together(alice.create_room(preset="public_chat"), eve.create_room(preset="public_chat"))
    await alice.put(_path(alias), {"room_id": room.id})
    with refused(409, what="Eve's trap by the name of Alice's room"):
        await eve.put(_path(alias), {"room_id": trap.id})
    with refused(400, what="an alias of another server"):
        await eve.put(_path("#kitchen:elsewhere.example"), {"room_id": trap.id})
    with refused(400, what="an alias that is none"):
        await eve.put(_path("kitchen"), {"room_id": trap.id})
    check_equal(room.id, (await eve.get(_path(alias)))["room_id"], "where the alias leads")


@story(
    "Bob and Eve cannot take Alice's alias away; who may change the room's canonical alias can",
    shows=f"{ALIASES}: DELETE /directory/room/{{roomAlias}}, additional access control",
    needs=users("Alice", "Bob", "Carol", "Eve"),
)
async def not_theirs(scene: Scene) -> None:
    alice, bob, carol, eve = scene.users
    alias = _alias(alice, "kitchen")
    room = await alice.create_room_with(bob, carol)
    await alice.set_power(room, (carol, 100))
    await alice.put(_path(alias), {"room_id": room.id})
    for who in (bob, eve):
        with refused(403, "M_FORBIDDEN", what=f"{who} taking the alias away"):
            await who.delete(_path(alias))
    check_equal(room.id, (await eve.get(_path(alias)))["room_id"], "where the alias leads")
    await carol.delete(_path(alias))
    with refused(404, "M_NOT_FOUND", what="the alias that was taken away"):
        await eve.get(_path(alias))


@story("The canonical alias of a room is one that leads to it", shows=CANONICAL, needs=users(2))
async def canonical(scene: Scene) -> None:
    alice, bob = scene.users
    ours, other, theirs = (_alias(alice, name) for name in ("kitchen", "galley", "cellar"))
    room, cellar = await together(alice.create_room(), alice.create_room())
    for alias, leads_to in ((ours, room), (other, room), (theirs, cellar)):
        await alice.put(_path(alias), {"room_id": leads_to.id})
    good = {"alias": ours, "alt_aliases": [other]}
    await alice.set_state(room, "m.room.canonical_alias", good)
    bad = {"one of another room": theirs, "one that nobody made": _alias(alice, "attic")}
    for what, alias in bad.items():
        for content in ({"alias": alias}, {"alias": ours, "alt_aliases": [other, alias]}):
            with refused(400, "M_BAD_ALIAS", what=f"a canonical alias, {what}"):
                await alice.set_state(room, "m.room.canonical_alias", content)
    with refused(400, "M_INVALID_PARAM", "M_BAD_ALIAS", what="a canonical alias that is no alias"):
        await alice.set_state(room, "m.room.canonical_alias", {"alias": "the kitchen"})
    check_equal(good, await alice.state(room, "m.room.canonical_alias"), "the aliases of the room")
    await alice.invite(room, bob)
    await bob.until("the invite", lambda view: room.id in view.invites)
    told = bob.view.room(room).content("m.room.canonical_alias")
    check_equal(ours, told.get("alias"), "the alias that Bob's invite tells")


@story(
    "An alias in the state may stay though it leads nowhere any more",
    shows="client-server API, 'Sending events to a room': servers do not validate aliases already present",
    needs=users(1),
)
async def stays_in_the_state(scene: Scene) -> None:
    (alice,) = scene.users
    old, new = _alias(alice, "old"), _alias(alice, "new")
    room = await alice.create_room()
    for alias in (old, new):
        await alice.put(_path(alias), {"room_id": room.id})
    await alice.set_power(room, events={"m.room.canonical_alias": 50})
    await alice.set_state(room, "m.room.canonical_alias", {"alias": old})
    other = await alice.create_room()
    await alice.delete(_path(old))
    await alice.put(_path(old), {"room_id": other.id})
    content = {**(await alice.state(room, "m.room.canonical_alias")), "alt_aliases": [new]}
    await alice.set_state(room, "m.room.canonical_alias", content)
    check_equal([new], (await alice.state(room, "m.room.canonical_alias"))["alt_aliases"], "the new aliases")


@story(
    "Members list the aliases of their room; outsiders only where everybody may read it",
    shows=f"{ALIASES}: GET /rooms/{{roomId}}/aliases",
    needs=users("Alice", "Bob", "Eve"),
)
async def listed(scene: Scene) -> None:
    alice, bob, eve = scene.users
    readable = initial("m.room.history_visibility", {"history_visibility": "world_readable"})
    room = await alice.create_room_with(bob, room_alias_name=f"kitchen-{alice.localpart}")
    stage = await alice.create_room(initial_state=[readable], room_alias_name=f"stage-{alice.localpart}")
    galley = _alias(alice, "galley")
    await alice.put(_path(galley), {"room_id": room.id})
    found = (await bob.get(room.path("aliases")))["aliases"]
    check_equal({_alias(alice, "kitchen"), galley}, set(found), "the aliases of the kitchen")
    with refused(403, "M_FORBIDDEN", what="the list for Eve"):
        await eve.get(room.path("aliases"))
    check_equal([_alias(alice, "stage")], (await eve.get(stage.path("aliases")))["aliases"], "the aliases of the stage")
