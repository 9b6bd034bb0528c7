"""Bodies that are no JSON, or no JSON that the endpoint takes."""

from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import Answer
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

NO_JSON = {
    "half an object": b'{"body": "x"',
    "plain text": b"hello",
    "invalid UTF-8": b'{"body": "\xff\xfe"}',
    "NaN": b'{"body": NaN}',
    "text behind it": b'{"body": "x"} and more',
    "a list": b"[]",
    "a text": b'"body"',
    "null": b"null",
    "a number": b"7",
    "ten thousand lists": b'{"body": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "ten thousand objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a hundred thousand openings": b"[" * 100_000,
}
WRONG: dict[str, Any] = {
    "a number": 7,
    "a text": "text",
    "a list": ["list"],
    "an object": {"an": "object"},
    "a yes": True,
}


def check_refused(answer: Answer, what: str) -> None:
    """Check that a request was refused as a fault of who sent it, in the form of Matrix."""
    check(400 <= answer.status < 500, f"{what} to be refused with 4xx", came=f"{answer.status} {answer.body[:300]!r}")
    check(answer.errcode, f"an errcode for {what}", came=answer.body[:300].decode("utf-8", "replace"))


async def check_served(*people: User) -> None:
    """Check that people are served as if nothing were."""
    for each in people:
        check_equal(each.user_id, (await each.get("/account/whoami")).get("user_id"), f"who {each} is")


