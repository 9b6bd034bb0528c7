"""What was before: history that is paged back to over federation, events at a time, upgraded rooms, open invites."""

from __future__ import annotations

from typing import Any

from tests.support.federation import FederatedUser

from .pairs import Pair, find_event, hears, sees, sees_membership, state_event, talk, until, waits_in


async def page_back(user: FederatedUser, room_id: str, *, wanted: int) -> list[Any]:
    """Return the events of the room, newest first, until the creation or so many messages are there.

    Synapse answers with what it has and goes for more in the background, so an empty page need not be the last one.
    """
    found: list[Any] = []
    token: dict[str, str] = {}

    async def are_there() -> bool:
        nonlocal token
        page = await user.call("GET", f"/rooms/{room_id}/messages", dir="b", limit=100, **token)
        found.extend(page["chunk"])
        token = {"from": page["end"]} if "end" in page else token
        return sum(event["type"] == "m.room.message" for event in found) >= wanted

    await until(are_there, what=f"{wanted} messages at {user.server.name}")
    return found


async def test_300_messages_are_paged_back_to(pair: Pair) -> None:
    room_id = await pair.alice.create_room(preset="public_chat")
    texts = [f"message {number}" for number in range(300)]
    for text in texts:
        await pair.alice.say(room_id, text)
    await pair.bob.join(room_id, via=pair.alice.server)
    found = await page_back(pair.bob, room_id, wanted=300)
    said = [event["content"]["body"] for event in reversed(found) if event["type"] == "m.room.message"]
    assert texts == said
    assert len(found) == len({event["event_id"] for event in found})


async def test_history_before_the_join_is_hidden_where_the_room_wants_it(pair: Pair) -> None:
    visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
    room_id = await pair.alice.create_room(preset="public_chat", initial_state=[visibility])
    secret_id = await pair.alice.say(room_id, "a secret")
    await pair.bob.join(room_id, via=pair.alice.server)
    await talk(pair, room_id)
    assert "a secret" not in await pair.bob.bodies(room_id)
    shown = await find_event(pair.bob, room_id, secret_id)
    assert shown is None or {} == shown["content"]


async def test_event_at_a_time_before_the_join_is_found(pair: Pair) -> None:
    """Where the own events do not go back so far, the other server is asked."""
    room_id = await pair.alice.create_room(preset="public_chat")
    event_ids = [await pair.alice.say(room_id, f"message {number}") for number in range(5)]
    times = [(await find_event(pair.alice, room_id, event_id))["origin_server_ts"] for event_id in event_ids]
    await pair.bob.join(room_id, via=pair.alice.server)
    await hears_join(pair, room_id)
    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"
    found = await pair.bob.call("GET", path, ts=times[1], dir="f")
    assert (event_ids[1], times[1]) == (found["event_id"], found["origin_server_ts"])
    found = await pair.bob.call("GET", path, ts=times[3], dir="b")
    assert (event_ids[3], times[3]) == (found["event_id"], found["origin_server_ts"])


async def hears_join(pair: Pair, room_id: str) -> None:
    await sees_membership(pair.alice, room_id, pair.bob, "join")
    await sees_membership(pair.bob, room_id, pair.bob, "join")


async def test_members_follow_into_an_upgraded_room(pair: Pair) -> None:
    old_id = await pair.room(room_version="10", name="A room")
    upgraded = await pair.alice.call("POST", f"/rooms/{old_id}/upgrade", {"new_version": "12"})
    new_id = upgraded["replacement_room"]

    async def is_told() -> bool:
        tombstone = await state_event(pair.bob, old_id, "m.room.tombstone")
        return tombstone is not None and new_id == tombstone["content"]["replacement_room"]

    await until(is_told)
    await pair.bob.join(new_id, via=pair.alice.server)
    await sees_membership(pair.alice, new_id, pair.bob, "join")
    create = await state_event(pair.bob, new_id, "m.room.create")
    assert old_id == create["content"]["predecessor"]["room_id"]
    assert "12" == create["content"]["room_version"]
    await talk(pair, new_id)


async def test_upgrade_by_the_guest_is_joined_by_the_host(pair: Pair) -> None:
    old_id = await pair.room(room_version="11")
    powers = (await state_event(pair.alice, old_id, "m.room.power_levels"))["content"]
    powers = {**powers, "users": {**powers["users"], pair.bob.user_id: 100}}
    await pair.alice.set_state(old_id, "m.room.power_levels", powers)

    async def is_told() -> bool:
        event = await state_event(pair.bob, old_id, "m.room.power_levels")
        return bool(powers["users"] == event["content"]["users"])

    await until(is_told)
    upgraded = await pair.bob.call("POST", f"/rooms/{old_id}/upgrade", {"new_version": "12"})
    new_id = upgraded["replacement_room"]
    await pair.alice.join(new_id, via=pair.bob.server)
    await pair.alice.say(new_id, "here I am")
    await hears(pair.bob, new_id, "here I am")


async def test_events_around_one_from_before_the_join_are_shown(pair: Pair) -> None:
    """Synapse leaves out the nearest event before one that it has backfilled."""
    room_id = await pair.alice.create_room(preset="public_chat")
    for number in range(5):
        await pair.alice.say(room_id, f"before {number}")
    await pair.bob.join(room_id, via=pair.alice.server)
    event_id = await pair.alice.say(room_id, "after")
    await sees(pair.bob, room_id, event_id)
    found = await page_back(pair.bob, room_id, wanted=6)
    (before,) = [event for event in found if event["content"].get("body") == "before 2"]
    around = await pair.bob.call("GET", f"/rooms/{room_id}/context/{before['event_id'].replace('/', '%2F')}", limit=4)
    expected = ["before 0", None] if pair.is_sennit_host else ["before 1", "before 0"]
    assert expected == [event["content"].get("body") for event in around["events_before"]]
    assert ["before 3", "before 4"] == [event["content"].get("body") for event in around["events_after"]]


async def test_invite_that_was_missed_is_not_needed_to_join(pair: Pair) -> None:
    """Bob joins with what /sync says of the invite, and hears of what was said since."""
    room_id = await pair.alice.create_room(
        preset="private_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "invited"}}
        ],
    )
    await pair.alice.say(room_id, "before the invite")
    await pair.alice.invite(room_id, pair.bob.user_id)
    await waits_in(pair.bob, room_id, "invite")
    await pair.alice.say(room_id, "after the invite")
    await pair.bob.join(room_id)
    await talk(pair, room_id)
    found = await page_back(pair.bob, room_id, wanted=3)
    bodies = [event["content"].get("body") for event in found]
    assert "after the invite" in bodies
    assert "before the invite" not in bodies
