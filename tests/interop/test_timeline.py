"""What is said and shown between the two servers: messages, redactions, typing, receipts, presence, profiles."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.federation import FederatedUser

from .pairs import (
    Pair,
    agree_on_state,
    find_event,
    hears,
    redact,
    room_in,
    sees,
    sees_redacted,
    sees_state,
    state_event,
    until,
)

BOTH_DATABASES = pytest.mark.parametrize("new_database", ["sqlite", "mariadb"], indirect=True)


@BOTH_DATABASES
async def test_messages_arrive_once_and_in_order(pair: Pair) -> None:
    room_id = await pair.room()
    said = []
    for number in range(10):
        for user in (pair.alice, pair.bob):
            said.append(f"{number} by {user.user_id}")
            event_id = await user.say(room_id, said[-1])
        await sees(pair.alice, room_id, event_id)
    await hears(pair.bob, room_id, said[-2])
    # What crossed on the wire stands in the order of arrival; what one user said never changes its order.
    for viewer in (pair.alice, pair.bob):
        seen = await viewer.bodies(room_id)
        assert sorted(said) == sorted(seen)
        for user in (pair.alice, pair.bob):
            assert [text for text in said if user.user_id in text] == [text for text in seen if user.user_id in text]


async def test_many_messages_at_once_all_arrive(pair: Pair) -> None:
    room_id = await pair.room()
    texts = [f"message {number}" for number in range(60)]
    for text in texts:
        await pair.alice.say(room_id, text)
    await hears(pair.bob, room_id, texts[-1])
    newest = await pair.bob.messages(room_id, limit=60)
    assert texts == [event["content"]["body"] for event in reversed(newest)]


async def test_text_of_all_kinds_arrives_as_it_was(pair: Pair) -> None:
    room_id = await pair.room()
    content = {
        "msgtype": "m.text",
        "body": '\u00e4\u0000\u2028\U0001f375 \\ " / <b>',
        "x": [None, True, -(2**53) + 1, 2**53 - 1, {"": []}],
    }
    for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        event_id = await sender.send(room_id, "m.room.message", content)
        assert content == (await sees(receiver, room_id, event_id))["content"]


async def test_host_redacts_the_guest_and_the_guest_itself(pair: Pair) -> None:
    room_id = await pair.room()
    for redacter, author, viewer in (
        (pair.alice, pair.bob, pair.bob),
        (pair.bob, pair.bob, pair.alice),
        (pair.alice, pair.alice, pair.bob),
    ):
        event_id = await author.say(room_id, "a secret")
        await sees(redacter, room_id, event_id)
        await sees(viewer, room_id, event_id)
        redaction_id = await redact(redacter, room_id, event_id)
        await sees_redacted(viewer, room_id, event_id)
        because = (await find_event(viewer, room_id, event_id))["unsigned"]["redacted_because"]
        assert redaction_id == because["event_id"]


async def test_edits_and_reactions_are_bundled_on_the_other_side(pair: Pair) -> None:
    room_id = await pair.room()
    event_id = await pair.alice.say(room_id, "hello")
    await sees(pair.bob, room_id, event_id)
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": "x"}
    reaction_id = await pair.bob.send(room_id, "m.reaction", {"m.relates_to": relation})
    await sees(pair.alice, room_id, reaction_id)
    edit_id = await pair.alice.send(
        room_id,
        "m.room.message",
        {
            "msgtype": "m.text",
            "body": "* goodbye",
            "m.new_content": {"msgtype": "m.text", "body": "goodbye"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
        },
    )
    await sees(pair.bob, room_id, edit_id)
    shown = await find_event(pair.bob, room_id, event_id)
    assert edit_id == shown["unsigned"]["m.relations"]["m.replace"]["event_id"]


async def test_state_of_both_sides_is_seen(pair: Pair) -> None:
    room_id = await pair.room(power_level_content_override={"events": {"m.room.topic": 0}})
    for author, viewer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        event_id = await author.set_state(room_id, "m.room.topic", {"topic": f"of {author.user_id}"})
        await sees_state(viewer, room_id, "m.room.topic", event_id)
    await agree_on_state(pair.alice, pair.bob, room_id)


# -- what passes -----------------------------------------------------------------------------------------------------


async def ephemeral(viewer: FederatedUser, room_id: str, kind: str) -> Any:
    room = await room_in(viewer, room_id, "join")
    for event in room["ephemeral"]["events"] if room else []:
        if kind == event["type"]:
            return event["content"]
    return {}


@pytest.mark.parametrize("typist", ["alice", "bob"])
async def test_typing_is_seen_and_its_end(pair: Pair, typist: str) -> None:
    room_id = await pair.room()
    user, viewer = (pair.alice, pair.bob) if typist == "alice" else (pair.bob, pair.alice)

    async def is_typing() -> bool:
        return user.user_id in (await ephemeral(viewer, room_id, "m.typing")).get("user_ids", [])

    async def is_quiet() -> bool:
        return not await is_typing()

    await user.call("PUT", f"/rooms/{room_id}/typing/{user.user_id}", {"typing": True, "timeout": 30_000})
    await until(is_typing)
    await user.call("PUT", f"/rooms/{room_id}/typing/{user.user_id}", {"typing": False})
    await until(is_quiet)


@pytest.mark.parametrize("thread", [None, "main"])
async def test_receipts_are_seen(pair: Pair, thread: str | None) -> None:
    room_id = await pair.room()
    for author, reader in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        event_id = await author.say(room_id, "read me")
        await sees(reader, room_id, event_id)
        body = {} if thread is None else {"thread_id": thread}
        await reader.call("POST", f"/rooms/{room_id}/receipt/m.read/{event_id}", body)

        async def is_read(
            author: FederatedUser = author, reader: FederatedUser = reader, event_id: str = event_id
        ) -> bool:
            receipts = await ephemeral(author, room_id, "m.receipt")
            found = receipts.get(event_id, {}).get("m.read", {}).get(reader.user_id)
            return found is not None and thread == found.get("thread_id")

        await until(is_read)


async def test_private_receipts_are_not_told(pair: Pair) -> None:
    room_id = await pair.room()
    event_id = await pair.alice.say(room_id, "read me")
    await sees(pair.bob, room_id, event_id)
    await pair.bob.call("POST", f"/rooms/{room_id}/receipt/m.read.private/{event_id}", {})
    second = await pair.alice.say(room_id, "and me")
    await sees(pair.bob, room_id, second)
    await pair.bob.call("POST", f"/rooms/{room_id}/receipt/m.read/{second}", {})

    async def is_read() -> bool:
        return second in await ephemeral(pair.alice, room_id, "m.receipt")

    await until(is_read)
    assert event_id not in await ephemeral(pair.alice, room_id, "m.receipt")


async def test_presence_is_seen(pair: Pair) -> None:
    await pair.room()
    for user, viewer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        status = f"drinking tea with {viewer.user_id}"
        # Synapse takes a user offline again who does not sync, and tells that too.
        await user.call("PUT", f"/presence/{user.user_id}/status", {"presence": "online", "status_msg": status})

        async def is_seen(user: FederatedUser = user, viewer: FederatedUser = viewer, status: str = status) -> bool:
            answer = await viewer.try_call("GET", f"/presence/{user.user_id}/status")
            return answer.status == 200 and status == answer.json.get("status_msg")

        await until(is_seen)


async def test_new_names_and_pictures_are_seen_in_rooms(pair: Pair) -> None:
    room_id = await pair.room()
    for user, viewer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        await user.call("PUT", f"/profile/{user.user_id}/displayname", {"displayname": "Somebody Else"})
        await user.call("PUT", f"/profile/{user.user_id}/avatar_url", {"avatar_url": "mxc://example.org/abc"})

        async def is_seen(user: FederatedUser = user, viewer: FederatedUser = viewer) -> bool:
            content = (await state_event(viewer, room_id, "m.room.member", user.user_id))["content"]
            return ("Somebody Else", "mxc://example.org/abc") == (
                content.get("displayname"),
                content.get("avatar_url"),
            )

        await until(is_seen)
    await agree_on_state(pair.alice, pair.bob, room_id)
