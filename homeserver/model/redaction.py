"""Redaction: what is left of an event when everything that is not needed for the room to work is cut away.

The same cut is made before an event is signed and before its reference hash is taken, so that both hold for the whole
event and for its redacted form.  Every server must cut alike; what is kept is told by the switches of the room version
and by nothing else.  `unsigned` never survives; what clients are told there about a redaction is added when served.

Spec: rooms/v1, v6, v8, v9 and v11, "Redactions".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from .room_versions import RoomVersion

_KEYS: Final = frozenset(
    (
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    )
)
_LEGACY_KEYS: Final = frozenset(("origin", "membership", "prev_state"))
_RELATION: Final = ("event_id", "rel_type")
_POWER_LEVELS: Final = frozenset(
    ("ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default")
)


def redact(version: RoomVersion, wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return the redacted copy of an event; what is kept is shared with `wire`, which is not changed.

    Total: fields of the wrong type are cut or kept like others.
    """
    kept_keys, _ = _kept(version)
    redacted = {name: value for name, value in wire.items() if name in kept_keys}
    if "content" in redacted:
        redacted["content"] = redact_content(version, wire.get("type"), redacted["content"])
    return redacted


def redact_content(version: RoomVersion, event_type: object, content: object) -> dict[str, Any]:
    """Return what a redaction leaves of the content of an event of this type."""
    if not content or not isinstance(content, Mapping) or not isinstance(event_type, str):
        return {}
    if event_type == "m.room.create" and version.redaction_keeps_create_content:
        return dict(content)
    _, kept_by_type = _kept(version)
    left = {name: content[name] for name in kept_by_type.get(event_type, ()) if name in content}
    if version.redaction_keeps_relation:
        # Spec: MSC3389.
        relation = content.get("m.relates_to")
        named = (
            {name: relation[name] for name in _RELATION if name in relation} if isinstance(relation, Mapping) else {}
        )
        if named:
            left["m.relates_to"] = named
    if event_type == "m.room.member" and version.redaction_keeps_third_party_signed:
        # Spec: rooms/v11, "Redactions": "it allows the `signed` key of the `third_party_invite` key".
        invite = content.get("third_party_invite")
        if isinstance(invite, Mapping):
            left["third_party_invite"] = {"signed": invite["signed"]} if "signed" in invite else {}
    return left


@lru_cache(maxsize=64)
def _kept(version: RoomVersion) -> tuple[frozenset[str], Mapping[str, frozenset[str]]]:
    """Return the top-level keys that are kept, and by type those of the content."""
    member = {"membership"}
    join_rules = {"join_rule"}
    power_levels = set(_POWER_LEVELS)
    if version.redaction_keeps_authorising_user:
        member.add("join_authorised_via_users_server")
    if version.redaction_keeps_allow:
        join_rules.add("allow")
    if version.redaction_keeps_invite_level:
        power_levels.add("invite")
    by_type = {
        "m.room.member": member,
        "m.room.create": {"creator"},
        "m.room.join_rules": join_rules,
        "m.room.power_levels": power_levels,
        "m.room.history_visibility": {"history_visibility"},
    }
    if version.redaction_keeps_aliases:
        by_type["m.room.aliases"] = {"aliases"}
    if version.redaction_keeps_redacts:
        by_type["m.room.redaction"] = {"redacts"}
    keys = _KEYS | _LEGACY_KEYS if version.redaction_keeps_legacy_keys else _KEYS
    return keys, {event_type: frozenset(names) for event_type, names in by_type.items()}
