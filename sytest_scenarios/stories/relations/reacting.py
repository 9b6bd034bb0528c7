"""Reactions and references: who may make them, how they are listed, and when they are gone."""

from sytest_scenarios.asking import JsonObject, objects, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import servers, story, users
from sytest_scenarios.view import bundled


@story(
    "Alice cannot like the same thing twice, until she has taken back the first",
    shows="client-server API, 'Avoiding duplicate annotations'",
    needs=users(2),
)
async def not_twice(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await bob.say(room, "Cake?")
    first = await alice.react(room, said, "👍")
    with refused(400, "M_DUPLICATE_ANNOTATION", what="the same reaction once more"):
        await alice.react(room, said, "👍")
    await alice.react(room, said, "🍰")
    await bob.react(room, said, "👍")
    await alice.redact(room, first)
    again = await alice.react(room, said, "👍")
    found = objects((await bob.related(room, said, "m.annotation", "m.reaction"))["chunk"])
    keys = sorted((each["sender"] == alice.user_id, each["content"]["m.relates_to"]["key"]) for each in found)
    check_equal([(False, "👍"), (True, "🍰"), (True, "👍")], keys, "the reactions (whether Alice's, and which)")
    check(again in [each["event_id"] for each in found], "the new reaction among them", came=found)


@story(
    "Alice taps twice so fast that both taps are on the way, and one reaction comes of it",
    shows="client-server API, 'Avoiding duplicate annotations'",
    needs=users(2),
    unlike={
        "synapse": "lets both in if they come at once; the spec, 'Avoiding duplicate annotations', rejects the second"
    },
)
async def not_twice_at_once(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await bob.say(room, "Cake?")
    relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "👍"}}
    answers = await together(
        *(alice.request("PUT", room.path("send", "m.reaction", f"tap {number}"), relation) for number in range(4))
    )
    check_equal([200, 400, 400, 400], sorted(each.status for each in answers), "the answers to the taps")
    found = (await bob.related(room, said, "m.annotation"))["chunk"]
    check_equal(1, len(found), "the number of reactions")


