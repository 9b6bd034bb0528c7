"""Filters: which events a client wants to be given, and which of their fields.

A filter is read once, strictly, into frozen values whose tests are set look-ups; `is_pass_all` tells that no test is
needed at all, `accepts_nothing` that none can succeed.  What a filter does not say is not restricted.

Only `*` is a wildcard here, and only in types.  `lazy_load_members`, `related_by_*` and the rest that needs more than
the event itself are plain fields for whoever assembles the answer.

Spec: client-server API, "Filtering"; data/api/client-server/definitions/{event_filter,room_event_filter,sync_filter}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from homeserver.errors import BadJson, TooLarge

from .canonical_json import JsonObject
from .globs import Matcher, compile_glob
from .ids import RoomID, UserID
from .property_paths import ABSENT, PropertyPath, find_property, split_path

# Spec: event_filter, `limit`: "Servers should ... impose a maximum value".
DEFAULT_MAX_LIMIT: Final = 1_000

# LIMIT: entries of one list; globs are tried one after the other, so there may be fewer of them.
MAX_ENTRIES: Final = 1_000
MAX_GLOBS: Final = 64
MAX_ENTRY_CHARACTERS: Final = 255
# LIMIT: every path is followed in every event.
MAX_FIELDS: Final = 64
MAX_FIELD_CHARACTERS: Final = 512

_EVENT_FORMATS: Final = ("client", "federation")


@dataclass(frozen=True, slots=True)
class _Types:
    """A list of types, some of them with `*`."""

    literals: frozenset[str]
    globs: tuple[str, ...]
    # Functions have no equals; the globs that they are made of do.
    _matchers: tuple[Matcher, ...] = field(repr=False, compare=False)

    def has(self, event_type: str) -> bool:
        return event_type in self.literals or any(matches(event_type) for matches in self._matchers)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What is wanted of events that belong to no room: presence and global account data.

    `limit` is at least 1 and at most the server's maximum, or None if the client did not say.
    """

    limit: int | None = None
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    is_pass_all: bool = True
    """Whether `matches` is true of every event."""
    accepts_nothing: bool = False
    """Whether `matches` is false of every event."""
    _types: _Types | None = None
    _not_types: _Types | None = None

    @classmethod
    def parse(cls, source: Any, *, max_limit: int = DEFAULT_MAX_LIMIT) -> EventFilter:
        """Return the filter that a JSON object describes; raises `BadJson` or `TooLarge`."""
        return cls(**_event_filter_fields(_object(source, "filter"), max_limit))

    def matches(self, event_type: str, sender: str | None) -> bool:
        """Tell whether an event is wanted; `sender` is None for what nobody sent, such as account data."""
        return self.is_pass_all or (not self.accepts_nothing and self._matches_sender_and_type(event_type, sender))

    def matches_type(self, event_type: str) -> bool:
        """Tell whether events of a type may be wanted."""
        if self.accepts_nothing or (self._types is not None and not self._types.has(event_type)):
            return False
        return self._not_types is None or not self._not_types.has(event_type)

    def _matches_sender_and_type(self, event_type: str, sender: str | None) -> bool:
        if self._types is not None and not self._types.has(event_type):
            return False
        if self._not_types is not None and self._not_types.has(event_type):
            return False
        if self.senders is not None and sender not in self.senders:
            return False
        return sender not in self.not_senders


