"""Random events that belong to no room: odd keys, odd values, everything that a redaction keeps or cuts.

They have the format of their room version, and nothing else is true of them.
"""

from __future__ import annotations

from random import Random
from typing import Any

from homeserver.model.hashing import with_content_hash
from homeserver.model.room_versions import EventIDScheme, RoomVersion
from homeserver.model.signing import sign_event

from .content import KEYS, SERVERS, USERS

_TYPES = (
    *(f"m.room.{name}" for name in ("member", "create", "join_rules", "power_levels", "aliases", "history_visibility")),
    *(f"m.room.{name}" for name in ("redaction", "message", "guest_access", "encrypted", "third_party_invite")),
    "org.example.any",
    "",
)
_CONTENT_KEYS = (
    *("membership", "join_authorised_via_users_server", "third_party_invite", "displayname", "creator", "room_version"),
    *("m.federate", "additional_creators", "join_rule", "allow", "users", "users_default", "events", "events_default"),
    *("state_default", "ban", "kick", "redact", "invite", "notifications", "aliases", "history_visibility", "redacts"),
    *("body", "m.relates_to", "signed", "reason", "guest_access"),
)
_TOP_KEYS = (
    *(
        "origin",
        "membership",
        "prev_state",
        "unsigned",
        "redacts",
        "prev_content",
        "age_ts",
        "replaces_state",
        "txn_id",
    ),
    *("sticky", "m.relates_to", "user_id", "org.example.key"),
)
_TEXTS = ("", "text", "é", "\U0001f600", "\u2028", "\x00\x1f\x7f", '"\\/', "\ue000", "\uffff", "Å", "A\u030a")
_INTEGERS = (0, 1, -1, 2**53 - 1, 1 - 2**53)
_LAX_NUMBERS = (
    2**53,
    -(2**53),
    2**63 - 1,
    -(2**63),
    2**64,
    10**30,
    0.5,
    -0.0,
    1.0,
    1e16,
    1e21,
    1e-7,
    1.7976931348623157e308,
)


def random_value(random: Random, depth: int, lax: bool) -> Any:
    """Return a random JSON value; with `lax`, one with numbers that canonical JSON does not have."""
    kind = random.random()
    if depth > 0 and kind < 0.2:
        return {random_key(random): random_value(random, depth - 1, lax) for _ in range(random.randint(0, 4))}
    if depth > 0 and kind < 0.35:
        return [random_value(random, depth - 1, lax) for _ in range(random.randint(0, 3))]
    if lax and kind < 0.45:
        return random.choice(_LAX_NUMBERS)
    return random.choice((random.choice(_TEXTS), random.choice(_INTEGERS), True, False, None))


def random_key(random: Random) -> str:
    """Return a key of an object: one that means something, or any text."""
    return random.choice((random.choice(_CONTENT_KEYS), random.choice(_TEXTS), f"k{random.randint(0, 99)}"))


def random_wire(random: Random, version: RoomVersion) -> dict[str, Any]:
    """Return a random event, hashed and signed."""
    lax = not version.strict_canonical_json and random.random() < 0.4
    event_type = random.choice(_TYPES)
    content = {key: random_value(random, 3, lax) for key in random.sample(_CONTENT_KEYS, random.randint(0, 9))}
    if event_type == "m.room.member" and random.random() < 0.5:
        content["third_party_invite"] = {"signed": random_value(random, 2, lax), "display_name": "a"}
    if random.random() < 0.3:
        content["m.relates_to"] = {
            key: random_value(random, 1, lax) for key in ("rel_type", "event_id", "key") if random.random() < 0.7
        }
    wire: dict[str, Any] = {
        "type": event_type,
        "sender": random.choice(USERS),
        "content": content,
        "depth": random.choice((0, 1, 100, version.max_integer)),
        "origin_server_ts": random.choice((0, 1_700_000_000_000, 2**53 - 1)),
        "prev_events": _references(random, version),
        "auth_events": _references(random, version),
    }
    # Where the create event makes the room ID, Synapse parses none without a state key or with a room ID.
    makes_room = version.room_id_is_create_hash and event_type == "m.room.create"
    if not makes_room:
        # Of the form that the version has, for Synapse cuts it apart.
        wire["room_id"] = "!" + "a" * 43 if version.room_id_is_create_hash else f"!room:{random.choice(SERVERS)}"
    if makes_room or random.random() < 0.5:
        wire["state_key"] = "" if makes_room else random.choice(("", random.choice(USERS), "any", "é"))
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        wire["event_id"] = f"${random.randrange(10**9)}:{random.choice(SERVERS)}"
    for key in random.sample(_TOP_KEYS, random.randint(0, 6)):
        wire[key] = random_value(random, 2, lax)
    _give_types(random, wire)
    return sign_event(version, with_content_hash(wire), SERVERS[0], KEYS[SERVERS[0]])


def _give_types(random: Random, wire: dict[str, Any]) -> None:
    """Give the keys that both sides read as they parse an event what they may have."""
    if "redacts" in wire:
        wire["redacts"] = f"$target:{SERVERS[0]}"
    if "unsigned" in wire:
        wire["unsigned"] = {"age": 5, "prev_content": {"a": 1}}
    if "origin" in wire:
        wire["origin"] = random.choice(SERVERS)


def _references(random: Random, version: RoomVersion) -> list[Any]:
    ids = [f"$event{random.randrange(100)}" for _ in range(random.randint(0, 3))]
    if version.references_carry_hashes:
        return [[event_id + ":" + SERVERS[0], {"sha256": "A" * 43}] for event_id in ids]
    return ids
