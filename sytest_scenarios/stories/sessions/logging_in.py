"""Logging in: by which names, and what somebody learns who may not."""

from sytest_scenarios.actors import User
from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import Answer
from sytest_scenarios.props.signing_up import fresh_name
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

PASSWORDS = users(1) + feature("password login")


async def try_login(user: User, identifier: object, *, password: str | None = None, **more: object) -> Answer:
    """Ask for a session of whom the identifier names, with the user's password if no other is said."""
    body = {"type": "m.login.password", "identifier": identifier, "password": password or user.password, **more}
    return await user.server.request("POST", "/login", body, who=user.name)


@story(
    "Alice logs in by her user ID, and by the first part of it",
    shows="client-server API, 'Identifier types': 'Matrix User ID'",
    needs=PASSWORDS,
    tags=["smoke"],
)
async def by_name(scene: Scene) -> None:
    (alice,) = scene.users
    for name in (alice.user_id, alice.localpart):
        found = (await try_login(alice, {"type": "m.id.user", "user": name})).good()
        check_equal(alice.user_id, found.get("user_id"), f"who logs in as {name}")
    elsewhere = f"@{alice.localpart}:elsewhere.example.org"
    with refused(400, 403, what="a login of a user of another server"):
        (await try_login(alice, {"type": "m.id.user", "user": elsewhere})).good()


@story(
    "Nobody learns from a login whether a name is somebody's",
    shows="client-server API, 'Login': 403 M_FORBIDDEN; docs/configuration.md",
    needs=PASSWORDS,
)
async def alike(scene: Scene) -> None:
    (alice,) = scene.users
    nobody = fresh_name("alice")
    names = {"Alice": alice.user_id, "nobody": f"@{nobody}:{scene.server.name}"}
    answers = {
        who: await try_login(alice, {"type": "m.id.user", "user": name}, password="a guess")
        for who, name in names.items()
    }
    for answer in answers.values():
        check_equal((403, "M_FORBIDDEN"), (answer.status, answer.errcode), "the answer to a guess")
    check_equal(answers["nobody"].body, answers["Alice"].body, "what is told of Alice, next to what is told of nobody")


@story(
    "An address that belongs to nobody is refused as a wrong password is, and rubbish as rubbish",
    shows="client-server API, 'Third-party ID': 403; 'Login': 400",
    needs=PASSWORDS,
)
async def identifiers(scene: Scene) -> None:
    (alice,) = scene.users
    mail = {"type": "m.id.thirdparty", "medium": "email", "address": "nobody@example.org"}
    with refused(403, "M_FORBIDDEN", what="a login by an address of nobody"):
        (await try_login(alice, mail)).good()
    for rubbish in ({"type": "org.example.aura"}, {"user": alice.localpart, "type": 7}, {"type": "m.id.user"}):
        with refused(400, what=f"a login by {rubbish}"):
            (await try_login(alice, rubbish)).good()


@story(
    "The server says how one may log in, and in no other way anybody does",
    shows="client-server API, 'Login': GET /login; POST /login, 400",
    needs=PASSWORDS,
)
async def flows(scene: Scene) -> None:
    (alice,) = scene.users
    offered = [text(each, "type") for each in (await scene.server.get("/login"))["flows"]]
    check("m.login.password" in offered, "m.login.password among the ways", came=offered)
    identifier = {"type": "m.id.user", "user": alice.localpart}
    for kind in ("m.login.dummy", "m.login.royal_blood", "", None):
        with refused(400, 403, what=f"a login of type {kind!r}"):
            (await try_login(alice, identifier, type=kind)).good()


@story(
    "A device keeps the name that Alice gave it when she logs in there again",
    shows="client-server API, 'Login': POST /login, initial_device_display_name",
    needs=PASSWORDS,
)
async def keeps_its_name(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone", initial_device_display_name="Phone")
    check_equal("Phone", (await alice.get(f"/devices/{phone.device_id}")).get("display_name"), "the first name")
    again = await alice.log_in("the phone", device_id=phone.device_id, initial_device_display_name="Telephone")
    check_equal("Phone", (await again.get(f"/devices/{phone.device_id}")).get("display_name"), "the name after that")
    check_equal(2, len((await alice.get("/devices"))["devices"]), "the number of Alice's devices")


@story(
    "Alice is logged in on five devices at once, and each is told the same",
    shows="client-server API, 'Relationship between access tokens and devices'; 'Syncing'",
    needs=users(2) + feature("password login"),
)
async def five_devices(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    devices = [await alice.log_in(f"Alice's device {number}") for number in range(2, 6)]
    tokens = {each.token for each in (alice, *devices)}
    check_equal((5, 5), (len(tokens), len((await alice.get("/devices"))["devices"])), "tokens and devices")
    said = await bob.say(room, "Hello, all of you!")
    for device in (alice, *devices):
        await device.sees(room, said)
    scene.step("One of them goes, the others stay")
    await devices[0].log_out()
    with refused(401, "M_UNKNOWN_TOKEN", what="the sync of the one that went"):
        await devices[0].sync()
    again = await bob.say(room, "And those who are left?")
    for device in (alice, *devices[1:]):
        await device.sees(room, again)


@story(
    "Alice logs out everywhere, and Bob stays",
    shows="client-server API, 'Login': POST /logout/all",
    needs=users(2) + feature("password login"),
)
async def everywhere(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await alice.log_in("Alice's phone")
    await alice.post("/logout/all")
    for device in (alice, phone):
        with refused(401, "M_UNKNOWN_TOKEN", what=f"the sync of {device} after that"):
            await device.sync()
    await bob.sync()
    fresh = await alice.log_in("Alice, who is back")
    names = [each["device_id"] for each in (await fresh.get("/devices"))["devices"]]
    check_equal([fresh.device_id], names, "Alice's devices after that")
