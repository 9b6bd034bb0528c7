"""Which actions a user's push rules give for an event.

Three values meet here.  A `Ruleset` is a user's rules, compiled once; users who changed nothing share one table.
`EventFacts` is an event as the rules see it, made once for all users: what one of them asks is remembered for the
others.  `RoomFacts` is the room at that moment, the same for all users.

A condition is compiled to a function `(facts, room, user_id) -> bool`.  Rules are put into tables by what they
demand, so that a message is shown only to the few rules that could match it: a rule with a literal `type` is found
under that type, one with a literal `room_id` or `sender` (also the `room` and `sender` kinds: a user may have hundreds)
under that.  Every entry carries its place in the order of importance; entries from several tables are merged by it.

Spec: client-server API, "Push Rules", "Conditions", "Actions"; "Receiving notifications".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, itemgetter, le, lt
from typing import Any, Final, Protocol

from homeserver.model.globs import compile_glob, contains_words, has_wildcards
from homeserver.model.property_paths import ABSENT, PropertyPath, find_property, split_path

from .base import HISTORICAL_ACTIONS, KINDS, THE_USER, UNCHANGED, Kind, PushRule, StoredRules, list_rules

_BODY: Final[PropertyPath] = ("content", "body")
_MAX_SAFE_INTEGER: Final = 2**53 - 1
_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": eq,
    "<=": le,
    ">=": ge,
    "<": lt,
    ">": gt,
    "": eq,
}


class EventView(Protocol):
    """The part of an event that rules can ask for; `homeserver.model.event.Event` has it."""

    @property
    def event_id(self) -> str: ...
    @property
    def room_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def sender(self) -> str: ...
    @property
    def content(self) -> Mapping[str, Any]: ...
    @property
    def state_key(self) -> str | None: ...
    @property
    def origin_server_ts(self) -> int: ...


class EventFacts:
    """An event as push rules see it; make one for each event and use it for all users."""

    __slots__ = ("_content", "_event", "_members", "_scalars", "_texts", "folded_room_id", "folded_type", "sender")

    def __init__(self, event: EventView) -> None:
        self._event = event
        self._content = event.content
        self.sender = event.sender
        self.folded_type = event.type.lower()
        self.folded_room_id = event.room_id.lower()
        self._texts: dict[PropertyPath, str | None] = {}
        self._scalars: dict[PropertyPath, object] = {}
        self._members: dict[PropertyPath, frozenset[object]] = {}

    def value(self, path: PropertyPath) -> Any:
        """Return the property at `path`, or `ABSENT`."""
        first = path[0]
        if first == "content":
            return find_property(self._content, path[1:])
        event = self._event
        if first in ("type", "sender", "room_id", "event_id", "origin_server_ts"):
            found: Any = getattr(event, first)
        elif first == "state_key" and event.state_key is not None:
            found = event.state_key
        else:
            return ABSENT
        return found if len(path) == 1 else ABSENT

    def text(self, path: PropertyPath) -> str | None:
        """Return the text at `path` in lower case, or None if there is none."""
        try:
            return self._texts[path]
        except KeyError:
            value = self.value(path)
            text = self._texts[path] = value.lower() if isinstance(value, str) else None
            return text

    def scalar(self, path: PropertyPath) -> object:
        """Return the property at `path` in the form of `exact`."""
        try:
            return self._scalars[path]
        except KeyError:
            value = self._scalars[path] = exact(self.value(path))
            return value

    def members(self, path: PropertyPath) -> frozenset[object]:
        """Return the elements of the array at `path`, each in the form of `exact`; empty if there is no array."""
        try:
            return self._members[path]
        except KeyError:
            value = self.value(path)
            members: frozenset[object] = frozenset()
            if isinstance(value, (list, tuple)):
                members = frozenset(map(exact, value)) - {ABSENT}
            self._members[path] = members
            return members


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """A room as push rules see it, the same for all its users.

    `member_count` counts joined members.  `power_of` gives a user's power level, `notification_level` the level needed
    to notify with a key such as `room`.  `display_name_of` is asked only by users who have a rule with the deprecated
    condition `contains_display_name`.
    """

    member_count: int
    power_of: Callable[[str], int]
    notification_level: Callable[[str], int]
    display_name_of: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do about an event.  `highlight` is set only together with `notify`.

    `tweaks` is what the push gateway is sent; `wire` is the list of actions as clients see it.
    """

    notify: bool
    highlight: bool
    tweaks: Mapping[str, Any]
    wire: tuple[Any, ...]


Condition = Callable[[EventFacts, RoomFacts, str], bool]
_Entry = tuple[int, tuple[Condition, ...], Actions]


