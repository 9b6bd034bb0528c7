"""What people tell those who run the server about others."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, feature, story

REPORTING = "Reporting"
ADMIN = "/_synapse/admin/v1"


@story(
    "Bob reports what Eve said, and Ada reads it",
    shows="client-server API, 'Reporting Content': POST /rooms/{roomId}/report/{eventId}",
    needs=ADMIN_SECRET + feature("admin API"),
    expected_to_fail=REPORTING,
)
async def message(scene: Scene) -> None:
    bob, eve, carol = await scene.new_users("Bob", "Eve", "Carol")
    ada = await scene.new_user("Ada", admin=True)
    room = await bob.create_room_with(eve)
    evil = await eve.say(room, "Buy my tokens")
    await bob.post(room.path("report", evil), {"reason": "spam"})
    # Or 200, where the server conceals what there is; it is no report all the same.
    answer = await carol.request("POST", room.path("report", evil), {"reason": "spam"})
    check(answer.status in (200, 404), "404 or 200 for who does not see it", came=answer.status)
    with refused(403, "M_FORBIDDEN", what="the list of reports, for Eve"):
        await eve.get(f"{ADMIN}/event_reports")
    found = (await ada.get(f"{ADMIN}/event_reports", room_id=room.id))["event_reports"]
    told = [(each["user_id"], each["sender"], each["event_id"], each["reason"]) for each in found]
    check_equal([(bob.user_id, eve.user_id, evil, "spam")], told, "the reports of the room")
    one = await ada.get(f"{ADMIN}/event_reports/{found[0]['id']}")
    check_equal("Buy my tokens", one["event_json"]["content"]["body"], "what Ada reads")


@story(
    "Bob reports Eve herself, and Ada reads it",
    shows="client-server API, 'Reporting Content': POST /users/{userId}/report",
    needs=ADMIN_SECRET + feature("admin API"),
    expected_to_fail=REPORTING,
)
async def person(scene: Scene) -> None:
    bob, eve = await scene.new_users("Bob", "Eve")
    ada = await scene.new_user("Ada", admin=True)
    await bob.post(f"/users/{eve.user_id}/report", {"reason": "pretends to be me"})
    with refused(403, "M_FORBIDDEN", what="the list of reports, for Bob"):
        await bob.get(f"{ADMIN}/user_reports")
    found = (await ada.get(f"{ADMIN}/user_reports", target_user_id=eve.user_id))["user_reports"]
    told = [(each["user_id"], each["reason"]) for each in found]
    check_equal([(bob.user_id, "pretends to be me")], told, "the reports of Eve")
    nobody = f"@nobody-{eve.localpart}:{scene.server.name}"
    answers = [await bob.request("POST", f"/users/{each}/report", {"reason": "x"}) for each in (eve.user_id, nobody)]
    # 404 of nobody, or 200 where the server does not disclose who is there.
    came = [each.status for each in answers]
    check(came in ([200, 200], [200, 404]), "200 for Eve, and 200 or 404 for nobody", came=came)


@story(
    "Bob reports a whole room",
    shows="client-server API, 'Reporting Content': POST /rooms/{roomId}/report",
    expected_to_fail=REPORTING,
)
async def room(scene: Scene) -> None:
    bob, eve = await scene.new_users("Bob", "Eve")
    place = await eve.create_room(preset="public_chat")
    await bob.post(place.path("report"), {"reason": "a den of thieves"})
    answer = await bob.request("POST", f"/rooms/!nowhere:{scene.server.name}/report", {"reason": "x"})
    came = (answer.status, answer.errcode)
    check(came in ((404, "M_NOT_FOUND"), (200, None)), "404 M_NOT_FOUND of a room that there is not, or 200", came=came)