@story(
    "Reactions are listed one by one, and not summed up in the message",
    shows="client-server API, 'Server-side aggregation of `m.annotation` relationships'",
    needs=users(3),
)
async def not_bundled(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    said = await alice.say(room, "Who comes along?")
    theirs = [await each.react(room, said, "🙋") for each in (bob, carol)]
    found = await alice.event(room, said)
    check("m.annotation" not in bundled(found), "no reactions in the message", came=found.get("unsigned"))
    listed = objects((await alice.related(room, said, "m.annotation"))["chunk"])
    check_equal(theirs[::-1], [each["event_id"] for each in listed], "the reactions, newest first")


@story(
    "Seven votes are read page by page, in both directions, none twice and none left out",
    shows="client-server API, 'Relationships API': limit, from, dir",
    needs=users(2),
)
async def page_by_page(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    question = await alice.say(room, "Which day?")
    votes = []
    for day in range(7):
        content = {"day": day, "m.relates_to": {"rel_type": "com.example.vote", "event_id": question}}
        votes.append(await bob.send(room, "com.example.ballot", content))
        await alice.say(room, f"noise {day}")
    for direction, expected in (("b", votes[::-1]), ("f", votes)):
        found: list[str] = []
        page = await alice.related(room, question, "com.example.vote", limit=3, dir=direction)
        for _ in range(6):
            chunk = objects(page["chunk"])
            check(len(chunk) <= 3, "no more than three on a page", came=chunk)
            found += [each["event_id"] for each in chunk]
            if "next_batch" not in page:
                break
            page = await alice.related(
                room, question, "com.example.vote", limit=3, dir=direction, **{"from": page["next_batch"]}
            )
        check_equal(expected, found, f"the votes in direction {direction}")


@story(
    "What relates to a message is found by the kind of relation and by the type of event",
    shows="client-server API, 'Relationships API': relType, eventType",
    needs=users(2),
)
async def by_kind(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "The plan")
    edit = await alice.edit(room, said, "The new plan")
    like = await bob.react(room, said, "👍")
    refers = {"m.relates_to": {"rel_type": "m.reference", "event_id": said}}
    check_result = await bob.send(room, "com.example.check", refers)
    comment = await bob.say(room, "see above", **refers)
    for kinds, expected in (
        ((), [comment, check_result, like, edit]),
        (("m.reference",), [comment, check_result]),
        (("m.reference", "com.example.check"), [check_result]),
        (("m.replace", "com.example.check"), []),
    ):
        found = objects((await bob.related(room, said, *kinds))["chunk"])
        check_equal(expected, [each["event_id"] for each in found], f"what relates by {kinds or 'anything'}")


@story(
    "A message knows what refers to it, and forgets what is taken back",
    shows="client-server API, 'Server-side aggregation of `m.reference`'",
    needs=users(2),
)
async def references(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "The minutes")
    refers = {"m.relates_to": {"rel_type": "m.reference", "event_id": said}}
    one, two = [await bob.send(room, "com.example.note", {"note": each, **refers}) for each in ("one", "two")]
    listed = bundled(await alice.event(room, said)).get("m.reference", {}).get("chunk", [])
    check_equal({one, two}, {each["event_id"] for each in listed}, "what refers to the minutes")
    await bob.redact(room, one)
    listed = bundled(await alice.event(room, said)).get("m.reference", {}).get("chunk", [])
    check_equal([two], [each["event_id"] for each in listed], "what still refers to the minutes")
    found = objects((await alice.related(room, said))["chunk"])
    check_equal([two], [each["event_id"] for each in found], "what /relations lists")


@story(
    "Bob answers a message, and his answer says which; it is a message of its own and no child of the other",
    shows="client-server API, 'Rich replies'; 'Relationships API': replies are not accessible",
    needs=users(2),
)
async def reply(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "Tea or coffee?")
    relation = {"m.in_reply_to": {"event_id": said}}
    event = await alice.sees(room, await bob.say(room, "Tea.", **{"m.relates_to": relation}))
    check_equal(relation, event["content"].get("m.relates_to"), "what the answer says it answers")
    check_equal([], (await alice.related(room, said))["chunk"], "the children of the question")


@story(
    "Reactions to reactions are found with those to the message itself",
    shows="client-server API, 'Relationships API': recurse",
    needs=users(2),
)
async def of_relations(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    root = await alice.say(room, "A talk")
    answer = await bob.say_in_thread(room, root, "An aside")
    like = await alice.react(room, answer, "👍")
    direct = objects((await bob.related(room, root))["chunk"])
    check_equal([answer], [each["event_id"] for each in direct], "what relates to the message")
    deep = objects((await bob.related(room, root, recurse=True))["chunk"])
    check_equal({answer, like}, {each["event_id"] for each in deep}, "what relates to it and to what relates to it")


@story(
    "Eve, who is not in the room, learns nothing of what relates to its messages",
    shows="client-server API, 'Relationships API': 404",
    needs=users(1),
)
async def not_for_outsiders(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room(preset="private_chat")
    said = await alice.say(room, "between us")
    await alice.react(room, said, "🤫")
    mine = await eve.create_room()
    for where in (room, mine):
        with refused(403, 404, what=f"Eve's look at the reactions through {'that' if where is room else 'her'} room"):
            await eve.related(where, said)


@story(
    "Bob ignores Eve, and her part in a thread is not told to him",
    shows="client-server API, 'Aggregations of child events': events from ignored users",
    needs=users(2),
)
async def ignored(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, eve)
    root = await alice.say(room, "On topic")
    wanted = await alice.say_in_thread(room, root, "more on topic")
    await eve.say_in_thread(room, root, "buy my pills")
    eve_alone: JsonObject = {eve.user_id: {}}
    await bob.set_account_data("m.ignored_user_list", {"ignored_users": eve_alone})
    thread = bundled(await bob.event(room, root))["m.thread"]
    check_equal(1, thread["count"], "the number of answers in the thread, without Eve's")
    check_equal(wanted, thread["latest_event"]["event_id"], "the latest answer that Bob is told")
    check_equal(2, bundled(await alice.event(room, root))["m.thread"]["count"], "the number as Alice is told")


@story(
    "Bob, at another server, edits and reacts, and Alice's server counts both",
    shows="client-server API, 'Aggregations of child events'; server-server API, 'PDUs'",
    needs=servers(2) + users(2),
)
async def from_another_server(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await bob.say(room, "one")
    edit = await bob.edit(room, said, "two")
    like = await bob.react(room, said, "👍")
    await alice.sees(room, like)
    check_equal(edit, bundled(await alice.event(room, said))["m.replace"]["event_id"], "the edit that Alice is told")
    found = objects((await alice.related(room, said))["chunk"])
    check_equal({edit, like}, {each["event_id"] for each in found}, "what relates to the message at Alice's server")