@dataclass(frozen=True, slots=True)
class _Table:
    """Compiled rules: `by_type` for the types that rules name, `other_types` for all the rest."""

    by_type: Mapping[str, tuple[_Entry, ...]]
    other_types: tuple[_Entry, ...]
    by_room: Mapping[str, tuple[_Entry, ...]]
    by_sender: Mapping[str, tuple[_Entry, ...]]
    is_bound: bool


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The compiled rules of one user."""

    user_id: str
    _table: _Table


def compile_rules(user_id: str, stored: StoredRules = UNCHANGED) -> Ruleset:
    """Return the rules of a user, predefined ones included, ready for `evaluate`."""
    return Ruleset(user_id, _DEFAULT_TABLE if stored.is_empty else _compile_table(stored))


def evaluate(ruleset: Ruleset, facts: EventFacts, room: RoomFacts) -> Actions | None:
    """Return the actions of the most important rule that matches, or None if no rule does.

    A matching rule may say not to notify.  The user's own events match nothing.
    """
    user_id = ruleset.user_id
    # Spec: client-server API, "Push Rules": no notification "for events that the user has sent themselves".
    if facts.sender == user_id:
        return None
    table = ruleset._table
    entries = table.by_type.get(facts.folded_type, table.other_types)
    if table.is_bound:
        bound = table.by_room.get(facts.folded_room_id, ()) + table.by_sender.get(facts.sender.lower(), ())
        if bound:
            entries = tuple(sorted(entries + bound, key=_PLACE))
    for _, conditions, actions in entries:
        for condition in conditions:
            if not condition(facts, room, user_id):
                break
        else:
            return actions
    return None


def may_notify(ruleset: Ruleset, facts: EventFacts) -> bool:
    """Tell whether `evaluate` may say to notify, as far as can be said without knowing the room."""
    try:
        actions = evaluate(ruleset, facts, _UNKNOWN_ROOM)
    except _RoomNeeded:
        return True
    return actions is not None and actions.notify


class _RoomNeeded(Exception):
    """A rule asks for the room."""


class _UnknownCount(int):
    """A number of members that cannot be compared with anything."""

    def _compare(self, other: object) -> bool:
        raise _RoomNeeded

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compare
    __hash__ = int.__hash__


def _look(_: str) -> Any:
    raise _RoomNeeded


_UNKNOWN_ROOM: Final = RoomFacts(_UnknownCount(), _look, _look, _look)


def compile_actions(actions: Iterable[Any]) -> Actions:
    """Return what a list of actions comes to; unknown and historical ones are ignored."""
    kept: list[Any] = []
    tweaks: dict[str, Any] = {}
    for action in actions:
        if isinstance(action, Mapping):
            name = action.get("set_tweak")
            if not isinstance(name, str):
                continue
            # Spec: client-server API, "Actions": a `highlight` with no value is true.
            if "value" in action or name == "highlight":
                tweaks[name] = action.get("value", True)
        elif not isinstance(action, str) or action in HISTORICAL_ACTIONS:
            continue
        kept.append(action)
    notify = "notify" in kept
    return Actions(notify, notify and tweaks.get("highlight") is True, tweaks, tuple(kept))


def exact(value: Any) -> object:
    """Return a form of a JSON value that is equal only for equal values of equal type.

    `ABSENT` for what the exact conditions do not support: arrays, objects, fractions and integers over 53 bits.
    """
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return (type(value), value)
    if isinstance(value, int) and -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:
        return (int, value)
    return ABSENT


_PLACE = itemgetter(0)


def _compile_table(stored: StoredRules) -> _Table:
    unbound: list[tuple[str | None, _Entry]] = []
    by_room: dict[str, tuple[_Entry, ...]] = {}
    by_sender: dict[str, tuple[_Entry, ...]] = {}
    place = 0
    for kind in KINDS:
        for rule, _ in list_rules(stored, kind):
            if not rule.enabled:
                continue
            place += 1
            conditions = _conditions_of(kind, rule)
            if conditions is None:
                continue
            tests = tuple(map(_compile_condition, conditions))
            if _never in tests:
                continue
            entry = (place, tests, compile_actions(rule.actions))
            if (room_id := _literal(conditions, "room_id")) is not None:
                by_room[room_id] = (*by_room.get(room_id, ()), entry)
            elif (sender := _literal(conditions, "sender")) is not None:
                by_sender[sender] = (*by_sender.get(sender, ()), entry)
            else:
                unbound.append((_literal(conditions, "type"), entry))
    types = {event_type for event_type, _ in unbound if event_type is not None}
    return _Table(
        by_type={
            each: tuple(entry for event_type, entry in unbound if event_type is None or event_type == each)
            for each in types
        },
        other_types=tuple(entry for event_type, entry in unbound if event_type is None),
        by_room=by_room,
        by_sender=by_sender,
        is_bound=bool(by_room or by_sender),
    )


def _conditions_of(kind: Kind, rule: PushRule) -> tuple[Mapping[str, Any], ...] | None:
    """Return the conditions of a rule, or None if it can never match."""
    # Spec: client-server API, "Conditions": the other kinds have predefined conditions.
    if kind == "content":
        if rule.pattern is None:
            return None
        return ({"kind": "event_match", "key": "content.body", "pattern": rule.pattern},)
    if kind == "room":
        return ({"kind": "event_property_is", "key": "room_id", "value": rule.rule_id},)
    if kind == "sender":
        return ({"kind": "event_property_is", "key": "sender", "value": rule.rule_id},)
    return rule.conditions


def _literal(conditions: Iterable[Mapping[str, Any]], key: str) -> str | None:
    """Return the text that `key` must equal for all conditions to hold, in lower case, if they say so."""
    for condition in conditions:
        if condition.get("key") != key:
            continue
        kind = condition.get("kind")
        pattern = condition.get("pattern" if kind == "event_match" else "value")
        if kind not in ("event_match", "event_property_is") or not isinstance(pattern, str):
            continue
        if kind == "event_property_is" or not has_wildcards(pattern):
            return pattern.lower()
    return None


def _compile_condition(condition: Mapping[str, Any]) -> Condition:
    kind = condition.get("kind")
    compile_kind = _COMPILERS.get(kind) if isinstance(kind, str) else None
    # Spec: client-server API, "Conditions": "Unrecognised conditions MUST NOT match any events".
    return _never if compile_kind is None else compile_kind(condition)


def _never(facts: EventFacts, room: RoomFacts, user_id: str) -> bool:
    return False


def _event_match(condition: Mapping[str, Any]) -> Condition:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str):
        return _never
    path = split_path(key)
    if pattern is THE_USER:
        # A historical user ID may hold `*` or `?`: it is compared, not matched.
        return lambda facts, room, user_id: facts.value(path) == user_id
    if not isinstance(pattern, str):
        return _never
    pattern = pattern.lower()
    if path != _BODY and not has_wildcards(pattern):
        return lambda facts, room, user_id: facts.text(path) == pattern
    matches = compile_glob(pattern, words=path == _BODY)
    return lambda facts, room, user_id: (text := facts.text(path)) is not None and matches(text)


def _event_property_is(condition: Mapping[str, Any]) -> Condition:
    key, value = condition.get("key"), condition.get("value", ABSENT)
    if not isinstance(key, str):
        return _never
    path = split_path(key)
    if value is THE_USER:
        return lambda facts, room, user_id: facts.scalar(path) == user_id
    wanted = exact(value)
    if wanted is ABSENT:
        return _never
    return lambda facts, room, user_id: facts.scalar(path) == wanted


def _event_property_contains(condition: Mapping[str, Any]) -> Condition:
    key, value = condition.get("key"), condition.get("value", ABSENT)
    if not isinstance(key, str):
        return _never
    path = split_path(key)
    if value is THE_USER:
        return lambda facts, room, user_id: user_id in facts.members(path)
    wanted = exact(value)
    if wanted is ABSENT:
        return _never
    return lambda facts, room, user_id: wanted in facts.members(path)


def _contains_display_name(condition: Mapping[str, Any]) -> Condition:
    def matches(facts: EventFacts, room: RoomFacts, user_id: str) -> bool:
        body = facts.text(_BODY)
        if not body:
            return False
        name = room.display_name_of(user_id)
        return bool(name) and isinstance(name, str) and contains_words(name.lower(), body)

    return matches


def _room_member_count(condition: Mapping[str, Any]) -> Condition:
    text = condition.get("is")
    if not isinstance(text, str) or not text.isascii():
        return _never
    digits = text.lstrip("=<>")
    compare = _COMPARISONS.get(text[: len(text) - len(digits)])
    if compare is None or not digits.isdigit() or len(digits) > 16:
        return _never
    wanted = int(digits)
    return lambda facts, room, user_id: compare(room.member_count, wanted)


def _sender_notification_permission(condition: Mapping[str, Any]) -> Condition:
    key = condition.get("key")
    if not isinstance(key, str):
        return _never
    return lambda facts, room, user_id: room.power_of(facts.sender) >= room.notification_level(key)


_COMPILERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Condition]]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "contains_display_name": _contains_display_name,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
}

_DEFAULT_TABLE: Final = _compile_table(UNCHANGED)
