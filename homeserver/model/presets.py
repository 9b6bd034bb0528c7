"""A new room as a list of events: what a createRoom request asks for, and the events that it implies.

Two steps.  `RoomRequest.parse` reads the body that a client sent and trusts none of it.  `initial_events` turns the
request into templates, in the order that the spec prescribes.  Whether each is allowed is for the authorization rules,
like for any event: a refusal there means that the request was impossible (`M_INVALID_ROOM_STATE`).

Spec: client-server API, "Creation" and `POST /createRoom`; rooms/v12 for creators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeVar

from homeserver.errors import AuthRuleBroken, BadJson, InvalidParam, InvalidRoomState

from .auth.power_levels import check_form
from .canonical_json import check_strict
from .content.naming import topic_content
from .content.power_levels import CREATOR_LEVEL
from .content.reading import is_user_id
from .event import EventTemplate, StateKey
from .ids import RoomAlias, UserID
from .room_versions import RoomVersion

T = TypeVar("T")

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Preset(StrEnum):
    """The presets of createRoom."""

    PRIVATE_CHAT = "private_chat"
    TRUSTED_PRIVATE_CHAT = "trusted_private_chat"
    PUBLIC_CHAT = "public_chat"


class RoomVisibility(StrEnum):
    """Whether the room is listed in the server's room directory."""

    PUBLIC = "public"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class InitialState:
    """One entry of `initial_state`."""

    type: str
    state_key: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ThirdPartyInvitee:
    """One entry of `invite_3pid`: an address, and the identity server to ask about it."""

    id_server: str
    id_access_token: str
    medium: str
    address: str


@dataclass(frozen=True, slots=True)
class StoredThirdPartyInvite:
    """A third-party invite that an identity server has taken: its token, and the content of the state event."""

    token: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RoomRequest:
    """A createRoom request in which every value has the type that it should have.

    `preset` is decided: where the client named none, its `visibility` chose.  `invite` has no repeats.
    """

    preset: Preset = Preset.PRIVATE_CHAT
    visibility: RoomVisibility = RoomVisibility.PRIVATE
    room_version: str | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    is_direct: bool = False
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    power_level_content_override: Mapping[str, Any] = field(default_factory=dict)
    initial_state: tuple[InitialState, ...] = ()
    invite: tuple[UserID, ...] = ()
    invite_3pid: tuple[ThirdPartyInvitee, ...] = ()

    @classmethod
    def parse(cls, body: object) -> RoomRequest:
        """Return the request that the JSON body makes.

        A property that is null counts as absent.  Raises `BadJson` for a wrong type, `InvalidParam` for a value that
        is not allowed.  Whether the room version is known is not looked at.
        """
        if not isinstance(body, dict):
            raise BadJson("the body must be an object")
        check_strict(body)
        visibility = _choice(RoomVisibility, "visibility", _optional(body, "visibility", str), RoomVisibility.PRIVATE)
        by_visibility = Preset.PUBLIC_CHAT if visibility is RoomVisibility.PUBLIC else Preset.PRIVATE_CHAT
        return cls(
            preset=_choice(Preset, "preset", _optional(body, "preset", str), by_visibility),
            visibility=visibility,
            room_version=_optional(body, "room_version", str),
            room_alias_name=_parse_alias_name(_optional(body, "room_alias_name", str)),
            name=_optional(body, "name", str),
            topic=_optional(body, "topic", str),
            is_direct=_optional(body, "is_direct", bool) or False,
            creation_content=_optional(body, "creation_content", dict) or NOTHING,
            power_level_content_override=_optional(body, "power_level_content_override", dict) or NOTHING,
            initial_state=tuple(_parse_initial_state(entry) for entry in _optional(body, "initial_state", list) or ()),
            invite=_parse_invite(_optional(body, "invite", list) or ()),
            invite_3pid=tuple(_parse_third_party(entry) for entry in _optional(body, "invite_3pid", list) or ()),
        )

    def alias(self, creator: UserID) -> RoomAlias | None:
        """Return the whole alias that is asked for, on the creator's server, or raise `BadIdentifier`."""
        if self.room_alias_name is None:
            return None
        return RoomAlias.parse(f"#{self.room_alias_name}:{creator.server_name}")


