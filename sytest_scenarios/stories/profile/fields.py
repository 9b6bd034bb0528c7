"""What one tells of oneself: the picture, the time zone, whatever else; how much of it, and who may."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

PICTURE = "mxc://example.org/alice"


@story(
    "Alice takes a new picture: it is in her profile, in every room that she is in, and in those that she joins later",
    shows="client-server API, 'Events on Change of Profile Information'",
    needs=users(2),
)
async def picture(scene: Scene) -> None:
    alice, bob = scene.users
    rooms = [await alice.create_room_with(bob) for _ in range(2)]
    await alice.set_profile("avatar_url", PICTURE)
    rooms.append(await alice.join(await bob.create_room(preset="public_chat")))
    for room in rooms:
        await bob.until(
            "the picture in the room",
            lambda view, room=room: view.room(room).content("m.room.member", alice.user_id)["avatar_url"] == PICTURE,  # type: ignore[misc]
        )
        check_equal("join", bob.view.room(room).member(alice.user_id), "Alice's membership, with the picture")
    check_equal({"avatar_url": PICTURE}, await bob.get(path_of("profile", alice.user_id, "avatar_url")), "the picture")


@story(
    "A name may be a script, a query or a riddle: it stays text",
    shows="client-server API, 'Profiles'; no injection",
    needs=users(2),
)
async def odd_names(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    for name in (
        "<script>alert('Bob')</script>",
        "Robert'); DROP TABLE users; --",
        "\u202eecilA",
        "👩🏽‍🚀 %s {0} \\",
    ):
        await alice.set_profile("displayname", name)
        check_equal(name, (await bob.profile(alice)).get("displayname"), "the name in the profile")
        await bob.until(
            "the name in the room",
            lambda view, name=name: view.room(room).content("m.room.member", alice.user_id).get("displayname") == name,  # type: ignore[misc]
        )
    answer = await bob.request("GET", path_of("profile", alice.user_id))
    check_equal("application/json", answer.headers.get("content-type", "").partition(";")[0], "the type of the answer")


@story(
    "Of somebody who is not there nothing is known",
    shows="client-server API, GET /profile/{userId}: 404, or 403 where the server does not tell who is there",
    needs=users(1),
)
async def unknown_user(scene: Scene) -> None:
    (alice,) = scene.users
    nobody = f"@nobody-{alice.localpart}:{alice.server.name}"
    for parts in ((nobody,), (nobody, "displayname"), (nobody, "avatar_url")):
        with refused(403, 404, what=f"a look at {'/'.join(parts)}"):
            await alice.get(path_of("profile", *parts))
    with refused(400, 403, 404, what="a look at the profile of what is no user ID"):
        await alice.get(path_of("profile", "nobody at all"))


@story(
    "Bob has no picture: whoever asks for it is told that there is none",
    shows="client-server API, GET /profile/{userId}/{keyName}: There is no profile field with this key for this user",
    needs=users(2),
    unlike={"synapse": "answers 200 and {}; the spec, GET /profile/{userId}/{keyName}, says 404"},
)
async def no_picture(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    picture = path_of("profile", bob.user_id, "avatar_url")
    with refused(404, "M_NOT_FOUND", what="a look at a picture that Bob has not"):
        await alice.get(picture)
    await bob.set_profile("avatar_url", PICTURE)
    check_equal({"avatar_url": PICTURE}, await alice.get(picture), "the picture that he has then")


@story(
    "Alice tells her time zone and what she likes, changes it and takes it back; the rooms are not told",
    shows="client-server API, PUT and DELETE /profile/{userId}/{keyName}",
    needs=users(2) + feature("profile fields"),
)
async def more_fields(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    likes = {"cake": True, "tea": ["green", "black"], "sugar": None}
    await alice.set_profile("m.tz", "Europe/Vienna")
    await alice.set_profile("org.example.likes", likes)
    found = await bob.profile(alice)
    check_equal("Europe/Vienna", found.get("m.tz"), "the time zone")
    check_equal(likes, found.get("org.example.likes"), "what Alice likes")
    await alice.set_profile("m.tz", "Asia/Tokyo")
    check_equal({"m.tz": "Asia/Tokyo"}, await bob.get(path_of("profile", alice.user_id, "m.tz")), "the new time zone")
    await alice.delete(path_of("profile", alice.user_id, "m.tz"))
    with refused(404, "M_NOT_FOUND", what="a look at the time zone that was taken back"):
        await bob.get(path_of("profile", alice.user_id, "m.tz"))
    check("m.tz" not in await bob.profile(alice), "no time zone in the profile", came=await bob.profile(alice))
    said = await alice.say(room, "Hello")
    await bob.sees(room, said)
    member = bob.view.room(room).content("m.room.member", alice.user_id)
    check("m.tz" not in member and "org.example.likes" not in member, "no such fields in the room", came=member)


@story(
    "Alice takes her name back: it is in her profile no more, nor in the rooms",
    shows="client-server API, DELETE /profile/{userId}/{keyName}; 'Events on Change of Profile Information'",
    needs=users(2) + feature("profile fields"),
)
async def no_name_any_more(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.set_profile("displayname", "Alice Liddell")
    room = await alice.create_room_with(bob)
    await bob.until(
        "the name",
        lambda view: view.room(room).content("m.room.member", alice.user_id)["displayname"] == "Alice Liddell",
    )
    await alice.delete(path_of("profile", alice.user_id, "displayname"))
    answer = await bob.request("GET", path_of("profile", alice.user_id))
    check(b"Liddell" not in answer.body, "no name in the profile", came=answer.body.decode())
    await bob.until(
        "no name in the room",
        lambda view: view.room(room).content("m.room.member", alice.user_id).get("displayname") is None,
    )
    check_equal("join", bob.view.room(room).member(alice.user_id), "Alice's membership")


@story(
    "Eve cannot write into Alice's profile, nor take anything out of it",
    shows="client-server API, PUT and DELETE /profile/{userId}/{keyName}: 403",
    needs=users("Alice", "Eve") + feature("profile fields"),
    unlike={"synapse": "answers 400; the spec, PUT /profile/{userId}/{keyName}, says 403"},
)
async def not_anothers_fields(scene: Scene) -> None:
    alice, eve = scene.users
    await alice.set_profile("m.tz", "Europe/Vienna")
    with refused(403, "M_FORBIDDEN", what="the time zone that Eve gives Alice"):
        await eve.put(path_of("profile", alice.user_id, "m.tz"), {"m.tz": "Etc/UTC"})
    with refused(403, "M_FORBIDDEN", what="Eve's removal of Alice's time zone"):
        await eve.delete(path_of("profile", alice.user_id, "m.tz"))
    answer = await alice.server.request("DELETE", path_of("profile", alice.user_id, "m.tz"))
    check_equal(401, answer.status, "the status for somebody who is not logged in")
    check_equal("Europe/Vienna", (await alice.profile(alice)).get("m.tz"), "Alice's time zone")


@story(
    "A profile has limits: names of fields, their length, and 64 KiB of all together",
    shows="client-server API, PUT /profile/{userId}/{keyName}: M_PROFILE_TOO_LARGE, M_KEY_TOO_LARGE, M_MISSING_PARAM",
    needs=users(1) + feature("profile fields"),
)
async def field_limits(scene: Scene) -> None:
    (alice,) = scene.users
    await alice.set_profile("org.example.small", "kept")
    for number in range(2):
        await alice.set_profile(f"org.example.large{number}", "x" * 30_000)
    with refused(400, "M_PROFILE_TOO_LARGE", what="a field that makes the profile too large"):
        await alice.set_profile("org.example.straw", "x" * 10_000)
    long = "org.example." + "x" * 244
    with refused(400, "M_KEY_TOO_LARGE", what="a field whose name has 256 bytes"):
        await alice.set_profile(long, "x")
    with refused(400, "M_MISSING_PARAM", "M_INVALID_PARAM", "M_BAD_JSON", what="a field with a value of another name"):
        await alice.put(path_of("profile", alice.user_id, "org.example.small"), {"org.example.other": "x"})
    with refused(400, what="a name that is a number"):
        await alice.set_profile("displayname", 5)
    await alice.delete(path_of("profile", alice.user_id, "org.example.large0"))
    await alice.set_profile("org.example.straw", "x" * 10_000)
    found = await alice.profile(alice)
    check_equal("kept", found.get("org.example.small"), "the small field")
    check_equal(10_000, len(found.get("org.example.straw", "")), "the length of the field that now has room")


@story(
    "Alice's client asks what the server lets her do, and it is so",
    shows="client-server API, 'Capabilities negotiation'; 'm.profile_fields capability'",
    needs=users(1) + feature("profile fields"),
)
async def capabilities(scene: Scene) -> None:
    (alice,) = scene.users
    found = (await alice.get("/capabilities"))["capabilities"]
    versions = found["m.room_versions"]
    check_equal("stable", versions["available"].get(versions["default"]), "how the default room version is called")
    room = await alice.create_room()
    created = await alice.state(room, "m.room.create")
    check_equal(versions["default"], created.get("room_version", "1"), "the version of a new room")
    fields = found.get("m.profile_fields", {"enabled": True})
    if fields["enabled"] and "displayname" not in fields.get("disallowed", []):
        await alice.set_profile("displayname", "Allowed")
    else:
        with refused(403, what="a new name"):
            await alice.set_profile("displayname", "Not allowed")
    answer = await alice.server.request("GET", "/capabilities")
    check_equal(401, answer.status, "the status for somebody who is not logged in")
