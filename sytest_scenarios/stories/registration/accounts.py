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
