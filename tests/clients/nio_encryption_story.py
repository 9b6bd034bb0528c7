"""Two users of matrix-nio and their devices encrypt, on the server whose address is the last argument."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from nio import (
    AsyncClient,
    ForwardedRoomKeyEvent,
    KeyVerificationAccept,
    KeyVerificationKey,
    MegolmEvent,
    RoomEncryptedImage,
    RoomKeyRequest,
    RoomMessageText,
    RoomPreset,
    SyncResponse,
)
from nio.crypto import OlmDevice, decrypt_attachment
from nio.event_builders import EnableEncryptionBuilder

from .nio_client import PASSWORD, check, client, done, good, sync_until, tend, timeline


async def tell(url: str) -> None:
    async with AsyncExitStack() as stack:
        alice, bob, second = [
            await stack.enter_async_context(client(url, name, encrypts=True)) for name in ("alice", "bob", "bob")
        ]
        for user in (alice, bob):
            good(await user.register(user.user, PASSWORD, device_name="first"))
            await publish(user)
        done("keys uploaded")
        room_id = await meet(alice, bob)
        early = await talk(alice, bob, room_id)
        await verify(alice, bob, room_id)
        good(await second.login(PASSWORD, device_name="second"))
        await publish(second)
        await come_later(alice, bob, second, room_id)
        await ask_for_keys(bob, second, room_id, early)
        await see(alice, second, room_id)
        await part(alice, bob, second, room_id)


async def publish(user: AsyncClient) -> None:
    """Upload a new device's keys, and see that they are there."""
    check(user.should_upload_keys, "keys to upload")
    good(await user.keys_upload())
    # One-time keys are uploaded in the second turn.
    answer = good(await user.sync(timeout=0, full_state=True))
    await tend(user)
    check(answer.device_key_count.signed_curve25519 is not None, answer)
    counts = good(await user.sync(timeout=0)).device_key_count
    check(counts.signed_curve25519 == user.olm.account.max_one_time_keys, counts)


async def meet(alice: AsyncClient, bob: AsyncClient) -> str:
    encryption = EnableEncryptionBuilder().as_dict()
    made = good(
        await alice.room_create(
            preset=RoomPreset.private_chat, invite=[bob.user_id], initial_state=[encryption], name="Tea"
        )
    )
    room_id = str(made.room_id)
    await sync_until(bob, lambda answer: room_id in answer.rooms.invite, "the invite")
    good(await bob.join(room_id))
    for user in (alice, bob):
        await sync_until(
            user,
            lambda answer, user=user: room_id in user.rooms and {alice.user_id, bob.user_id} == members(user, room_id),
            "both members",
        )
        check(user.rooms[room_id].encrypted, "an encrypted room")
    done("an encrypted room")
    return room_id


def members(user: AsyncClient, room_id: str) -> set[str]:
    room = user.rooms[room_id]
    return set(room.users) - set(room.invited_users)


async def say(user: AsyncClient, room_id: str, text: str) -> str:
    """Send a message to all devices that the user knows, whether or not they are verified."""
    content = {"msgtype": "m.text", "body": text}
    sent = good(await user.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True))
    return str(sent.event_id)


def shows(room_id: str, event_id: str) -> Callable[[SyncResponse], Any]:
    return lambda answer: [event for event in timeline(answer, room_id) if event.event_id == event_id]


def gets(kind: type) -> Callable[[SyncResponse], Any]:
    return lambda answer: [event for event in answer.to_device_events if isinstance(event, kind)]


async def reads(user: AsyncClient, room_id: str, event_id: str, text: str) -> RoomMessageText:
    """Wait for an event, which must have come encrypted and be this text."""
    (event,) = await sync_until(user, shows(room_id, event_id), text)
    check(isinstance(event, RoomMessageText) and event.decrypted and event.body == text, event)
    message: RoomMessageText = event
    return message


async def talk(alice: AsyncClient, bob: AsyncClient, room_id: str) -> str:
    """Return the ID of what Bob has said."""
    event_id = await say(alice, room_id, "Käse 🧀")
    left: list[int] = []

    def shows_and_counts(answer: SyncResponse) -> Any:
        left.append(answer.device_key_count.signed_curve25519)
        return shows(room_id, event_id)(answer)

    (seen,) = await sync_until(bob, shows_and_counts, "the first message")
    check(isinstance(seen, RoomMessageText) and seen.decrypted and seen.body == "Käse 🧀", seen)
    check(not seen.verified, "not verified yet")
    answer_id = await say(bob, room_id, "Brot 🍞")
    await reads(alice, room_id, answer_id, "Brot 🍞")
    done("encrypted messages both ways")
    whole = bob.olm.account.max_one_time_keys
    check(min(left) == whole - 1, left)
    counts = good(await bob.sync(timeout=0, full_state=True)).device_key_count
    check(counts.signed_curve25519 == whole, counts)
    done("a one-time key taken and made up for")
    return answer_id


