"""Policy servers: a server that a room has chosen to look at every event before it is shown.

It says yes by a signature, with a key that is in the room's state and not among those that servers publish. An event
without that signature is no less allowed, but servers that keep to the policy do not show it: of another server it is
soft-failed, and of a user here it is not sent at all. Whoever finds the signature missing asks the policy server for it
once; only the state event that names the policy server is exempt, so that a room can always get rid of it.

A policy server that cannot be reached is not asked again for a while: until then it says yes to nothing.

Spec: server-server API, "Policy Servers"; client-server API, "Policy Servers".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from homeserver.errors import LimitExceeded, NotAllowed, RemoteError, RemoteRefused, TooLarge
from homeserver.model.event import MAX_PDU_BYTES, Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.event_json import dump_event
from homeserver.model.hashing import encode_essential, encode_event
from homeserver.model.ids import EventID
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.model.signing import BadKey, BadSignature, VerifyKey, signature_in
from homeserver.ports import RemoteServers
from homeserver.runtime.clock import Clock
from homeserver.runtime.gathering import gather

from .door import RoomDoor
from .fetching import within
from .inbound import POLICY_KEY_ID, Inbound
from .tip import RoomTip

logger = logging.getLogger(__name__)

POLICY: Final = "m.room.policy"
# LIMIT: seconds for one answer, and how long a policy server that gave none is not asked.
ASK_S: Final = 10.0
DOWN_S: Final = 30.0
# LIMIT: events of one batch that a policy server is asked about at the same time.
_AT_ONCE: Final = 4
# LIMIT: policy servers that are remembered as unreachable.
_MAX_DOWN: Final = 1_000


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The policy server that a room uses."""

    name: str
    key: VerifyKey


class PolicyServers:
    """Asks the policy servers of rooms, and believes their signatures."""

    def __init__(
        self, door: RoomDoor, inbound: Inbound, remote: RemoteServers | None, clock: Clock, server_name: str
    ) -> None:
        self._door = door
        self._inbound = inbound
        self._remote = remote
        self._clock = clock
        self._server_name = server_name
        self._down: dict[str, float] = {}

    async def of(self, tip: RoomTip) -> PolicyServer | None:
        """Return the policy server that the room uses now, or None.

        Spec: "Determining if a Policy Server is enabled in a room".
        """
        stored = (await self._door.state_events(tip.room_id, [(POLICY, "")])).get((POLICY, ""))
        if stored is None:
            return None
        via, keys = stored.event.content.get("via"), stored.event.content.get("public_keys")
        if not isinstance(via, str) or not isinstance(keys, Mapping) or not isinstance(keys.get("ed25519"), str):
            return None
        if via not in tip.servers:
            return None
        try:
            return PolicyServer(via, VerifyKey.parse(keys["ed25519"]))
        except BadKey:
            return None

    # -- events of others --------------------------------------------------------------------------------------------

    async def review(
        self, tip: RoomTip, events: Sequence[CheckedEvent]
    ) -> tuple[list[CheckedEvent], frozenset[EventID]]:
        """Return the events in their order, signatures added that were asked for, and which the policy does not want.

        Spec: "Validating Policy Server signatures".
        """
        policy = await self.of(tip) if events else None
        if policy is None:
            return list(events), frozenset()
        reviewed = list(events)
        unwanted: set[EventID] = set()
        waiting = deque(
            number
            for number, checked in enumerate(events)
            if not is_exempt(checked.event) and not _is_signed(tip, policy, checked.event.wire)
        )

        async def work() -> None:
            while waiting:
                number = waiting.popleft()
                signed = await self._reviewed(tip, policy, events[number])
                if signed is None:
                    unwanted.add(events[number].event.event_id)
                else:
                    reviewed[number] = signed

        await gather(work() for _ in range(_AT_ONCE))
        return reviewed, frozenset(unwanted)

    async def _reviewed(self, tip: RoomTip, policy: PolicyServer, checked: CheckedEvent) -> CheckedEvent | None:
        try:
            wire = await self._ask(tip, policy, checked.event)
        except RemoteError as fault:
            logger.info("%s in %s is not wanted: %s", checked.event.event_id, tip.room_id, fault)
            return None
        # Through the gate again, with the signature in it: a signature is no part of what the others are over.
        outcome = (await self._inbound.check(tip.version, tip.room_id, [dump_event(tip.version, wire)]))[0]
        return outcome if isinstance(outcome, CheckedEvent) else None

    # -- events of this server ---------------------------------------------------------------------------------------

    async def sign(self, tip: RoomTip, event: Event) -> Event:
        """Return an event of this server as the room's policy server has signed it, the same if none has to.

        Raises NotAllowed with what the policy server said, LimitExceeded, or TooLarge.

        Spec: "Asking for a Policy Server signature on an event".
        """
        policy = await self.of(tip)
        if policy is None or is_exempt(event) or _is_signed(tip, policy, event.wire):
            return event
        try:
            wire = await self._ask(tip, policy, event)
        except RemoteRefused as fault:
            if fault.status == 429:
                raise LimitExceeded(1_000, fault.message) from fault
            raise NotAllowed(fault.message or "The room's policy server refuses the event") from fault
        except RemoteError as fault:
            raise NotAllowed("The room's policy server does not answer", detail=str(fault)) from fault
        if len(encode_event(tip.version, wire)) > MAX_PDU_BYTES:
            raise TooLarge(f"the event would be over {MAX_PDU_BYTES} bytes with the policy server's signature")
        return event_from_wire(tip.version, wire, event.event_id, event.room_id)

    async def _ask(self, tip: RoomTip, policy: PolicyServer, event: Event) -> dict[str, Any]:
        """Return the wire form with a good signature of the policy server added; raises RemoteError."""
        down_until_s = self._down.get(policy.name, 0.0)
        if self._remote is None or policy.name == self._server_name or down_until_s > self._clock.monotonic():
            raise RemoteRefused(policy.name, 404, "M_NOT_FOUND", "The room's policy server cannot be asked")
        wire = dict(event.wire)
        question = self._remote.ask_policy_server(policy.name, wire)
        try:
            answer = await within(self._clock, ASK_S, policy.name, question)
        except RemoteRefused:
            raise
        except RemoteError:
            self._down.pop(policy.name, None)
            self._down[policy.name] = self._clock.monotonic() + DOWN_S
            if len(self._down) > _MAX_DOWN:
                del self._down[next(iter(self._down))]
            raise
        by_policy = answer.get(policy.name)
        signature = by_policy.get(POLICY_KEY_ID) if isinstance(by_policy, dict) else None
        if isinstance(signature, str):
            # Spec: the other signatures of that server "should be retained to validate the event".
            kept = {**event.wire["signatures"].get(policy.name, {}), POLICY_KEY_ID: signature}
            wire["signatures"] = {**event.wire["signatures"], policy.name: kept}
            if _is_signed(tip, policy, wire):
                return wire
        raise RemoteRefused(policy.name, 403, "M_FORBIDDEN", "The room's policy server has not signed the event")


def is_exempt(event: Event) -> bool:
    """Tell whether an event needs no signature: the one that names the policy server."""
    return event.type == POLICY and event.state_key == ""


def _is_signed(tip: RoomTip, policy: PolicyServer, wire: Mapping[str, Any]) -> bool:
    if POLICY_KEY_ID not in wire["signatures"].get(policy.name, ()):
        return False
    try:
        policy.key.check(encode_essential(tip.version, wire), signature_in(wire, policy.name, POLICY_KEY_ID))
    except BadSignature:
        return False
    return True
