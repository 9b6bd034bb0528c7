"""What is one's own: notes, tags, tokens, addresses, the names of devices. Nobody else is told."""

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import Answer, path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


async def all_that_bob_gets(bob: User, alice: User, room: Room) -> list[Answer]:
    """Return the answers to whatever Bob may ask about Alice and their room."""
    gets: list[tuple[str, dict[str, str]]] = [
        ("/sync", {"full_state": "true"}),
        *((each, {}) for each in ("/joined_rooms", "/devices", "/capabilities")),
        (path_of("profile", alice.user_id), {}),
        (path_of("presence", alice.user_id, "status"), {}),
        *((room.path(each), {}) for each in ("state", "members", "joined_members", "initialSync")),
        (room.path("messages"), {"dir": "b", "limit": "100"}),
    ]
    posts = [
        ("/keys/query", {"device_keys": {alice.user_id: []}}),
        ("/user_directory/search", {"search_term": alice.localpart}),
        ("/search", {"search_categories": {"room_events": {"search_term": "private"}}}),
    ]
    answers = await together(
        *(bob.request("GET", path, query=query) for path, query in gets),
        *(bob.request("POST", path, body) for path, body in posts),
    )
    failed = [f"{each.request}: {each.status}" for each in answers if each.status != 200]
    check(len(failed) <= 1, "all of that, maybe without a search, to be answered", came=failed)
    return answers


@story(
    "Nothing of what Alice keeps for herself is in anything that Bob, who is in a room with her, gets",
    shows="client-server API, 'Client Config', 'Room Tagging', 'Fully read markers', 'Device Management'",
    needs=users(2) + feature("password login"),
)
async def keeps(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    phone = await alice.log_in("Alice's phone", initial_device_display_name="Alice's secret phone", refresh_token=True)
    said = await bob.say(room, "Nothing is private here")
    await phone.set_account_data("org.example.note", {"note": "secret global note"})
    await phone.set_account_data("org.example.note", {"note": "secret note on the room"}, room=room)
    await phone.put(path_of("user", alice.user_id, "rooms", room.id, "tags", "u.secret tag"), {"order": 0.5})
    await phone.post(room.path("read_markers"), {"m.fully_read": said, "m.read.private": said})
    filter_of = path_of("user", alice.user_id, "filter")
    await phone.post(filter_of, {"room": {"rooms": ["!secretfilter:example.org"]}})
    secrets = {
        "her notes": "secret global note",
        "her notes on the room": "secret note on the room",
        "her tags": "u.secret tag",
        "the name of her phone": "Alice's secret phone",
        "her filter": "secretfilter",
        "her token": phone.token,
        "her other token": alice.token,
        "her password": alice.password,
        "her private receipt": "m.read.private",
        "her marker": "m.fully_read",
    } | ({"her refresh token": phone.refresh_token} if phone.refresh_token else {})
    await bob.say(room, "Is it?")
    for answer in await all_that_bob_gets(bob, alice, room):
        words = answer.body.decode()
        for what, secret in secrets.items():
            check(secret not in words, f"nothing of {what} in the answer to {answer.request}", came=words)
    own = (await alice.request("GET", "/sync")).body.decode()
    for what in ("her notes", "her notes on the room", "her tags", "her private receipt", "her marker"):
        check(secrets[what] in own, f"{what} in what Alice is told", came=own)
    check("Alice's secret phone" in str(await alice.get("/devices")), "the name of her phone for herself", came="no")


@story(
    "Bob reads and writes nothing of what is Alice's, though he knows where it is",
    shows="client-server API, 'Client Config', 'Room Tagging', 'Filtering': 403",
    needs=users(2),
)
async def knows_where(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_account_data("org.example.note", {"note": "mine"})
    number = (await alice.post(path_of("user", alice.user_id, "filter"), {}))["filter_id"]
    for method, *parts in (
        ("GET", "account_data", "org.example.note"),
        ("PUT", "account_data", "org.example.note"),
        ("GET", "rooms", room.id, "account_data", "org.example.note"),
        ("PUT", "rooms", room.id, "account_data", "org.example.note"),
        ("GET", "rooms", room.id, "tags"),
        ("PUT", "rooms", room.id, "tags", "u.mine"),
        ("DELETE", "rooms", room.id, "tags", "u.mine"),
        ("GET", "filter", number),
        ("POST", "filter"),
    ):
        answer = await bob.request(method, path_of("user", alice.user_id, *parts), None if method == "GET" else {})
        check(answer.status in (403, 404), f"Bob's {method} of Alice's {parts} to be refused", came=answer.status)
    with refused(400, 403, "M_FORBIDDEN", what="the name that Bob gives Alice"):
        await bob.put(path_of("profile", alice.user_id, "displayname"), {"displayname": "Fool"})
    check_equal({"note": "mine"}, await alice.account_data("org.example.note"), "Alice's note")


@story(
    "Where Alice connects from is told to her and not to Bob",
    shows="client-server API, 'Device Management': last_seen_ip",
    needs=users(2),
)
async def where_from(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "Guess where I am")
    (device,) = (await alice.get("/devices"))["devices"]
    check(device.get("last_seen_ip"), "the address for Alice", came=device)
    for answer in await all_that_bob_gets(bob, alice, room):
        if answer.request.startswith("GET /_matrix/client/v3/devices"):
            ids = [each["device_id"] for each in answer.json["devices"]]
            check_equal([bob.device_id], ids, "the devices that Bob is told of")
            continue
        words = answer.body.decode()
        for key in ("last_seen_ip", '"ip"', "user_agent"):
            check(key not in words, f"no {key} in the answer to {answer.request}", came=words)


@story(
    "A name that Alice gives herself is shown as it is, and runs nowhere",
    shows="client-server API, 'Profiles'; SQL and scripts in what people write are words",
    needs=users(2),
)
async def only_words(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    for words in (
        "<script>alert(1)</script>",
        "'; DROP TABLE users; --",
        '" OR 1=1 --',
        "%27 UNION SELECT 1",
        "${7*7}",
    ):
        await alice.set_profile("displayname", words)
        check_equal(words, (await bob.profile(alice)).get("displayname"), "Alice's name")
        said = await alice.say(room, words)
        answer = await bob.request("GET", room.path("event", said))
        check_equal(words, answer.json["content"]["body"], "what Bob reads")
        kind = answer.headers.get("content-type", "")
        check(kind.startswith("application/json"), "an answer that no browser takes for a page", came=kind)
        found = await bob.post("/user_directory/search", {"search_term": words})
        check(isinstance(found.get("results"), list), "a search for it to be a search", came=found)
    check_equal(5, len(await bob.texts(room)), "the messages that there are")