async def verify(alice: AsyncClient, bob: AsyncClient, room_id: str) -> None:
    await compare(alice, bob)
    event_id = await say(alice, room_id, "it is me")
    check((await reads(bob, room_id, event_id, "it is me")).verified, "a message of a verified device")
    done("two users verified by emoji")


def device_of(user: AsyncClient, other: AsyncClient) -> OlmDevice:
    """The device of the other as the user knows it."""
    device: OlmDevice = user.device_store[other.user_id][other.device_id]
    return device


async def compare(asker: AsyncClient, asked: AsyncClient) -> None:
    """Have two devices show each other the same emoji, and their users say so."""
    good(await asker.start_key_verification(device_of(asker, asked)))
    (transaction_id,) = await sync_until(asked, lambda _: list(asked.key_verifications), "the verification")
    good(await asked.accept_key_verification(transaction_id))
    sides = [user.key_verifications[transaction_id] for user in (asker, asked)]
    for turn, step in ((asker, KeyVerificationAccept), (asked, KeyVerificationKey), (asker, KeyVerificationKey)):
        await sync_until(turn, gets(step), "the next step of the verification")
    check(len(sides[0].get_emoji()) == 7 and sides[0].get_emoji() == sides[1].get_emoji(), sides)
    for user in (asker, asked):
        good(await user.confirm_short_auth_string(transaction_id))
    for user, other, side in ((asker, asked, sides[0]), (asked, asker, sides[1])):
        await sync_until(user, lambda _, side=side: side.verified, "the end of the verification")
        check(device_of(user, other).verified, "a verified device")
        user.key_verifications.clear()


async def come_later(alice: AsyncClient, bob: AsyncClient, second: AsyncClient, room_id: str) -> None:
    """Bob's second device gets what is said from now on."""
    for user in (alice, bob):
        await sync_until(
            user, lambda _, user=user: second.device_id in user.device_store[bob.user_id], "the second device"
        )
    done("a new device is seen")
    for sender, text in ((alice, "to both devices"), (bob, "to my other device")):
        event_id = await say(sender, room_id, text)
        for device in [each for each in (alice, bob, second) if each is not sender]:
            await reads(device, room_id, event_id, text)
    event_id = await say(second, room_id, "from the second device")
    for device in (alice, bob):
        await reads(device, room_id, event_id, "from the second device")
    done("messages with a new device")


async def ask_for_keys(bob: AsyncClient, second: AsyncClient, room_id: str, early_id: str) -> None:
    """The new device is verified by the old one, and then gets the key of what was said before."""
    await compare(second, bob)
    early = good(await second.room_get_event(room_id, early_id)).event
    check(isinstance(early, MegolmEvent) and "Brot" not in json.dumps(early.source, ensure_ascii=False), early)
    good(await second.request_room_key(early))
    await sync_until(bob, gets(RoomKeyRequest), "the request of the key")
    await sync_until(second, gets(ForwardedRoomKeyEvent), "the key")
    read = second.decrypt_event(early)
    check(isinstance(read, RoomMessageText) and read.body == "Brot 🍞", read)
    done("a key shared on request")


async def see(alice: AsyncClient, second: AsyncClient, room_id: str) -> None:
    """A file is encrypted too."""
    content = bytes(range(256)) * 100
    uploaded, keys = await alice.upload(
        io.BytesIO(content), content_type="image/png", filename="x.png", encrypt=True, filesize=len(content)
    )
    uri = str(good(uploaded).content_uri)
    message = {"msgtype": "m.image", "body": "x.png", "file": {"url": uri, **(keys or {})}}
    sent = good(await alice.room_send(room_id, "m.room.message", message, ignore_unverified_devices=True))
    (event,) = await sync_until(second, shows(room_id, sent.event_id), "the picture")
    check(isinstance(event, RoomEncryptedImage), event)
    stored = good(await second.download(event.url)).body
    check(stored != content and len(stored) == len(content), "an encrypted file")
    plain = decrypt_attachment(stored, event.key["k"], event.hashes["sha256"], event.iv)
    check(plain == content, "the file")
    done("an encrypted file")


async def part(alice: AsyncClient, bob: AsyncClient, second: AsyncClient, room_id: str) -> None:
    good(await second.logout())
    for user in (alice, bob):
        await sync_until(
            user,
            lambda _, user=user: user.device_store[bob.user_id][second.device_id].deleted,
            "that the second device is gone",
        )
    event_id = await say(alice, room_id, "without the second")
    await reads(bob, room_id, event_id, "without the second")
    done("a device that has logged out is gone")
    good(await bob.room_leave(room_id))
    await sync_until(alice, lambda _: {alice.user_id} == members(alice, room_id), "that bob has left")
    check(alice.olm.should_share_group_session(room_id), "a new session after somebody has left")
    for user in (alice, bob):
        good(await user.logout())
    done("goodbye")


if __name__ == "__main__":
    asyncio.run(tell(sys.argv[-1]))
