"""Room versions: what differs between them, as records of named switches.

Each version is the one before it with some switches turned, as in the spec, where each page says what it changes.
Code asks a switch, never for an identifier, and never compares identifiers: they are opaque texts, not numbers.

`KNOWN_ROOM_VERSIONS` are all that are described here; `ROOM_VERSIONS` are those that rooms of this server can have.
The unstable ones among them are trials of proposals, each a stable version with one switch turned or none.
There is one record of each version; records are compared by identity, which makes them cheap keys of caches.

Spec: rooms, "Feature matrix" and "Complete list of room versions".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from homeserver.errors import UnsupportedRoomVersion


class EventIDScheme(Enum):
    """Where an event's ID comes from."""

    # Chosen by the sender, a field of the event.
    CHOSEN = "chosen"
    # "$" and the reference hash, in Base64.
    HASH = "hash"
    # "$" and the reference hash, in URL-safe Base64.
    URL_SAFE_HASH = "url-safe hash"


class StateResolution(Enum):
    """The algorithm that makes one state of several."""

    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"


@dataclass(frozen=True, slots=True, eq=False)
class RoomVersion:
    """One room version; every field but the first two is a switch, named for what is true when it is on."""

    identifier: str
    # In the spec; versions that are not are known and served, but not recommended to clients.
    is_stable: bool

    # -- event format --
    event_id_scheme: EventIDScheme
    # `prev_events` and `auth_events` are lists of [event ID, hashes], not of event IDs.
    references_carry_hashes: bool
    # Only what the appendices call canonical JSON is accepted; the same turns 2^63 into 2^53 as the limit of integers.
    strict_canonical_json: bool
    # A redaction names its target in `content`, not at the top level.
    redacts_in_content: bool
    # `content.creator` of the create event says who made the room, not its sender.
    creator_in_content: bool
    # The room ID is the create event's ID with another sigil, and that event has none in it.
    room_id_is_create_hash: bool

    # -- signatures --
    # A signature counts only if its key was valid at the event's `origin_server_ts`.
    enforces_key_validity: bool

    # -- what a redaction keeps --
    # Top level: `origin`, `membership`, `prev_state`.
    redaction_keeps_legacy_keys: bool
    # m.room.aliases: `aliases`.
    redaction_keeps_aliases: bool
    # m.room.join_rules: `allow`.
    redaction_keeps_allow: bool
    # m.room.member: `join_authorised_via_users_server`.
    redaction_keeps_authorising_user: bool
    # m.room.member: `third_party_invite.signed`.
    redaction_keeps_third_party_signed: bool
    # m.room.create: everything, not `creator` alone.
    redaction_keeps_create_content: bool
    # m.room.power_levels: `invite`.
    redaction_keeps_invite_level: bool
    # m.room.redaction: `redacts`.
    redaction_keeps_redacts: bool
    # Every type: `event_id` and `rel_type` of `m.relates_to`.
    redaction_keeps_relation: bool

    # -- authorization rules --
    # m.room.aliases events have a rule of their own.
    aliases_have_auth_rule: bool
    # The rules ask whether the sender may redact; if not on, that is asked when the redaction is applied.
    redactions_have_auth_rule: bool
    # Changes of `notifications` in the power levels are limited like those of `events`.
    notification_levels_limited: bool
    knocking: bool
    restricted_joins: bool
    knock_restricted_joins: bool
    # Power levels are integers, never text with a number in it.
    integer_power_levels: bool
    # The create event is never among the auth events; the room ID stands for it.
    create_is_implicit_auth_event: bool
    # Creators are above all power levels, and there may be several.
    privileged_creators: bool

    # State keys may be a user ID with a suffix; who has more power than that user may write such state too.
    owned_state: bool

    # -- state --
    state_resolution: StateResolution

    @property
    def max_integer(self) -> int:
        """The greatest `depth` and `origin_server_ts` that an event can have."""
        # Spec: rooms/v6, "Event format"; rooms/v3, "Event format", `depth`.
        return 2**53 - 1 if self.strict_canonical_json else 2**63 - 1


