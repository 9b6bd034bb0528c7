"""The list of what one was notified of."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.waiting import eventually
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "Bob lists what he was notified of: what is read and what is not, the highlights alone, page by page",
    shows="client-server API, 'Listing Notifications': GET /notifications",
    needs=users("Alice", "Bob", "Eve"),
    expected_to_fail="Notifications list",
)
async def listed(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_open_room_with(bob)
    first = await alice.say(room, "one")
    second = await alice.say(room, "Bob!", **{"m.mentions": {"user_ids": [bob.user_id]}})
    third = await alice.say(room, "three")
    await bob.read(room, first)
    found = await eventually(
        "three notifications", lambda: bob.get("/notifications"), lambda answer: len(answer["notifications"]) == 3
    )
    told = [(each["event"]["event_id"], each["read"]) for each in found["notifications"]]
    check_equal([(third, False), (second, False), (first, True)], told, "the events, newest first, and what is read")
    check_equal({room.id}, {each["room_id"] for each in found["notifications"]}, "their room")
    check("notify" in found["notifications"][0]["actions"], "notify among the actions", came=found["notifications"][0])
    highlights = (await bob.get("/notifications", only="highlight"))["notifications"]
    check_equal([second], [each["event"]["event_id"] for each in highlights], "the highlights")
    page = await bob.get("/notifications", limit=2)
    rest = await bob.get("/notifications", **{"from": page["next_token"]})
    pages = [each["event"]["event_id"] for each in page["notifications"] + rest["notifications"]]
    check_equal([third, second, first], pages, "the pages put together")
    check_equal([], (await eve.get("/notifications"))["notifications"], "what Eve was notified of")
    check_equal([], (await alice.get("/notifications"))["notifications"], "what Alice was notified of: not of her own")
