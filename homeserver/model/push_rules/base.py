"""The predefined push rules, and the form in which a user's own rules are kept.

The predefined rules are the same for everybody; where the specification says "the user's Matrix ID" they hold
`THE_USER`, so that all users share one copy and one compiled form.  `StoredRules` is what differs from them: the user's
own rules in order of importance, and the switches and actions changed on predefined rules.

Spec: client-server API, "Push Rules", "Predefined Rules".  The body-matching mention rules
(`.m.rule.contains_display_name`, `.m.rule.contains_user_name`, `.m.rule.roomnotif`) left the specification in v1.17.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from homeserver.model.canonical_json import JsonObject

Kind = Literal["override", "content", "room", "sender", "underride"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The kinds in the order in which they are checked."""

MASTER: Final = ".m.rule.master"

# Spec: client-server API, "Historical Actions": servers must ignore them.
HISTORICAL_ACTIONS: Final = frozenset({"dont_notify", "coalesce"})


class _TheUser:
    """The type of `THE_USER`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "THE_USER"


THE_USER: Final = _TheUser()
"""Stands for the ID of the user whose rules are looked at."""


@dataclass(frozen=True, slots=True)
class PushRule:
    """One rule; `conditions` only for `override` and `underride`, `pattern` only for `content`.

    `actions` and the conditions are as the client sent them, historical actions left out; treat them as frozen.
    """

    rule_id: str
    actions: tuple[Any, ...]
    conditions: tuple[Mapping[str, Any], ...] = ()
    pattern: str | None = None
    enabled: bool = True

    def to_wire(self, kind: Kind, user_id: str, *, is_default: bool) -> JsonObject:
        """Return the rule as clients see it.  Spec: data/api/client-server/definitions/push_rule."""
        rule: JsonObject = {
            "rule_id": self.rule_id,
            "default": is_default,
            "enabled": self.enabled,
            "actions": list(self.actions),
        }
        if kind in ("override", "underride"):
            rule["conditions"] = [
                {key: user_id if value is THE_USER else value for key, value in condition.items()}
                for condition in self.conditions
            ]
        elif kind == "content":
            rule["pattern"] = self.pattern
        return rule


@dataclass(frozen=True, slots=True)
class StoredRules:
    """What a user has changed; each tuple is in order of importance, the most important rule first.

    `base_enabled` and `base_actions` are keyed by the ID of a predefined rule.
    """

    override: tuple[PushRule, ...] = ()
    content: tuple[PushRule, ...] = ()
    room: tuple[PushRule, ...] = ()
    sender: tuple[PushRule, ...] = ()
    underride: tuple[PushRule, ...] = ()
    base_enabled: Mapping[str, bool] = field(default_factory=dict)
    base_actions: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def of_kind(self, kind: Kind) -> tuple[PushRule, ...]:
        """Return the user's own rules of one kind."""
        rules: tuple[PushRule, ...] = getattr(self, kind)
        return rules

    @property
    def is_empty(self) -> bool:
        """Whether the user has changed nothing."""
        return not (
            self.override
            or self.content
            or self.room
            or self.sender
            or self.underride
            or self.base_enabled
            or self.base_actions
        )

    def to_json(self) -> JsonObject:
        """Return the JSON form for the database, which `from_json` reads."""
        stored: JsonObject = {}
        for kind in KINDS:
            if rules := self.of_kind(kind):
                stored[kind] = [_rule_to_json(rule) for rule in rules]
        if self.base_enabled:
            stored["base_enabled"] = dict(self.base_enabled)
        if self.base_actions:
            stored["base_actions"] = {rule_id: list(actions) for rule_id, actions in self.base_actions.items()}
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> StoredRules:
        """Return the rules that `to_json` wrote; parts of another shape are left out."""
        rules: dict[str, tuple[PushRule, ...]] = {}
        for kind in KINDS:
            entries = stored.get(kind)
            if isinstance(entries, list):
                rules[kind] = tuple(rule for entry in entries if (rule := _rule_from_json(entry)) is not None)
        enabled, actions = stored.get("base_enabled"), stored.get("base_actions")
        return cls(
            **rules,
            base_enabled={
                rule_id: value
                for rule_id, value in (enabled.items() if isinstance(enabled, dict) else ())
                if isinstance(value, bool)
            },
            base_actions={
                rule_id: tuple(value)
                for rule_id, value in (actions.items() if isinstance(actions, dict) else ())
                if isinstance(value, list)
            },
        )


UNCHANGED: Final = StoredRules()


def find_base_rule(kind: Kind, rule_id: str) -> PushRule | None:
    """Return the predefined rule of this kind and ID."""
    return next((rule for rule in BASE_RULES[kind] if rule.rule_id == rule_id), None)


