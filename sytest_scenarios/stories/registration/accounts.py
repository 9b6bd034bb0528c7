"""Making an account, logging in and out, and what happens without a good token."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Alice is known to the server as who she is",
    shows="client-server API, 'Current account information'",
    needs=users(1),
    tags=["smoke"],
)
async def whoami(scene: Scene) -> None:
    (alice,) = scene.users
    found = await alice.get("/account/whoami")
    check_equal(alice.user_id, found.get("user_id"), "the user ID")
    check_equal(alice.device_id, found.get("device_id"), "the device ID")


@story(
    "Eve cannot make an account by Alice's name",
    shows="client-server API, 'Account registration': M_USER_IN_USE",
    needs=users(1) + feature("open registration"),
)
async def name_in_use(scene: Scene) -> None:
    (alice,) = scene.users
    body = {"username": alice.localpart, "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
    with refused(400, "M_USER_IN_USE", what="a second account of the same name"):
        (await scene.server.request("POST", "/register", body, who="Eve")).good()


@story(
    "Eve, who guesses at Alice's password, is not let in",
    shows="client-server API, 'Login': M_FORBIDDEN",
    needs=users(1) + feature("password login"),
)
async def wrong_password(scene: Scene) -> None:
    (alice,) = scene.users
    alice.password = f"not {alice.password}"
    with refused(403, "M_FORBIDDEN", what="a login with a wrong password"):
        await alice.log_in("Eve")


@story(
    "Who has no token, or a made-up one, gets nothing",
    shows="client-server API, 'Client authentication': M_MISSING_TOKEN, M_UNKNOWN_TOKEN",
    needs=users(1),
)
async def only_with_a_token(scene: Scene) -> None:
    (alice,) = scene.users
    with refused(401, "M_MISSING_TOKEN", what="a sync without a token"):
        await scene.server.get("/sync")
    alice.token = "made-up"
    with refused(401, "M_UNKNOWN_TOKEN", what="a sync with a made-up token"):
        await alice.sync()


@story(
    "Alice logs out at one device and goes on at the other",
    shows="client-server API, 'Login': POST /logout",
    needs=users(1) + feature("password login"),
)
async def logs_out_one_device(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone")
    check(phone.device_id != alice.device_id, "two devices with IDs of their own", came=phone.device_id)
    await phone.log_out()
    with refused(401, "M_UNKNOWN_TOKEN", what="the phone's sync after the logout"):
        await phone.sync()
    await alice.sync()


@story(
    "Alice removes her stolen phone from afar",
    shows="client-server API, 'Device management': DELETE /devices/{deviceId} with user-interactive authentication",
    needs=users(1) + feature("password login"),
)
async def removes_a_device(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone")
    path = f"/devices/{phone.device_id}"
    scene.step("Alice tries without her password")
    asked = await alice.request("DELETE", path, {})
    check_equal(401, asked.status, "the status of the answer that asks for the password")
    password = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.localpart},
        "password": alice.password,
        "session": text(asked.json, "session"),
    }
    await alice.delete(path, {"auth": password})
    with refused(401, "M_UNKNOWN_TOKEN", what="the removed phone's sync"):
        await phone.sync()


@story(
    "Alice's phone gets a fresh token for its refresh token, and the session goes on",
    shows="client-server API, 'Refreshing access tokens'",
    needs=users(1) + feature("password login"),
)
async def refreshes_its_token(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await alice.log_in("Alice's phone", refresh_token=True)
    if phone.refresh_token is None:
        scene.skip("the server gives no refresh tokens, which it need not")
    old = phone.token
    found = (await scene.server.request("POST", "/refresh", {"refresh_token": phone.refresh_token})).good()
    phone.token = text(found, "access_token")
    check(phone.token != old, "a new access token", came="the old one")
    check_equal(phone.device_id, (await phone.get("/account/whoami")).get("device_id"), "the device after refreshing")
