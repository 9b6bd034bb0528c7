"""The same questions to both sides, and what they differ in.

`ask_room` and its kin make the question for Synapse's side; `compare_room` and its kin answer it by Sennit and return
each `Difference`.  What is known and justified is not taken out here, see `known_differences`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any

from homeserver.errors import AuthRuleBroken, BadJson, MatrixError
from homeserver.model.auth.needed import needed_state
from homeserver.model.auth.numbering import rule_number
from homeserver.model.base64 import decode_base64, encode_base64
from homeserver.model.canonical_json import check_strict, encode_canonical, encode_lax
from homeserver.model.content.reading import is_user_id
from homeserver.model.event import Event
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.hashing import content_hash, encode_essential, encode_event, has_valid_content_hash
from homeserver.model.ids import EventID
from homeserver.model.receipt_of_events import signatures_needed
from homeserver.model.redaction import redact
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import V12, RoomVersion
from homeserver.model.signing import BadSignature, sign_event, signature_in, verify_signed_event

from .content import CREATOR, KEYS, SERVERS
from .formats import changed_events
from .graphs import RandomRoom, State, dependent_verdict, independent_verdict

STALE_FORKS = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """One question that the two sides answer otherwise; `room`, `event` and `state` are what it was about."""

    about: str
    version: RoomVersion
    where: str
    ours: Any
    synapse: Any
    event: Event | None = None
    room: RandomRoom | None = field(default=None, repr=False)
    state: State | None = field(default=None, repr=False)

    def __str__(self) -> str:
        wire = "" if self.event is None else f"\n    event: {json.dumps(self.event.wire, ensure_ascii=False)}"
        state = ""
        if self.room is not None and self.state is not None and self.event is not None:
            # Only what the rules may look at.
            wanted = needed_state(
                self.version,
                type=self.event.type,
                sender=self.event.sender,
                state_key=self.event.state_key,
                content=self.event.content,
            )
            view = self.room.view(self.state)
            state = "".join(
                f"\n    state: {key}: sender {view[key].sender}, content {json.dumps(view[key].content)}"
                for key in dict.fromkeys((("m.room.create", ""), *wanted))
                if key in view
            )
        return (
            f"{self.about} in version {self.version.identifier}, {self.where}:\n"
            f"    Sennit:  {self.ours!r}\n    Synapse: {self.synapse!r}{wire}{state}"
        )


# -- rooms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checks:
    """At which states which events are judged, and which forks are resolved."""

    checks: list[tuple[int, State]]
    forks: list[list[State]]


def choose_checks(room: RandomRoom) -> Checks:
    """Return for each event the state before it, that of its auth events, and one that never was."""
    random = Random(f"checks {room.seed} {room.version.identifier}")
    by_key: dict[tuple[str, str], list[int]] = {}
    for number, event in enumerate(room.events):
        # A rejected event is never in a state.
        if event.state_key is not None and number not in room.rejected:
            by_key.setdefault((event.type, event.state_key), []).append(number)
    rejected = room.rejected_ids
    create = ("m.room.create", "")
    checks: list[tuple[int, State]] = []
    for number, event in enumerate(room.events):
        checks.append((number, {create: 0, **room.befores[number]}))
        cited: State = {create: 0}
        for event_id in event.auth_event_ids:
            auth = room.events[room.numbers[event_id]]
            if auth.state_key is not None and auth.type != "m.room.create" and auth.event_id not in rejected:
                cited[auth.type, auth.state_key] = room.numbers[event_id]
        checks.append((number, cited))
        mixed = {key: random.choice(found) for key, found in by_key.items() if random.random() < 0.8}
        checks.append((number, {**mixed, create: 0}))
    # An old state and a new one, and states of several branches, as a server has them that was away.
    accepted = [number for number in range(1, len(room.events)) if number not in room.rejected]
    stale = []
    for _ in range(STALE_FORKS if len(accepted) > 3 else 0):
        chosen = random.sample(accepted, random.choice((2, 2, 3)))
        stale.append([_state_after(room, number) for number in chosen])
    return Checks(checks, [*room.forks, *stale])


def _state_after(room: RandomRoom, number: int) -> State:
    event, before = room.events[number], room.befores[number]
    if event.state_key is None or event.type == "m.room.create":
        return before
    return {**before, (event.type, event.state_key): number}


def ask_room(room: RandomRoom, checks: Checks) -> dict[str, Any]:
    """Return the question about a whole room for Synapse's side."""
    return {
        "ask": "room",
        "version": room.version.identifier,
        "events": [event.wire for event in room.events],
        "rejected": sorted(room.rejected),
        "keys": {server: [key.key_id, key.verify_key_base64] for server, key in KEYS.items()},
        "checks": [[number, list(state.values())] for number, state in checks.checks],
        "forks": [
            {
                "algorithm": room.version.state_resolution.value,
                "sets": [list(state.values()) for state in fork],
                "in_memory": number % 2 == 0,
            }
            for number, fork in enumerate(checks.forks)
        ],
    }