def list_rules(stored: StoredRules, kind: Kind) -> Iterator[tuple[PushRule, bool]]:
    """Give all rules of one kind, the most important first, each with whether it is predefined.

    Spec: client-server API, "Predefined Rules": after the user's own, but for the master rule, which is first.
    """
    base = [_as_changed(rule, stored) for rule in BASE_RULES[kind]]
    if base and base[0].rule_id == MASTER:
        yield base.pop(0), True
    for rule in stored.of_kind(kind):
        yield rule, False
    for rule in base:
        yield rule, True


def _as_changed(rule: PushRule, stored: StoredRules) -> PushRule:
    enabled = stored.base_enabled.get(rule.rule_id, rule.enabled)
    actions = stored.base_actions.get(rule.rule_id, rule.actions)
    if enabled == rule.enabled and actions is rule.actions:
        return rule
    return PushRule(rule.rule_id, actions, rule.conditions, rule.pattern, enabled)


def _rule_to_json(rule: PushRule) -> JsonObject:
    entry: JsonObject = {"rule_id": rule.rule_id, "actions": list(rule.actions)}
    if rule.conditions:
        entry["conditions"] = [dict(condition) for condition in rule.conditions]
    if rule.pattern is not None:
        entry["pattern"] = rule.pattern
    if not rule.enabled:
        entry["enabled"] = False
    return entry


def _rule_from_json(entry: Any) -> PushRule | None:
    if not isinstance(entry, dict):
        return None
    rule_id, actions, pattern = entry.get("rule_id"), entry.get("actions"), entry.get("pattern")
    conditions = entry.get("conditions", [])
    if not (isinstance(rule_id, str) and isinstance(actions, list) and isinstance(conditions, list)):
        return None
    if not (pattern is None or isinstance(pattern, str)) or not all(isinstance(each, dict) for each in conditions):
        return None
    return PushRule(rule_id, tuple(actions), tuple(conditions), pattern, entry.get("enabled") is not False)


_NOTIFY: Final = "notify"
_HIGHLIGHT: Final[Mapping[str, Any]] = {"set_tweak": "highlight"}
_DEFAULT_SOUND: Final[Mapping[str, Any]] = {"set_tweak": "sound", "value": "default"}
_RING: Final[Mapping[str, Any]] = {"set_tweak": "sound", "value": "ring"}


def _match(key: str, pattern: Any) -> Mapping[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


_TWO_MEMBERS: Final[Mapping[str, Any]] = {"kind": "room_member_count", "is": "2"}

# Spec: client-server API, "Default Override Rules" and "Default Underride Rules", in the order given there.
BASE_RULES: Final[Mapping[Kind, tuple[PushRule, ...]]] = {
    "override": (
        PushRule(MASTER, (), enabled=False),
        PushRule(".m.rule.suppress_notices", (), (_match("content.msgtype", "m.notice"),)),
        PushRule(
            ".m.rule.invite_for_me",
            (_NOTIFY, _DEFAULT_SOUND),
            (
                _match("type", "m.room.member"),
                _match("content.membership", "invite"),
                _match("state_key", THE_USER),
            ),
        ),
        PushRule(".m.rule.member_event", (), (_match("type", "m.room.member"),)),
        PushRule(
            ".m.rule.is_user_mention",
            (_NOTIFY, _DEFAULT_SOUND, _HIGHLIGHT),
            ({"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": THE_USER},),
        ),
        PushRule(
            ".m.rule.is_room_mention",
            (_NOTIFY, _HIGHLIGHT),
            (
                {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ),
        ),
        PushRule(
            ".m.rule.tombstone",
            (_NOTIFY, _HIGHLIGHT),
            (_match("type", "m.room.tombstone"), _match("state_key", "")),
        ),
        PushRule(".m.rule.reaction", (), (_match("type", "m.reaction"),)),
        PushRule(".m.rule.room.server_acl", (), (_match("type", "m.room.server_acl"), _match("state_key", ""))),
        PushRule(
            ".m.rule.suppress_edits",
            (),
            ({"kind": "event_property_is", "key": r"content.m\.relates_to.rel_type", "value": "m.replace"},),
        ),
    ),
    "content": (),
    "room": (),
    "sender": (),
    "underride": (
        PushRule(".m.rule.call", (_NOTIFY, _RING), (_match("type", "m.call.invite"),)),
        PushRule(
            ".m.rule.encrypted_room_one_to_one",
            (_NOTIFY, _DEFAULT_SOUND),
            (_TWO_MEMBERS, _match("type", "m.room.encrypted")),
        ),
        PushRule(
            ".m.rule.room_one_to_one", (_NOTIFY, _DEFAULT_SOUND), (_TWO_MEMBERS, _match("type", "m.room.message"))
        ),
        PushRule(".m.rule.message", (_NOTIFY,), (_match("type", "m.room.message"),)),
        PushRule(".m.rule.encrypted", (_NOTIFY,), (_match("type", "m.room.encrypted"),)),
    ),
}
