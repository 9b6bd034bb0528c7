"""A bridge: it is told what happens in its rooms, in order and once, and speaks as its users."""

import time

from sytest_scenarios.actors import Room, User
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.bridge import BRIDGE, ID, PREFIX, Bridge, Transaction, bridge_of
from sytest_scenarios.props.device_keys import CrossSigningKeys, DeviceKeys, claim, devices_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, feature, story, users

PUSHING = "application service API, 'Pushing events'"


@story(
    "What is said in a room with the bridge's user is pushed to it, in order and once, and nothing of other rooms",
    shows=f"{PUSHING}; 'Authorisation'",
    needs=users(2) + BRIDGE,
)
async def pushed(scene: Scene) -> None:
    alice, bob = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")
    room, private = await alice.create_room_with(bob, heron), await alice.create_room_with(bob)
    await alice.say(private, "between us")
    words = [f"message {number}" for number in range(10)]
    for word in words:
        await alice.say(room, word)
    await bridge.until("all that was said", lambda: len(bridge.texts(room)) >= len(words))
    await alice.say(room, "the end")
    await bridge.until("the end", lambda: "the end" in bridge.texts(room))
    check_equal([*words, "the end"], bridge.texts(room), "what was pushed of the room")
    check_equal([], bridge.events(private), "what was pushed of the private room")
    invites = [
        each["content"]["membership"]
        for each in bridge.events(room, "m.room.member")
        if each["state_key"] == heron.user_id
    ]
    check_equal(["invite", "join"], invites, "what was pushed of its own user's membership")
    event = bridge.events(room, "m.room.message")[0]
    check_equal((alice.user_id, room.id), (event["sender"], event["room_id"]), "the sender and the room")
    check(
        all(each.authorization == f"Bearer {bridge.hs_token}" for each in bridge.transactions), "the hs_token", came=""
    )


@story(
    "The bridge speaks as its users, at the time when it was said elsewhere, and as nobody else",
    shows="application service API, 'Identity assertion', 'Timestamp massaging'",
    needs=users(2) + BRIDGE,
)
async def speaks(scene: Scene) -> None:
    alice, bob = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")
    room = await alice.create_room_with(heron)
    await heron.set_profile("displayname", "Heron (elsewhere)")
    said = await heron.say(room, "Hello from elsewhere")
    event = await alice.sees(room, said)
    check_equal((heron.user_id, "Hello from elsewhere"), (event["sender"], event["content"]["body"]), "what Alice sees")
    an_hour_ago = time.time_ns() // 1_000_000 - 3_600_000
    path = room.path("send", "m.room.message", "late")
    late = await heron.put(path, {"msgtype": "m.text", "body": "earlier"}, ts=an_hour_ago)
    event = await alice.sees(room, late["event_id"])
    check_equal(an_hour_ago, event["origin_server_ts"], "the time of what was said an hour ago")
    plain = room.path("send", "m.room.message", "now")
    now = await alice.put(plain, {"msgtype": "m.text", "body": "now"}, ts=an_hour_ago)
    event = await alice.sees(room, now["event_id"])
    check(event["origin_server_ts"] > an_hour_ago + 1_800_000, "Alice's own time not to be hers to choose", came=event)
    answer = await bridge.ask(scene.server, "PUT", room.path("send", "m.room.message", "x"), {}, user_id=bob.user_id)
    check_equal(403, answer.status, f"the answer to the bridge that would be Bob ({answer.errcode})")
    answer = await bridge.ask(scene.server, "GET", "/account/whoami")
    check_equal(f"@{PREFIX}bot:{scene.server.name}", answer.good()["user_id"], "who the bridge is of itself")


@story(
    "Names that the bridge has for itself cannot be had by others, nor others' names by the bridge",
    shows="application service API, 'Server admin style permissions': M_EXCLUSIVE",
    needs=users(1) + BRIDGE + feature("open registration"),
)
async def exclusive(scene: Scene) -> None:
    (alice,) = scene.users
    bridge = await bridge_of(scene)
    body = {
        "username": f"elsewhere-{alice.localpart}",
        "password": "correct horse battery",
        "auth": {"type": "m.login.dummy"},
    }
    answer = await scene.server.request("POST", "/register", body, who="Eve")
    check_equal((400, "M_EXCLUSIVE"), (answer.status, answer.errcode), "the answer to Eve, who wants such a name")
    room = await alice.create_room()
    alias = f"#{PREFIX}harbour-{alice.localpart}:{scene.server.name}"
    with refused(400, 403, "M_EXCLUSIVE", what="such an alias, for Alice"):
        await alice.put(path_of("directory", "room", alias), {"room_id": room.id})
    answer = await bridge.register(scene.server, f"stolen-{alice.localpart}")
    check_equal(
        (400, "M_EXCLUSIVE"), (answer.status, answer.errcode), "the answer to the bridge that wants another name"
    )
    mine = await bridge.register(scene.server, f"elsewhere-{alice.localpart}")
    check_equal(200, mine.status, f"the answer to the bridge that wants Eve's ({mine.errcode})")
    wrong = {"type": "m.login.application_service", "username": f"{PREFIX}eve"}
    answer = await scene.server.request("POST", "/register", wrong, who="Eve", headers={"Authorization": "Bearer no"})
    check_equal(401, answer.status, "the answer to who has not the token of the bridge")
    heron = await bridge.new_puppet(scene, "heron")
    herons = await heron.create_room()
    await heron.put(path_of("directory", "room", alias), {"room_id": herons.id})
    found = await alice.get(path_of("directory", "room", alias))
    check_equal(herons.id, found["room_id"], "where the alias leads")


