"""The two sides of a test, and what the tests of this folder ask of both alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.certificates import Authority
from tests.support.federation import FederatedServer, FederatedUser, Federation
from tests.support.played_server import until as until_within

from .synapse import Synapse
from .wire import Wire


class Sides:
    """Synapse, and a Sennit that other servers reach through a `Wire` too."""

    def __init__(
        self,
        synapse: Synapse,
        authority: Authority,
        folder: Path,
        new_database: Callable[[Path], str],
        *,
        network: str,
    ) -> None:
        self.synapse = synapse
        self.federation = Federation(folder, new_database, authority=authority, network=network)
        address = f"{network}.1"
        self.wire = Wire(address)
        self.sennit: FederatedServer = self.federation.make(
            server={"name": f"{address}:{self.wire.port}"},
            # Where the machine is busy, a request may fail; nobody waits a minute for the next.
            federation={"device_names_over_federation": True, "first_wait_ms": 1_000},
            rooms={"public_rooms_over_federation": True},
        )
        # Its URL stays that behind the wire, for clients.
        self.sennit.name = f"{address}:{self.wire.port}"
        self.wire.target_port = self.sennit.port
        self.wire.attach()

    async def cut(self) -> None:
        """Part the two servers; clients reach both."""
        await self.wire.cut()
        await self.synapse.wire.cut()

    async def mend(self) -> None:
        """Let the two servers reach each other again."""
        await self.wire.mend()
        await self.synapse.wire.mend()

    async def stop(self) -> None:
        """Stop Sennit, and leave Synapse whole."""
        await self.synapse.wire.mend()
        await self.federation.stop()
        await self.wire.cut()


@dataclass(frozen=True, slots=True)
class Pair:
    """Alice on the server that has the room, Bob on the other; one of them is at Sennit."""

    sides: Sides
    alice: FederatedUser
    bob: FederatedUser

    @property
    def is_sennit_host(self) -> bool:
        """Whether Alice is at Sennit."""
        return self.alice.server is self.sides.sennit

    async def room(self, **settings: Any) -> str:
        """Return a public room of Alice that Bob has joined, as both see."""
        room_id = await self.alice.create_room(**{"preset": "public_chat", **settings})
        await self.bob.join(room_id, via=self.alice.server)
        await sees_membership(self.alice, room_id, self.bob, "join")
        await sees_membership(self.bob, room_id, self.bob, "join")
        return room_id


# Both servers and this test share few processors with other tests.
PATIENCE_S = float(os.environ.get("SENNIT_INTEROP_PATIENCE_S", "30"))


async def until(condition: Callable[[], Any], what: str = "the condition", every_s: float = 0.05) -> Any:
    """Return what `condition()` gives as soon as that is true, or AssertionError."""
    return await until_within(condition, timeout_s=PATIENCE_S, every_s=every_s, what=what)


# -- what a user sees, with patience ---------------------------------------------------------------------------------


async def state_event(user: FederatedUser, room_id: str, kind: str, state_key: str = "") -> Any:
    """Return the event of the current state as this user's server has it, or None."""
    answer = await user.try_call("GET", f"/rooms/{room_id}/state")
    if answer.status != 200:
        return None
    for event in answer.json:
        if (kind, state_key) == (event["type"], event["state_key"]):
            return event
    return None


async def membership(viewer: FederatedUser, room_id: str, user: FederatedUser) -> str | None:
    """Return the membership of a user as the viewer's server has it, or None."""
    event = await state_event(viewer, room_id, "m.room.member", user.user_id)
    return None if event is None else event["content"]["membership"]


async def sees_membership(viewer: FederatedUser, room_id: str, user: FederatedUser, expected: str) -> None:
    """Wait until the viewer's server has that membership of a user."""

    async def is_there() -> bool:
        return expected == await membership(viewer, room_id, user)

    await until(is_there, what=f"{expected} of {user.user_id} at {viewer.server.name}")


async def sees_state(viewer: FederatedUser, room_id: str, kind: str, event_id: str, state_key: str = "") -> None:
    """Wait until this event is current state at the viewer's server."""

    async def is_there() -> bool:
        event = await state_event(viewer, room_id, kind, state_key)
        return event is not None and event_id == event["event_id"]

    await until(is_there, what=f"{kind} {event_id} at {viewer.server.name}")


