"""The server is killed in the middle of it all, and what it had answered is still there."""

from typing import Any

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import sleep, together
from sytest_scenarios.expect import Failed, check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.agreeing import all_texts
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, feature, servers, story, users


@story(
    "The server is killed, and every message that it had taken is there afterwards",
    shows="docs/architecture.md: a crash loses nothing that was answered",
    needs=users(2) + OWN_SERVER,
    time_limit_s=120,
)
async def killed(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    words = [f"message {number}" for number in range(1, 11)]
    for each in words:
        await alice.say(room, each)
    await scene.server.kill()
    await scene.server.start()
    await bob.until("all ten messages", lambda view: view.room(room).texts == words)
    check_equal(words, await alice.texts(room), "the history")


@story(
    "The server is killed while many speak at once: what it answered is there, once, the rest can be said again",
    shows="docs/architecture.md: a crash loses nothing that was answered; client-server API, 'Transaction identifiers'",
    needs=users(3) + OWN_SERVER,
    time_limit_s=120,
)
async def mid_write(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    await carol.catch_up()
    answered: dict[str, str] = {}
    tried: dict[str, User] = {}

    async def speak(speaker: User, first: int) -> None:
        for number in range(first, 400, 4):
            words = f"message {number}"
            tried[words] = speaker
            try:
                answered[words] = await _say(speaker, room, words)
            except Failed:
                return

    async def crash() -> None:
        while len(answered) < 40:
            await sleep(0.01)
        await scene.server.kill()

    await together(*(speak((alice, bob)[first % 2], first) for first in range(4)), crash())
    await scene.server.start()
    for words, event_id in answered.items():
        check_equal(words, (await carol.event(room, event_id))["content"].get("body"), "what was answered")
    for words, speaker in tried.items():
        event_id = await _say(speaker, room, words)
        check_equal(answered.get(words, event_id), event_id, "the event of a transaction that is sent again")
    check_equal(sorted(tried), sorted(await all_texts(carol, room)), "what Carol reads")
    await carol.until("the last of it", lambda view: view.room(room).texts)
    together_seen = carol.view.room(room).texts
    check_equal(len(set(together_seen)), len(together_seen), "the number of different things that Carol hears")


async def _say(speaker: User, room: Room, words: str) -> str:
    """Say something in the transaction of these words."""
    content = {"msgtype": "m.text", "body": words}
    return await speaker.send(room, "m.room.message", content, transaction_id=words.replace(" ", "-"))


@story(
    "The server is killed amid joins, uploads, account data and notes to devices: all that it answered is there",
    shows="docs/architecture.md: a crash loses nothing that was answered",
    needs=users(2) + OWN_SERVER,
    time_limit_s=120,
)
async def mid_everything(scene: Scene) -> None:
    alice, bob = scene.users
    kept: dict[str, list[Any]] = {"rooms": [], "files": [], "data": [], "notes": []}

    async def enter() -> None:
        for _ in range(200):
            room = await alice.create_room(preset="public_chat")
            await bob.join(room)
            kept["rooms"].append(room.id)

    async def store() -> None:
        for number in range(200):
            content = scene.random.randbytes(20_000)
            kept["files"].append((await alice.upload(content, "image/x-noise", filename=f"{number}"), content))

    async def keep() -> None:
        for number in range(2_000):
            await alice.set_account_data(f"org.example.n{number}", {"number": number})
            kept["data"].append(number)

    async def note() -> None:
        for number in range(2_000):
            body = {"messages": {bob.user_id: {bob.device_id: {"number": number}}}}
            await alice.put(path_of("sendToDevice", "org.example.note", f"n{number}"), body)
            kept["notes"].append(number)

    async def crash() -> None:
        while min(map(len, kept.values())) < 3:
            await sleep(0.01)
        await scene.server.kill()

    await together(*(_until_it_dies(each()) for each in (enter, store, keep, note)), crash())
    await scene.server.start()
    joined = (await bob.get("/joined_rooms"))["joined_rooms"]
    check(set(kept["rooms"]) <= set(joined), f"the rooms that Bob joined: {kept['rooms']}", came=joined)
    for uri, content in kept["files"]:
        check((await bob.download(uri)).body == content, f"the bytes of {uri}", came="others")
    for number in kept["data"]:
        check_equal({"number": number}, await alice.account_data(f"org.example.n{number}"), "the account data")
    await bob.until("all notes", lambda view: len(view.to_device) >= len(kept["notes"]))
    # One that was not answered may have been taken.
    numbers = [each["content"]["number"] for each in bob.view.to_device]
    check_equal(list(range(len(numbers))), numbers, "the notes that came, each once, in order")


async def _until_it_dies(doing: Any) -> None:
    try:
        await doing
    except Failed:
        return


@story(
    "Alice's server is killed right after she spoke to Bob on another one: after its restart he hears it, once",
    shows="server-server API, 'Transactions'; docs/architecture.md: a crash loses nothing that was answered",
    needs=users(2) + servers(2) + OWN_SERVER,
    time_limit_s=120,
)
async def not_yet_sent(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.sees(room, await alice.say(room, "0"))
    await bob.server.stop()
    words = [f"{number}" for number in range(1, 6)]
    for each in words:
        await alice.say(room, each)
    await alice.server.kill()
    await bob.server.start()
    await alice.server.start()
    last = await alice.say(room, "the last")
    await bob.sees(room, last, within_s=60)
    await bob.until("all of it", lambda view: set(words) <= set(view.room(room).texts), within_s=60)
    check_equal(["0", *words, "the last"], bob.view.room(room).texts, "what Bob hears")


@story(
    "Who logged out stays out though the server was killed at once, and who logged in stays in",
    shows="docs/architecture.md: a crash loses nothing that was answered; client-server API, 'Using access tokens'",
    needs=users(1) + OWN_SERVER + feature("password login"),
    time_limit_s=120,
)
async def sessions(scene: Scene) -> None:
    [alice] = scene.users
    phone, tablet = await alice.log_in("the phone"), await alice.log_in("the tablet")
    await phone.log_out()
    carol = await scene.new_user("Carol")
    await scene.server.kill()
    await scene.server.start()
    with refused(401, "M_UNKNOWN_TOKEN", what="the phone that was logged out"):
        await phone.get("/account/whoami")
    check_equal(tablet.device_id, (await tablet.get("/account/whoami")).get("device_id"), "the tablet's device")
    check_equal(carol.user_id, (await (await carol.log_in()).get("/account/whoami")).get("user_id"), "who Carol is")
    devices = {each["device_id"] for each in (await alice.get("/devices"))["devices"]}
    check_equal({alice.device_id, tablet.device_id}, devices, "Alice's devices")
