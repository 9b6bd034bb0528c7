"""Kinds of messages: each arrives whole, in the sync and in the history, whatever it is made of."""

from collections.abc import Mapping
from typing import Any

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.pictures import png
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


async def arrives_whole(
    sender: User, reader: User, room: Room, content: Mapping[str, Any], event_type: str = "m.room.message"
) -> None:
    """Send it, and check that the reader gets the same three ways: as it happens, by its ID, and in the history."""
    sent = await sender.send(room, event_type, content)
    in_history = next(each for each in await reader.history(room) if each["event_id"] == sent)
    for where, event in (
        ("as it happens", await reader.sees(room, sent)),
        ("by its ID", await reader.event(room, sent)),
        ("in the history", in_history),
    ):
        check_equal(dict(content), event["content"], f"what {reader} reads {where}")
        check_equal(
            (event_type, sender.user_id, sent),
            (event["type"], event["sender"], event["event_id"]),
            f"its ends, {where}",
        )


@story(
    "Five people talk in a group, and each reads all of it; Frank, who is not in it, nothing",
    shows="client-server API, 'Syncing'; group conversations",
    needs=users(6),
    tags=["smoke"],
)
async def group(scene: Scene) -> None:
    *members, frank = scene.users
    room = await members[0].create_room_with(*members[1:], preset="private_chat", name="The five")
    said = await together(*(each.say(room, f"{each.name} was here") for each in members))
    for reader in members:
        for event_id in said:
            await reader.sees(room, event_id)
    check_equal({f"{each.name} was here" for each in members}, set(await members[4].texts(room)), "what was said")
    view = await frank.catch_up()
    check(room.id not in view.rooms, "Frank to be told nothing of the room", came=view.sight())


