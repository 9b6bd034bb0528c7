"""Who tries too often is slowed down: guesses at passwords, accounts, rooms, joins, invites that nobody wants."""

from collections.abc import Coroutine

from sytest_scenarios.asking import sleep, together
from sytest_scenarios.expect import Failed, check, check_equal
from sytest_scenarios.http import Answer
from sytest_scenarios.props.signing_up import fresh_name, fresh_password
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, setting, story, users

SHOWS = "client-server API, 'Rate limiting'"
THREE = setting("three at once")
MANY = 8


async def all_at_once(*asking: Coroutine[None, None, Answer]) -> tuple[int, float]:
    """Do many things at once, some of which are too many; return how many were done, and the wait in seconds."""
    answers = await together(*asking)
    limited = [each for each in answers if each.status == 429]
    statuses = {each.status for each in answers}
    check(limited and statuses <= {200, 429}, "some 200 and some 429", came=sorted(statuses))
    for each in limited:
        check_equal("M_LIMIT_EXCEEDED", each.errcode, "the errcode of what is too much")
    waits_s = [
        each.json.get("retry_after_ms", 1000 * float(each.headers.get("retry-after", 0))) / 1000 for each in limited
    ]
    check(all(0 < each <= 10 for each in waits_s), "a wait of some seconds", came=waits_s)
    return len(answers) - len(limited), max(waits_s)


@story(
    "Eve, who guesses at Alice's password, has to wait, and her guesses are not Bob's",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: login_failed",
    needs=users(2) + THREE + feature("password login"),
)
async def passwords(scene: Scene) -> None:
    alice, bob = scene.users

    identifier = {"type": "m.id.user", "user": alice.localpart}
    for number in range(2 * MANY):
        body = {"type": "m.login.password", "identifier": identifier, "password": f"guess {number}"}
        answer = await scene.server.request("POST", "/login", body, who="Eve")
        if answer.status == 429:
            break
        check_equal(403, answer.status, "the answer to a wrong guess")
    check(2 <= number <= 8, "about three guesses, then 429", came=number)
    check_equal("M_LIMIT_EXCEEDED", answer.errcode, "the errcode of one guess too many")
    await bob.log_in("Bob, who is nobody's victim")
    scene.step("Alice, who waits as long as Eve was told, is let in")
    await sleep(answer.json["retry_after_ms"] / 1000 + 0.05)
    await alice.log_in("Alice, with her password")


@story(
    "Eve makes account after account, and has to wait",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: registration",
    needs=setting("three accounts at once") + feature("open registration"),
)
async def accounts(scene: Scene) -> None:
    async def make() -> Answer:
        proof = {"type": "m.login.dummy"}
        body = {"username": fresh_name("eve"), "password": fresh_password(), "auth": proof}
        return await scene.server.request("POST", "/register", body, who="Eve")

    made, wait_s = await all_at_once(*(make() for _ in range(MANY)))
    check(made <= 5, "about three accounts", came=made)
    await sleep(wait_s + 0.05)
    for _ in range(MANY):
        answer = await make()
        if answer.status == 200:
            return
        # Others may be making accounts from here, too.
        await sleep(answer.json["retry_after_ms"] / 1000 + 0.05)
    raise Failed("an account for who waits as told", "none")


@story(
    "Eve makes room after room, and has to wait; Bob makes one meanwhile",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: room_creation",
    needs=THREE,
)
async def rooms(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    made, wait_s = await all_at_once(*(eve.request("POST", "/createRoom", {}) for _ in range(MANY)))
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
    eve, bob, carol, dan = await scene.new_users("Eve", "Bob", "Carol", "Dan")
    open_rooms = await together(*(each.create_room(preset="public_chat") for each in (carol, dan) for _ in range(3)))
    joined, wait_s = await all_at_once(*(eve.request("POST", each.path("join"), {}) for each in open_rooms))
    check(2 <= joined <= 5, "about three rooms", came=joined)
    await bob.join(open_rooms[0])
    await sleep(wait_s + 0.05)
    inside = set((await eve.get("/joined_rooms"))["joined_rooms"])
    check_equal(joined, len(inside), "the number of rooms that Eve is in")
    await eve.join(next(each for each in open_rooms if each.id not in inside))


@story(
    "Alice is not flooded with invites, whoever they come from, and Bob can still be invited",
    shows=f"{SHOWS}; docs/configuration.md, [limits]: invites_per_user",
    needs=users(4) + THREE,
)
async def invites(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    strangers = [each for each in (carol, dan) for _ in range(3)]
    rooms = await together(*(each.create_room() for each in strangers))
    places = list(zip(strangers, rooms, strict=True))

    body = {"user_id": alice.user_id}
    sent, wait_s = await all_at_once(*(each.request("POST", room.path("invite"), body) for each, room in places))
    check(2 <= sent <= 5, "about three invites", came=sent)
    await alice.until("the invites that came through", lambda view: len(view.invites) == sent)
    stranger, room = next(each for each in places if each[1].id not in alice.view.invites)
    await stranger.invite(room, bob)
    await sleep(wait_s + 0.05)
    await stranger.invite(room, alice)
    await alice.until("one more", lambda view: room.id in view.invites)


@story(
    "Of a flood, Bob reads what came through and nothing of what was refused",
    shows=f"{SHOWS}: retry_after_ms",
    needs=setting("one message a second"),
)
async def flood(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    room = await eve.create_room_with(bob)

    async def say(number: int) -> Answer:
        path = room.path("send", "m.room.message", fresh_name("t"))
        return await eve.request("PUT", path, {"msgtype": "m.text", "body": f"flood {number}"})

    answers = await together(*(say(number) for number in range(MANY)))
    came_through = [f"flood {number}" for number, each in enumerate(answers) if each.status == 200]
    limited = [each for each in answers if each.status == 429]
    check_equal(MANY, len(came_through) + len(limited), "messages sent and refused")
    check(0 < len(came_through) < MANY / 2, "about one message", came=came_through)
    await sleep(max(each.json["retry_after_ms"] for each in limited) / 1000 + 0.05)
    last = await eve.say(room, "last")
    await bob.sees(room, last)
    check_equal({*came_through, "last"}, set(bob.view.room(room).texts), "what Bob reads")