def initial_events(
    request: RoomRequest,
    version: RoomVersion,
    creator: UserID,
    *,
    profiles: Mapping[UserID, Mapping[str, Any]] | None = None,
    encryption: Mapping[str, Any] | None = None,
    third_party_invites: Sequence[StoredThirdPartyInvite] = (),
) -> list[EventTemplate]:
    """Return the events of the new room, in the order in which they are to be sent.

    `profiles` has the `displayname` and `avatar_url` to put into the member events of the creator and of local
    invitees, where known.  `encryption` is the content of `m.room.encryption` for servers that encrypt by default.
    `third_party_invites` are those of `request.invite_3pid` that no user answers to yet; users who were found belong
    into `request.invite`.  Raises `BadJson`, `InvalidParam` and `InvalidRoomState`.

    Spec: `POST /createRoom`, the numbered list.
    """
    known_profiles = profiles or {}
    alias = request.alias(creator)
    invitees = tuple(user_id for user_id in request.invite if user_id != creator)
    is_trusted = request.preset is Preset.TRUSTED_PRIVATE_CHAT
    create_content = _create_content(request, version, creator, invitees if is_trusted else ())
    chosen: set[StateKey] = {(entry.type, entry.state_key) for entry in request.initial_state}

    def state(event_type: str, content: Mapping[str, Any], state_key: str = "") -> EventTemplate:
        return EventTemplate(type=event_type, content=content, sender=creator, state_key=state_key)

    def member(user_id: UserID, content: Mapping[str, Any]) -> EventTemplate:
        return state("m.room.member", {**known_profiles.get(user_id, NOTHING), **content}, user_id)

    events = [
        state("m.room.create", create_content),  # 1
        member(creator, {"membership": "join"}),  # 2
        state("m.room.power_levels", _power_levels_content(request, version, creator, invitees, create_content)),  # 3
    ]
    if alias is not None:  # 4
        events.append(state("m.room.canonical_alias", {"alias": alias}))
    defaults = list(_PRESET_STATE[request.preset])  # 5
    if encryption is not None:
        defaults.append(("m.room.encryption", encryption))
    # `initial_state` "takes precedence over events set by `preset`": what it sets itself is not sent twice.
    events += [state(event_type, content) for event_type, content in defaults if (event_type, "") not in chosen]
    events += [state(entry.type, entry.content, entry.state_key) for entry in request.initial_state]  # 6
    if request.name is not None:  # 7
        events.append(state("m.room.name", {"name": request.name}))
    if request.topic is not None:
        events.append(state("m.room.topic", topic_content(request.topic)))
    invite: dict[str, Any] = {"membership": "invite"}  # 8
    if request.is_direct:
        invite["is_direct"] = True
    events += [member(user_id, invite) for user_id in invitees]
    events += [state("m.room.third_party_invite", stored.content, stored.token) for stored in third_party_invites]
    return events


# Spec: `POST /createRoom`, the table of presets.
_PRIVATE_STATE: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
    ("m.room.join_rules", {"join_rule": "invite"}),
    ("m.room.history_visibility", {"history_visibility": "shared"}),
    ("m.room.guest_access", {"guest_access": "can_join"}),
)
_PRESET_STATE: Final[Mapping[Preset, tuple[tuple[str, Mapping[str, Any]], ...]]] = {
    Preset.PRIVATE_CHAT: _PRIVATE_STATE,
    Preset.TRUSTED_PRIVATE_CHAT: _PRIVATE_STATE,
    Preset.PUBLIC_CHAT: (
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
        ("m.room.guest_access", {"guest_access": "forbidden"}),
    ),
}

# What only a creator or administrator should do; the rest of the state is for moderators (`state_default`).
_EVENT_LEVELS: Final[Mapping[str, int]] = {
    "m.room.name": 50,
    "m.room.avatar": 50,
    "m.room.canonical_alias": 50,
    "m.room.power_levels": 100,
    "m.room.history_visibility": 100,
    "m.room.encryption": 100,
    "m.room.server_acl": 100,
    "m.room.tombstone": 100,
}
# Spec: `POST /createRoom`, 3: from room version 12 on "MUST explicitly be higher than `state_default`".
_TOMBSTONE_LEVEL_BELOW_CREATORS: Final = 150


