"""Joining, leaving, knocking and inviting as clients do it, with a played server that is in the room, over TLS."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import orjson
import pytest
import pytest_twisted

from homeserver.errors import RemoteRefused
from homeserver.model.ids import EventID, RoomAlias, RoomID, UserID
from homeserver.ports import DirectoryAnswer
from tests.support.elsewhere import Elsewhere, _key_of
from tests.support.federation import Federation
from tests.support.federation import sqlite_federation as sqlite_federation
from tests.support.played_server import PlayedRequest, PlayedServer, until
from tests.support.residents import Residents

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"


def events(pdus: Any) -> list[Any]:
    return [json.loads(each) for each in pdus]


class Resident:
    """Puts what `Residents` answers on the wire."""

    def __init__(self, played: PlayedServer, residents: Residents) -> None:
        self.played = played
        self.residents = residents
        for path, handler in (
            (f"{V1}/make_join/", self.make),
            (f"{V1}/make_leave/", self.make),
            (f"{V1}/make_knock/", self.make),
            (f"{V2}/send_join/", self.send_join),
            (f"{V2}/send_leave/", self.send),
            (f"{V1}/send_knock/", self.send),
            (f"{V2}/invite/", self.invite),
            (f"{V1}/state/", self.state),
            (f"{V1}/query/directory", self.directory),
            (f"{V1}/send/", lambda request: {"pdus": {}}),
        ):
            played.answers[path] = self._told(handler)

    def _told(self, handler: Any) -> Any:
        async def handle(request: PlayedRequest) -> Any:
            parts = [unquote(each) for each in request.path.split("/")[4:]]
            query = parse_qs(request.uri.partition("?")[2])
            try:
                result = handler(request, parts, query) if handler.__name__ != "<lambda>" else handler(request)
                return await result if hasattr(result, "__await__") else result
            except RemoteRefused as fault:
                return fault.status, {"errcode": fault.errcode, "error": fault.message}

        return handle

    async def make(self, request: PlayedRequest, parts: list[str], query: Any) -> Any:
        name = self.played.name
        if parts[0] == "make_leave":
            answer = await self.residents.make_leave(name, RoomID(parts[1]), UserID(parts[2]))
        else:
            ask = getattr(self.residents, parts[0])
            answer = await ask(name, RoomID(parts[1]), UserID(parts[2]), query["ver"])
        return {"room_version": answer.room_version, "event": answer.event}

    async def send_join(self, request: PlayedRequest, parts: list[str], query: Any) -> Any:
        omits = query.get("omit_members") == ["true"]
        answer = await self.residents.send_join(
            self.played.name, RoomID(parts[1]), EventID(parts[2]), request.json, omit_members=omits
        )
        return {
            "event": json.loads(answer.event or b"null"),
            "state": events(answer.state),
            "auth_chain": events(answer.auth_chain),
            "members_omitted": answer.members_omitted,
            "servers_in_room": list(answer.servers_in_room),
        }

    async def send(self, request: PlayedRequest, parts: list[str], query: Any) -> Any:
        send = getattr(self.residents, parts[0])
        told = await send(self.played.name, RoomID(parts[1]), EventID(parts[2]), request.json)
        return {} if told is None else {"knock_room_state": told}

    async def invite(self, request: PlayedRequest, parts: list[str], query: Any) -> Any:
        body = request.json
        answer = await self.residents.invite(
            self.played.name,
            RoomID(parts[1]),
            EventID(parts[2]),
            body["event"],
            body["room_version"],
            body["invite_room_state"],
        )
        return {"event": json.loads(answer)}

    async def state(self, request: PlayedRequest, parts: list[str], query: Any) -> Any:
        answer = await self.residents.get_state(self.played.name, RoomID(parts[1]), EventID(query["event_id"][0]))
        return {"pdus": events(answer.state), "auth_chain": events(answer.auth_chain)}

    async def directory(self, request: PlayedRequest, parts: list[str], query: Any) -> Any:
        answer = await self.residents.query_directory(self.played.name, RoomAlias(query["room_alias"][0]))
        return {"room_id": answer.room_id, "servers": list(answer.servers)}


async def play(federation: Federation) -> Resident:
    """Return a played server whose user alice has a room with some members."""
    played = await federation.play()
    played.keys = [_key_of(played.name)]
    room = Elsewhere("12", creator=UserID(played.user("alice")))
    for number in range(5):
        room.join(UserID(played.user(f"u{number}")))
    return Resident(played, Residents(room))


def path(room_id: str, verb: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{verb}"


@pytest.mark.parametrize("parameter", ["via", "server_name"])
@pytest_twisted.ensureDeferred
async def test_room_is_joined_by_its_id(sqlite_federation: Federation, parameter: str) -> None:
    resident = await play(sqlite_federation)
    (server,) = await sqlite_federation.start()
    dave = await server.register("dave")
    room_id = resident.residents.room.room_id
    query = {parameter: resident.played.name}
    assert {"room_id": room_id} == await dave.call("POST", f"/join/{quote(room_id, safe='')}", {}, **query)
    assert room_id in (await dave.sync())["rooms"]["join"]

    async def all_there() -> bool:
        found = await dave.call("GET", path(room_id, "joined_members"))
        return len(found["joined"]) == 7

    await until(all_there)
    await dave.leave(room_id)
    await dave.call("POST", path(room_id, "forget"), {})
    assert [] == resident.played.faults


@pytest_twisted.ensureDeferred
async def test_room_is_joined_by_an_alias_of_another_server(sqlite_federation: Federation) -> None:
    resident = await play(sqlite_federation)
    (server,) = await sqlite_federation.start()
    dave = await server.register("dave")
    room_id = resident.residents.room.room_id
    alias = f"#lobby:{resident.played.name}"
    resident.residents.aliases[alias] = DirectoryAnswer(room_id, [resident.played.name])
    assert room_id == await dave.join(alias)
    missing = await dave.try_call("POST", f"/join/{quote('#other:' + resident.played.name, safe='')}", {})
    assert (404, "M_NOT_FOUND") == (missing.status, missing.json["errcode"])


@pytest_twisted.ensureDeferred
async def test_what_a_client_is_told_of_a_room_that_cannot_be_joined(sqlite_federation: Federation) -> None:
    resident = await play(sqlite_federation)
    (server,) = await sqlite_federation.start()
    dave = await server.register("dave")
    room = resident.residents.room
    nobody = await dave.try_call("POST", f"/join/{quote(room.room_id, safe='')}", {})
    assert (404, "M_NOT_FOUND") == (nobody.status, nobody.json["errcode"])
    resident.residents.answers["make_join"] = resident.residents.refuse(403, "M_FORBIDDEN")
    refused = await dave.try_call("POST", path(room.room_id, "join"), {}, via=resident.played.name)
    # The other endpoint has no `via`, and none is needed to be told no.
    assert refused.status in (403, 404)
    refused = await dave.try_call("POST", f"/join/{quote(room.room_id, safe='')}", {}, via=resident.played.name)
    assert (403, {"errcode": "M_FORBIDDEN", "error": "refused with 403"}) == (refused.status, refused.json)


@pytest_twisted.ensureDeferred
async def test_room_is_knocked_on_and_the_knock_taken_back(sqlite_federation: Federation) -> None:
    resident = await play(sqlite_federation)
    (server,) = await sqlite_federation.start()
    dave = await server.register("dave")
    room = resident.residents.room
    room.add("m.room.join_rules", room.create.sender, {"join_rule": "knock"}, "")
    answer = await dave.call(
        "POST", f"/knock/{quote(room.room_id, safe='')}", {"reason": "please"}, via=resident.played.name
    )
    assert {"room_id": room.room_id} == answer
    shown = (await dave.sync())["rooms"]["knock"][room.room_id]["knock_state"]["events"]
    assert "m.room.create" in {each["type"] for each in shown}
    await dave.leave(room.room_id)
    assert ["knock", "leave"] == [event.membership for event in resident.residents.sent]


@pytest_twisted.ensureDeferred
async def test_users_of_another_server_are_invited_by_all_endpoints(sqlite_federation: Federation) -> None:
    resident = await play(sqlite_federation)
    (server,) = await sqlite_federation.start()
    dave = await server.register("dave")
    first, second, third = (resident.played.user(name) for name in ("one", "two", "three"))
    room_id = await dave.create_room(invite=[first], preset="private_chat")
    await dave.invite(room_id, second)
    await dave.set_state(room_id, "m.room.member", {"membership": "invite"}, third)
    asked = resident.played.asked(f"{V2}/invite/")
    assert [first, second, third] == [json.loads(each.body)["event"]["state_key"] for each in asked]
    members = {each["state_key"]: each for each in await dave.state(room_id) if each["type"] == "m.room.member"}
    assert {"invite"} == {members[each]["content"]["membership"] for each in (first, second, third)}
    resident.residents.answers["invite"] = resident.residents.refuse(403, "M_FORBIDDEN")
    refused = await dave.try_call("POST", path(room_id, "invite"), {"user_id": resident.played.user("four")})
    assert 403 == refused.status
    assert orjson.loads(refused.body)["errcode"] == "M_FORBIDDEN"


@pytest_twisted.ensureDeferred
async def test_joins_over_federation_have_a_rate_of_their_own(sqlite_federation: Federation) -> None:
    resident = await play(sqlite_federation)
    (server,) = await sqlite_federation.start(
        limits={"joins_remote": {"per_second": 0.001, "burst_count": 1}, "joins_local": {"burst_count": 1000}}
    )
    dave = await server.register("dave")
    room_id = resident.residents.room.room_id
    await dave.try_call("POST", f"/join/{quote(room_id, safe='')}", {})
    again = await dave.try_call("POST", f"/join/{quote(room_id, safe='')}", {})
    assert (429, "M_LIMIT_EXCEEDED") == (again.status, again.json["errcode"])
