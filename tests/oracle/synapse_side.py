"""Synapse's answers: reads one JSON question a line, writes one JSON answer a line, until its input ends.

This program runs in an environment of its own, with `matrix-synapse` and without Sennit: what it answers is said by
Synapse's public functions alone, for which it only stands in as the database.  It holds no opinion of its own.

A refusal is told as `["refused", why]`, any other exception as `["fault", why]`, and consent as `["allowed", ""]`.
A value is told as `["is", value]`.

Nothing here imports from `tests` or `homeserver`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

import synapse.event_auth as event_auth
from canonicaljson import encode_canonical_json
from signedjson.key import decode_signing_key_base64, decode_verify_key_bytes
from signedjson.sign import SignatureVerifyException, verify_signed_json
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion, RoomVersions
from synapse.crypto.event_signing import (
    check_event_content_hash,
    compute_content_hash,
    compute_event_reference_hash,
    compute_event_signature,
)
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event, validate_canonicaljson
from synapse.federation.federation_base import event_from_pdu_json
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference
from unpaddedbase64 import decode_base64

Answer = list[Any]

VERSIONS = {version.identifier: version for version in vars(RoomVersions).values() if isinstance(version, RoomVersion)}
# Those that are only experiments included, as their configuration does.
for _version in VERSIONS.values():
    if _version.identifier not in set(KNOWN_ROOM_VERSIONS.keys()):
        KNOWN_ROOM_VERSIONS.add_room_version(_version)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the coroutine waits")


def attempt(ask: Callable[[], Any]) -> Answer:
    """Return what was answered, or how it failed."""
    try:
        value = ask()
    except (SynapseError, SignatureVerifyException) as refusal:
        return ["refused", str(refusal)]
    except Exception as fault:
        return ["fault", f"{type(fault).__name__}: {fault}"]
    return ["allowed", ""] if value is None else ["is", value]


class Clock:
    """A clock on which nobody sleeps."""

    async def sleep(self, duration: Any) -> None:
        return None


class Room:
    """One room's events, and what a database would have told of them."""

    def __init__(self, question: Mapping[str, Any]) -> None:
        self.version = VERSIONS[question["version"]]
        rejected = frozenset(question["rejected"])
        self.events = [
            make_event_from_dict(wire, self.version, rejected_reason="rejected" if number in rejected else None)
            for number, wire in enumerate(question["events"])
        ]
        self.by_id = {event.event_id: event for event in self.events}
        self._chains: dict[str, frozenset[str]] = {}

    # -- as `event_auth` and `state` want it --

    async def get_events(
        self, event_ids: Collection[str], *_: Any, allow_rejected: bool = False, **__: Any
    ) -> dict[str, Any]:
        found = {event_id: self.by_id[event_id] for event_id in event_ids if event_id in self.by_id}
        return {key: event for key, event in found.items() if allow_rejected or event.rejected_reason is None}

    async def get_auth_chain_difference(
        self,
        room_id: str,
        state_sets: list[set[str]],
        conflicted_state: set[str] | None,
        additional_backwards_reachable_conflicted_events: set[str] | None,
    ) -> StateDifference:
        chains = [set().union(ids, *(self._chain(event_id) for event_id in ids)) for ids in state_sets]
        difference = set.union(*chains) - set.intersection(*chains) if chains else set()
        if conflicted_state is None:
            return StateDifference(difference, None)
        ends = conflicted_state | (additional_backwards_reachable_conflicted_events or set())
        from_conflicted = set().union(conflicted_state, *(self._chain(event_id) for event_id in conflicted_state))
        subgraph = {
            event_id for event_id in from_conflicted if event_id in ends or not ends.isdisjoint(self._chain(event_id))
        }
        return StateDifference(difference, subgraph)

    def _chain(self, event_id: str) -> frozenset[str]:
        # Events come in a topological order, so that a short walk suffices.
        if event_id not in self._chains:
            reached: set[str] = set()
            pending = [event_id]
            while pending:
                for cited in self.by_id[pending.pop()].auth_event_ids():
                    if cited not in reached and cited in self.by_id:
                        reached.add(cited)
                        pending.append(cited)
            self._chains[event_id] = frozenset(reached)
        return self._chains[event_id]


def cut(event: Any) -> str:
    """Return the canonical form of the redacted event."""
    wire = prune_event(event).get_pdu_json()
    # No part of an event: each server writes its own.
    wire.pop("unsigned", None)
    return encode_canonical_json(wire).decode()


