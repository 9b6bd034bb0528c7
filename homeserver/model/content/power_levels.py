"""`m.room.power_levels`: who may do what, with every default of the spec.

Two parts.  What the event says (`PowerLevelsContent`) is read once and kept on the event, because a send must not
read a users map of thousands again.  `PowerLevels` puts that beside what the room itself says: its creators, who from
room version 12 on stand above every level.

Spec: client-server API, `m.room.power_levels`; server-server API, "Checks performed on receipt of a PDU",
"Definitions"; rooms/v12, "room creators"; rooms/v1, "accept values as strings" for the old versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..event import Event
from ..room_versions import RoomVersion
from .create import creators
from .reading import EMPTY, lenient_integer, mapping, strict_integer

INFINITE_POWER: Final = 2**63
"""The level of a creator from room version 12 on: above all that canonical JSON can write (53 bits)."""

CREATOR_LEVEL: Final = 100
"""The level of the creator of an older room that has no power levels event."""

LEVEL_KEYS: Final = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")

_DEFAULT_NOTIFICATION_LEVEL: Final = 50
_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class PowerLevelsContent:
    """What a power levels event says; what it does not say, or says in a wrong type, has the spec's default."""

    users: Mapping[str, int]
    events: Mapping[str, int]
    notifications: Mapping[str, int]
    users_default: int = 0
    events_default: int = 0
    state_default: int = 50
    invite: int = 0
    kick: int = 50
    ban: int = 50
    redact: int = 50


_NO_CONTENT: Final = PowerLevelsContent(EMPTY, EMPTY, EMPTY)


@dataclass(frozen=True, slots=True)
class PowerLevels:
    """The power levels of a room at one point."""

    content: PowerLevelsContent
    infinite: frozenset[str]

    @classmethod
    def from_events(cls, version: RoomVersion, create: Event, power_levels: Event | None) -> PowerLevels:
        """Return the levels in a room that was made by `create` and has this power levels event, or none."""
        infinite: frozenset[str] = creators(version, create) if version.privileged_creators else _NOBODY
        if power_levels is not None:
            reader = _read_strict if version.integer_power_levels else _read_lenient
            return cls(power_levels.typed(reader), infinite)
        if version.privileged_creators:
            return cls(_NO_CONTENT, infinite)
        # Spec: client-server API, `m.room.power_levels`: "the room's creator has a power level of 100".
        users: dict[str, int] = dict.fromkeys(creators(version, create), CREATOR_LEVEL)
        return cls(PowerLevelsContent(users, EMPTY, EMPTY), infinite)

    def of(self, user_id: str) -> int:
        """Return the power level of a user; `INFINITE_POWER` for a creator from room version 12 on."""
        if user_id in self.infinite:
            return INFINITE_POWER
        content = self.content
        return content.users.get(user_id, content.users_default)

    def needed_for(self, event_type: str, is_state: bool) -> int:
        """Return the level needed to send events of a type, membership and redaction of others aside.

        Spec: server-server API, "Definitions", "Required Power Level".
        """
        content = self.content
        return content.events.get(event_type, content.state_default if is_state else content.events_default)

    def notification(self, key: str) -> int:
        """Return the level needed to notify with `key`, such as `room` for `@room`; 50 where nothing is said."""
        return self.content.notifications.get(key, _DEFAULT_NOTIFICATION_LEVEL)

    @property
    def users_default(self) -> int:
        return self.content.users_default

    @property
    def invite(self) -> int:
        return self.content.invite

    @property
    def kick(self) -> int:
        return self.content.kick

    @property
    def ban(self) -> int:
        return self.content.ban

    @property
    def redact(self) -> int:
        return self.content.redact


def level_reader(version: RoomVersion) -> Callable[[object], int | None]:
    """Return the function that reads one level in this room version: integers only from version 10 on."""
    return strict_integer if version.integer_power_levels else lenient_integer


def _read_strict(event: Event) -> PowerLevelsContent:
    return _read(event.content, strict_integer)


def _read_lenient(event: Event) -> PowerLevelsContent:
    return _read(event.content, lenient_integer)


def _read(content: Mapping[str, Any], level: Callable[[object], int | None]) -> PowerLevelsContent:
    said = {key: value for key in LEVEL_KEYS if (value := level(content.get(key))) is not None}
    return PowerLevelsContent(
        users=_levels(mapping(content, "users"), level),
        events=_levels(mapping(content, "events"), level),
        notifications=_levels(mapping(content, "notifications"), level),
        **said,
    )


def _levels(entries: Mapping[str, Any], level: Callable[[object], int | None]) -> Mapping[str, int]:
    # Nearly always all are plain integers, and the map on the event serves as it is.
    if all(strict_integer(value) is not None for value in entries.values()):
        return entries
    return {key: value for key, entry in entries.items() if (value := level(entry)) is not None}
