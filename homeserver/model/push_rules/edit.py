"""Changes that a client asks for in its push rules: old rules and request in, new rules out.

Nothing here knows where rules are stored.  Everything a client can make large is bounded: one rule, the number of
rules, and the number of rules that have to be tried on every event.

Spec: client-server API, "Push Rules: API"; data/api/client-server/pushrules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from homeserver.errors import BadJson, BadRequest, InvalidParam, MissingParam, NotFound, TooLarge
from homeserver.model.canonical_json import JsonObject, encode_canonical
from homeserver.model.globs import has_wildcards

from .base import HISTORICAL_ACTIONS, KINDS, Kind, PushRule, StoredRules, find_base_rule, list_rules

MAX_RULE_ID_BYTES: Final = 255
# LIMIT: all rules are sent to every device of the user whenever one changes.
MAX_RULE_BYTES: Final = 8_192
MAX_STORED_BYTES: Final = 524_288
MAX_PATTERN_CHARACTERS: Final = 256
MAX_CONDITIONS: Final = 32
MAX_ACTIONS: Final = 32
# LIMIT: all rules of a user together; room and sender rules are found by their ID and cost little each.
MAX_RULES: Final = 2_000
# LIMIT: rules that no room or sender narrows down are tried on every event.
MAX_WIDE_RULES: Final = 200
# LIMIT: patterns that are searched for rather than compared, in all rules together.
MAX_SEARCHES: Final = 300


def check_kind(text: str) -> Kind:
    """Return `text` as a kind of rule, or raise `InvalidParam`."""
    for kind in KINDS:
        if kind == text:
            return kind
    raise InvalidParam("no such kind of push rule")


def put_rule(
    stored: StoredRules, kind: Kind, rule_id: str, body: Any, *, before: str | None = None, after: str | None = None
) -> StoredRules:
    """Return the rules with one of the user's own rules made or replaced.

    A new rule is enabled and the most important one of its kind, a replaced one keeps its switch and its place, unless
    `before` or `after` names another of the user's rules.  Raises `InvalidParam`, `MissingParam`, `BadJson` or
    `TooLarge` for the rule, and `BadRequest` where `before` or `after` is not there.
    """
    _check_rule_id(rule_id)
    rule = _parse_rule(kind, rule_id, body)
    rules = list(stored.of_kind(kind))
    old_place = next((place for place, each in enumerate(rules) if each.rule_id == rule_id), None)
    if old_place is not None:
        rule = replace(rule, enabled=rules.pop(old_place).enabled)
    # Spec: data/api/client-server/pushrules, PUT: `before` wins over `after`; neither may name a predefined rule.
    if before is not None:
        place = _place_of(rules, before)
    elif after is not None:
        place = _place_of(rules, after) + 1
    else:
        place = 0 if old_place is None else old_place
    rules.insert(place, rule)
    changed = _with_kind(stored, kind, rules)
    _check_count(changed)
    return changed


def delete_rule(stored: StoredRules, kind: Kind, rule_id: str) -> StoredRules:
    """Return the rules without one of the user's own; raises `NotFound` if there is no such rule."""
    rules = stored.of_kind(kind)
    left = [rule for rule in rules if rule.rule_id != rule_id]
    if len(left) == len(rules):
        raise _not_found()
    return _with_kind(stored, kind, left)


def set_enabled(stored: StoredRules, kind: Kind, rule_id: str, body: Any) -> StoredRules:
    """Return the rules with one, predefined or not, switched as `body["enabled"]` says."""
    enabled = _required(body, "enabled")
    if not isinstance(enabled, bool):
        raise InvalidParam("enabled must be true or false")
    if (base := find_base_rule(kind, rule_id)) is not None:
        switches = {key: value for key, value in stored.base_enabled.items() if key != rule_id}
        if enabled != base.enabled:
            switches[rule_id] = enabled
        return replace(stored, base_enabled=switches)
    return _with_rule(stored, kind, rule_id, lambda rule: replace(rule, enabled=enabled))


def set_actions(stored: StoredRules, kind: Kind, rule_id: str, body: Any) -> StoredRules:
    """Return the rules with the actions of one, predefined or not, replaced by `body["actions"]`."""
    actions = _parse_actions(_required(body, "actions"))
    if (base := find_base_rule(kind, rule_id)) is not None:
        changed = {key: value for key, value in stored.base_actions.items() if key != rule_id}
        if actions != base.actions:
            changed[rule_id] = actions
        return replace(stored, base_actions=changed)
    return _with_rule(stored, kind, rule_id, lambda rule: replace(rule, actions=actions))


