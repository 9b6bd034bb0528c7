"""EDUs: a server speaks for its own users, of rooms that it is in and may take part in; all else is dropped."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from federation.server.edus import EduInlet
from homeserver.errors import StorageUnavailable
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID
from homeserver.rooms.server_guard import ServerGuard
from homeserver.users.remote_presence import ROUND_S, TIMEOUT_S
from homeserver.users.typing import REMOTE_TIMEOUT_S
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.rooms import SERVER, Person, RoomServer, rooms  # noqa: F401
from tests.support.user_state import UserState

A = "a.example"
B = "b.example"


class Inlet:
    """The inlet on a server with a room of `a.example`, in which are BOB of `b.example`, and dora of here."""

    def __init__(self, server: RoomServer, room: Elsewhere, dora: Person) -> None:
        self.server = server
        self.room = room
        self.dora = dora
        self.state = UserState(server)
        self.inlet = EduInlet(
            ServerGuard(server.store, server.door, SERVER),
            server.door,
            typing=self.state.typing,
            receipts=self.state.receipts,
            presence=self.state.presence,
        )

    @classmethod
    async def start(cls, server: RoomServer) -> Inlet:
        room = Elsewhere()
        room.join(BOB)
        await room.all_to(server)
        (dora,) = await server.users("dora")
        room.note(await server.join(room.room_id, dora))
        inlet = cls(server, room, dora)
        await server.user_feed(dora)
        return inlet

    async def take(self, origin: str, kind: Any, content: Any) -> None:
        await self.inlet.receive(origin, [{"edu_type": kind, "content": content}])

    async def typing(self) -> list[str]:
        told = await self.state.told(self.state.typing_stream, self.dora, self.room.room_id)
        return told[0]["content"]["user_ids"] if told else []

    async def receipts(self) -> JsonObject:
        told = await self.state.told(self.state.receipt_stream, self.dora, self.room.room_id)
        return told[0]["content"] if told else {}

    async def presence(self) -> dict[str, JsonObject]:
        told = await self.state.told_user(self.state.presence_stream, self.dora)
        return {each["sender"]: each["content"] for each in told}

    async def pass_time(self, seconds: float = ROUND_S) -> None:
        for _ in range(20):
            self.server.clock.advance(seconds / 20)
            await deferLater(reactor, 0.005, lambda: None)


def typing(room_id: Any, user_id: Any, is_typing: Any = True) -> JsonObject:
    return {"room_id": room_id, "user_id": user_id, "typing": is_typing}


def receipt(room_id: str, user_id: Any, event_id: Any, **data: Any) -> JsonObject:
    return {room_id: {"m.read": {user_id: {"event_ids": [event_id], "data": {"ts": 1, **data}}}}}


@pytest_twisted.ensureDeferred
async def test_a_user_of_another_server_types_and_ends_in_time(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    await inlet.take(B, "m.typing", typing(inlet.room.room_id, BOB))
    assert [BOB] == await inlet.typing()
    rooms.clock.advance(REMOTE_TIMEOUT_S + 1)
    assert [] == await inlet.typing()


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("origin", "user_id", "is_typing"),
    [
        (A, BOB, True),
        (B, ALICE, True),
        (B, "@nobody:b.example", True),
        (B, f"@dora:{SERVER}", True),
        ("c.example", "@carol:c.example", True),
        (B, BOB, "yes"),
        (B, BOB, None),
        (B, 1, True),
        (B, "@bob\ud800:b.example", True),
    ],
    ids=["foreign", "foreign 2", "not there", "ours", "other server", "text", "null", "number", "surrogate"],
)
@pytest_twisted.ensureDeferred
async def test_typing_of_whom_the_server_may_not_speak_for_is_dropped(
    rooms: RoomServer,  # noqa: F811
    origin: str,
    user_id: Any,
    is_typing: Any,
) -> None:
    inlet = await Inlet.start(rooms)
    await inlet.take(origin, "m.typing", typing(inlet.room.room_id, user_id, is_typing))
    await inlet.take(B, "m.typing", typing("!unknown", BOB))
    await inlet.take(B, "m.typing", typing(None, BOB))
    assert [] == await inlet.typing()


@pytest_twisted.ensureDeferred
async def test_a_receipt_moves_forwards_only_and_an_unknown_event_is_none(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    one = await rooms.say(inlet.room.room_id, inlet.dora, "one")
    two = await rooms.say(inlet.room.room_id, inlet.dora, "two")
    room_id = inlet.room.room_id
    await inlet.take(B, "m.receipt", receipt(room_id, str(BOB), two.event_id))
    await inlet.take(B, "m.receipt", receipt(room_id, str(BOB), one.event_id))
    await inlet.take(B, "m.receipt", receipt(room_id, str(BOB), EventID("$unknown")))
    assert {two.event_id: {"m.read": {BOB: {"ts": 1}}}} == await inlet.receipts()


@pytest_twisted.ensureDeferred
async def test_receipts_that_a_server_may_not_send_are_dropped(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    stored = await rooms.say(inlet.room.room_id, inlet.dora, "one")
    room_id, event_id = inlet.room.room_id, str(stored.event_id)
    private = {room_id: {"m.read.private": {str(BOB): {"event_ids": [event_id], "data": {"ts": 1}}}}}
    for origin, content in (
        (A, receipt(room_id, str(BOB), event_id)),
        (B, receipt(room_id, str(ALICE), event_id)),
        (B, receipt(room_id, "@nobody:b.example", event_id)),
        (B, receipt("!unknown", str(BOB), event_id)),
        (B, receipt(room_id, str(BOB), event_id, ts="1")),
        (B, receipt(room_id, str(BOB), 1)),
        (B, {room_id: []}),
        (B, {room_id: {"m.read": [1]}}),
        (B, {room_id: {"m.read": {str(BOB): {"event_ids": [], "data": {"ts": 1}}}}}),
        (B, private),
        (B, []),
        (B, None),
    ):
        await inlet.take(origin, "m.receipt", content)
    assert {} == await inlet.receipts()


@pytest_twisted.ensureDeferred
async def test_the_acl_of_the_room_holds_for_typing_and_receipts(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    stored = await rooms.say(inlet.room.room_id, inlet.dora, "one")
    inlet.room.note(stored)
    acl = inlet.room.add("m.room.server_acl", ALICE, {"allow": ["*"], "deny": [B]}, "")
    await inlet.room.give(rooms, acl)
    await inlet.take(B, "m.typing", typing(inlet.room.room_id, BOB))
    await inlet.take(B, "m.receipt", receipt(inlet.room.room_id, str(BOB), stored.event_id))
    assert ([], {}) == (await inlet.typing(), await inlet.receipts())


@pytest_twisted.ensureDeferred
async def test_receipts_with_a_hundred_thousand_users_cost_little(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    stored = await rooms.say(inlet.room.room_id, inlet.dora, "one")
    said = {"event_ids": [str(stored.event_id)], "data": {"ts": 1}}
    crowd = {inlet.room.room_id: {"m.read": {f"@u{n}:b.example": said for n in range(100_000)}}}
    many_rooms = {f"!r{n}": {"m.read": {str(BOB): said}} for n in range(10_000)}
    await inlet.inlet.receive(B, [{"edu_type": "m.receipt", "content": crowd}] * 10)
    await inlet.inlet.receive(B, [{"edu_type": "m.receipt", "content": many_rooms}])
    await inlet.take(B, "m.receipt", receipt(inlet.room.room_id, str(BOB), stored.event_id))
    assert [BOB] == list((await inlet.receipts())[stored.event_id]["m.read"])


def present(user_id: Any, state: Any = "online", **more: Any) -> JsonObject:
    return {"push": [{"user_id": user_id, "presence": state, "last_active_ago": 10, **more}]}


@pytest_twisted.ensureDeferred
async def test_presence_of_who_shares_a_room_is_told_and_runs_out(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    await inlet.state.presence.start()
    await inlet.take(B, "m.presence", present(BOB, currently_active=True, status_msg="here"))
    await inlet.pass_time()
    told = (await inlet.presence())[BOB]
    assert ("online", True, "here") == (told["presence"], told["currently_active"], told["status_msg"])
    for _ in range(int(TIMEOUT_S // 60) + 3):
        await inlet.pass_time(60)
    assert {} == await inlet.presence()


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("origin", "content"),
    [
        (A, present(BOB)),
        (B, present("@nobody:b.example")),
        (B, present(BOB, "dancing")),
        (B, present(f"@dora:{SERVER}")),
        (B, present(BOB, "offline")),
        (B, {"push": {}}),
        (B, {"push": [1, None, [], {}]}),
        (B, {}),
    ],
    ids=["foreign", "unknown", "state", "ours", "offline", "object", "junk", "empty"],
)
@pytest_twisted.ensureDeferred
async def test_presence_that_is_none_of_the_servers_or_no_news_is_dropped(
    rooms: RoomServer,  # noqa: F811
    origin: str,
    content: JsonObject,
) -> None:
    inlet = await Inlet.start(rooms)
    before = inlet.state.now
    await inlet.take(origin, "m.presence", content)
    await inlet.pass_time()
    assert {} == await inlet.presence()
    assert before == inlet.state.now


@pytest_twisted.ensureDeferred
async def test_a_storm_of_presence_is_told_a_few_times(rooms: RoomServer) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    before = inlet.state.now
    for number in range(1_000):
        await inlet.take(B, "m.presence", present(BOB, ("online", "unavailable")[number % 2], status_msg=str(number)))
    await inlet.pass_time(2 * ROUND_S)
    await inlet.pass_time(2 * ROUND_S)
    assert inlet.state.now - before <= 3
    assert "999" == (await inlet.presence())[BOB]["status_msg"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("m.device_list_update", "user_id"), ("m.signing_key_update", "user_id"), ("m.direct_to_device", "sender")],
)
@pytest_twisted.ensureDeferred
async def test_other_kinds_are_handed_on_for_users_of_the_origin(rooms: RoomServer, kind: str, name: str) -> None:  # noqa: F811
    inlet = await Inlet.start(rooms)
    heard: list[tuple[str, JsonObject]] = []

    async def hear(origin: str, content: JsonObject) -> None:
        heard.append((origin, content))
        if content.get("n") == 1:
            raise RuntimeError("a bug")
        if content.get("n") == 2:
            raise StorageUnavailable("no")

    inlet.inlet.register(kind, hear)
    await inlet.take(A, kind, {name: str(BOB)})
    await inlet.take(B, kind, {name: 1})
    await inlet.take(B, "m.unknown", {name: str(BOB)})
    await inlet.take(B, 1, {name: str(BOB)})
    assert [] == heard
    await inlet.take(B, kind, {name: str(BOB), "n": 1})
    with pytest.raises(StorageUnavailable):
        await inlet.take(B, kind, {name: str(BOB), "n": 2})
    assert [(B, {name: str(BOB), "n": 1}), (B, {name: str(BOB), "n": 2})] == heard
