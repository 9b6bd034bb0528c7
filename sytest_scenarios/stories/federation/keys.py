"""Servers show who they are by keys, and ask nothing of each other without them."""

import time

from nacl.signing import SigningKey

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import path_of
from sytest_scenarios.props.played import FEDERATION, ROOM_VERSION, played_server
from sytest_scenarios.props.signing import is_signed
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "A server publishes its keys, signed with each of them, valid from now on and not for ever",
    shows="server-server API, 'Publishing Keys'; appendices, 'Checking for a Signature'",
    needs=users(1) + feature("played servers"),
)
async def published(scene: Scene) -> None:
    name = scene.server.name
    web = scene.server.host.web
    answer = await web.request(scene.journal, "Somebody", "GET", f"https://{name}/_matrix/key/v2/server")
    told = answer.good()
    check_equal(name, told.get("server_name"), "the name in the answer")
    check(told.get("verify_keys"), "a key", came=told)
    for key_id, key in told["verify_keys"].items():
        check(key_id.startswith("ed25519:"), "a key of ed25519", came=key_id)
        check(is_signed(told, server=name, key_id=key_id, public_key=key["key"]), f"{key_id} to have signed", came=told)
        spoilt = {**told, "valid_until_ts": told["valid_until_ts"] + 1}
        is_good = is_signed(spoilt, server=name, key_id=key_id, public_key=key["key"])
        check(not is_good, "the signature to be one of all that is told", came=spoilt)
    days = (told["valid_until_ts"] / 1000 - time.time()) / 86_400
    check(0 < days < 366, "keys that are valid from now on, for a year at most", came=f"{days:.1f} days")


@story(
    "A server that does not sign its request, or signs it wrongly, is refused; signed well, it is served",
    shows="server-server API, 'Request Authentication'",
    needs=users(1) + feature("played servers"),
)
async def requests(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = f"@eve:{mallory.name}"
        path = f"{FEDERATION}/v1/make_join{path_of(room.id, eve)}?ver={ROOM_VERSION}"
        answers = {
            "no signature": await mallory.request(alice.server, "GET", path, is_signed=False),
            "a signature by another key": await mallory.request(alice.server, "GET", path, key=SigningKey.generate()),
            "a signature for another server": await mallory.request(
                alice.server, "GET", path, destination="elsewhere.example.org"
            ),
            "a signature of another body": await mallory.request(
                alice.server, "PUT", f"{FEDERATION}/v1/send/1", {"pdus": [], "edus": []}, signed_body={"pdus": []}
            ),
        }
        for what, answer in answers.items():
            check(answer.status in (401, 403), f"401 or 403 for {what}", came=f"{answer.status} {answer.body!r}")
            check_equal(True, answer.errcode in ("M_UNAUTHORIZED", "M_FORBIDDEN"), f"the errcode for {what}")
        template = (await mallory.request(alice.server, "GET", path)).good()
        check_equal(eve, template.get("event", {}).get("state_key"), "whom the template is for")


@story(
    "A server that is not in Alice's room learns nothing of it, whatever it asks for",
    shows="server-server API, 'Retrieving events', 'Backfilling and retrieving missing events'",
    needs=users(1) + feature("played servers"),
)
async def strangers(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="private_chat", room_version=ROOM_VERSION)
    secret = await alice.say(room, "Among ourselves")
    async with played_server(scene) as mallory:
        room_path = path_of(room.id)
        asked = {
            f"event{path_of(secret)}": None,
            f"state{room_path}?event_id={path_of(secret)[1:]}": None,
            f"state_ids{room_path}?event_id={path_of(secret)[1:]}": None,
            f"backfill{room_path}?v={path_of(secret)[1:]}&limit=10": None,
            f"event_auth{room_path}{path_of(secret)}": None,
            f"get_missing_events{room_path}": {"earliest_events": [], "latest_events": [secret], "limit": 10},
            f"hierarchy{room_path}": None,
            f"make_join{path_of(room.id, f'@eve:{mallory.name}')}?ver={ROOM_VERSION}": None,
        }
        for each, body in asked.items():
            method = "GET" if body is None else "POST"
            answer = await mallory.request(alice.server, method, f"{FEDERATION}/v1/{each}", body)
            what = each.partition("/")[0]
            check(answer.status in (403, 404), f"403 or 404 for {what}", came=f"{answer.status} {answer.body!r}")
            check(answer.errcode, f"an errcode for {what}", came=answer.body.decode())
            check(b"ourselves" not in answer.body, f"no secret in {what}", came=answer.body.decode())