def copy_room_rules(stored: StoredRules, old_room: str, new_room: str) -> StoredRules:
    """Return the rules with those that are for one room made for another one too.

    That is a room rule of that ID, and every rule with a condition on it. A copy comes right behind its original and is
    switched like it; where its ID is taken, or would be too long, there is none. Raises TooLarge for too many.
    """
    changed = stored
    for kind in KINDS:
        rules: list[PushRule] = []
        taken = {rule.rule_id for rule in stored.of_kind(kind)}
        for rule in stored.of_kind(kind):
            rules.append(rule)
            copy = _for_other_room(kind, rule, old_room, new_room)
            if copy is None or copy.rule_id in taken or len(copy.rule_id.encode()) > MAX_RULE_ID_BYTES:
                continue
            taken.add(copy.rule_id)
            rules.append(copy)
        if len(rules) != len(stored.of_kind(kind)):
            changed = _with_kind(changed, kind, rules)
    if changed is not stored:
        _check_count(changed)
    return changed


def get_rule(user_id: str, stored: StoredRules, kind: Kind, rule_id: str) -> JsonObject:
    """Return one rule, predefined or not, as clients see it; raises `NotFound`."""
    for rule, is_default in list_rules(stored, kind):
        if rule.rule_id == rule_id:
            return rule.to_wire(kind, user_id, is_default=is_default)
    raise _not_found()


def render_rules(user_id: str, stored: StoredRules) -> JsonObject:
    """Return all rules of a user as clients see them: the value of `global`."""
    return {
        kind: [rule.to_wire(kind, user_id, is_default=is_default) for rule, is_default in list_rules(stored, kind)]
        for kind in KINDS
    }


def _check_rule_id(rule_id: str) -> None:
    # Spec: data/api/client-server/pushrules, PUT: the dot is for predefined rules, slashes are not allowed.
    if not rule_id or rule_id.startswith("."):
        raise InvalidParam("the rule ID must not be empty or start with '.'")
    if "/" in rule_id or "\\" in rule_id or "\x00" in rule_id:
        raise InvalidParam("the rule ID must not contain slashes or NUL")
    if len(rule_id.encode("utf-8", "surrogatepass")) > MAX_RULE_ID_BYTES:
        raise InvalidParam(f"the rule ID is over {MAX_RULE_ID_BYTES} bytes")


def _parse_rule(kind: Kind, rule_id: str, body: Any) -> PushRule:
    actions = _parse_actions(_required(body, "actions"))
    conditions: tuple[Mapping[str, Any], ...] = ()
    pattern: str | None = None
    # The rule ID of a room or sender rule is not checked further: one that is no such ID never matches.
    if kind == "content":
        pattern = _required(body, "pattern")
        if not isinstance(pattern, str):
            raise InvalidParam("pattern must be a string")
        _check_pattern(pattern)
    elif kind in ("override", "underride"):
        conditions = _parse_conditions(body.get("conditions", []))
    rule = PushRule(rule_id, actions, conditions, pattern)
    if len(encode_canonical([list(actions), list(conditions), pattern])) > MAX_RULE_BYTES:
        raise TooLarge(f"the rule is over {MAX_RULE_BYTES} bytes")
    return rule


def _required(body: Any, key: str) -> Any:
    if not isinstance(body, dict):
        raise BadJson("the body must be an object")
    if key not in body:
        raise MissingParam(f"{key} is missing")
    return body[key]


def _parse_actions(actions: Any) -> tuple[Any, ...]:
    if not isinstance(actions, list):
        raise InvalidParam("actions must be an array")
    if len(actions) > MAX_ACTIONS:
        raise TooLarge(f"a rule may have at most {MAX_ACTIONS} actions")
    kept: list[Any] = []
    for action in actions:
        if isinstance(action, dict):
            if not isinstance(action.get("set_tweak"), str):
                raise InvalidParam("an action that is an object must have set_tweak")
        # Spec: client-server API, "Historical Actions": ignored, "for instance, by stripping them".
        elif isinstance(action, str) and action in HISTORICAL_ACTIONS:
            continue
        elif action != "notify":
            raise InvalidParam("unknown action")
        kept.append(action)
    if len(encode_canonical(kept)) > MAX_RULE_BYTES:
        raise TooLarge(f"the rule is over {MAX_RULE_BYTES} bytes")
    return tuple(kept)


