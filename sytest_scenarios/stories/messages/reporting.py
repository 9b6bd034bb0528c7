"""Reports: whoever is bothered by something tells those who run the server."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

ANNOYED = {"reason": "This makes me sad; ' <b>and</b> 😢"}


@story(
    "Bob reports a message of his room; Eve, who is not in it, learns nothing by trying the same",
    shows="client-server API, 'Reporting Content': POST /rooms/{roomId}/report/{eventId}",
    needs=users(2),
    expected_to_fail="Reporting",
)
async def message(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, preset="private_chat")
    said = await alice.say(room, "Something bad")
    check_equal({}, await bob.post(room.path("report", said), ANNOYED), "the answer to Bob's report")
    hers = await eve.request("POST", room.path("report", said), ANNOYED)
    made_up = await eve.request("POST", room.path("report", "$nothing"), ANNOYED)
    same = (hers.status, hers.errcode) == (made_up.status, made_up.errcode)
    check(same, "Eve to be told the same of a message that is there and of one that is not", came=hers.status)
    # Spec: 404, or 200 where the server conceals what there is.
    check((hers.status, hers.errcode) in ((404, "M_NOT_FOUND"), (200, None)), "M_NOT_FOUND for Eve", came=hers.status)
    for reason in (7, ["x"]):
        answer = await bob.request("POST", room.path("report", said), {"reason": reason})
        check_equal(400, answer.status, f"the status for the reason {reason}")
    check_equal("Something bad", (await bob.event(room, said))["content"]["body"], "the message, which is still there")


@story(
    "Eve reports a room and a person that she has nothing to do with, as she may",
    shows="client-server API, 'Reporting Content': POST /rooms/{roomId}/report, POST /users/{userId}/report",
    needs=users(1),
    expected_to_fail="Reporting",
)
async def room_and_person(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room(preset="public_chat")
    check_equal({}, await eve.post(room.path("report"), ANNOYED), "the answer to the report of a room")
    check_equal({}, await eve.post(f"/users/{alice.user_id}/report", ANNOYED), "the answer to the report of a person")
    answer = await scene.server.request("POST", room.path("report"), ANNOYED)
    check_equal((401, "M_MISSING_TOKEN"), (answer.status, answer.errcode), "the answer to somebody without an account")