V1: Final = RoomVersion(
    identifier="1",
    is_stable=True,
    event_id_scheme=EventIDScheme.CHOSEN,
    references_carry_hashes=True,
    strict_canonical_json=False,
    redacts_in_content=False,
    creator_in_content=True,
    room_id_is_create_hash=False,
    enforces_key_validity=False,
    redaction_keeps_legacy_keys=True,
    redaction_keeps_aliases=True,
    redaction_keeps_allow=False,
    redaction_keeps_authorising_user=False,
    redaction_keeps_third_party_signed=False,
    redaction_keeps_create_content=False,
    redaction_keeps_invite_level=False,
    redaction_keeps_redacts=False,
    redaction_keeps_relation=False,
    aliases_have_auth_rule=True,
    redactions_have_auth_rule=True,
    notification_levels_limited=False,
    knocking=False,
    restricted_joins=False,
    knock_restricted_joins=False,
    integer_power_levels=False,
    create_is_implicit_auth_event=False,
    privileged_creators=False,
    owned_state=False,
    state_resolution=StateResolution.V1,
)
V2: Final = replace(V1, identifier="2", state_resolution=StateResolution.V2)
V3: Final = replace(
    V2,
    identifier="3",
    event_id_scheme=EventIDScheme.HASH,
    references_carry_hashes=False,
    redactions_have_auth_rule=False,
)
V4: Final = replace(V3, identifier="4", event_id_scheme=EventIDScheme.URL_SAFE_HASH)
V5: Final = replace(V4, identifier="5", enforces_key_validity=True)
V6: Final = replace(
    V5,
    identifier="6",
    strict_canonical_json=True,
    redaction_keeps_aliases=False,
    aliases_have_auth_rule=False,
    notification_levels_limited=True,
)
V7: Final = replace(V6, identifier="7", knocking=True)
V8: Final = replace(V7, identifier="8", restricted_joins=True, redaction_keeps_allow=True)
V9: Final = replace(V8, identifier="9", redaction_keeps_authorising_user=True)
V10: Final = replace(V9, identifier="10", knock_restricted_joins=True, integer_power_levels=True)
V11: Final = replace(
    V10,
    identifier="11",
    redacts_in_content=True,
    creator_in_content=False,
    redaction_keeps_legacy_keys=False,
    redaction_keeps_third_party_signed=True,
    redaction_keeps_create_content=True,
    redaction_keeps_invite_level=True,
    redaction_keeps_redacts=True,
)
V12: Final = replace(
    V11,
    identifier="12",
    room_id_is_create_hash=True,
    create_is_implicit_auth_event=True,
    privileged_creators=True,
    state_resolution=StateResolution.V2_1,
)

# The trial of version 12; rooms of it are still about.
HYDRA_11: Final = replace(V12, identifier="org.matrix.hydra.11", is_stable=False)
# MSC3757: owned state.
OWNED_STATE_10: Final = replace(V10, identifier="org.matrix.msc3757.10", is_stable=False, owned_state=True)
OWNED_STATE_11: Final = replace(V11, identifier="org.matrix.msc3757.11", is_stable=False, owned_state=True)
# MSC3389: relations outlive redaction.
RELATIONS_10: Final = replace(V10, identifier="org.matrix.msc3389.10", is_stable=False, redaction_keeps_relation=True)

_STABLE: Final = (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)
_UNSTABLE: Final = (HYDRA_11, OWNED_STATE_10, OWNED_STATE_11, RELATIONS_10)

KNOWN_ROOM_VERSIONS: Final[Mapping[str, RoomVersion]] = MappingProxyType(
    {version.identifier: version for version in (*_STABLE, *_UNSTABLE)}
)
ROOM_VERSIONS: Final[Mapping[str, RoomVersion]] = KNOWN_ROOM_VERSIONS
DEFAULT_ROOM_VERSION: Final = "12"


def get_room_version(identifier: str) -> RoomVersion:
    """Return the version that rooms of this server can have by that name, or raise `UnsupportedRoomVersion`."""
    version = ROOM_VERSIONS.get(identifier) if isinstance(identifier, str) else None
    if version is None:
        raise UnsupportedRoomVersion("this server does not support that room version")
    return version


def is_recognised(identifier: object) -> bool:
    """Tell whether a room version of that name is described here, be it usable or not."""
    return isinstance(identifier, str) and identifier in KNOWN_ROOM_VERSIONS