def compare_room(room: RandomRoom, checks: Checks, answer: dict[str, Any]) -> list[Difference]:
    """Return what the two sides differ in about a room.

    Where Synapse trips over an event, with another exception than a refusal, only the verdict on the whole counts:
    what it trips over it does not accept.
    """
    found: list[Difference] = []
    described = [_describe_event(room, event) for event in room.events]
    for number, (event, ours, theirs) in enumerate(zip(room.events, described, answer["events"], strict=True)):
        for about, mine in ours.items():
            if not _agree(mine, theirs[about]):
                where = f"room {room.seed}, event {number}"
                found.append(Difference(about, room.version, where, mine, theirs[about], event, room))
    for (number, state), dependent in zip(checks.checks, answer["dependent"], strict=True):
        event, where = room.events[number], f"room {room.seed}, event {number}"
        ours, theirs = described[number], answer["events"][number]
        mine = _verdict(dependent_verdict(room, event, state))
        whole = _first_refusal(ours["valid"], ours["independent"], mine)
        their_whole = _first_refusal(theirs["valid"], theirs["independent"], dependent)
        # Sennit has rule 1 in both functions, Synapse in one; and some words of rule 5.2.1 beside those on signatures.
        is_placed_otherwise = event.type == "m.room.create" or mine[1].startswith(ours["valid"][1] or "-")
        if not is_placed_otherwise and not _agree(mine, dependent):
            found.append(Difference("dependent", room.version, where, mine, dependent, event, room, state))
        elif (whole[0] == "allowed") != (their_whole[0] == "allowed"):
            found.append(Difference("whole", room.version, where, whole, their_whole, event, room, state))
    found += _compare_forks(room, checks, answer["resolved"])
    return found


def _agree(ours: list[Any], theirs: list[Any]) -> bool:
    # Each side has reasons of its own.
    return ours == theirs or (ours[0] == theirs[0] == "refused") or theirs[0] == "fault"


def _first_refusal(*verdicts: list[Any]) -> list[Any]:
    return next((verdict for verdict in verdicts if verdict[0] != "allowed"), ["allowed", ""])


def _describe_event(room: RandomRoom, event: Event) -> dict[str, list[Any]]:
    version, wire = room.version, event.wire
    needed = needed_state(
        version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
    )
    return {
        "event_id": ["is", event.event_id],
        "room_id": ["is", event.room_id],
        "reference": ["is", sha256(encode_essential(version, wire)).hexdigest()],
        "content_hash": ["is", has_valid_content_hash(wire, version)],
        "redacted": ["is", encode_event(version, redact(version, wire)).decode()],
        "needed": ["is", sorted(map(list, needed))],
        "independent": _verdict(independent_verdict(room, event)),
        "valid": _verdict_on_signers(version, event),
        "signed": ["is", {server: _signed(version, wire, server) for server in wire["signatures"]}],
    }


def _verdict_on_signers(version: RoomVersion, event: Event) -> list[str]:
    authoriser = event.content.get("join_authorised_via_users_server", CREATOR)
    if version.restricted_joins and event.type == "m.room.member" and not is_user_id(authoriser):
        return ["refused", rule_number(version, "5.2.1")]
    missing = [server for server, keys in signatures_needed(version, event.wire).items() if not keys]
    return ["refused", f"not signed by {missing}"] if missing else ["allowed", ""]


def _signed(version: RoomVersion, wire: Any, server: str) -> str:
    key = KEYS[server]
    try:
        verify_signed_event(version, wire, server, key.key_id, key.verify_key)
    except BadSignature:
        return "refused"
    return "allowed"


