"""A new password, and the end of an account."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.signing_up import fresh_password
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

LOGIN = feature("password login")


@story(
    "Alice changes her password: her other devices are out, the one in her hand stays",
    shows="client-server API, 'Password management': POST /account/password, logout_devices",
    needs=users(1) + LOGIN,
)
async def changes(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone")
    old, new = alice.password, fresh_password()
    await alice.confirm("POST", "/account/password", {"new_password": new})
    await alice.get("/account/whoami")
    with refused(401, "M_UNKNOWN_TOKEN", what="the sync of the phone"):
        await phone.sync()
    with refused(403, "M_FORBIDDEN", what="a login with the old password"):
        await alice.log_in("Eve, who has the old password")
    alice.password = new
    await alice.log_in("Alice, with the new password")
    check(old != new, "another password", came=new)


@story(
    "Alice changes her password and leaves her devices logged in",
    shows="client-server API, 'Password management': logout_devices false",
    needs=users(1) + LOGIN,
)
async def leaves_devices(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone")
    new = fresh_password()
    await alice.confirm("POST", "/account/password", {"new_password": new, "logout_devices": False})
    await phone.sync()
    with refused(403, "M_FORBIDDEN", what="a login with the old password"):
        await alice.log_in("Eve, who has the old password")
    alice.password = new
    await alice.log_in("Alice, with the new password")


@story(
    "Eve, who found Alice's phone unlocked, changes nothing without the password",
    shows="client-server API, 'User-Interactive Authentication API': 401 with errcode and error",
    needs=users(1) + LOGIN,
)
async def unlocked_phone(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Eve, with Alice's phone")
    phone.password = "a guess"
    for path, body in (("/account/password", {"new_password": fresh_password()}), ("/account/deactivate", {})):
        with refused(401, "M_FORBIDDEN", what=f"{path} with a guessed password"):
            await phone.confirm("POST", path, body)
    await alice.log_in("Alice, with her password")


@story(
    "What Alice has proved for one thing is no proof for another",
    shows="client-server API, 'User-Interactive Authentication API': the session is of one request",
    needs=users(2) + LOGIN,
)
async def bound(scene: Scene) -> None:
    alice, bob = scene.users
    lost, phone = await alice.log_in("Alice's lost phone"), await alice.log_in("Alice's phone")
    asked = await alice.request("DELETE", f"/devices/{lost.device_id}", {})
    proof = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.localpart},
        "password": alice.password,
        "session": text(asked.json, "session"),
    }
    other = await alice.request("DELETE", f"/devices/{phone.device_id}", {"auth": proof})
    check(other.status in (400, 401, 403), "the other device's removal to be refused", came=other.status)
    bobs = await bob.request("DELETE", f"/devices/{bob.device_id}", {"auth": proof})
    check(bobs.status in (400, 401, 403), "the session to be worth nothing to Bob", came=bobs.status)
    for device in (phone, bob):
        await device.sync()


@story(
    "Alice closes her account: she is out of her rooms, her name stays hers, and nobody logs in by it",
    shows="client-server API, 'Account deactivation'",
    needs=users(2) + LOGIN,
)
async def closes(scene: Scene) -> None:
    alice, bob = scene.users
    room = await bob.create_room_with(alice)
    await alice.say(room, "Farewell!")
    phone = await alice.log_in("Alice's phone")
    await alice.confirm("POST", "/account/deactivate", {"erase": False})
    for device in (alice, phone):
        with refused(401, "M_UNKNOWN_TOKEN", what=f"the sync of {device}"):
            await device.sync()
    with refused(403, "M_FORBIDDEN", "M_USER_DEACTIVATED", what="a login"):
        await alice.log_in("Alice, with her password")
    await bob.until("Alice to be gone", lambda view: view.room(room).member(alice.user_id) == "leave")
    check_equal(["Farewell!"], await bob.texts(room), "what Bob reads still")
    body = {"username": alice.localpart, "password": fresh_password(), "auth": {"type": "m.login.dummy"}}
    with refused(400, 403, what="Eve's account by Alice's name"):
        (await scene.server.request("POST", "/register", body, who="Eve")).good()


@story(
    "Alice closes her account and takes her words with her: who comes later does not read them",
    shows="client-server API, 'Account deactivation': erase",
    needs=users(3) + LOGIN,
    expected_to_fail="Account management",
)
async def takes_her_words(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await bob.create_room_with(alice, preset="public_chat")
    said = await alice.say(room, "I was young and needed the money")
    bobs = await bob.say(room, "We all were")
    await alice.confirm("POST", "/account/deactivate", {"erase": True})
    await bob.until("Alice to be gone", lambda view: view.room(room).member(alice.user_id) == "leave")
    await carol.join(room)
    check_equal({}, (await carol.event(room, said))["content"], "what Carol reads of it")
    check_equal("We all were", (await carol.event(room, bobs))["content"]["body"], "what Bob said")
    check_equal(["We all were"], await carol.texts(room), "what she reads in the history")
    check_equal(2, len(await bob.texts(room)), "the messages that Bob, who was there, reads")