def _parse_conditions(conditions: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the conditions; kinds that are unknown here are kept, since clients evaluate rules as well."""
    if not isinstance(conditions, list):
        raise InvalidParam("conditions must be an array")
    if len(conditions) > MAX_CONDITIONS:
        raise TooLarge(f"a rule may have at most {MAX_CONDITIONS} conditions")
    for condition in conditions:
        if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
            raise InvalidParam("a condition must be an object with a kind")
        pattern = condition.get("pattern")
        if isinstance(pattern, str):
            _check_pattern(pattern)
    return tuple(conditions)


def _check_pattern(pattern: str) -> None:
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise TooLarge(f"a pattern may have at most {MAX_PATTERN_CHARACTERS} characters")


def _check_count(stored: StoredRules) -> None:
    if sum(len(stored.of_kind(kind)) for kind in KINDS) > MAX_RULES:
        raise TooLarge(f"a user may have at most {MAX_RULES} push rules")
    if len(encode_canonical(stored.to_json())) > MAX_STORED_BYTES:
        raise TooLarge(f"the push rules of a user may take at most {MAX_STORED_BYTES} bytes")
    wide = searches = len(stored.content)
    for rule in (*stored.override, *stored.underride):
        wide += not any(_narrows(condition) for condition in rule.conditions)
        searches += sum(_is_search(condition) for condition in rule.conditions)
    if searches > MAX_SEARCHES:
        raise TooLarge(f"the push rules of a user may have at most {MAX_SEARCHES} patterns to search for")
    if wide > MAX_WIDE_RULES:
        raise TooLarge(f"a user may have at most {MAX_WIDE_RULES} push rules that are not for one room or sender")


def _narrows(condition: Mapping[str, Any]) -> bool:
    return condition.get("key") in ("room_id", "sender") and (
        condition.get("kind") == "event_property_is"
        or (condition.get("kind") == "event_match" and not has_wildcards(str(condition.get("pattern"))))
    )


def _is_search(condition: Mapping[str, Any]) -> bool:
    kind = condition.get("kind")
    if kind == "event_match":
        return condition.get("key") == "content.body" or has_wildcards(str(condition.get("pattern")))
    return kind == "contains_display_name"


def _for_other_room(kind: Kind, rule: PushRule, old_room: str, new_room: str) -> PushRule | None:
    if kind == "room":
        return replace(rule, rule_id=new_room) if rule.rule_id == old_room else None
    conditions = tuple(_condition_for_other_room(condition, old_room, new_room) for condition in rule.conditions)
    if conditions == rule.conditions:
        return None
    # Clients name such rules after the room.
    renamed = rule.rule_id.replace(old_room, new_room)
    return replace(
        rule, rule_id=renamed if renamed != rule.rule_id else f"{rule.rule_id}.{new_room}", conditions=conditions
    )


def _condition_for_other_room(condition: Mapping[str, Any], old_room: str, new_room: str) -> Mapping[str, Any]:
    value = {"event_match": "pattern", "event_property_is": "value"}.get(str(condition.get("kind")))
    if value is None or condition.get("key") != "room_id" or condition.get(value) != old_room:
        return condition
    return {**condition, value: new_room}


def _place_of(rules: Sequence[PushRule], rule_id: str) -> int:
    for place, rule in enumerate(rules):
        if rule.rule_id == rule_id:
            return place
    # Spec: data/api/client-server/pushrules, PUT, example of the 400 answer: M_UNKNOWN.
    raise BadRequest(f"before/after rule not found: {rule_id[:MAX_RULE_ID_BYTES]}")


def _with_kind(stored: StoredRules, kind: Kind, rules: Sequence[PushRule]) -> StoredRules:
    changed: dict[str, Any] = {kind: tuple(rules)}
    return replace(stored, **changed)


def _with_rule(stored: StoredRules, kind: Kind, rule_id: str, change: Callable[[PushRule], PushRule]) -> StoredRules:
    rules = stored.of_kind(kind)
    if not any(rule.rule_id == rule_id for rule in rules):
        raise _not_found()
    return _with_kind(stored, kind, [change(rule) if rule.rule_id == rule_id else rule for rule in rules])


def _not_found() -> NotFound:
    return NotFound("The push rule was not found.")