def _create_content(
    request: RoomRequest, version: RoomVersion, creator: UserID, fellow_creators: Sequence[UserID]
) -> dict[str, Any]:
    """Return the content of the create event; the client's words, save those that are the server's to say."""
    content = {key: value for key, value in request.creation_content.items() if key not in ("creator", "room_version")}
    content["room_version"] = version.identifier
    if version.creator_in_content:
        content["creator"] = creator
    if not isinstance(content.get("m.federate", True), bool):
        raise BadJson("'m.federate' must be true or false")
    if not isinstance(content.get("type", ""), str):
        raise BadJson("the room type must be a string")
    if not isinstance(content.get("predecessor", {}), dict):
        raise BadJson("'predecessor' must be an object")
    if version.privileged_creators:
        # Spec: `creation_content`: combine `additional_creators` and the `invite` array, without repeats.
        named = _parse_users("additional_creators", content.pop("additional_creators", []))
        additional = dict.fromkeys((*named, *fellow_creators))
        additional.pop(creator, None)
        if additional:
            content["additional_creators"] = list(additional)
    return content


def _power_levels_content(
    request: RoomRequest,
    version: RoomVersion,
    creator: UserID,
    invitees: Sequence[UserID],
    create_content: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of the power levels event: the defaults with the client's overrides on top."""
    events = dict(_EVENT_LEVELS)
    users: dict[str, int] = {}
    room_creators: frozenset[str] = frozenset((creator,))
    if version.privileged_creators:
        events["m.room.tombstone"] = _TOMBSTONE_LEVEL_BELOW_CREATORS
        room_creators = frozenset((creator, *create_content.get("additional_creators", ())))
    else:
        users[creator] = CREATOR_LEVEL
        if request.preset is Preset.TRUSTED_PRIVATE_CHAT:
            users.update(dict.fromkeys(invitees, CREATOR_LEVEL))
    content: dict[str, Any] = {
        "users": users,
        "users_default": 0,
        "events": events,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        **request.power_level_content_override,
    }
    try:
        check_form(version, content, frozenset())
    except AuthRuleBroken as broken:
        raise BadJson(f"power_level_content_override: {broken.message}") from broken
    try:
        check_form(version, content, room_creators)
    except AuthRuleBroken as broken:
        raise InvalidRoomState(f"power_level_content_override: {broken.message}") from broken
    return content


def _optional(body: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, kind):
        raise BadJson(f"'{key}' must be {_KINDS[kind]}")
    return value


def _required(body: Mapping[str, Any], where: str, key: str, kind: type[T]) -> T:
    value = body.get(key)
    if not isinstance(value, kind):
        raise BadJson(f"'{where}' needs '{key}', {_KINDS[kind]}")
    return value


_KINDS: Final[Mapping[type, str]] = {str: "a string", bool: "true or false", dict: "an object", list: "an array"}

_E = TypeVar("_E", bound=StrEnum)


def _choice(kind: type[_E], key: str, value: str | None, default: _E) -> _E:
    if value is None:
        return default
    try:
        return kind(value)
    except ValueError as unknown:
        raise InvalidParam(f"'{key}' must be one of {', '.join(kind)}") from unknown


def _parse_alias_name(name: str | None) -> str | None:
    # Spec: appendices, "Room Aliases": no colon and no NUL; the length is checked with the server's name.
    if name is not None and (not name or ":" in name or "\x00" in name or any(map(str.isspace, name))):
        raise InvalidParam("'room_alias_name' is not the local part of a room alias")
    return name


def _parse_invite(entries: Iterable[object]) -> tuple[UserID, ...]:
    return tuple(dict.fromkeys(_parse_users("invite", list(entries))))


def _parse_users(key: str, value: object) -> list[UserID]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadJson(f"'{key}' must be an array of strings")
    if not all(is_user_id(entry) for entry in value):
        raise InvalidParam(f"'{key}' must be an array of user IDs")
    return [UserID(entry) for entry in value]


def _parse_initial_state(entry: object) -> InitialState:
    if not isinstance(entry, dict):
        raise BadJson("'initial_state' must be an array of objects")
    event_type = _required(entry, "initial_state", "type", str)
    if event_type == "m.room.create":
        # Spec: rooms/v12, "Authorisation rules", 1.1: there can be no second one.
        raise InvalidRoomState("'initial_state' cannot have a create event")
    return InitialState(
        type=event_type,
        state_key=_optional(entry, "state_key", str) or "",
        content=_required(entry, "initial_state", "content", dict),
    )


def _parse_third_party(entry: object) -> ThirdPartyInvitee:
    if not isinstance(entry, dict):
        raise BadJson("'invite_3pid' must be an array of objects")
    keys = ("id_server", "id_access_token", "medium", "address")
    return ThirdPartyInvitee(*(_required(entry, "invite_3pid", key, str) for key in keys))
