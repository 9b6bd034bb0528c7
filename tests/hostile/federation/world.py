"""One server under test among others, of which one is bad; it goes on between the tests, and must.

`World` holds the whole server with its users, the bad server and an honest one, both played, and a room that is none of
the bad server's business. `check` is what holds after every attack: the server answers, that room works in both
directions, syncs work, and no fault of ours was logged.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from itertools import count
from typing import Any
from urllib.parse import quote, unquote

from twisted.logger import globalLogPublisher

from homeserver.errors import BadJson
from homeserver.model.canonical_json import encode_lax, parse_exactly
from tests.support.federation import FederatedServer, FederatedUser, Federation
from tests.support.played_server import NO_ANSWER, PlayedAnswer, PlayedRequest, PlayedServer, until

from .scene import Scene

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
RATES = ("joins_remote", "joins_local", "joins_per_room", "invites_per_room", "invites_per_user", "invites_per_issuer")
_NUMBERS = count(1)

Answers = Callable[[PlayedRequest], Any]


class Faults(logging.Handler):
    """Collects what is logged as a fault of ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))

    def __call__(self, event: Any) -> None:
        if event.get("log_failure") is not None:
            self.found.append(event["log_failure"].getTraceback())


class World:
    """The servers, and what is asked of the bad one: `answers` by endpoint, in place of 404."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.faults = Faults()
        self.answers: dict[str, Answers] = {}
        self.heard: list[str] = []

    async def start(self, **sections: Any) -> None:
        """Start all, and have a room of the server and the honest one."""
        logging.getLogger().addHandler(self.faults)
        globalLogPublisher.addObserver(self.faults)
        limits = {name: {"per_second": 1000.0, "burst_count": 1000} for name in RATES}
        self.server: FederatedServer = (await self.federation.start(1, **{"limits": limits, **sections}))[0]
        self.evil: PlayedServer = await self.federation.play()
        self.honest: PlayedServer = await self.federation.play()
        self.evil.answers[f"{V1}/"] = self.evil.answers[f"{V2}/"] = self._answer
        self.honest.answers[f"{V1}/send/"] = self._hear
        self.alice: FederatedUser = await self.server.register("alice")
        self.bob: FederatedUser = await self.server.register("bob")
        self.nobody = f"@nobody:{self.server.name}"
        self.room_id = await self.alice.create_room(preset="public_chat", room_version="12")
        await self.bob.join(self.room_id)
        await self.join_as(self.honest, self.honest.user("carol"), self.room_id)
        self.database = sqlite3.connect(self.server.config.database.url.partition("sqlite:///")[2])
        self.since = (await self.bob.sync())["next_batch"]
        await self.check()

    def stop(self) -> None:
        """Stop listening to logs."""
        logging.getLogger().removeHandler(self.faults)
        globalLogPublisher.removeObserver(self.faults)

    # -- what others are asked ---------------------------------------------------------------------------------------

    def _answer(self, request: PlayedRequest) -> Any:
        endpoint = request.path.split("/")[4]
        if endpoint in self.answers:
            return self.answers[endpoint](request)
        if endpoint == "send":
            return {"pdus": {}}
        return 404, {"errcode": "M_NOT_FOUND", "error": "no"}

    def _hear(self, request: PlayedRequest) -> Any:
        for pdu in request.json.get("pdus", []):
            self.heard.append(pdu.get("content", {}).get("body", ""))
        return {"pdus": {}}

    # -- asking ------------------------------------------------------------------------------------------------------

    async def put_raw(self, uri: str, body: bytes, method: str = "PUT") -> PlayedAnswer:
        """Send bytes from the bad server, signed as well as they can be."""
        try:
            signed = encode_lax(parse_exactly(body))
        except (BadJson, RecursionError, ValueError):
            signed = body
        header = self.evil.authorization(method, self.server.name, uri, signed)
        return await self.evil.request(method, self.server.name, uri, body=body, headers={"Authorization": header})

    async def send(self, *pdus: Any, edus: Any = (), origin: PlayedServer | None = None) -> PlayedAnswer:
        """Send a transaction; PDUs are objects or bytes."""
        events = b",".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in pdus)
        rest = json.dumps(list(edus)).encode()
        body = b'{"edus":' + rest + b',"origin":"x","origin_server_ts":1,"pdus":[' + events + b"]}"
        return await self.put_raw(f"{V1}/send/h{next(_NUMBERS)}", body)

    async def join_as(self, player: PlayedServer, user_id: str, room_id: str) -> dict[str, Any]:
        """Have a user of a played server join a room of the server under test; return what send_join answered."""
        name, room = self.server.name, quote(room_id, safe="")
        versions = "&".join(f"ver={number}" for number in range(1, 13))
        status, made = await player.get(name, f"{V1}/make_join/{room}/{quote(user_id, safe='')}?{versions}")
        assert 200 == status, made
        scene = Scene(made["room_version"], self.evil, self.honest, room_id=room_id)
        wire = {**made["event"], "origin_server_ts": 1_700_000_000_000 + next(_NUMBERS)}
        if scene.version.references_carry_hashes:
            wire["event_id"] = f"$join{next(_NUMBERS)}:{player.name}"
        signed = scene.sign(wire, player.name)
        event_id = scene.id_of(signed)
        status, joined = await player.put(name, f"{V2}/send_join/{room}/{quote(event_id, safe='')}", signed)
        assert 200 == status, joined
        return {**joined, "join": signed, "room_version": made["room_version"]}

    # -- scenes ------------------------------------------------------------------------------------------------------

    def at_home(self, scene: Scene) -> Scene:
        """Give a scene the people of the server under test."""
        scene.server_name, scene.alice, scene.nobody = self.server.name, self.alice.user_id, self.nobody
        scene.foreign_room = self.room_id
        return scene

    def scene(self, version: str) -> Scene:
        """Return a new room of the bad server, with nobody of ours in it."""
        return self.at_home(Scene(version, self.evil, self.honest))

    async def hosted(self, version: str) -> Scene:
        """Return a room of the server under test, with everybody in it."""
        room_id = await self.alice.create_room(preset="public_chat", room_version=version)
        room = quote(room_id, safe="")
        await self.alice.call("POST", f"/rooms/{room}/ban", {"user_id": self.evil.user("banned")})
        await self.join_as(self.honest, self.honest.user("carol"), room_id)
        joined = await self.join_as(self.evil, self.evil.user("low"), room_id)
        scene = self.at_home(Scene(version, self.evil, self.honest, room_id=room_id))
        for wire in (*joined["auth_chain"], *joined["state"]):
            scene.learn(wire)
        for wire in joined["state"]:
            scene.state[wire["type"], wire["state_key"]] = scene.id_of(wire)
        scene.keep(joined["join"])
        return scene

    def reside(self, scene: Scene) -> None:
        """Have the bad server answer joins of a scene's room honestly."""

        def make_join(request: PlayedRequest) -> Any:
            return scene.template(unquote(request.path.split("/")[6]), "join")

        def send_join(request: PlayedRequest) -> Any:
            return self.joined(scene, request)

        self.answers |= {"make_join": make_join, "send_join": send_join}

    def joined(self, scene: Scene, request: PlayedRequest) -> dict[str, Any]:
        """Return an honest answer to send_join, and have the join stand."""
        before = dict(scene.state)
        state = scene.state_wires()
        event_id = unquote(request.path.split("/")[6])
        join = scene.keep(request.json, event_id if scene.version.references_carry_hashes else None)
        chain = scene.chain([*before.values(), str(join.event_id)])
        return {"event": dict(join.wire), "state": state, "auth_chain": chain, "servers_in_room": [self.evil.name]}

    async def joined_scene(self, version: str) -> Scene:
        """Return a new room of the bad server that alice has joined."""
        scene = self.scene(version)
        self.reside(scene)
        await self.join(scene)
        return scene

    async def join(self, scene: Scene) -> PlayedAnswer:
        """Have alice join a room of the bad server."""
        room = quote(scene.room_id, safe="")
        return await self.alice.try_call("POST", f"/join/{room}", {}, via=self.evil.name, server_name=self.evil.name)

    # -- what holds after each attack --------------------------------------------------------------------------------

    def forgive(self) -> None:
        """Forget what the bad server has used up, so that the next attack is not refused for that."""
        links = self.server.parts.base.links
        fetching = links.backfill._fetching
        fetching.budgets._spent.clear()
        fetching._down.clear()
        links.destinations.woken(self.evil.name)
        for part in (links.others.joining, links.others.joining._completion, links.others.remote):
            part._silent.forget(self.evil.name)
        self.answers.clear()
        self.evil.requests.clear()

    def stored(self, marker: str) -> list[tuple[str, int]]:
        """Return IDs and flags of all stored events that have the marker."""
        found = self.database.execute(
            "SELECT event_id, flags FROM events WHERE instr(json, CAST(? AS BLOB)) > 0", (marker,)
        )
        return list(found)

    def flags(self, event_id: str) -> int | None:
        """Return the flags of a stored event; None where it is not stored."""
        found = self.database.execute("SELECT flags FROM events WHERE event_id = ?", (event_id,)).fetchone()
        return None if found is None else int(found[0])

    async def check(self) -> None:
        """Raise AssertionError unless the server is well."""
        self.without_faults()
        text = f"well {next(_NUMBERS)}"
        await self.alice.say(self.room_id, text)
        await until(lambda: text in self.heard, what="a message to the honest server", timeout_s=10.0)
        answer = await self.bob.sync(self.since)
        self.since = answer["next_batch"]
        events = answer["rooms"]["join"][self.room_id]["timeline"]["events"]
        assert text == events[-1]["content"]["body"]
        self.without_faults()

    def without_faults(self) -> None:
        """Raise AssertionError if a fault of ours was logged since the last time."""
        found, self.faults.found = self.faults.found, []
        assert [] == found

    async def check_all(self) -> None:
        """Do so, and look whether the first syncs of everybody work, and no queue is left."""
        await self.check()
        for user in (self.alice, self.bob):
            answer = await user.sync()
            assert self.room_id in answer["rooms"]["join"]
        assert [] == self.evil.faults + self.honest.faults


__all__ = ["NO_ANSWER", "V1", "V2", "World"]
