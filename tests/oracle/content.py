"""Random contents of events: sensible ones mostly, so that rooms live on, and odd ones for every clause of the rules.

Each function takes the random generator first; none has any other source of chance.
"""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

from homeserver.model.room_versions import RoomVersion
from homeserver.model.signing import SigningKey, generate_signing_key, sign_json

SERVERS = ("a.example", "b.example", "c.example:8448")
USERS = tuple(f"@{name}:{server}" for server in SERVERS for name in ("x", "y"))
CREATOR = USERS[0]
KEYS = {server: generate_signing_key(bytes([number + 1]) * 32, "k1") for number, server in enumerate(SERVERS)}
IDENTITY_KEYS = tuple(generate_signing_key(bytes([number + 101]) * 32, "0") for number in range(3))
TOKENS = ("token1", "token2")
EVENT_TYPES = (
    "m.room.message",
    "m.room.topic",
    "m.room.name",
    "m.room.power_levels",
    "m.room.redaction",
    "m.room.member",
)
LEVEL_KEYS = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")

_SANE_LEVELS = (0, 0, 25, 49, 50, 50, 51, 75, 99, 100, 100)
_WIDE_LEVELS = (-1, -100, 101, 2**53 - 1, 1 - 2**53)
_TEXT_LEVELS = ("50", " 50 ", "+50", "-50", "000100", "100", "0", "-0", "\t75\n")
_FLOAT_LEVELS = (50.0, 50.9, -0.5, 99.99999, 1e3, 100.0)
_HUGE_LEVELS = (2**53, 2**63, -(2**63), 10**30, 1e300, -1e300)
_BAD_LEVELS = ("", "abc", "5.5", "1_0", "0x10", "- 5", "+-5", None, True, False, [], [50], {}, {"a": 1})
# Digits of other scripts: Python's int() reads them, the spec's "base 10 integer" is at best vague about them.
_BAD_LEVELS_STRICT = (*_BAD_LEVELS, "50", "100", " 50")
_ODD: tuple[Any, ...] = (None, 0, 5, True, [], {}, ["join"], "", "odd", {"membership": "join"})


def pick(random: Random, values: tuple[Any, ...]) -> Any:
    """Return one of the values, as a copy: what is made of it may be changed later."""
    return deepcopy(random.choice(values))


def level(random: Random, version: RoomVersion, oddness: float) -> Any:
    """Return one power level; `oddness` is the chance that it is not one of everyday's."""
    if random.random() >= oddness:
        return random.choice(_SANE_LEVELS)
    kinds: list[tuple[Any, ...]] = [_WIDE_LEVELS]
    if version.integer_power_levels:
        kinds.append(_BAD_LEVELS_STRICT)
    else:
        kinds += [_TEXT_LEVELS, _TEXT_LEVELS]
        if not version.strict_canonical_json:
            kinds += [_FLOAT_LEVELS, _HUGE_LEVELS]
        if random.random() < 0.1:
            kinds = [_BAD_LEVELS]
    return pick(random, random.choice(kinds))


def power_levels(random: Random, version: RoomVersion, old: dict[str, Any] | None, oddness: float) -> dict[str, Any]:
    """Return power levels, changed from the old ones in a few places, or new ones."""
    if old is None or random.random() < 0.05:
        users: dict[str, Any] = {user: level(random, version, oddness) for user in random.sample(USERS, 2)}
        if version.privileged_creators and random.random() > oddness:
            users.pop(CREATOR, None)
        elif not version.privileged_creators:
            users[CREATOR] = 100
        content: dict[str, Any] = {"users": users, "events": {}}
    else:
        content = {key: dict(value) if isinstance(value, dict) else value for key, value in old.items()}
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change_power_levels(random, version, content, oddness)
    return content


def _change_power_levels(random: Random, version: RoomVersion, content: dict[str, Any], oddness: float) -> None:
    kind = random.random()
    if kind < 0.35:
        key = random.choice(LEVEL_KEYS)
        if random.random() < 0.25:
            content.pop(key, None)
        else:
            content[key] = level(random, version, oddness)
        return
    if random.random() < oddness * 0.15:
        content[random.choice(("users", "events", "notifications"))] = pick(random, _ODD)
        return
    if kind < 0.65:
        name, entry = "users", random.choice(USERS)
        if random.random() < oddness * 0.3:
            entry = random.choice(
                ("x:a.example", "@x", "", "@x:", "@:a.example", "@x:a b", "@é:a.example", "@X Y:a.example")
            )
    elif kind < 0.9:
        name, entry = "events", random.choice(EVENT_TYPES)
    else:
        name, entry = "notifications", random.choice(("room", "other"))
    entries = content.setdefault(name, {})
    if not isinstance(entries, dict):
        content[name] = {}
    elif random.random() < 0.25:
        entries.pop(entry, None)
    else:
        entries[entry] = level(random, version, oddness)


