"""People without an account: what they may, what they may not, and how they get one."""

from sytest_scenarios.actors import Server, User
from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.signing_up import fresh_password, try_to_sign_up
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

GUESTS = feature("guests")
OPEN_TO_GUESTS = [{"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}]


async def come_as_guest(server: Server, name: str = "Greta") -> User:
    """Return somebody without an account."""
    body = {"initial_device_display_name": "a browser"}
    found = (await server.request("POST", "/register", body, query={"kind": "guest"}, who=name)).good()
    return User(name, server, text(found, "user_id"), "", text(found, "access_token"), text(found, "device_id"))


@story(
    "Greta, a guest, talks where guests are let in, and nowhere else",
    shows="client-server API, 'Guest Access': 'Servers MUST only allow guest users to join rooms if'",
    needs=users(1) + GUESTS,
)
async def where_let_in(scene: Scene) -> None:
    (alice,) = scene.users
    greta = await come_as_guest(scene.server)
    closed = await alice.create_room(preset="public_chat")
    opened = await alice.create_room(preset="public_chat", initial_state=OPEN_TO_GUESTS)
    with refused(403, what="Greta's join of a room without guests"):
        await greta.join(closed)
    await greta.join(opened)
    said = await greta.say(opened, "Good day!")
    await alice.sees(opened, said)
    scene.step("Alice closes the room to guests, and Greta is out")
    await alice.set_state(opened, "m.room.guest_access", {"guest_access": "forbidden"})
    await alice.until("Greta to be out", lambda view: view.room(opened).member(greta.user_id) == "leave")
    with refused(403, what="what Greta says after that"):
        await greta.say(opened, "But …")


@story(
    "A guest does not do what takes an account",
    shows="client-server API, 'Guest Access', 'Client behaviour': the endpoints for guests",
    needs=users(1) + GUESTS,
)
async def takes_an_account(scene: Scene) -> None:
    (alice,) = scene.users
    greta = await come_as_guest(scene.server)
    check_equal(True, (await greta.get("/account/whoami")).get("is_guest"), "is_guest of Greta")
    check(not (await alice.get("/account/whoami")).get("is_guest"), "Alice to be no guest", came="is_guest")
    for method, path, body in (
        ("POST", "/createRoom", {}),
        ("POST", "/user_directory/search", {"search_term": "a"}),
        ("PUT", f"/user/{greta.user_id}/account_data/org.example.x", {}),
        ("POST", "/account/password", {"new_password": fresh_password()}),
        ("POST", "/account/deactivate", {}),
        ("PUT", f"/profile/{greta.user_id}/avatar_url", {"avatar_url": "mxc://example.org/a"}),
        ("POST", f"/user/{greta.user_id}/openid/request_token", {}),
        ("POST", "/delete_devices", {"devices": [greta.device_id]}),
    ):
        answer = await greta.request(method, path, body)
        check_equal(403, answer.status, f"the answer to a guest's {method} {path}")


@story(
    "Greta stays who she is when she gets an account, and Eve cannot have it for her",
    shows="client-server API, 'Guest Access': guest_access_token",
    needs=users(1) + GUESTS + feature("open registration", "password login"),
)
async def gets_an_account(scene: Scene) -> None:
    (alice,) = scene.users
    greta = await come_as_guest(scene.server)
    greta.password = fresh_password()
    body = {"username": greta.localpart, "password": greta.password}
    for token in ("made-up", alice.token):
        answer = await try_to_sign_up(scene.server, {**body, "guest_access_token": token}, who="Eve")
        check(answer.status in (400, 401, 403), "Eve to be refused", came=answer.status)
    found = (await try_to_sign_up(scene.server, {**body, "guest_access_token": greta.token}, who="Greta")).good()
    check_equal(greta.user_id, found.get("user_id"), "who Greta is")
    home = await greta.log_in("Greta, at home")
    check(not (await home.get("/account/whoami")).get("is_guest"), "Greta to be no guest", came="is_guest")
    await home.create_room()
