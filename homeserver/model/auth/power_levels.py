"""Rule 10: how power may be changed.

The idea of its ten clauses: nobody touches a level above their own, nobody gives more than they have, and nobody
takes from their equals.

Values are read as the room version reads them; a value in the old event that cannot be read is held to be absent.

Spec: rooms/v12, "Authorisation rules", 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..content.create import creators
from ..content.power_levels import LEVEL_KEYS, PowerLevels, level_reader
from ..content.reading import is_user_id, mapping
from ..event import Event
from ..room_versions import RoomVersion
from .needed import POWER_LEVELS
from .numbering import broken
from .state_view import StateView

_Level = Callable[[object], "int | None"]


def check_power_levels(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    """Return if rule 10 allows the `m.room.power_levels` event, else raise `AuthRuleBroken`."""
    previous = state.get(POWER_LEVELS)
    old: Mapping[str, Any] = {} if previous is None else previous.content
    # Users whose ID was checked in the event before need not be checked again.
    check_form(version, event.content, creators(version, create), known_users=mapping(old, "users"))
    if previous is None:  # 10.5
        return
    level = level_reader(version)
    power = PowerLevels.from_events(version, create, previous).of(event.sender)
    _check_single_levels(version, old, event.content, level, power)
    _check_entries(version, "events", old, event.content, level, power)
    if version.notification_levels_limited:
        _check_entries(version, "notifications", old, event.content, level, power)
    _check_users(version, event.sender, old, event.content, level, power)


def check_form(
    version: RoomVersion,
    content: Mapping[str, Any],
    room_creators: frozenset[Any],
    *,
    known_users: Mapping[str, Any] | None = None,
) -> None:
    """Return if the content has the form of clauses 10.1 to 10.4, else raise `AuthRuleBroken`."""
    level = level_reader(version)
    if version.integer_power_levels:
        for key in LEVEL_KEYS:  # 10.1
            if key in content and level(content[key]) is None:
                raise broken(version, "10.1", f"'{key}' is not an integer")
        for key in ("events", "notifications"):  # 10.2
            if key in content and not _is_level_map(content[key], level):
                raise broken(version, "10.2", f"'{key}' is not an object of integers")
    elif any(_is_out_of_range(value, level) for value in _all_levels(content)):
        # Spec: rooms/v1, "`m.room.power_levels` events accept values as floats": "cause the powerlevel event to be
        # rejected".  The text gives this no number.
        raise broken(version, "10.3", "a level is out of range")
    users = content.get("users", {})
    if not _is_level_map(users, level):  # 10.3
        raise broken(version, "10.3", "'users' is not an object of integers")
    known = known_users or {}
    for user_id in users:
        if user_id not in known and not is_user_id(user_id):
            raise broken(version, "10.3", "'users' has a key that is not a user ID")
    if version.privileged_creators:
        for creator in room_creators:  # 10.4
            if creator in users:
                raise broken(version, "10.4", "a creator of the room cannot be given a power level")


def _all_levels(content: Mapping[str, Any]) -> Iterator[object]:
    yield from (content.get(key) for key in LEVEL_KEYS)
    for key in ("events", "notifications"):
        yield from mapping(content, key).values()


def _is_out_of_range(value: object, level: _Level) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and level(value) is None


def _is_level_map(value: object, level: _Level) -> bool:
    return isinstance(value, dict) and all(level(entry) is not None for entry in value.values())


def _check_single_levels(
    version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], level: _Level, power: int
) -> None:
    # 10.6
    for key in LEVEL_KEYS:
        before, after = level(old.get(key)), level(new.get(key))
        if before == after:
            continue
        if before is not None and before > power:
            raise broken(version, "10.6.1", f"you may not change '{key}', which is above your power")
        if after is not None and after > power:
            raise broken(version, "10.6.2", f"you may not set '{key}' above your power")


def _check_entries(
    version: RoomVersion, key: str, old: Mapping[str, Any], new: Mapping[str, Any], level: _Level, power: int
) -> None:
    for name, before, after in _changes(mapping(old, key), mapping(new, key), level):
        if before is not None and before > power:  # 10.7
            raise broken(version, "10.7.1", f"you may not change the level of '{name:.64}', which is above your power")
        if after is not None and after > power:  # 10.8
            raise broken(version, "10.8.1", f"you may not set the level of '{name:.64}' above your power")


def _check_users(
    version: RoomVersion, sender: str, old: Mapping[str, Any], new: Mapping[str, Any], level: _Level, power: int
) -> None:
    for user_id, before, after in _changes(mapping(old, "users"), mapping(new, "users"), level):
        if before is not None and before >= power and user_id != sender:  # 10.9
            raise broken(version, "10.9.1", "you may not change the power of a user whose power is not less than yours")
        if after is not None and after > power:  # 10.10
            raise broken(version, "10.10.1", "you may not give more power than you have")


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], level: _Level
) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield name, level before and level after of every entry that was added, changed or removed, in a fixed order."""
    for name, entry in old.items():
        before, after = level(entry), level(new.get(name))
        if before != after:
            yield name, before, after
    for name, entry in new.items():
        if name not in old:
            after = level(entry)
            if after is not None:
                yield name, None, after
