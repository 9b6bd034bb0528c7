"""Words that are meant to do harm: they are stored and told as they are, and nothing else comes of them."""

import json
from typing import Final

from sytest_scenarios.asking import objects, together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

SQL: Final = (
    "'; DROP TABLE events; --",
    "' OR '1'='1",
    '"; DELETE FROM users WHERE "a"="a',
    "Robert'); DROP TABLE accounts;--",
    "1; UPDATE accounts SET is_admin=1; /*",
    "\\'; SELECT sleep(10) #",
    "%s %(name)s {0} ${x} :name ? ?1 @a",
    "x' UNION SELECT password FROM accounts --",
)
SCRIPTS: Final = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg/onload=alert('1')>",
    "javascript:alert(1)//",
    "</title></textarea></script><script>alert(1)</script>",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "../../../../etc/passwd",
    "$(touch /tmp/owned); `id` | nc 127.0.0.1 9",
    "\r\nSet-Cookie: a=b\r\n\r\n<html>",
)
KEYS: Final = (*SQL, *SCRIPTS[:5], SCRIPTS[6], "a/b?c#d&e=f;g+h%2F", "Fußball", "A", "a", "a ", "ä")


@story(
    "Eve says SQL and scripts, and all that comes of it is that Alice reads them",
    shows="what is said is stored and told as it was, and nothing else happens",
    needs=users(1),
    tags=["injection"],
)
async def in_messages(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(eve)
    words = ["before", *SQL, *SCRIPTS]
    for each in words:
        await eve.say(room, each, formatted_body=each, format="org.matrix.custom.html")
    check_equal(words, await alice.texts(room), "what Alice reads")
    answer = await alice.request("GET", room.path("messages"), query={"dir": "b"})
    kind = answer.headers.get("content-type", "")
    check(kind.startswith("application/json"), "what was said to come as JSON, which a browser does not run", came=kind)


@story(
    "Rooms and people may be called SQL and scripts, and are",
    shows="names are stored and told as they were",
    needs=users(1),
    tags=["injection"],
)
async def in_names(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await eve.create_room_with(alice)
    for each in (SQL[0], SQL[3], SCRIPTS[0], SCRIPTS[2]):
        await together(
            eve.set_profile("displayname", each),
            eve.set_state(room, "m.room.name", {"name": each}),
            eve.set_state(room, "m.room.topic", {"topic": each}),
        )
        check_equal(each, (await alice.profile(eve)).get("displayname"), "Eve's name")
        check_equal(each, (await alice.state(room, "m.room.name")).get("name"), "the name of the room")
        check_equal(each, (await alice.state(room, "m.room.topic")).get("topic"), "its topic")
    check_equal("join", (await alice.members(room)).get(alice.user_id), "Alice's membership, after all that")


@story(
    "Types, state keys and transaction IDs of SQL and slashes are names like others",
    shows="client-server API, 'Room Events'; percent-encoding of paths",
    needs=users(1),
    tags=["injection"],
)
async def in_keys(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await eve.create_room_with(alice)
    numbered = list(enumerate(KEYS))
    await together(
        *(eve.set_state(room, "com.example.note", {"number": number}, each) for number, each in numbered),
        *(eve.send(room, f"com.example.{each}", {"number": number}, transaction_id=each) for number, each in numbered),
    )
    state = objects((await alice.request("GET", room.path("state"))).json)
    notes = {one["state_key"]: one["content"].get("number") for one in state if one["type"] == "com.example.note"}
    check_equal({each: number for number, each in numbered}, notes, "the state by its keys")
    found = await together(*(alice.state(room, "com.example.note", each) for each in KEYS))
    check_equal([number for number, _ in numbered], [one.get("number") for one in found], "the state, each for itself")
    events = {one["type"]: one["content"]["number"] for one in await alice.history(room) if "state_key" not in one}
    check_equal({f"com.example.{each}": number for number, each in numbered}, events, "the events by their types")


@story(
    "Searching for people by SQL and wildcards finds nobody who is not called so",
    shows="client-server API, 'User Directory'; a search term is text",
    needs=users(1),
    tags=["injection"],
)
async def in_searches(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    await alice.create_room_with(eve, preset="public_chat")
    for each in ("%", "_", "%%%", "*", "' OR 1=1 --", '"', "a' UNION SELECT name FROM users --", "NEAR(", "\\"):
        found = await eve.post("/user_directory/search", {"search_term": each})
        names = [one["user_id"] for one in found["results"]]
        check(alice.user_id not in names, f"nobody to be found by {each}", came=names)
    found = await eve.post("/user_directory/search", {"search_term": alice.localpart})
    check_equal([alice.user_id], [one["user_id"] for one in found["results"]], "who is found by her name")


@story(
    "Rooms are searched for by SQL, and none is found that is not called so",
    shows="client-server API, 'Published room directory': generic_search_term is text",
    needs=users(1),
    tags=["injection"],
)
async def in_directory(scene: Scene) -> None:
    await not_found_by(scene, "' OR '1'='1", "x' OR name LIKE 'C", '"; DROP TABLE rooms; --')


@story(
    "Rooms are searched for by what databases take for wildcards, and none is found that is not called so",
    shows="a search term is text; which words find a room the specification leaves to the server",
    needs=users(1) + feature("promises of Sennit"),
    tags=["injection"],
)
async def wildcards_in_directory(scene: Scene) -> None:
    await not_found_by(scene, "%", "____", "%' --", "Chess%{name}")


async def not_found_by(scene: Scene, *terms: str) -> None:
    """Have Alice publish a room, and Eve look for it by these terms in vain, and by a part of its name with success."""
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    name = f"Chess {alice.localpart}"
    room = await alice.create_room(preset="public_chat", visibility="public", name=name)
    for term in terms:
        each = term.replace("{name}", alice.localpart)
        found = await eve.post("/publicRooms", {"filter": {"generic_search_term": each}})
        ids = [one["room_id"] for one in found["chunk"]]
        check(room.id not in ids, f"the room not to be found by {each}", came=ids)
    found = await eve.post("/publicRooms", {"filter": {"generic_search_term": alice.localpart}})
    check_equal([room.id], [one["room_id"] for one in found["chunk"]], "what is found by a part of its name")


@story(
    "Filters, tags and account data of SQL come back as they were, and filter as they say",
    shows="client-server API, 'Filtering', 'Client Config', 'Room Tagging'",
    needs=users(1),
    tags=["injection"],
)
async def in_settings(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await eve.create_room_with(alice)
    for each in (*SQL, *SCRIPTS[:5]):
        wanted = {"types": [each, f"{each}*"]}
        check_equal([], await eve.history(room, filter=json.dumps(wanted)), f"what is found by the filter {each}")
        await eve.set_account_data(f"com.example.{each}", {"text": each})
        check_equal({"text": each}, await eve.account_data(f"com.example.{each}"), f"the account data {each}")
    stored = {"room": {"timeline": {"types": [*SQL]}}}
    filter_id = (await eve.post(f"/user/{eve.user_id}/filter", stored))["filter_id"]
    check_equal(stored, await eve.get(f"/user/{eve.user_id}/filter/{filter_id}"), "the filter that was stored")
    said = await alice.say(room, "Hello")
    await eve.sees(room, said)


@story(
    "An error that tells what it was about is JSON, in which no script runs",
    shows="client-server API, 'Standard error response'",
    tags=["injection"],
)
async def in_errors(scene: Scene) -> None:
    eve = await scene.new_user("Eve")
    here = scene.server.name
    for path in (
        "/_matrix/<script>alert(1)</script>",
        "/_matrix/client/v3/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        f"/profile/%40%3Cscript%3E%3A{here}",
        f"/rooms/%21%3Cscript%3E%3A{here}/messages",
        f"/directory/room/%23%22%3E%3Cscript%3E%3A{here}",
    ):
        answer = await eve.request("GET", path, query={"dir": "<script>alert(1)</script>"})
        check(400 <= answer.status < 500, f"an error for {path}", came=answer.status)
        check(answer.errcode, "an error of Matrix", came=answer.body[:200])
        kind = answer.headers.get("content-type", "")
        check(kind.startswith("application/json"), "the error to be JSON", came=kind)
