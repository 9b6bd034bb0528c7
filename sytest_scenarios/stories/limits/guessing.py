"""Who tries too often is slowed down: guesses at passwords, accounts, rooms, joins, invites that nobody wants."""

from collections.abc import Awaitable, Callable

from sytest_scenarios.actors import Room, User, sleep
from sytest_scenarios.expect import Failed, check, check_equal, refused
from sytest_scenarios.http import Answer
from sytest_scenarios.scene import Scene
from sytest_scenarios.signing_up import fresh_name, fresh_password, try_to_sign_up
from sytest_scenarios.story import feature, setting, story, users

SHOWS = "client-server API, 'Rate limiting'"
THREE = setting("three at once")
MOST = 12


async def until_limited(ask: Callable[[int], Awaitable[Answer]], expected: int = 200) -> tuple[int, float]:
    """Do something again and again until it is too often; return how often it was done, and the wait in seconds."""
    for number in range(MOST):
        answer = await ask(number)
        if answer.status == 429:
            check_equal("M_LIMIT_EXCEEDED", answer.errcode, "the errcode of what is too often")
            wait_s = answer.json.get("retry_after_ms", float(answer.headers.get("retry-after", 0)) * 1000) / 1000
            check(0 < wait_s <= 10, "a wait of some seconds", came=answer.json)
            return number, wait_s
        if answer.status != expected:
            raise Failed(f"{expected} or 429", f"{answer.status} {answer.errcode}")
    raise Failed(f"less than {MOST} times without a limit", "as many as were tried")


@story(
    "Eve, who guesses at Alice's password, has to wait, and her guesses are not Bob's",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: login_failed",
    needs=users(2) + THREE + feature("password login"),
)
async def passwords(scene: Scene) -> None:
    alice, bob = scene.users

    async def guess(number: int) -> Answer:
        identifier = {"type": "m.id.user", "user": alice.localpart}
        body = {"type": "m.login.password", "identifier": identifier, "password": f"guess {number}"}
        return await scene.server.request("POST", "/login", body, who="Eve")

    guesses, wait_s = await until_limited(guess, expected=403)
    check(2 <= guesses <= 5, "about three guesses", came=guesses)
    await bob.log_in("Bob, who is nobody's victim")
    scene.step("Alice, who waits as long as Eve was told, is let in")
    await sleep(wait_s + 0.05)
    await alice.log_in("Alice, with her password")


@story(
    "Eve makes account after account, and has to wait",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: registration",
    needs=setting("three accounts at once") + feature("open registration"),
)
async def accounts(scene: Scene) -> None:
    async def make(number: int) -> Answer:
        body = {"username": fresh_name("eve"), "password": fresh_password()}
        return await try_to_sign_up(scene.server, body, who="Eve")

    made, wait_s = await until_limited(make)
    check(made <= 5, "about three accounts", came=made)
    await sleep(wait_s + 0.05)
    for _ in range(MOST):
        # Others may be making accounts from here, too.
        answer = await make(0)
        if answer.status == 200:
            return
        await sleep(answer.json["retry_after_ms"] / 1000 + 0.05)
    raise Failed("an account for who waits as told", "none")


@story(
    "Eve makes room after room, and has to wait; Bob makes one meanwhile",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: room_creation",
    needs=THREE,
)
async def rooms(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    made, wait_s = await until_limited(lambda _: eve.request("POST", "/createRoom", {"name": "x"}))
    check(2 <= made <= 5, "about three rooms", came=made)
    await bob.create_room()
    await sleep(wait_s + 0.05)
    check_equal(200, (await eve.request("POST", "/createRoom", {})).status, "the answer to who waits as told")
    check_equal(made + 1, len((await eve.get("/joined_rooms"))["joined_rooms"]), "the number of rooms that there are")


@story(
    "Eve goes through all rooms that she finds, and has to wait; Bob joins one meanwhile",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: joins_local",
    needs=THREE,
)
async def joins(scene: Scene) -> None:
    eve, bob, *others = await scene.new_users("Eve", "Bob", "Carol", "Dan", "Frank")
    open_rooms = [await each.create_room(preset="public_chat") for each in others for _ in range(2)]
    left = list(open_rooms)

    async def join(number: int) -> Answer:
        return await eve.request("POST", left[number].path("join"), {})

    joined, wait_s = await until_limited(join)
    check(2 <= joined < len(open_rooms), "about three rooms", came=joined)
    await bob.join(open_rooms[0])
    await sleep(wait_s + 0.05)
    await eve.join(open_rooms[joined])
    check_equal(joined + 1, len((await eve.get("/joined_rooms"))["joined_rooms"]), "the number of rooms that Eve is in")


@story(
    "Alice is not flooded with invites, whoever they come from, and Bob can still be invited",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: invites_per_user",
    needs=users(6) + THREE,
)
async def invites(scene: Scene) -> None:
    alice, bob, *strangers = scene.users
    places = [(each, await each.create_room()) for each in strangers for _ in range(2)]

    async def invite(number: int) -> Answer:
        stranger, room = places[number]
        return await stranger.request("POST", room.path("invite"), {"user_id": alice.user_id})

    sent, wait_s = await until_limited(invite)
    check(2 <= sent < len(places), "about three invites", came=sent)
    stranger, room = places[sent]
    await stranger.invite(room, bob)
    await alice.until("the invites that came through", lambda view: len(view.invites) == sent)
    await sleep(wait_s + 0.05)
    await stranger.invite(room, alice)
    await alice.until("one more", lambda view: len(view.invites) == sent + 1)


@story(
    "Who is told to wait and does not is told again, and nothing of it comes through",
    shows=f"{SHOWS}: retry_after_ms",
    needs=setting("one message a second"),
)
async def impatient(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    room = await eve.create_room_with(bob)
    await eve.say(room, "first")

    async def say(number: int) -> Answer:
        return await _say(eve, room, f"flood {number}")

    _, wait_s = await until_limited(say)
    for number in range(5):
        with refused(429, "M_LIMIT_EXCEEDED", what="what Eve says without waiting"):
            (await _say(eve, room, f"more {number}")).good()
    await sleep(wait_s + 0.05)
    last = await eve.say(room, "last")
    await bob.sees(room, last)
    said = [each for each in bob.view.room(room).texts if each.startswith("more")]
    check_equal([], said, "what Bob reads of what was refused")


async def _say(user: User, room: Room, words: str) -> Answer:
    path = room.path("send", "m.room.message", fresh_name("t"))
    return await user.request("PUT", path, {"msgtype": "m.text", "body": words})