@story(
    "A formatted text, an emote and a notice arrive as what they are",
    shows="client-server API, 'm.room.message msgtypes': m.text, m.emote, m.notice",
    needs=users(2),
)
async def written(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    for kind in ("m.text", "m.emote", "m.notice"):
        content = {
            "msgtype": kind,
            "body": "waves **at all**",
            "format": "org.matrix.custom.html",
            "formatted_body": 'waves <strong onclick="alert(1)">at all</strong><br/>',
        }
        await arrives_whole(alice, bob, room, content)


@story(
    "Alice sends a picture with a thumbnail, and Bob has both",
    shows="client-server API, 'm.room.message msgtypes': m.image",
    needs=users(2),
)
async def picture(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    large, small = png(64, 48), png(16, 12)
    url, thumbnail = [await alice.upload(each, "image/png", filename="a.png") for each in (large, small)]
    info = {
        **{"mimetype": "image/png", "w": 64, "h": 48, "size": len(large), "thumbnail_url": thumbnail},
        "thumbnail_info": {"mimetype": "image/png", "w": 16, "h": 12, "size": len(small)},
    }
    await arrives_whole(alice, bob, room, {"msgtype": "m.image", "body": "a.png", "url": url, "info": info})
    for uri, expected in ((url, large), (thumbnail, small)):
        check((await bob.download(uri)).body == expected, "Bob to have the same picture", came="other bytes")


@story(
    "Alice sends a voice message, and Bob hears it, with its length and its wave form",
    shows="client-server API, 'm.room.message msgtypes': m.audio; voice messages are marked as such (MSC3245)",
    needs=users(2),
)
async def voice(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    recording = scene.random.randbytes(5_000)
    url = await alice.upload(recording, "audio/ogg", filename="Voice message.ogg")
    content = {
        **{"msgtype": "m.audio", "body": "Voice message.ogg", "filename": "Voice message.ogg", "url": url},
        "info": {"duration": 12_345, "mimetype": "audio/ogg", "size": len(recording)},
        "org.matrix.msc1767.audio": {"duration": 12_345, "waveform": [0, 512, 1024, 256]},
        "org.matrix.msc3245.voice": {},
    }
    await arrives_whole(alice, bob, room, content)
    answer = await bob.download(url)
    check_equal("audio/ogg", answer.headers.get("content-type"), "the type of the recording")
    check(answer.body == recording, "Bob to hear what Alice said", came=f"{len(answer.body)} other bytes")


@story(
    "Alice sends a video and a file with captions, and Bob gets names, captions and sizes",
    shows="client-server API, 'Media captions'",
    needs=users(2),
)
async def captioned(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    url = await alice.upload(b"not really a film", "video/mp4", filename="film.mp4")
    caption = {
        "body": "Us at the *sea*",
        "format": "org.matrix.custom.html",
        "formatted_body": "Us at the <em>sea</em>",
    }
    info = {"duration": 2_140_786, "h": 320, "w": 480, "mimetype": "video/mp4", "size": 17}
    await arrives_whole(
        alice, bob, room, {"msgtype": "m.video", "filename": "film.mp4", "url": url, "info": info, **caption}
    )
    info = {"mimetype": "application/pdf", "size": 17}
    await arrives_whole(
        alice, bob, room, {"msgtype": "m.file", "filename": "Übersicht.pdf", "url": url, "info": info, **caption}
    )


@story(
    "Alice says where she is, and Bob finds her",
    shows="client-server API, 'm.room.message msgtypes': m.location",
    needs=users(2),
)
async def location(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    content = {
        "msgtype": "m.location",
        "body": "Big Ben, London, UK",
        "geo_uri": "geo:51.5008,0.1247;u=35",
        "info": {"thumbnail_url": "mxc://example.org/abc", "thumbnail_info": {"w": 300, "h": 300}},
    }
    await arrives_whole(alice, bob, room, content)


@story("Alice sends a sticker, and Bob gets it", shows="client-server API, 'Sticker Messages'", needs=users(2))
async def sticker(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    image = png(32, 32)
    url = await alice.upload(image, "image/png")
    info = {"mimetype": "image/png", "w": 16, "h": 16, "size": len(image), "thumbnail_url": url}
    await arrives_whole(alice, bob, room, {"body": "A cat that claps", "url": url, "info": info}, "m.sticker")


@story(
    "A kind of event that nobody has heard of passes as it is, with all that is in it",
    shows="client-server API, 'Room Events'; 'Size limits': additional keys have no limit",
    needs=users(2),
)
async def unheard_of(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    content = {
        "": "a key that is empty",
        "a.dotted.key": {"nested": [[], {}, [1, [2, [3]]], None, True, False]},
        "numbers": [0, -1, 2**53 - 1, -(2**53) + 1],
        "event_id": "$not-this-one",
        "sender": "@somebody:else",
        "unsigned": {"age": 1},
        "long": "x" * 20_000,
    }
    await arrives_whole(alice, bob, room, content, "com.example.Schach/zug №1")
    await arrives_whole(alice, bob, room, {}, "com.example.empty")


@story(
    "Whatever alphabet a message is written in, it is read as it was written",
    shows="appendices, 'Canonical JSON': UTF-8; nothing is normalized",
    needs=users(2),
)
async def alphabets(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    texts = [
        "Ünïcödé, Ελληνικά, русский, עברית, العربية, हिन्दी, 中文, 日本語, 한국어",
        "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏿 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🀄 \U0010fffd",
        "caf\u00e9 and cafe\u0301, Å and A\u030a",
        "\u202eright to left\u202c \u200b\u200d\ufeff \u2028\u2029",
        "  spaces around and\ttabs\r\nand lines \n ",
        "quotes \" ' ` and \\ and / and \\u0041 and %41 and &amp;",
        "",
        " ",
    ]
    for each in texts:
        await alice.say(room, each)
    check_equal(texts, await bob.texts(room), "what Bob reads in the history")
    await bob.until("the same in the timeline", lambda view: view.room(room).texts == texts)
