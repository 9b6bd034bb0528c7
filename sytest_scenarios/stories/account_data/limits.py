"""What may be kept, where, and what the server keeps to itself."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users
from sytest_scenarios.view import View


@story(
    "What Alice keeps for a room is not what she keeps for all, nor for another room",
    shows="client-server API, 'Client Config': There is no inheritance mechanism here",
    needs=users(1),
)
async def global_and_room(scene: Scene) -> None:
    (alice,) = scene.users
    here, there = await alice.create_room(), await alice.create_room()
    await alice.set_account_data("org.example.look", {"color": "green"})
    await alice.set_account_data("org.example.look", {"color": "red"}, room=here)
    check_equal({"color": "green"}, await alice.account_data("org.example.look"), "the look of all")
    check_equal({"color": "red"}, await alice.account_data("org.example.look", room=here), "the look of the room")
    with refused(404, "M_NOT_FOUND", what="the look of the other room"):
        await alice.account_data("org.example.look", room=there)
    with refused(404, "M_NOT_FOUND", what="what was never kept"):
        await alice.account_data("org.example.nothing")
    view = await alice.catch_up()
    check_equal({"color": "green"}, view.account_data.get("org.example.look"), "the look of all, as it is told")
    told = view.room(here).account_data.get("org.example.look")
    check_equal({"color": "red"}, told, "the look of the room, as it is told")
    check("org.example.look" not in view.room(there).account_data, "none of the other room", came="some")


@story(
    "Push rules and the fully read marker are the server's: Alice cannot keep anything in their place",
    shows="client-server API, 'Client Config', 'Server Behaviour': by using a 405 error response",
    needs=users(1),
)
async def the_servers_own(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    before = await alice.get("/pushrules/")
    for kind in ("m.push_rules", "m.fully_read"):
        with refused(405, what=f"{kind} for all"):
            await alice.set_account_data(kind, {"event_id": "$x", "global": {}})
        with refused(405, what=f"{kind} for a room"):
            await alice.set_account_data(kind, {"event_id": "$x", "global": {}}, room=room)
    check_equal(before, await alice.get("/pushrules/"), "the push rules")
    check("m.fully_read" not in (await alice.catch_up()).room(room).account_data, "no marker", came="a marker")


@story(
    "Only a JSON object can be kept, and what is refused leaves what was there",
    shows="client-server API, PUT /user/{userId}/account_data/{type}: M_BAD_JSON or M_NOT_JSON",
    needs=users(1),
)
async def no_object(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    await alice.set_account_data("org.example.note", {"page": 1})
    path = path_of("user", alice.user_id, "account_data", "org.example.note")
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    for body in (
        b"[]",
        b'"page 2"',
        b"null",
        b"5",
        b"",
        b'{"page": ',
        b'{"page": 2} and more',
        b'{"page": "\xff"}',
        deep,
    ):
        answer = await alice.request("PUT", path, body)
        check(answer.status in (400, 413), f"{body[:20]!r} to be refused with 400 or 413", came=answer.status)
    with refused(400, what="a note for a room whose ID is none"):
        await alice.put(path_of("user", alice.user_id, "rooms", "no room", "account_data", "org.example.note"), {})
    check_equal({"page": 1}, await alice.account_data("org.example.note"), "the note")
    said = await alice.say(room, "still here")
    await alice.sees(room, said)


@story(
    "What is large is kept whole, and what is too large for the server is refused and changes nothing",
    shows="client-server API, 'Client Config'",
    needs=users(1),
)
async def large(scene: Scene) -> None:
    (alice,) = scene.users
    kept = {"text": "x" * 30_000}
    await alice.set_account_data("org.example.large", kept)
    path = path_of("user", alice.user_id, "account_data", "org.example.large")
    huge = {"text": "y" * 5_000_000}
    answer = await alice.request("PUT", path, huge)
    check(answer.status in (200, 400, 413), "5 MB to be kept, or refused with 400 or 413", came=answer.status)
    found = await alice.account_data("org.example.large")
    check(found == (huge if answer.status == 200 else kept), "what was kept, whole", came=len(str(found)))


@story(
    "Alice's phone is told of the last of three changes, once, and of what is not changed never",
    shows="client-server API, 'Client Config'; 'Syncing': account_data",
    needs=users(1) + feature("password login"),
)
async def only_the_last(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone")
    await alice.set_account_data("org.example.quiet", {"page": 0})
    await phone.catch_up()
    for page in (1, 2, 3):
        await alice.set_account_data("org.example.note", {"page": page})
    found = await phone.sync(since=phone.view.since, timeout_ms=5000)
    told = [each for each in found["account_data"]["events"] if each["type"].startswith("org.example.")]
    check_equal([{"type": "org.example.note", "content": {"page": 3}}], told, "what the phone is told")
    again = View.of(await phone.sync(since=found["next_batch"]))
    check("org.example.note" not in again.account_data, "nothing to be told twice", came=again.account_data)


@story(
    "Alice deletes what she kept: it is not there any more, on no device",
    shows="proposal MSC3391, 'Removing account data'",
    needs=users(1) + feature("password login"),
    expected_to_fail="Account data, tags, ignore",
)
async def deleted(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone")
    await alice.set_account_data("org.example.note", {"page": 1})
    await phone.until("the note", lambda view: view.account_data["org.example.note"] == {"page": 1})
    own = path_of("user", alice.user_id, "account_data", "org.example.note")
    answer = await alice.request("DELETE", f"/_matrix/client/unstable/org.matrix.msc3391{own}")
    if answer.errcode == "M_UNRECOGNIZED":
        scene.skip("account data is not deleted (org.matrix.msc3391 is not served)")
    answer.good()
    with refused(404, "M_NOT_FOUND", what="a look at the note that was deleted"):
        await alice.account_data("org.example.note")
    await phone.until("an empty note", lambda view: view.account_data["org.example.note"] == {})
    check("org.example.note" not in View.of(await alice.sync()).account_data, "no note from the beginning", came="it")


@story(
    "Alice tags rooms, orders them and takes the tags back; Eve can do none of it for her",
    shows="client-server API, 'Room Tagging'",
    needs=users("Alice", "Eve"),
)
async def tags(scene: Scene) -> None:
    alice, eve = scene.users
    room = await alice.create_room_with(eve)
    path = path_of("user", alice.user_id, "rooms", room.id, "tags")
    await alice.put(f"{path}/m.favourite", {"order": 0.25})
    await alice.put(f"{path}/u.work%20%26%20play", {})
    both = {"m.favourite": {"order": 0.25}, "u.work & play": {}}
    check_equal(both, (await alice.get(path)).get("tags"), "the tags")
    await alice.delete(f"{path}/m.favourite")
    await alice.until("one tag", lambda view: view.room(room).account_data["m.tag"] == {"tags": {"u.work & play": {}}})
    with refused(403, "M_FORBIDDEN", what="Eve's look at Alice's tags"):
        await eve.get(path)
    with refused(403, "M_FORBIDDEN", what="Eve's tag for Alice"):
        await eve.put(f"{path}/m.lowpriority", {})
    with refused(403, "M_FORBIDDEN", what="Eve's removal of Alice's tag"):
        await eve.delete(f"{path}/u.work%20%26%20play")
    check_equal({"u.work & play": {}}, (await alice.get(path)).get("tags"), "the tag that is left")
