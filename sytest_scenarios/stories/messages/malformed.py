"""What is no message: too large, no JSON, or with numbers that are none. It is refused, and nothing of it is said."""

from typing import Final

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

LARGEST_EVENT_BYTES: Final = 65_536
BEHIND: Final = b'{"msgtype":"m.text","body":"x","more":%s}'


@story(
    "A message that is too large is refused, and one that nearly is goes through",
    shows="client-server API, 'Size limits': 65536 bytes; M_TOO_LARGE",
    needs=users(2),
)
async def too_large(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    for size in (LARGEST_EVENT_BYTES, LARGEST_EVENT_BYTES * 3):
        with refused(413, "M_TOO_LARGE", what=f"a message of {size} letters"):
            await alice.say(room, "x" * size)
    # Letters of four bytes each: the limit is of bytes, not of letters.
    with refused(413, "M_TOO_LARGE", what="a message of 20000 letters of four bytes"):
        await alice.say(room, "\U0001f600" * 20_000)
    large = "x" * (LARGEST_EVENT_BYTES - 2_000)
    await alice.say(room, large)
    check(await bob.texts(room) == [large], "Bob to read the large one, and nothing else", came="something else")


@story(
    "Types and state keys have 255 bytes at most, and 255 are enough",
    shows="client-server API, 'Size limits': type, state_key",
    needs=users(2),
)
async def too_long(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    # Letters of two bytes: the limit is of bytes.
    for key in ("x" * 255, "é" * 127):
        await alice.set_state(room, "com.example.long", {"fine": True}, key)
        check_equal({"fine": True}, await bob.state(room, "com.example.long", key), "the state under the long key")
    for key in ("x" * 256, "é" * 128):
        with refused(400, 413, what="a state key of 256 bytes"):
            await alice.set_state(room, "com.example.long", {}, key)
        with refused(400, 413, what="a type of 256 bytes"):
            await alice.send(room, key, {})


@story(
    "Numbers that JSON of Matrix does not have are refused: fractions, and those too large",
    shows="appendices, 'Canonical JSON': integers from -(2^53)+1 to (2^53)-1; 'Standard error response': M_BAD_JSON",
    needs=users(2),
)
async def numbers(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    for number, bad in enumerate((b"1.5", b"9007199254740992", b"-9007199254740992", b'{"a":[1,{"b":0.1}]}')):
        answer = await alice.request("PUT", room.path("send", "m.room.message", f"bad {number}"), BEHIND % bad)
        check_equal((400, "M_BAD_JSON"), (answer.status, answer.errcode), f"the answer to {bad.decode()}")
    for number, good in enumerate((b"9007199254740991", b"-9007199254740991", b"0")):
        answer = await alice.request("PUT", room.path("send", "m.room.message", f"good {number}"), BEHIND % good)
        check_equal(200, answer.status, f"the status for {good.decode()}")
    found = [each["content"]["more"] for each in await bob.history(room) if each["type"] == "m.room.message"]
    check_equal([2**53 - 1, -(2**53) + 1, 0], found, "the numbers that Bob gets")


@story(
    "What is no JSON, or no object, is refused, and nothing is said",
    shows="client-server API, 'Standard error response': M_NOT_JSON, M_BAD_JSON",
    needs=users(2),
)
async def no_object(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    bodies = [b"", b"hello", b"{", b'{"body":}', b'{"body":"x"} and more', b"[]", b'"text"', b"null", b"7"]
    bodies += [b'{"body":"\xff\xfe"}', BEHIND % b"NaN", BEHIND % b"Infinity", b"[" * 100_000]
    for number, body in enumerate(bodies):
        answer = await alice.request("PUT", room.path("send", "m.room.message", f"{number}"), body)
        check_equal(400, answer.status, f"the status for {body[:40]!r}")
        fitting = answer.errcode in ("M_NOT_JSON", "M_BAD_JSON", "M_UNKNOWN")
        check(fitting, f"an errcode that says that {body[:40]!r} is no JSON object", came=answer.errcode)
    said = await alice.say(room, "Hello")
    await bob.sees(room, said)
    check_equal(["Hello"], await bob.texts(room), "what was said")