@story(
    "Eve sends bodies that are no JSON objects: 400, nothing is stored, and Bob is served",
    shows="client-server API, 'Standard error response' (M_NOT_JSON, M_BAD_JSON)",
    needs=users(2),
)
async def no_json(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, eve)
    before = [each["event_id"] for each in await alice.history(room)]
    asked = {
        "a message": ("PUT", room.path("send", "m.room.message", "t")),
        "state": ("PUT", room.path("state", "org.example.x", "")),
        "a room": ("POST", "/createRoom"),
        "account data": ("PUT", f"/user/{eve.user_id}/account_data/org.example.x"),
        "a login": ("POST", "/login"),
        "a filter": ("POST", f"/user/{eve.user_id}/filter"),
    }
    for what, (method, path) in asked.items():
        for kind, body in NO_JSON.items():
            answer = await eve.request(method, path, body)
            check_refused(answer, f"{kind} as {what}")
            is_right = answer.status == 400 and answer.errcode in ("M_NOT_JSON", "M_BAD_JSON")
            is_right = is_right or (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
            check(is_right, f"400 M_NOT_JSON or M_BAD_JSON for {kind} as {what}", came=answer.body.decode())
        await check_served(bob)
    check_equal(before, [each["event_id"] for each in await alice.history(room)], "the events of the room")
    check_equal([room.id], (await eve.get("/joined_rooms"))["joined_rooms"], "Eve's rooms")


@story(
    "Numbers that JSON of Matrix does not have are refused in events, and the largest one comes back as it was",
    shows="appendices, 'Canonical JSON'",
    needs=users(2),
)
async def numbers(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    path = room.path("send", "org.example.number")
    wrong = {"2^53": 2**53, "-2^53": -(2**53), "a half": 0.5, "10^400": 10**400, "a hundredth": 1e-2}
    for number, (what, value) in enumerate(wrong.items()):
        body = f'{{"n": {value}}}'.encode()
        answer = await alice.request("PUT", f"{path}/{number}", body)
        check_refused(answer, what)
    largest = await alice.send(room, "org.example.number", {"n": 2**53 - 1, "m": -(2**53 - 1)})
    seen = await bob.sees(room, largest)
    check_equal({"n": 2**53 - 1, "m": -(2**53 - 1)}, seen["content"], "the largest numbers")
    check_equal([seen["event_id"]], _ids(bob, room.id, "org.example.number"), "the events with numbers")


@story(
    "Infinite numbers and halves of characters are refused, and nothing is stored",
    shows="appendices, 'Canonical JSON'; client-server API, 'Common error codes' (M_BAD_JSON)",
    needs=users(1),
    unlike={"synapse": "answers 500; 'Common error codes' has M_BAD_JSON for invalid values of keys"},
)
async def infinity(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room()
    before = [each["event_id"] for each in await alice.history(room)]
    wrong = [
        b'{"n": 1e400}',
        b'{"n": -1e400}',
        b'{"n": {"m": [1e999999]}}',
        b'{"n": "half \\ud800"}',
        b'{"\\udfff": 1}',
    ]
    for number, body in enumerate(wrong):
        answer = await alice.request("PUT", room.path("send", "org.example.number", f"{number}"), body)
        check_refused(answer, body.decode())
    check_equal(before, [each["event_id"] for each in await alice.history(room)], "the events of the room")


@story(
    "Texts of every kind come back as they were said: NUL, emoji, right to left, SQL, trailing spaces",
    shows="appendices, 'Canonical JSON'; client-server API, 'API Standards'",
    needs=users(2),
)
async def texts(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    kept = [
        "a\x00b",
        "👩‍👩‍👧‍👦 🏳️‍🌈",
        "e\u0301 é",
        "\u202etfel",
        "\ufeffx",
        "\u2028",
        "trailing ",
        "'; DROP TABLE events; --",
        "%_\\",
    ]
    text = {"msgtype": "m.text"}
    for number, each in enumerate(kept):
        answer = await alice.request("PUT", room.path("send", "m.room.message", f"t{number}"), {**text, "body": each})
        if answer.status == 200:
            check_equal(each, (await bob.event(room, answer.json["event_id"]))["content"].get("body"), "what Bob reads")
        else:
            check_refused(answer, repr(each))
            check("\x00" in each, f"{each!r} to be taken", came=answer.body.decode())
    last = await alice.say(room, "the last")
    await bob.sees(room, last)


@story(
    "Every field of a new room is of a wrong type once: each is refused, and no room is made",
    shows="client-server API, 'Creation', 'Common error codes' (M_BAD_JSON)",
    unlike={"synapse": "answers 500 to some; 'Common error codes' has M_BAD_JSON for invalid values of keys"},
)
async def rooms(scene: Scene) -> None:
    eve = await scene.new_user("Eve")
    right = {
        "preset": "a text",
        "name": "a text",
        "topic": "a text",
        "room_alias_name": "a text",
        "room_version": "a text",
        "visibility": "a text",
        "invite": "a list",
        "initial_state": "a list",
        "creation_content": "an object",
        "power_level_content_override": "an object",
    }
    for field, kind in right.items():
        for wrong, value in WRONG.items():
            if wrong != kind:
                answer = await eve.request("POST", "/createRoom", {field: value})
                check_refused(answer, f"{wrong} as {field}")
    invites: list[Any] = [[7], ["nobody"], [{}], ["@"]]
    states: list[Any] = [[7], [{}], [{"type": 7, "content": {}}], [{"type": "x", "content": 7}]]
    for invited in invites:
        check_refused(await eve.request("POST", "/createRoom", {"invite": invited}), f"the invites {invited}")
    for state in states:
        check_refused(await eve.request("POST", "/createRoom", {"initial_state": state}), f"the state {state}")
    check_equal([], (await eve.get("/joined_rooms"))["joined_rooms"], "the rooms that were made")


@story(
    "Every field of a login and a registration is of a wrong type once: refused, and nobody gets in",
    shows="client-server API, 'Login', 'Account registration', 'Common error codes' (M_BAD_JSON)",
    needs=users(1) + feature("password login"),
    unlike={"synapse": "answers 500 to some; 'Common error codes' has M_BAD_JSON for invalid values of keys"},
)
async def accounts(scene: Scene) -> None:
    [alice] = scene.users
    login: dict[str, Any] = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.localpart},
        "password": alice.password,
    }
    for field in (*login, "device_id"):
        for wrong, value in WRONG.items():
            if field != "device_id" or not isinstance(value, str):
                answer = await scene.server.request("POST", "/login", {**login, field: value})
                is_same = field == "identifier" and wrong == "an object"
                check_refused(answer, f"{wrong} as {field} of a login" + (" with nothing in it" if is_same else ""))
    for value in WRONG.values():
        if not isinstance(value, str):
            person = {"type": "m.id.user", "user": value}
            check_refused(await scene.server.request("POST", "/login", {**login, "identifier": person}), "a login")
            body = {"username": value, "password": "long enough for everybody", "auth": {"type": "m.login.dummy"}}
            check_refused(await scene.server.request("POST", "/register", body), f"{value} as a user name")
            body = {"username": f"eve-{alice.localpart}", "password": value, "auth": {"type": "m.login.dummy"}}
            check_refused(await scene.server.request("POST", "/register", body), f"{value} as a password")
    answer = await scene.server.request("POST", "/login", login)
    check_equal(200, answer.status, "the status of the login as it must be")


@story(
    "Members, power levels and other state of wrong types are refused, and the room goes on as it was",
    shows="client-server API, 'Room membership', 'Permissions'; room version 10, 'Authorisation rules'",
    needs=users(2),
)
async def state(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    levels = await alice.state(room, "m.room.power_levels")
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("m.room.member", bob.user_id, {"membership": "emperor"}),
        ("m.room.member", bob.user_id, {"membership": 7}),
        ("m.room.member", "nobody", {"membership": "invite"}),
        ("m.room.member", bob.user_id, {}),
        ("m.room.power_levels", "", {**levels, "users": {bob.user_id: "100"}}),
        ("m.room.power_levels", "", {**levels, "users": []}),
        ("m.room.power_levels", "", {**levels, "users": {"bob": 50}}),
        ("m.room.power_levels", "", {**levels, "ban": "50"}),
        ("m.room.power_levels", "", {**levels, "events": {"m.room.name": None}}),
        ("m.room.create", "", {"room_version": "11"}),
    ]
    for event_type, state_key, content in wrong:
        answer = await alice.request("PUT", room.path("state", event_type, state_key), content)
        check_refused(answer, f"{event_type} {content}")
    check_equal(levels, await alice.state(room, "m.room.power_levels"), "the power levels")
    await bob.sees(room, await alice.say(room, "Still here"))


def _ids(user: User, room_id: str, event_type: str) -> list[str]:
    return [each["event_id"] for each in user.view.room(room_id).of_type(event_type)]
