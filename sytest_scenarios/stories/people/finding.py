"""Finding people: by name or ID, those whom one may see."""

import secrets

from sytest_scenarios.actors import User
from sytest_scenarios.asking import JsonObject, objects
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.waiting import eventually
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


async def found(user: User, term: str, limit: int = 20) -> list[JsonObject]:
    """Search for people, and return what the server tells of those it finds."""
    answer = await user.post("/user_directory/search", {"search_term": term, "limit": limit})
    return objects(answer.get("results"))


async def finds(user: User, term: str, *wanted: User) -> list[JsonObject]:
    """Search until exactly these people are found: the directory may need a moment."""
    ids = {each.user_id for each in wanted}
    names = " and ".join(map(str, wanted)) or "nobody"
    return await eventually(
        f"{user} to find {names} by {term!r}",
        lambda: found(user, term),
        lambda results: {each["user_id"] for each in results} == ids,
    )


def word() -> str:
    """Return a name that nobody else has, in no other run either."""
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz") for _ in range(14))


@story(
    "Bob finds Carol, who is in a room with him, by her name in any case, and by her user ID",
    shows="client-server API, 'User Directory': POST /user_directory/search",
    needs=users(3),
    tags=["smoke"],
)
async def by_name_and_id(scene: Scene) -> None:
    _alice, bob, carol = scene.users
    name = word()
    await carol.set_profile("displayname", f"Carol {name.capitalize()}")
    await carol.create_room_with(bob, preset="private_chat")
    for term in (name, name.upper(), f"carol {name}", carol.user_id, carol.localpart):
        results = await finds(bob, term, carol)
        check_equal(f"Carol {name.capitalize()}", results[0].get("display_name"), "the name that Bob is shown")
    check_equal([], await found(bob, f"{name}x"), "those of a name that nobody has")


@story(
    "Alice, who shares no room with Carol, finds her as soon as Carol is in a room that everybody may join",
    shows="client-server API, 'User Directory': users who are joined to rooms that have a public join rule",
    needs=users(3) + feature("strangers are not found"),
)
async def in_public_rooms(scene: Scene) -> None:
    alice, bob, carol = scene.users
    name = word()
    await carol.set_profile("displayname", name)
    private = await carol.create_room_with(bob, preset="private_chat")
    await finds(bob, name, carol)
    check_equal([], await found(alice, name), "those whom Alice finds")
    check_equal([], await found(alice, carol.user_id), "those whom Alice finds by the user ID")
    await carol.set_state(private, "m.room.join_rules", {"join_rule": "public"})
    await finds(alice, name, carol)


@story(
    "Carol has left the only room that she shared with Bob: he finds her no more",
    shows="client-server API, 'User Directory': users that share a room with the requesting user",
    needs=users(3) + feature("strangers are not found"),
)
async def after_leaving(scene: Scene) -> None:
    alice, bob, carol = scene.users
    name = word()
    await carol.set_profile("displayname", name)
    room = await alice.create_room_with(bob, carol, preset="private_chat")
    await finds(bob, name, carol)
    await carol.leave(room)
    await finds(bob, name)


@story(
    "Bob finds Carol by her new name, and no more by the old one",
    shows="client-server API, 'User Directory'; 'Profiles'",
    needs=users(3),
)
async def renamed(scene: Scene) -> None:
    _alice, bob, carol = scene.users
    old, new = word(), word()
    await carol.set_profile("displayname", old)
    await carol.create_room_with(bob, preset="private_chat")
    await finds(bob, old, carol)
    await carol.set_profile("displayname", new)
    await finds(bob, new, carol)
    await finds(bob, old)


@story(
    "Of three people of one name Alice is shown two, as she asked, and told that there are more",
    shows="client-server API, 'User Directory': limit, limited",
    needs=users(4),
)
async def limited(scene: Scene) -> None:
    alice, *others = scene.users
    name = word()
    for each in others:
        await each.set_profile("displayname", f"{name} {each.name}")
    await alice.create_room_with(*others, preset="private_chat")
    await finds(alice, name, *others)
    answer = await alice.post("/user_directory/search", {"search_term": name, "limit": 2})
    check_equal(2, len(answer["results"]), "the number of people that Alice is shown")
    check_equal(True, answer.get("limited"), "limited, with more to be shown")
    answer = await alice.post("/user_directory/search", {"search_term": name, "limit": 3})
    check_equal(False, answer.get("limited"), "limited, with all shown")


@story(
    "Words that mean something to a database mean nothing in a search for people",
    shows="client-server API, 'User Directory'; no injection",
    needs=users(3),
)
async def no_injection(scene: Scene) -> None:
    _alice, bob, carol = scene.users
    name = word()
    await carol.set_profile("displayname", name)
    await carol.create_room_with(bob, preset="private_chat")
    await finds(bob, name, carol)
    for term in (
        "%",
        "_" * 14,
        f"{name[:5]}%",
        "*:*",
        f"zzz' OR '{name}'='{name}",
        f'"{name[:4]}',
        f"NOT zz{name}",
        "\\",
    ):
        results = await found(bob, term)
        ids = [each["user_id"] for each in results if each["user_id"] == carol.user_id]
        # The beginning of a name may well find it; what stands for anything must not.
        wild = term not in (f'"{name[:4]}',) and not term.startswith(name[:5])
        check(not (wild and ids), f"nobody by {term!r}", came=results)
    await finds(bob, name, carol)