def join_rules(random: Random, oddness: float) -> dict[str, Any]:
    """Return join rules, those that the room version does not have included."""
    if random.random() < oddness:
        rule: Any = pick(random, (*_ODD, "private", "PUBLIC"))
        return {} if random.random() < 0.2 else {"join_rule": rule}
    rule = random.choice(("public", "public", "invite", "knock", "restricted", "restricted", "knock_restricted"))
    return {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": "!other:b.example"}]}


def membership(random: Random, version: RoomVersion, target: str, oddness: float) -> dict[str, Any]:
    """Return the content of a membership event for `target`."""
    value: Any = random.choices(("join", "invite", "leave", "ban", "knock"), (45, 20, 15, 10, 10))[0]
    content: dict[str, Any] = {"membership": value}
    if random.random() < oddness * 0.4:
        content["membership"] = pick(random, (*_ODD, "JOIN"))
        if random.random() < 0.2:
            del content["membership"]
    if random.random() < (0.5 if value == "join" else 0.05):
        content["join_authorised_via_users_server"] = random.choice(USERS)
        if random.random() < oddness:
            content["join_authorised_via_users_server"] = pick(random, (*_ODD, "@x", "a.example", "@nobody:b.example"))
    if random.random() < (0.4 if value == "invite" else 0.03):
        content["third_party_invite"] = accepted_invite(random, target, oddness)
    if random.random() < 0.2:
        content["displayname"] = "A name"
    return content


def third_party_invite(random: Random, oddness: float) -> dict[str, Any]:
    """Return the content of an `m.room.third_party_invite`."""
    content: dict[str, Any] = {"display_name": "a...@example.org", "key_validity_url": "https://id.example/valid"}
    if random.random() < 0.8:
        content["public_key"] = random.choice(IDENTITY_KEYS).verify_key_base64
    if random.random() < 0.5:
        keys = random.sample(IDENTITY_KEYS, random.randint(0, 2))
        content["public_keys"] = [{"public_key": key.verify_key_base64} for key in keys]
    if random.random() < oddness:
        name = random.choice(("public_key", "public_keys"))
        content[name] = random.choice(
            (*_ODD, "A" * 43, [{"public_key": "not a key"}], [{"key_validity_url": "https://x"}])
        )
    return content


def accepted_invite(random: Random, target: str, oddness: float) -> Any:
    """Return a `third_party_invite`, as it stands in a membership, that an identity server has signed."""
    signed: Any = {"mxid": target, "token": random.choice(TOKENS)}
    signer: SigningKey = random.choice(IDENTITY_KEYS)
    if random.random() < oddness:
        signed[random.choice(("mxid", "token"))] = pick(random, (*_ODD, USERS[1]))
    if random.random() < oddness * 0.5:
        del signed[random.choice(("mxid", "token"))]
    signed = sign_json(signed, "id.example", signer)
    if random.random() < 0.2:
        signed = sign_json(signed, "other.example", random.choice(IDENTITY_KEYS))
    if random.random() < oddness:
        spoilt = random.randrange(5)
        if spoilt == 0:
            signed["more"] = 1
        elif spoilt == 1:
            signed["signatures"] = pick(random, (*_ODD, {"id.example": pick(random, _ODD)}))
        elif spoilt == 2:
            signed["signatures"] = {"id.example": {signer.key_id: pick(random, (*_ODD, "A" * 86))}}
        elif spoilt == 3:
            signed = pick(random, _ODD)
        else:
            del signed["signatures"]
    invite: Any = {"display_name": "a...", "signed": signed}
    if random.random() < oddness * 0.3:
        invite = pick(random, _ODD)
    return invite


def creation(random: Random, version: RoomVersion, oddness: float) -> dict[str, Any]:
    """Return the content of a create event."""
    content: dict[str, Any] = {"room_version": version.identifier}
    if version.creator_in_content or random.random() < 0.2:
        content["creator"] = CREATOR
    if random.random() < 0.12:
        content["m.federate"] = random.choice((True, False)) if random.random() > oddness else pick(random, _ODD)
    if random.random() < 0.4:
        content["additional_creators"] = random.sample(USERS, random.randint(0, 2))
    if random.random() < oddness:
        name = random.choice(("room_version", "creator", "additional_creators", "predecessor", "type"))
        content[name] = pick(random, (*_ODD, "1", "12", "99", [USERS[1], "@x"], ["nobody"], [5], USERS[1]))
    return content


def redaction_target(random: Random, version: RoomVersion, event_ids: list[str]) -> Any:
    """Return what a redaction names."""
    if version.redactions_have_auth_rule and random.random() < 0.3:
        return f"$unknown:{random.choice(SERVERS)}"
    return random.choice(event_ids)
