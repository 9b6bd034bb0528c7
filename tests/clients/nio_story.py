"""Two users of matrix-nio meet on the server whose address is the last argument."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from typing import Any

from nio import (
    AsyncClient,
    LoginResponse,
    MessageDirection,
    ReceiptType,
    ResizingMethod,
    RoomMessageText,
    RoomPreset,
    SyncResponse,
)
from nio.api import RelationshipType
from nio.responses import ErrorResponse
from PIL import Image

from .nio_client import PASSWORD, check, client, done, good, sync_until, timeline


def ephemeral(answer: SyncResponse, room_id: str) -> list[Any]:
    room = answer.rooms.join.get(room_id)
    return [] if room is None else room.ephemeral


def picture() -> bytes:
    target = io.BytesIO()
    Image.linear_gradient("L").resize((400, 300)).save(target, "PNG")
    return target.getvalue()


async def tell(url: str) -> None:
    async with client(url, "alice") as alice, client(url, "bob") as bob:
        await log_in(url, alice, bob)
        room_id = await meet(alice, bob)
        await talk(alice, bob, room_id)
        await see(alice, bob, room_id)
        await part(alice, bob, room_id)


async def log_in(url: str, alice: AsyncClient, bob: AsyncClient) -> None:
    for user in (alice, bob):
        good(await user.register(user.user, PASSWORD, device_name="first"))
        check(user.user_id.startswith(f"@{user.user}:"), user.user_id)
        done(f"register {user.user}")
    async with client(url, "alice") as wrong:
        check(not isinstance(await wrong.login("wrong"), LoginResponse), "login with a wrong password")
    good(await alice.logout())
    alice.access_token = ""
    good(await alice.login(PASSWORD, device_name="second"))
    check(good(await alice.whoami()).user_id == alice.user_id, "whoami")
    done("log in")
    good(await alice.set_displayname("Alice in Wonderland 🐇"))
    check(good(await bob.get_profile(alice.user_id)).displayname == "Alice in Wonderland 🐇", "display name")
    done("profile")


async def meet(alice: AsyncClient, bob: AsyncClient) -> str:
    good(await alice.sync(timeout=0, full_state=True))
    good(await bob.sync(timeout=0, full_state=True))
    made = good(await alice.room_create(name="Tea", topic="at five", preset=RoomPreset.private_chat))
    room_id = str(made.room_id)
    await sync_until(alice, lambda answer: room_id in answer.rooms.join, "the new room")
    check(alice.rooms[room_id].name == "Tea", alice.rooms[room_id].name)
    check(alice.rooms[room_id].room_version == "12", alice.rooms[room_id].room_version)
    done("create a room")
    good(await alice.room_invite(room_id, bob.user_id))
    await sync_until(bob, lambda answer: room_id in answer.rooms.invite, "the invite")
    check(bob.invited_rooms[room_id].inviter == alice.user_id, bob.invited_rooms[room_id].inviter)
    done("invite")
    good(await bob.join(room_id))
    await sync_until(bob, lambda answer: room_id in answer.rooms.join, "the joined room")
    await sync_until(
        alice,
        lambda answer: bob.user_id in alice.rooms[room_id].users and not alice.rooms[room_id].invited_users,
        "that bob has joined",
    )
    check({alice.user_id, bob.user_id} == set(bob.rooms[room_id].users), bob.rooms[room_id].users)
    check(room_id in good(await bob.joined_rooms()).rooms, "joined rooms")
    done("join")
    return room_id


async def say(user: AsyncClient, room_id: str, text: str, **more: Any) -> str:
    sent = good(await user.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": text, **more}))
    return str(sent.event_id)


async def talk(alice: AsyncClient, bob: AsyncClient, room_id: str) -> None:
    def has(event_id: str) -> Callable[[SyncResponse], Any]:
        return lambda answer: [event for event in timeline(answer, room_id) if event.event_id == event_id]

    event_id = await say(alice, room_id, "Käse 🧀")
    (seen,) = await sync_until(bob, has(event_id), "the message")
    check(isinstance(seen, RoomMessageText) and seen.body == "Käse 🧀" and seen.sender == alice.user_id, seen)
    (echo,) = await sync_until(alice, has(event_id), "the echo")
    check(echo.transaction_id, "the transaction ID in the echo")
    check(seen.transaction_id is None, "no transaction ID for others")
    done("send")

    content = {"msgtype": "m.text", "body": "once"}
    twice = [good(await alice.room_send(room_id, "m.room.message", content, tx_id="same")).event_id for _ in range(2)]
    check(twice[0] == twice[1], twice)
    done("send again with the same transaction ID")

    edit = await say(
        alice,
        room_id,
        "* Brot",
        **{"m.new_content": {"msgtype": "m.text", "body": "Brot"}}
        | {"m.relates_to": {"rel_type": "m.replace", "event_id": event_id}},
    )
    await sync_until(bob, has(edit), "the edit")
    relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}}
    reaction = good(await bob.room_send(room_id, "m.reaction", relation)).event_id
    await sync_until(alice, has(reaction), "the reaction")
    related = [
        event.event_id
        async for event in alice.room_get_event_relations(room_id, event_id, RelationshipType.annotation, "m.reaction")
    ]
    check(related == [reaction], related)
    fetched = good(await bob.room_get_event(room_id, event_id)).event
    replaced = fetched.source["unsigned"]["m.relations"]["m.replace"]
    check(replaced["event_id"] == edit, fetched.source)
    done("edit and react")

    good(await bob.update_receipt_marker(room_id, edit, ReceiptType.read))
    receipts = await sync_until(
        alice,
        lambda answer: [
            receipt
            for event in ephemeral(answer, room_id)
            for receipt in getattr(event, "receipts", ())
            if receipt.user_id == bob.user_id
        ],
        "the receipt",
    )
    check(receipts[0].event_id == edit, receipts)
    good(await bob.room_read_markers(room_id, edit, edit))
    done("read receipt")

    good(await bob.room_typing(room_id, True))
    await sync_until(
        alice,
        lambda answer: [event for event in ephemeral(answer, room_id) if bob.user_id in getattr(event, "users", ())],
        "that bob is typing",
    )
    done("typing")

    numbers = [await say(alice, room_id, f"number {number}") for number in range(25)]
    await sync_until(bob, has(numbers[-1]), "the last number")
    found: list[str] = []
    start = None
    while True:
        page = good(await bob.room_messages(room_id, start, limit=10, direction=MessageDirection.back))
        found += [event.event_id for event in page.chunk]
        if not page.end or not page.chunk:
            break
        check(len(page.chunk) <= 10, len(page.chunk))
        start = page.end
    check(found[:25] == numbers[::-1], "the order of the pages")
    check(len(found) == len(set(found)) and event_id in found, "every event once")
    context = good(await bob.room_context(room_id, numbers[10], limit=4))
    check([event.event_id for event in context.events_before] == [numbers[9], numbers[8]], context.events_before)
    done("page back")

    good(await alice.room_redact(room_id, numbers[0], reason="wrong"))
    gone = good(await bob.room_get_event(room_id, numbers[0])).event
    check(gone.source["content"] == {}, gone.source)
    done("redact")


async def see(alice: AsyncClient, bob: AsyncClient, room_id: str) -> None:
    content = picture()
    uploaded, _ = await alice.upload(
        io.BytesIO(content), content_type="image/png", filename="Verlauf ö.png", filesize=len(content)
    )
    uri = str(good(uploaded).content_uri)
    sent = {"msgtype": "m.image", "body": "Verlauf ö.png", "url": uri, "info": {"mimetype": "image/png"}}
    event_id = good(await alice.room_send(room_id, "m.room.message", sent)).event_id
    await sync_until(
        bob, lambda answer: [event for event in timeline(answer, room_id) if event.event_id == event_id], "the picture"
    )
    got = good(await bob.download(uri))
    check(got.body == content and got.content_type == "image/png" and got.filename == "Verlauf ö.png", got)
    server_name, media_id = uri.removeprefix("mxc://").split("/")
    small = good(await bob.thumbnail(server_name, media_id, 32, 32, ResizingMethod.crop))
    check(Image.open(io.BytesIO(small.body)).size == (32, 32), small)
    limit = good(await bob.content_repository_config()).upload_size
    check(limit > 1_000_000, limit)
    good(await alice.set_avatar(uri))
    check(good(await bob.get_avatar(alice.user_id)).avatar_url == uri, "avatar")
    done("picture")


async def part(alice: AsyncClient, bob: AsyncClient, room_id: str) -> None:
    good(await alice.room_put_state(room_id, "m.room.topic", {"topic": "at six"}))
    await sync_until(bob, lambda answer: bob.rooms[room_id].topic == "at six", "the topic")
    check(good(await bob.room_get_state_event(room_id, "m.room.topic")).content == {"topic": "at six"}, "state event")
    types = {event["type"] for event in good(await bob.room_get_state(room_id)).events}
    check({"m.room.create", "m.room.member", "m.room.power_levels"} <= types, types)
    done("state")
    good(await bob.room_leave(room_id))
    await sync_until(bob, lambda answer: room_id in answer.rooms.leave, "that bob has left")
    await sync_until(alice, lambda answer: bob.user_id not in alice.rooms[room_id].users, "that bob is gone")
    good(await bob.room_forget(room_id))
    check(isinstance(await bob.room_messages(room_id, limit=1), ErrorResponse), "messages of a forgotten room")
    done("leave and forget")
    good(await bob.logout())
    check(isinstance(await bob.whoami(), ErrorResponse), "a token after logging out")
    done("goodbye")


if __name__ == "__main__":
    asyncio.run(tell(sys.argv[-1]))