def _verdict(broken: AuthRuleBroken | None) -> list[str]:
    return ["allowed", ""] if broken is None else ["refused", f"{broken.rule}: {broken.message}"]


def _compare_forks(room: RandomRoom, checks: Checks, answers: list[Any]) -> list[Difference]:
    found = []
    events = {event.event_id: event for event in room.events}
    for number, (fork, theirs) in enumerate(zip(checks.forks, answers, strict=True)):
        states = [{key: room.events[of].event_id for key, of in state.items()} for state in fork]
        resolved = resolve_states(room.version, states, events, create=room.create, rejected=room.rejected_ids)
        ours = ["is", sorted([*key, event_id] for key, event_id in resolved.items())]
        if ours != theirs:
            differing = (
                [[room.numbers[EventID(entry[2])], *entry] for entry in side[1] if entry not in other[1]]
                if theirs[0] == "is"
                else side
                for side, other in ((ours, theirs), (theirs, ours))
            )
            found.append(
                Difference("resolved", room.version, f"room {room.seed}, fork {number}", *differing, room=room)
            )
    return found


# -- events in no room -----------------------------------------------------------------------------------------------


def ask_wires(version: RoomVersion, wires: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the question about events in no room for Synapse's side."""
    key = KEYS[SERVERS[0]]
    seed = encode_base64(bytes(key.secret))
    return {"ask": "wires", "version": version.identifier, "wires": wires, "key": [SERVERS[0], key.version, seed]}


def compare_wires(version: RoomVersion, wires: list[dict[str, Any]], answers: list[dict[str, Any]]) -> list[Difference]:
    """Return what the two sides differ in about these events."""
    found = []
    for number, (wire, theirs) in enumerate(zip(wires, answers, strict=True)):
        event = event_from_wire(version, wire)
        signed = sign_event(version, wire, SERVERS[0], KEYS[SERVERS[0]])
        signature = signature_in(signed, SERVERS[0], KEYS[SERVERS[0]].key_id)
        described = {
            "event_id": ["is", event.event_id],
            "content_hash": ["is", _hex(content_hash(wire, version))],
            "redacted": ["is", encode_event(version, redact(version, wire)).decode()],
            "reference": ["is", sha256(encode_essential(version, wire)).hexdigest()],
            "signature": ["is", encode_base64(signature)],
        }
        for about, ours in described.items():
            if ours != theirs[about]:
                found.append(Difference(about, version, f"wire {number}", ours, theirs[about], event))
    return found


def _hex(text: str) -> str:
    return decode_base64(text).hex()


# -- formats ---------------------------------------------------------------------------------------------------------


def ask_formats(version: RoomVersion) -> dict[str, Any]:
    """Return the question, for Synapse's side, which of some changed events are events still."""
    return {"ask": "formats", "version": version.identifier, "wires": [wire for _, wire in changed_events(version)]}


def compare_formats(version: RoomVersion, answers: list[Any]) -> list[Difference]:
    """Return what the two sides differ in about the format of events; `where` names the change."""
    found = []
    for (name, wire), theirs in zip(changed_events(version), answers, strict=True):
        ours = ["allowed", ""]
        try:
            check_event_format(version, wire)
        except MatrixError as fault:
            ours = ["refused", fault.message]
        if (ours[0] == "allowed") != (theirs[0] == "allowed"):
            found.append(Difference("format", version, name, ours, theirs))
    return found


# -- JSON values -----------------------------------------------------------------------------------------------------


def compare_value(value: Any, theirs: dict[str, Any]) -> list[Difference]:
    """Return what the two sides differ in about a JSON value's canonical form."""
    try:
        check_strict(value)
        strict = ["allowed", ""]
    except BadJson as fault:
        strict = ["refused", fault.message]
    found = []
    if strict[0] != theirs["strict"][0]:
        found.append(Difference("strict", V12, json.dumps(value), strict, theirs["strict"]))
    ours = ["is", (encode_canonical if strict[0] == "allowed" else encode_lax)(value).decode()]
    if ours != theirs["canonical"]:
        found.append(Difference("canonical", V12, json.dumps(value), ours, theirs["canonical"]))
    return found
