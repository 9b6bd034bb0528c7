"""Telling members from other events among many, by what the bytes say, before anything is checked.

Of the state of a large room nearly all are members. They are kept as bytes with the little that is needed to choose
among them; an event that hides its kind behind escapes counts as no member and is looked at with the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from homeserver.model.ids import server_name_of
from homeserver.ports import PDU
from homeserver.runtime.threads import Worker

from .inbound import MAX_RAW_BYTES

# Events that are sorted in one job of a thread.
SORTED_AT_ONCE: Final = 1_000

_MEMBER: Final = "m.room.member"


class RawMember(NamedTuple):
    """A member event as it says it is; nothing of it is checked."""

    user_id: str
    membership: str
    depth: int
    pdu: PDU


@dataclass(frozen=True, slots=True)
class SortedEvents:
    """Events as they came, the members apart; in their order."""

    others: list[PDU]
    members: list[RawMember]


class MembersByUser:
    """The member events of an answer by user; each is given out once. `local` are the users of this server."""

    def __init__(self, state: SortedEvents, chain: SortedEvents, server_name: str) -> None:
        self.in_state = frozenset(map(id, state.members))
        self._members: dict[str, list[RawMember]] = {}
        for members in (state.members, chain.members):
            for each in members:
                self._members.setdefault(each.user_id, []).append(each)
        self.local = [user_id for user_id in self._members if server_name_of(user_id) == server_name]

    def pick(self, user_ids: Iterable[str]) -> list[RawMember]:
        """Return what these users have that was not given out yet."""
        return [each for user_id in sorted(user_ids) for each in self._members.pop(user_id, ())]


async def sort_events(threads: Worker, pdus: Sequence[PDU]) -> SortedEvents:
    """Return events with the members apart; works in threads, a slice at a time."""
    found = SortedEvents([], [])
    for start in range(0, len(pdus), SORTED_AT_ONCE):
        others, members = await threads.run(_sort, pdus[start : start + SORTED_AT_ONCE])
        found.others.extend(others)
        found.members.extend(members)
    return found


def depth_of(member: RawMember) -> int:
    """Return the depth that an event claims, to sort by."""
    return member.depth


def _sort(pdus: Sequence[PDU]) -> tuple[list[PDU], list[RawMember]]:
    """Return which events are members by what they say. May run in a thread."""
    others: list[PDU] = []
    members: list[RawMember] = []
    for pdu in pdus:
        if len(pdu) > MAX_RAW_BYTES:
            continue
        member = _read_member(pdu) if b'"m.room.member"' in pdu else None
        if member is None:
            others.append(pdu)
        else:
            members.append(member)
    return others, members


def _read_member(pdu: PDU) -> RawMember | None:
    try:
        wire = orjson.loads(pdu)
    except ValueError:
        return None
    if not isinstance(wire, dict) or wire.get("type") != _MEMBER:
        return None
    user_id, content, depth = wire.get("state_key"), wire.get("content"), wire.get("depth")
    if not isinstance(user_id, str) or not isinstance(content, dict):
        return None
    membership = content.get("membership")
    return RawMember(
        user_id, membership if isinstance(membership, str) else "", depth if type(depth) is int else 0, pdu
    )