def describe_event(room: Room, event: Any, keys: Mapping[str, Any]) -> dict[str, Answer]:
    """Return all that can be said of one event without a state."""

    wire = event.get_pdu_json()

    def signature(server: str) -> None:
        verify_signed_json(prune_event(event).get_pdu_json(), server, keys[server])

    return {
        "event_id": attempt(lambda: event.event_id),
        "room_id": attempt(lambda: event.room_id),
        "reference": attempt(lambda: compute_event_reference_hash(event)[1].hex()),
        "content_hash": attempt(lambda: check_event_content_hash(event)),
        "redacted": attempt(lambda: cut(event)),
        "needed": attempt(lambda: sorted(map(list, event_auth.auth_types_for_event(room.version, event)))),
        "independent": attempt(lambda: run(event_auth.check_state_independent_auth_rules(room, event))),
        "valid": attempt(lambda: event_auth.validate_event_for_room_version(event)),
        "signed": attempt(lambda: {server: attempt(lambda s=server: signature(s))[0] for server in wire["signatures"]}),
    }


def check(event: Any, state: Iterable[Any]) -> Answer:
    return attempt(lambda: event_auth.check_state_dependent_auth_rules(event, state))


def _is_of(room_id: str, event: Any) -> bool:
    return event.room_id == room_id and event.rejected_reason is None


def resolve(room: Room, question: Mapping[str, Any]) -> Answer:
    """Return the resolved state of `sets`, lists of event numbers, as sorted [type, state key, event ID]."""
    state_sets = [
        {(event.type, event.state_key): event.event_id for event in (room.events[number] for number in numbers)}
        for numbers in question["sets"]
    ]
    room_id = room.events[0].room_id
    in_memory = None
    if question["in_memory"]:
        in_memory = {event_id: event for event_id, event in room.by_id.items() if _is_of(room_id, event)}

    def ask() -> list[list[str]]:
        if question["algorithm"] == "1":
            resolved = run(
                v1.resolve_events_with_store(
                    room_id, room.version, state_sets, in_memory, lambda ids: room.get_events(ids)
                )
            )
        else:
            resolved = run(v2.resolve_events_with_store(Clock(), room_id, room.version, state_sets, in_memory, room))
        return sorted([*key, event_id] for key, event_id in resolved.items())

    return attempt(ask)


def answer_room(question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer everything about one room."""
    room = Room(question)
    keys = {
        server: decode_verify_key_bytes(key_id, decode_base64(text))
        for server, (key_id, text) in question["keys"].items()
    }
    return {
        "events": [describe_event(room, event, keys) for event in room.events],
        "dependent": [
            check(room.events[number], [room.events[cited] for cited in state]) for number, state in question["checks"]
        ],
        "resolved": [resolve(room, fork) for fork in question["forks"]],
    }


def answer_wires(question: Mapping[str, Any]) -> list[dict[str, Answer]]:
    """Answer what can be said of events that are in no room: how they are cut, hashed and signed."""
    version = VERSIONS[question["version"]]
    server, key_version, seed = question["key"]
    key = decode_signing_key_base64("ed25519", key_version, seed)
    answers = []
    for wire in question["wires"]:

        def redacted(wire: dict[str, Any] = wire) -> str:
            return cut(make_event_from_dict(wire, version))

        def reference(wire: dict[str, Any] = wire) -> str:
            return compute_event_reference_hash(make_event_from_dict(wire, version))[1].hex()

        def signature(wire: dict[str, Any] = wire) -> str:
            return compute_event_signature(version, dict(wire), server, key)[server][key.alg + ":" + key.version]

        answers.append(
            {
                "event_id": attempt(lambda wire=wire: make_event_from_dict(wire, version).event_id),
                "content_hash": attempt(lambda wire=wire: compute_content_hash(dict(wire), hashlib.sha256)[1].hex()),
                "redacted": attempt(redacted),
                "reference": attempt(reference),
                "signature": attempt(signature),
            }
        )
    return answers


def answer_formats(question: Mapping[str, Any]) -> list[Answer]:
    """Answer which of these may be events, from another server, of the room version."""
    version = VERSIONS[question["version"]]

    def read(wire: dict[str, Any]) -> None:
        event = event_from_pdu_json(wire, version)
        event_auth.validate_event_for_room_version(event)

    return [attempt(lambda wire=wire: read(wire)) for wire in question["wires"]]


def answer_values(question: Mapping[str, Any]) -> list[dict[str, Answer]]:
    """Answer how JSON values are written canonically, and whether they may be."""
    return [
        {
            "canonical": attempt(lambda value=value: encode_canonical_json(value).decode()),
            "strict": attempt(lambda value=value: validate_canonicaljson(value)),
        }
        for value in question["values"]
    ]


ANSWERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "versions": lambda question: sorted(VERSIONS),
    "room": answer_room,
    "wires": answer_wires,
    "formats": answer_formats,
    "values": answer_values,
}


def main() -> None:
    # What Synapse trips over is told in the answer.
    logging.disable()
    for line in sys.stdin:
        question = json.loads(line)
        sys.stdout.write(json.dumps(ANSWERS[question["ask"]](question)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