async def room_in(user: FederatedUser, room_id: str, section: str) -> Any:
    """Return what /sync says of a room in "join", "invite", "knock" or "leave", or None."""
    synced = await user.sync(filter=json.dumps({"room": {"include_leave": section == "leave"}}))
    return synced.get("rooms", {}).get(section, {}).get(room_id)


async def waits_in(user: FederatedUser, room_id: str, section: str) -> Any:
    """Return what /sync says of a room in that section, as soon as it is there."""
    return await until(lambda: room_in(user, room_id, section), what=f"{room_id} among {section} at {user.server.name}")


async def gone_from(user: FederatedUser, room_id: str, section: str) -> None:
    """Wait until /sync has the room in that section no more."""

    async def is_gone() -> bool:
        return await room_in(user, room_id, section) is None

    await until(is_gone, what=f"{room_id} not among {section} at {user.server.name}")


async def redact(user: FederatedUser, room_id: str, event_id: str) -> str:
    """Redact an event and return the ID of the redaction."""
    path = f"/rooms/{room_id}/redact/{quote(event_id, safe='')}/{quote(event_id[1:8], safe='')}"
    redaction_id: str = (await user.call("PUT", path, {"reason": "why not"}))["event_id"]
    return redaction_id


async def sees_redacted(user: FederatedUser, room_id: str, event_id: str) -> None:
    """Wait until this user's server shows an event without its content."""

    async def is_redacted() -> bool:
        event = await find_event(user, room_id, event_id)
        return event is not None and {} == event["content"]

    await until(is_redacted, what=f"redaction of {event_id} at {user.server.name}")


async def find_event(user: FederatedUser, room_id: str, event_id: str) -> Any:
    """Return an event as this user's server shows it, or None."""
    answer = await user.try_call("GET", f"/rooms/{room_id}/event/{quote(event_id, safe='')}")
    return answer.json if answer.status == 200 else None


async def sees(user: FederatedUser, room_id: str, event_id: str) -> Any:
    """Return an event as soon as this user's server has it."""
    return await until(lambda: find_event(user, room_id, event_id), what=f"{event_id} at {user.server.name}")


async def hears(user: FederatedUser, room_id: str, text: str) -> None:
    """Wait until the newest messages have this text among them."""

    async def is_there() -> bool:
        return text in await user.bodies(room_id)

    await until(is_there, what=f"{text!r} at {user.server.name}")


async def talk(pair: Pair, room_id: str) -> None:
    """Have both say something that the other hears."""
    await pair.alice.say(room_id, "hello from alice")
    await hears(pair.bob, room_id, "hello from alice")
    await pair.bob.say(room_id, "hello from bob")
    await hears(pair.alice, room_id, "hello from bob")


async def state_ids(user: FederatedUser, room_id: str) -> dict[tuple[str, str], str]:
    """Return the event IDs of the whole current state as this user's server has it."""
    return {(event["type"], event["state_key"]): event["event_id"] for event in await user.state(room_id)}


async def agree_on_state(one: FederatedUser, two: FederatedUser, room_id: str) -> dict[tuple[str, str], str]:
    """Return the current state as soon as both servers have the same, by event ID."""
    seen: list[dict[tuple[str, str], str]] = [{}, {}]

    async def is_equal() -> bool:
        seen[0], seen[1] = await state_ids(one, room_id), await state_ids(two, room_id)
        return seen[0] == seen[1]

    try:
        await until(is_equal, what="the same state on both sides")
    except AssertionError:
        assert seen[0] == seen[1]
        raise
    return seen[0]


def join_rules(rule: str, *allowed: str) -> dict[str, Any]:
    """Return the initial state that sets a join rule; members of the rooms `allowed` may join by "restricted"."""
    allow = [{"type": "m.room_membership", "room_id": each} for each in allowed]
    content = {"join_rule": rule, **({"allow": allow} if allowed else {})}
    return {"type": "m.room.join_rules", "state_key": "", "content": content}