@dataclass(frozen=True, slots=True)
class RoomEventFilter(EventFilter):
    """What is wanted of the events of rooms.

    `related_by_senders` and `related_by_rel_types` (None if not asked for) want events that have a child event by such
    a sender and of such a relation; `matches` does not look at them.  COMPAT(synapse): not in the specification.
    """

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    related_by_senders: frozenset[str] | None = None
    related_by_rel_types: frozenset[str] | None = None

    @classmethod
    def parse(cls, source: Any, *, max_limit: int = DEFAULT_MAX_LIMIT) -> RoomEventFilter:
        """Return the filter that a JSON object describes; raises `BadJson` or `TooLarge`."""
        source = _object(source, "filter")
        fields = _event_filter_fields(source, max_limit)
        rooms, not_rooms = _rooms(source, "rooms"), _rooms(source, "not_rooms") or frozenset()
        contains_url = _optional_bool(source, "contains_url")
        if rooms is not None and rooms <= not_rooms:
            fields["accepts_nothing"] = True
        if rooms is not None or not_rooms or contains_url is not None:
            fields["is_pass_all"] = False
        return cls(
            **fields,
            rooms=rooms,
            not_rooms=not_rooms,
            contains_url=contains_url,
            lazy_load_members=bool(_optional_bool(source, "lazy_load_members")),
            include_redundant_members=bool(_optional_bool(source, "include_redundant_members")),
            unread_thread_notifications=bool(_optional_bool(source, "unread_thread_notifications")),
            related_by_senders=_senders(source, "related_by_senders"),
            related_by_rel_types=_texts(source, "related_by_rel_types"),
        )

    @property
    def is_by_relation(self) -> bool:
        """Whether the events wanted depend on their child events."""
        return self.related_by_senders is not None or self.related_by_rel_types is not None

    def accepts_room(self, room_id: str) -> bool:
        """Tell whether any event of a room may be wanted."""
        if self.accepts_nothing or room_id in self.not_rooms:
            return False
        return self.rooms is None or room_id in self.rooms

    def matches_event(self, event_type: str, sender: str | None, room_id: str, content: Mapping[str, Any]) -> bool:
        """Tell whether an event is wanted; `sender` is None for what nobody sent, such as receipts."""
        if self.is_pass_all:
            return True
        if not self.accepts_room(room_id) or not self._matches_sender_and_type(event_type, sender):
            return False
        # Spec: room_event_filter, `contains_url`: "a `url` key in their content".
        return self.contains_url is None or self.contains_url is ("url" in content)