@story(
    "Eve, who wants a name that begins as those of the bridge do, with an underscore, is told whose it is",
    shows="application service API, 'Server admin style permissions': M_EXCLUSIVE; 'Registration': an underscore",
    needs=BRIDGE + feature("open registration"),
    unlike={
        "synapse": "answers M_INVALID_USERNAME; the spec, 'Server admin style permissions': who 'attempt to create "
        "users inside an application service-defined namespace will receive the same M_EXCLUSIVE error code'"
    },
)
async def underscore(scene: Scene) -> None:
    body = {"username": f"{PREFIX}eve", "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
    answer = await scene.server.request("POST", "/register", body, who="Eve")
    check_equal((400, "M_EXCLUSIVE"), (answer.status, answer.errcode), "the answer to Eve")
    asked = await scene.server.request("GET", "/register/available", who="Eve", query={"username": f"{PREFIX}eve"})
    check_equal((400, "M_EXCLUSIVE"), (asked.status, asked.errcode), "the answer to Eve, who asks whether it is free")


@story(
    "Alice goes to an alias of the bridge that does not exist yet; the bridge is asked, makes the room, and she is in",
    shows="application service API, 'Querying'",
    needs=users(1) + BRIDGE,
)
async def asked_for(scene: Scene) -> None:
    (alice,) = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")
    name = f"{PREFIX}pier-{alice.localpart}"
    alias = f"#{name}:{scene.server.name}"
    made: list[Room] = []

    async def make() -> None:
        made.append(await heron.create_room(preset="public_chat"))
        await heron.put(path_of("directory", "room", alias), {"room_id": made[0].id})

    bridge.makes[alias] = make
    room = await alice.join(alias)
    check_equal([room.id], [each.id for each in made], "the room in which Alice is")
    none = f"#{PREFIX}nowhere-{alice.localpart}:{scene.server.name}"
    with refused(404, "M_NOT_FOUND", what="an alias that the bridge does not know either"):
        await alice.join(none)
    check_equal([alias, none], [each for each in bridge.asked if alice.localpart in each], "what the bridge was asked")


@story(
    "The bridge asks whether it can be reached, and the server pings it; who is no bridge may not ask",
    shows="application service API, 'Pinging'",
    needs=users(1) + BRIDGE,
)
async def pinged(scene: Scene) -> None:
    (alice,) = scene.users
    bridge = await bridge_of(scene)
    path = f"/_matrix/client/v1/appservice/{ID}/ping"
    found = (await bridge.ask(scene.server, "POST", path, {"transaction_id": alice.localpart})).good()
    check(isinstance(found.get("duration_ms"), int), "duration_ms", came=found)
    check({"transaction_id": alice.localpart} in bridge.pings, "a ping with the transaction ID", came=bridge.pings)
    with refused(403, "M_FORBIDDEN", what="a ping that Alice asks for"):
        await alice.post(path, {"transaction_id": "hers"})
    check({"transaction_id": "hers"} not in bridge.pings, "no ping for Alice", came=bridge.pings)


@story(
    "Alice types and reads where the bridge's user is: the bridge is told, and not of Bob's other room",
    shows="application service API, 'Pushing ephemeral data'",
    needs=users(2) + BRIDGE,
)
async def ephemeral(scene: Scene) -> None:
    alice, bob = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")
    room, private = await alice.create_room_with(heron), await bob.create_room_with(alice)
    await bob.type(private)
    said = await heron.say(room, "Did you read this?")
    await alice.read(room, said)
    await alice.type(room)

    def of(event_type: str, where: Room) -> list[dict[str, object]]:
        return [each["content"] for each in bridge.ephemeral(event_type) if each.get("room_id") == where.id]

    await bridge.until("Alice's receipt", lambda: [each for each in of("m.receipt", room) if said in each])
    await bridge.until("Alice to type", lambda: {"user_ids": [alice.user_id]} in of("m.typing", room))
    check_equal([], of("m.typing", private), "who types in the private room")


@story(
    "The bridge makes a device for its user, gives it keys, vouches for it and removes it, all without a password",
    shows="application service API, 'Device management', 'Cross-signing', 'Identity assertion': device_id",
    needs=users(1) + BRIDGE,
)
async def encrypts(scene: Scene) -> None:
    (alice,) = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")
    await alice.create_room_with(heron)
    made = await heron.request("PUT", "/devices/NEST", {"display_name": "the nest"})
    check_equal(201, made.status, "the status of a device that was made")
    heron.device_id = "NEST"
    device = DeviceKeys(heron)
    keys = {"device_keys": device.published, "one_time_keys": device.one_time_keys(1)}
    path = "/keys/upload"
    answer = await heron.request("POST", path, keys, query={"device_id": "NOSUCHDEVICE"})
    check_equal((400, "M_UNKNOWN_DEVICE"), (answer.status, answer.errcode), "the answer as an unknown device")
    await heron.post(path, keys, device_id="NEST")
    check_equal({"NEST"}, set(await devices_of(alice, heron)), "the devices that Alice sees")
    check(await claim(alice, heron), "a one-time key for Alice", came="none")
    for mine in (CrossSigningKeys(heron), CrossSigningKeys(heron)):
        scene.step("The bridge uploads cross-signing keys")
        await heron.post("/keys/device_signing/upload", mine.published)
    await heron.delete("/devices/NEST")
    check_equal({}, await devices_of(alice, heron), "the devices that Alice sees afterwards")


@story(
    "The bridge logs in as its user, without a password, and as nobody else",
    shows="application service API, 'Server admin style permissions': m.login.application_service",
    needs=users(1) + BRIDGE + feature("login of application services"),
    unlike={
        "synapse": "answers M_FORBIDDEN; the spec, 'Server admin style permissions': who 'log in as users outside of "
        "their defined namespaces will receive an error code M_EXCLUSIVE'"
    },
)
async def logs_in(scene: Scene) -> None:
    (alice,) = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")

    def as_user(localpart: str) -> dict[str, object]:
        return {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": localpart}}

    found = (await bridge.ask(scene.server, "POST", "/login", as_user(heron.localpart))).good()
    session = User("Heron", scene.server, found["user_id"], "", found["access_token"], found["device_id"])
    room = await alice.create_room_with(session)
    said = await session.say(room, "with a token of my own")
    check_equal(heron.user_id, (await alice.sees(room, said))["sender"], "who said it")
    answer = await bridge.ask(scene.server, "POST", "/login", as_user(alice.localpart))
    check_equal("M_EXCLUSIVE", answer.errcode, f"the answer to the bridge that would be Alice ({answer.status})")
    nobody = await scene.server.request("POST", "/login", as_user(heron.localpart), who="Eve")
    check_equal((401, "M_MISSING_TOKEN"), (nobody.status, nobody.errcode), "the answer to who has no token")


@story(
    "The bridge is down, then broken, then up: everything comes, in order, and nothing twice",
    shows=f"{PUSHING}: a queue of transactions, retried with the same transaction ID",
    needs=users(1) + BRIDGE + OWN_SERVER,
    time_limit_s=90,
    tags=["slow"],
)
async def down(scene: Scene) -> None:
    (alice,) = scene.users
    bridge = await bridge_of(scene)
    heron = await bridge.new_puppet(scene, "heron")
    room = await alice.create_room_with(heron)
    await alice.say(room, "before")
    await bridge.until("what was said before", lambda: bridge.texts(room) == ["before"])
    await bridge.stop()
    words = ["while it is down", "and again", "and once more"]
    await alice.say(room, words[0])
    bridge.status = 500
    bridge.listen()
    first, *_ = await bridge.until("a first attempt", lambda: failed(bridge), within_s=30)
    for word in words[1:]:
        await alice.say(room, word)
    bridge.status = 200
    await bridge.until("all of it", lambda: len(bridge.texts(room)) > len(words), within_s=30)
    check_equal(["before", *words], bridge.texts(room), "what was pushed in the end")
    again = [each for each in bridge.taken if each.id == first.id]
    check_equal([ids(first)], [ids(each) for each in again], "the events that came again under the same ID")


def failed(bridge: Bridge) -> list[Transaction]:
    """Return the transactions that were refused."""
    return [each for each in bridge.transactions if not each.accepted]


def ids(transaction: Transaction) -> list[str]:
    """Return the IDs of the events that were pushed."""
    return [each["event_id"] for each in transaction.body["events"]]
