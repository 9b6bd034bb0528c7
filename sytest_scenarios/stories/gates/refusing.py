"""Gates: what the operator of a server does not want to be said, nobody says."""

from collections.abc import Mapping

from sytest_scenarios.actors import Room, User
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, setting, story

LINKS = setting("no links")
WORDS = setting("no word casino")
MODULES = "Modules / plug-ins"
SHOWS = "the link and word gates: what Synapse's modules know as check_event_for_spam"


async def refuses(user: User, room: Room, event_type: str, content: Mapping[str, object]) -> None:
    """Expect that the user may not say this."""
    with refused(403, "M_FORBIDDEN", what=f"{content} of {user}"):
        await user.send(room, event_type, content)


@story(
    "Eve's links are not let through, in whatever they are wrapped, and her plain words are",
    shows=SHOWS,
    needs=LINKS,
    expected_to_fail=MODULES,
)
async def links(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    room = await eve.create_room_with(bob)
    link, plain = "https://evil.example/win", "Have you heard?"
    await refuses(eve, room, "m.room.message", {"msgtype": "m.text", "body": f"see {link}"})
    await refuses(eve, room, "m.room.message", {"msgtype": "m.text", "body": f"SEE {link.upper()}"})
    await refuses(eve, room, "m.room.message", {"msgtype": "m.notice", "body": "see www.evil.example"})
    html = {"format": "org.matrix.custom.html", "formatted_body": f'<a href="{link}">heard</a>'}
    await refuses(eve, room, "m.room.message", {"msgtype": "m.text", "body": plain, **html})
    said = await eve.say(room, plain)
    new = {"msgtype": "m.text", "body": link}
    relation = {"rel_type": "m.replace", "event_id": said}
    edit = {"msgtype": "m.text", "body": "*", "m.new_content": new, "m.relates_to": relation}
    await refuses(eve, room, "m.room.message", edit)
    await bob.sees(room, said)
    check_equal([plain], await bob.texts(room), "what Bob reads")


@story(
    "Eve's links are not let through on the stream, either",
    shows=f"{SHOWS}; docs/stream.md, 'What the client sends': the same checks as over HTTP",
    needs=LINKS + STREAM,
    expected_to_fail=MODULES,
)
async def links_on_the_stream(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    room = await eve.create_room_with(bob)
    async with eve.stream() as stream:
        for words, is_good in (("see https://evil.example/win", False), ("plain words", True)):
            content = {"msgtype": "m.text", "body": words}
            if is_good:
                await stream.request("send", room_id=room.id, event_type="m.room.message", content=content)
                continue
            with refused("M_FORBIDDEN", what="a link on the stream"):
                await stream.request("send", room_id=room.id, event_type="m.room.message", content=content)
    check_equal(["plain words"], await bob.texts(room), "what Bob reads")


@story(
    "A word that is not to be said is not said, however it is written; a longer one that begins so is",
    shows=SHOWS,
    needs=WORDS,
    expected_to_fail=MODULES,
)
async def words(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    room = await eve.create_room_with(bob)
    for bad in ("Come to the casino", "CASINO!", "casino", "_Casino_", "ca\u200bsino", "ｃａｓｉｎｏ"):
        await refuses(eve, room, "m.room.message", {"msgtype": "m.text", "body": bad})
    good = "I read Casinomania, a book on casuistry"
    await eve.say(room, good)
    check_equal([good], await bob.texts(room), "what Bob reads")


@story(
    "A word that is not to be said is not said by a room's name, a topic, or somebody's own name",
    shows=SHOWS,
    needs=WORDS,
    expected_to_fail=MODULES,
)
async def words_in_names(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    room = await eve.create_room_with(bob, name="A quiet place")
    for event_type, content in (
        ("m.room.name", {"name": "The casino"}),
        ("m.room.topic", {"topic": "casino, casino"}),
    ):
        with refused(403, "M_FORBIDDEN", what=f"{content}"):
            await eve.set_state(room, event_type, content)
    scene.step("Eve calls herself so: whether she may or not, nobody in the room reads it")
    await eve.request("PUT", f"/profile/{eve.user_id}/displayname", {"displayname": "Casino"})
    member = await bob.state(room, "m.room.member", eve.user_id)
    check(member.get("displayname") != "Casino", "another name of Eve in the room", came=member)
    check_equal({"name": "A quiet place"}, await bob.state(room, "m.room.name"), "what the room is called")