@dataclass(frozen=True, slots=True)
class Filter:
    """A whole filter, as `/sync` takes it and as it is stored.

    `room_account_data` is the specification's `room.account_data`.  `event_fields` is None if all fields are wanted.
    """

    event_fields: tuple[PropertyPath, ...] | None = None
    event_format: str = "client"
    presence: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    timeline: RoomEventFilter = field(default_factory=RoomEventFilter)
    state: RoomEventFilter = field(default_factory=RoomEventFilter)
    ephemeral: RoomEventFilter = field(default_factory=RoomEventFilter)
    room_account_data: RoomEventFilter = field(default_factory=RoomEventFilter)
    _source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def default(cls) -> Filter:
        """Return the filter that restricts nothing."""
        return _DEFAULT

    @classmethod
    def parse(cls, source: Any, *, max_limit: int = DEFAULT_MAX_LIMIT) -> Filter:
        """Return the filter that a JSON object describes; raises `BadJson` or `TooLarge`.

        Unknown keys are ignored.
        """
        source = _object(source, "filter")
        room = _object(source.get("room"), "room")
        event_format = source.get("event_format", "client")
        if event_format not in _EVENT_FORMATS:
            raise BadJson("event_format must be client or federation")
        return cls(
            event_fields=_event_fields(source),
            event_format=event_format,
            presence=EventFilter.parse(source.get("presence"), max_limit=max_limit),
            account_data=EventFilter.parse(source.get("account_data"), max_limit=max_limit),
            rooms=_rooms(room, "rooms"),
            not_rooms=_rooms(room, "not_rooms") or frozenset(),
            include_leave=bool(_optional_bool(room, "include_leave")),
            timeline=RoomEventFilter.parse(room.get("timeline"), max_limit=max_limit),
            state=RoomEventFilter.parse(room.get("state"), max_limit=max_limit),
            ephemeral=RoomEventFilter.parse(room.get("ephemeral"), max_limit=max_limit),
            room_account_data=RoomEventFilter.parse(room.get("account_data"), max_limit=max_limit),
            _source=source,
        )

    def to_json(self) -> JsonObject:
        """Return the filter as the client uploaded it."""
        return dict(self._source)

    def accepts_room(self, room_id: str) -> bool:
        """Tell whether a room is wanted at all; asked before the filters for its parts."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def project(self, event: JsonObject) -> JsonObject:
        """Return a client event with only the fields wanted; the event itself if all are."""
        return event if self.event_fields is None else project(event, self.event_fields)


def project(event: JsonObject, fields: Iterable[PropertyPath]) -> JsonObject:
    """Return a new object with only `fields`, none of which may lead into another, of `event`.

    Spec: sync_filter, `event_fields`.
    """
    result: JsonObject = {}
    for path in fields:
        value = find_property(event, path)
        if value is ABSENT:
            continue
        target = result
        for name in path[:-1]:
            target = target.setdefault(name, {})
        target[path[-1]] = value
    return result


def _event_filter_fields(source: Mapping[str, Any], max_limit: int) -> dict[str, Any]:
    types, not_types = _texts(source, "types"), _texts(source, "not_types")
    senders, not_senders = _senders(source, "senders"), _senders(source, "not_senders") or frozenset()
    return {
        "limit": _limit(source, max_limit),
        "senders": senders,
        "not_senders": not_senders,
        "is_pass_all": types is None and not not_types and senders is None and not not_senders,
        "accepts_nothing": (
            (types is not None and not types)
            or (senders is not None and senders <= not_senders)
            or (not_types is not None and "*" in not_types)
        ),
        "_types": None if types is None else _compile_types(types),
        "_not_types": _compile_types(not_types) if not_types else None,
    }


def _compile_types(types: frozenset[str]) -> _Types:
    globs = tuple(sorted(entry for entry in types if "*" in entry))
    if len(globs) > MAX_GLOBS:
        raise TooLarge(f"a filter may have at most {MAX_GLOBS} types with a wildcard in one list")
    # Spec: event_filter, `types`: only `*` is a wildcard.
    return _Types(types - frozenset(globs), globs, tuple(compile_glob(glob, question_mark=False) for glob in globs))


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadJson(f"{name} must be an object")
    return value


def _limit(source: Mapping[str, Any], max_limit: int) -> int | None:
    limit = source.get("limit")
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise BadJson("limit must be an integer greater than 0")
    # Clients do send 0, and mean as little as possible.
    return max(1, min(limit, max_limit))


def _optional_bool(source: Mapping[str, Any], key: str) -> bool | None:
    value = source.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadJson(f"{key} must be true or false")
    return value


def _texts(
    source: Mapping[str, Any], key: str, check: Callable[[str], str] | None = None, most: int = MAX_ENTRIES
) -> frozenset[str] | None:
    entries = source.get(key)
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise BadJson(f"{key} must be an array")
    if len(entries) > most:
        raise TooLarge(f"{key} may have at most {most} entries")
    for entry in entries:
        if not isinstance(entry, str) or len(entry) > MAX_ENTRY_CHARACTERS:
            raise BadJson(f"{key} must hold strings of at most {MAX_ENTRY_CHARACTERS} characters")
        if check is not None:
            check(entry)
    return frozenset(entries)


def _senders(source: Mapping[str, Any], key: str) -> frozenset[str] | None:
    return _texts(source, key, UserID.parse)


def _rooms(source: Mapping[str, Any], key: str) -> frozenset[str] | None:
    return _texts(source, key, RoomID.parse)


def _event_fields(source: Mapping[str, Any]) -> tuple[PropertyPath, ...] | None:
    fields = source.get("event_fields")
    if fields is None:
        return None
    if not isinstance(fields, list):
        raise BadJson("event_fields must be an array")
    if len(fields) > MAX_FIELDS:
        raise TooLarge(f"event_fields may have at most {MAX_FIELDS} entries")
    paths: set[PropertyPath] = set()
    for text in fields:
        if not isinstance(text, str) or len(text) > MAX_FIELD_CHARACTERS:
            raise BadJson(f"event_fields must hold strings of at most {MAX_FIELD_CHARACTERS} characters")
        paths.add(split_path(text))
    # What is inside another field that is wanted comes with it.
    return tuple(sorted(path for path in paths if not any(path[:length] in paths for length in range(1, len(path)))))


_DEFAULT: Final = Filter()
