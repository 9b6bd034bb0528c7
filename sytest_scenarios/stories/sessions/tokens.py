"""Access tokens that expire, and refresh tokens that give new ones."""

from sytest_scenarios.actors import User
from sytest_scenarios.asking import JsonObject, sleep, text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, feature, setting, story, users

LOGIN = users(1) + feature("password login")
SHORT = LOGIN + setting("tokens of two seconds")
SHOWS = "client-server API, 'Refreshing access tokens'"


async def refresh(user: User, token: str | None = None) -> JsonObject:
    """Exchange a refresh token, the user's own if none is said, and return what came; the user keeps the old ones."""
    body = {"refresh_token": token or user.refresh_token}
    return (await user.server.request("POST", "/refresh", body, who=user.name)).good()


async def with_refresh_token(scene: Scene, alice: User) -> User:
    """Log in as a client that can refresh."""
    phone = await alice.log_in("Alice's phone", refresh_token=True)
    if phone.refresh_token is None:
        scene.skip("the server gives no refresh tokens, which it need not")
    return phone


async def until_expired(user: User) -> JsonObject:
    """Ask until the token is not good any more, and return that answer."""
    for _ in range(60):
        answer = await user.request("GET", "/account/whoami")
        if answer.status != 200:
            check_equal((401, "M_UNKNOWN_TOKEN"), (answer.status, answer.errcode), "the answer to an expired token")
            return dict(answer.json)
        await sleep(0.1)
    check(False, "the token to expire after two seconds", came="six seconds")
    return {}


@story(
    "The old refresh token is good until the new one has arrived, and no longer",
    shows=f"{SHOWS}: 'The old refresh token remains valid until the new access token or refresh token is used'",
    needs=LOGIN,
    unlike={"synapse": "answers 403 M_FORBIDDEN; the spec, POST /refresh, says 401 M_UNKNOWN_TOKEN for a used token"},
)
async def rotates(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await with_refresh_token(scene, alice)
    lost = await refresh(phone)
    scene.step("The answer is lost on the way, and the phone asks again")
    found = await refresh(phone)
    check(len({phone.token, lost["access_token"], found["access_token"]}) == 3, "new tokens each time", came=found)
    first, phone.token = phone.refresh_token, text(found, "access_token")
    await phone.get("/account/whoami")
    scene.step("The new token was used: the old ones are dead, in Eve's hands, too")
    with refused(401, "M_UNKNOWN_TOKEN", what="the old refresh token"):
        await refresh(phone, first)
    phone.refresh_token = text(found, "refresh_token")
    phone.token = text(await refresh(phone), "access_token")
    check_equal(phone.device_id, (await phone.get("/account/whoami"))["device_id"], "the device after all that")


@story(
    "A refresh token is dead with the session that it is of",
    shows=f"{SHOWS}; 'Soft logout': 'the server has destroyed the session'",
    needs=LOGIN,
)
async def dies_with_its_session(scene: Scene) -> None:
    (alice,) = scene.users
    phone = await with_refresh_token(scene, alice)
    await phone.log_out()
    for token in (phone.refresh_token, "made-up", alice.token):
        answer = await scene.server.request("POST", "/refresh", {"refresh_token": token}, who="Eve")
        check_equal(401, answer.status, "the status of a refresh with what is no refresh token (any more)")
        check(not answer.json.get("soft_logout"), "no word of a session that goes on", came=answer.json)
    with refused(401, "M_UNKNOWN_TOKEN", what="a refresh token as access token"):
        alice.token = phone.refresh_token or ""
        await alice.get("/account/whoami")


@story(
    "Where access tokens live ten minutes, they say so",
    shows=f"{SHOWS}; POST /login, POST /refresh: expires_in_ms",
    needs=LOGIN + setting("strict accounts"),
)
async def ten_minutes(scene: Scene) -> None:
    (alice,) = scene.users
    identifier = {"type": "m.id.user", "user": alice.localpart}
    body = {"type": "m.login.password", "identifier": identifier, "password": alice.password, "refresh_token": True}
    found = (await scene.server.request("POST", "/login", body, who="Alice")).good()
    fresh = await refresh(alice, text(found, "refresh_token"))
    for each in (found, fresh):
        # Some say what is left of it when they answer.
        lives_ms = each.get("expires_in_ms", 0)
        check(590_000 <= lives_ms <= 600_000, "a token that lives ten minutes", came=lives_ms)


@story(
    "Alice's token expires, and she goes on where she was with a new one",
    shows=f"{SHOWS}; 'Soft logout'",
    needs=SHORT,
)
async def expires(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    phone = await with_refresh_token(scene, alice)
    await phone.say(room, "before")
    check_equal(True, (await until_expired(phone)).get("soft_logout"), "soft_logout of an expired token")
    phone.token = text(await refresh(phone), "access_token")
    check_equal(phone.device_id, (await phone.get("/account/whoami")).get("device_id"), "the device after refreshing")
    check_equal(["before"], await phone.texts(room), "what she reads")


@story(
    "A stream ends with its token, and goes on with the next one",
    shows="docs/stream.md, 'Closing': 4402",
    needs=SHORT + STREAM,
)
async def stream_ends(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    phone = await with_refresh_token(scene, alice)
    async with phone.stream() as stream:
        await stream.until("the room", lambda view: view.joined)
        code, reason = await stream.closing()
    check_equal((4402, True), (code, reason.startswith("M_UNKNOWN_TOKEN")), "the close of an expired token")
    said = await alice.say(room, "meanwhile")
    found = await refresh(phone)
    phone.token, phone.refresh_token = text(found, "access_token"), text(found, "refresh_token")
    async with phone.stream(since=stream.view.since) as stream:
        await stream.until("what came meanwhile", lambda view: view.room(room).event(said))
        scene.step("The phone has a new token before the old one expires, and the stream stays")
        await stream.request("auth", access_token=text(await refresh(phone), "access_token"))
        again = await alice.say(room, "still there?")
        await stream.until("what came after that", lambda view: view.room(room).event(again))
