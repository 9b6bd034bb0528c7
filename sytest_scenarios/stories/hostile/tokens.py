"""Tokens, limits and words that are made to confuse."""

from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

from .bodies import check_refused, check_served

SQL = "x'); DROP TABLE users; --"
GARBAGE = ["garbage", "-1", "s", "s_s", "null", "1" * 400, "s1_2_3_x", "\x00", SQL, "ü", "a/b"]


@story(
    "A token of a sync or a page that the server never gave is refused with 400, and the right ones go on to work",
    shows="client-server API, 'Syncing', 'Getting events for a room'",
    needs=users(2),
)
async def positions(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    for token in GARBAGE:
        answer = await bob.request("GET", "/sync", query={"since": token, "timeout": 0})
        check_refused(answer, f"since={token[:30]!r}")
        check_equal(400, answer.status, f"the status of since={token[:30]!r}")
        answer = await bob.request("GET", room.path("messages"), query={"dir": "b", "from": token})
        check_refused(answer, f"from={token[:30]!r}")
        check_equal(400, answer.status, f"the status of from={token[:30]!r}")
    check_refused(await bob.request("GET", "/keys/changes", query={"from": "x", "to": "y"}), "keys/changes")
    said = await alice.say(room, "Hello")
    await bob.sees(room, said)


@story(
    "Who wants a thousand million events gets a page, not all, and nothing breaks",
    shows="client-server API, 'Getting events for a room', 'Filtering'",
    needs=users(2),
)
async def limits(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    for number in range(20):
        await alice.say(room, f"{number}")
    most = 10**9
    found = await bob.get(room.path("messages"), dir="b", limit=most)
    check(len(found["chunk"]) >= 20, "a page", came=len(found["chunk"]))
    found = await bob.sync(filter=f'{{"room": {{"timeline": {{"limit": {most}}}}}}}')
    check(len(found["rooms"]["join"][room.id]["timeline"]["events"]) >= 20, "a timeline", came=found["rooms"])
    event_id = (await bob.history(room))[-1]["event_id"]
    found = await bob.get(room.path("context", event_id), limit=most)
    check(found.get("event", {}).get("event_id") == event_id, "the event and what is around it", came=found)
    for path, body in (
        ("/publicRooms", {"limit": most}),
        ("/user_directory/search", {"search_term": alice.localpart, "limit": most}),
    ):
        check("results" in (told := await bob.post(path, body)) or "chunk" in told, f"an answer of {path}", came=told)
    for wrong in (-1, -most):
        answer = await bob.request("GET", room.path("messages"), query={"dir": "b", "limit": wrong})
        check(answer.status in (200, 400), "200 or 400 for a negative limit", came=answer.status)


@story(
    "SQL is nothing but text, wherever Eve writes it",
    shows="promise: the injection of SQL is tried and harmless",
    needs=users(2),
)
async def sql(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, eve)
    await eve.set_profile("displayname", SQL)
    check_equal(SQL, (await bob.profile(eve)).get("displayname"), "Eve's name")
    said = await eve.say(room, SQL)
    check_equal(SQL, (await bob.sees(room, said))["content"]["body"], "what Eve says")
    own = await eve.create_room(name=SQL, topic=SQL)
    state = await eve.set_state(own, SQL, {"key": SQL}, SQL)
    check_equal({"key": SQL}, await eve.state(own, SQL, SQL), "the state")
    check(state, "an event ID", came=state)
    await eve.set_account_data(SQL, {SQL: SQL})
    check_equal({SQL: SQL}, await eve.account_data(SQL), "the account data")
    for path in (
        path_of("profile", f"@{SQL}:{eve.server.name}"),
        path_of("directory", "room", f"#{SQL}:{eve.server.name}"),
        path_of("rooms", SQL, "state"),
        room.path("event", SQL),
        room.path("context", SQL),
        path_of("user", eve.user_id, "filter", SQL),
        path_of("devices", SQL),
        path_of("pushrules", "global", "override", SQL),
    ):
        check_refused(await eve.request("GET", path), path)
    for user in (SQL, f"@{SQL}:{eve.server.name}", f"{alice.localpart}' OR '1'='1"):
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": SQL}
        check_refused(await scene.server.request("POST", "/login", body), f"the login of {user!r}")
    for header in (f"Bearer {SQL}", "Bearer '--", SQL):
        answer = await scene.server.request("GET", "/account/whoami", headers={"Authorization": header})
        check_equal(401, answer.status, f"the status of the token {header}")
    for term in (SQL, "%_%' OR 1=1 --"):
        found = await eve.post("/user_directory/search", {"search_term": term})
        check(alice.user_id not in str(found), "Alice not to be found by that", came=found)
        await eve.post("/publicRooms", {"filter": {"generic_search_term": term}})
    await check_served(alice, bob, eve)


@story(
    "Eve floods a room with state; what Alice says in another room reaches Bob meanwhile, and the state is whole",
    shows="promise: who floods a room holds up nobody else",
    needs=users(2),
    time_limit_s=60,
)
async def flood(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    quiet = await alice.create_room_with(bob)
    await bob.catch_up()
    own = await eve.create_room(preset="private_chat")
    count = int(60 * scene.scale)

    async def some(first: int) -> None:
        for number in range(first, count, 5):
            await eve.set_state(own, "org.example.flood", {"number": number}, f"{number}")

    async def talk() -> None:
        for number in range(5):
            await bob.sees(quiet, await alice.say(quiet, f"{number}"), within_s=5)

    await together(*(some(first) for first in range(5)), talk())
    answer = await eve.request("GET", own.path("state"))
    found = {each["state_key"] for each in answer.json if each["type"] == "org.example.flood"}
    check_equal({f"{number}" for number in range(count)}, found, "the state of Eve's room")


@story(
    "IDs of 255 bytes are taken, of 256 refused, however few characters they have; an event of 64 KiB is too large",
    shows="client-server API, 'Size limits'",
    needs=users(2),
)
async def sizes(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_state(room, "org.example.key", {"fits": True}, "x" * 255)
    await alice.set_state(room, "org.example.key", {"fits": True}, "🙂" * 63 + "xyz")
    for key in ("x" * 256, "🙂" * 64):
        answer = await alice.request("PUT", room.path("state", "org.example.key", key), {"fits": False})
        check_refused(answer, f"a state key of {len(key.encode())} bytes")
    large = {"msgtype": "m.text", "body": "x" * 66_000}
    answer = await alice.request("PUT", room.path("send", "t" * 256, "1"), {})
    check_refused(answer, "a type of 256 bytes")
    answer = await alice.request("PUT", room.path("send", "m.room.message", "2"), large)
    check_equal((413, "M_TOO_LARGE"), (answer.status, answer.errcode), "the answer to an event of 66 kB")
    said = await alice.say(room, "x" * 60_000)
    check_equal(60_000, len((await bob.sees(room, said))["content"]["body"]), "the length of what Bob reads")
