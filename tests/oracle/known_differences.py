"""Where the spec says otherwise than Synapse does, each with the words of the spec, and matched as narrowly as can be.

A difference that no entry matches is a fault, of one side or of this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.model.auth.numbering import rule_number
from homeserver.model.content.reading import is_user_id, lenient_integer
from homeserver.model.event import Event
from homeserver.model.ids import MAX_IDENTIFIER_BYTES, server_name_of

from .content import LEVEL_KEYS
from .graphs import RandomRoom
from .questions import Difference


@dataclass(frozen=True, slots=True)
class KnownDifference:
    """One point, and how it is recognised; `spec` is where Sennit's side is written down.

    `unsettles` tells whether a room has what makes the point matter: what is resolved there may differ too, because
    resolution asks for verdicts at states of its own.
    """

    name: str
    spec: str
    matches: Callable[[Difference], bool]
    unsettles: Callable[[RandomRoom], bool] = lambda room: False


def known_difference(difference: Difference) -> KnownDifference | None:
    """Return the first entry that explains the difference, or None: then somebody is wrong."""
    if difference.about == "resolved":
        room = difference.room
        return next((known for known in KNOWN_DIFFERENCES if room is not None and known.unsettles(room)), None)
    return next((known for known in (*KNOWN_DIFFERENCES, *OPEN_FAULTS) if known.matches(difference)), None)


# -- what the differences are recognised by ---------------------------------------------------------------------------


def _content(difference: Difference) -> Mapping[str, Any]:
    return {} if difference.event is None else difference.event.content


def _is(difference: Difference, event_type: str) -> bool:
    return difference.event is not None and difference.event.type == event_type


def _allows(difference: Difference) -> bool:
    return difference.ours[0] == "allowed"


def _on_state(difference: Difference) -> bool:
    return difference.about in ("dependent", "whole")


def _power_levels(difference: Difference) -> list[Mapping[str, Any]]:
    """The power levels that the event brings and those that it meets."""
    found = []
    if difference.room is not None and difference.state is not None:
        number = difference.state.get(("m.room.power_levels", ""))
        if number is not None:
            found.append(difference.room.events[number].content)
    if _is(difference, "m.room.power_levels"):
        found.append(_content(difference))
    return found


def _levels(content: Mapping[str, Any]) -> Iterator[Any]:
    """The single levels, in the users map and elsewhere."""
    yield from (content[key] for key in LEVEL_KEYS if key in content)
    for name in ("users", "events", "notifications"):
        if isinstance(content.get(name), dict):
            yield from content[name].values()


def _has_unreadable_level(content: Mapping[str, Any]) -> bool:
    return any(lenient_integer(level) is None for level in _levels(content)) or any(
        not isinstance(content.get(name, {}), dict) for name in ("events", "notifications")
    )


def _python_reads_it(level: object) -> bool:
    try:
        int(level)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _create_content(difference: Difference) -> Mapping[str, Any]:
    return {} if difference.room is None else difference.room.create.content


def _is_format(difference: Difference, side: str, *changes: str) -> bool:
    """Tell whether the difference is that `side` alone takes an event with one of these changes."""
    taken = "ours" if difference.ours[0] == "allowed" else "synapse"
    return difference.about == "format" and taken == side and difference.where in changes


def _signatures_in_invite(event: Event) -> int:
    invite = event.content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    signatures = signed.get("signatures") if isinstance(signed, dict) else None
    return len(signatures) if isinstance(signatures, dict) else 0


def _has_malformed_key(content: Mapping[str, Any]) -> bool:
    more = content.get("public_keys", [])
    if not isinstance(more, list) or not all(isinstance(entry, dict) for entry in more):
        return True
    keys = [entry.get("public_key") for entry in more]
    if "public_key" in content:
        keys.append(content["public_key"])
    return not all(isinstance(key, str) and len(key) == 43 for key in keys)


def _create_is_listed(difference: Difference) -> bool:
    listed = [key for key in difference.synapse[1] if isinstance(key[1], str)]
    if difference.version.create_is_implicit_auth_event:
        listed = [key for key in listed if key != ["m.room.create", ""]]
    return listed == difference.ours[1]


def _accepted(room: RandomRoom, event_type: str) -> Iterator[Event]:
    return (
        event
        for number, event in enumerate(room.events)
        if event.type == event_type and event.state_key is not None and number not in room.rejected
    )


def _invites_strangers(room: RandomRoom) -> bool:
    return room.create.content.get("m.federate", True) is not True and any(
        server_name_of(event.state_key or "") != server_name_of(room.create.sender)
        for event in _accepted(room, "m.room.member")
    )


# -- the table --------------------------------------------------------------------------------------------------------

KNOWN_DIFFERENCES = (
    KnownDifference(
        "a key that the content hash leaves out",
        # Synapse leaves out `age_ts` too, which it once wrote into what it sent.
        'server-server API, "Calculating the content hash for an event": "First, any existing `unsigned`, '
        '`signatures`, and `hashes` properties are removed"',
        lambda it: it.about == "content_hash" and it.event is not None and "age_ts" in it.event.wire,
    ),
    KnownDifference(
        "what is selected as auth events",
        # Synapse's function lists the create event in every version, its callers leave it out; and it lists state keys
        # that are not text, for which there can be no event.
        'rooms/v12, "Authorisation rules": "The `m.room.create` event MUST NOT be selected for `auth_events`"',
        lambda it: it.about == "needed" and it.synapse[0] == "is" and _create_is_listed(it),
    ),
    KnownDifference(
        "invites into a room that is not federated",
        # Synapse refuses memberships of users of other servers; such a user could not join.
        'rooms/v12, "Authorisation rules", 4: "... and the `sender` domain of the event does not match the `sender` '
        'domain of the create event, reject"; nothing is said of the target',
        lambda it: (
            _on_state(it)
            and _allows(it)
            and "unfederatable" in it.synapse[1]
            and _is(it, "m.room.member")
            and it.room is not None
            and it.event is not None
            and server_name_of(it.event.state_key or "") != server_name_of(it.room.create.sender)
        ),
        unsettles=_invites_strangers,
    ),
    KnownDifference(
        "m.federate that is neither true nor false",
        'rooms/v12, "Authorisation rules", 4: "has the property `m.federate` set to `false`"',
        lambda it: (
            _on_state(it)
            and _allows(it)
            and "unfederatable" in it.synapse[1]
            and not isinstance(_create_content(it).get("m.federate", True), bool)
        ),
    ),
    KnownDifference(
        "power levels that are no state",
        # Synapse trips over the state key that is not there.
        'rooms/v12, "Authorisation rules", 10: no clause asks for a state key',
        lambda it: (
            it.about == "whole"
            and _allows(it)
            and it.synapse == ["fault", "AttributeError: state_key"]
            and _is(it, "m.room.power_levels")
            and it.event is not None
            and it.event.state_key is None
        ),
    ),
    KnownDifference(
        "power levels under another state key",
        # Synapse takes the event of the same state key for the previous one.
        'rooms/v12, "Authorisation rules", 10.5: "no previous `m.room.power_levels` event in the room"',
        lambda it: (
            _on_state(it)
            and _is(it, "m.room.power_levels")
            and it.event is not None
            and it.event.state_key not in ("", None)
            and it.synapse[0] in ("allowed", "refused")
            and (_allows(it) or it.ours[1].startswith(f"{rule_number(it.version, '10')}."))
        ),
        unsettles=lambda room: any(event.state_key for event in _accepted(room, "m.room.power_levels")),
    ),
    KnownDifference(
        "levels that cannot be read",
        # Synapse trips over them, in the event or in the state.  Only the users map is checked before version 10.
        'rooms/v1, "Authorisation rules", 10.1: only `users` is refused for what is not an integer',
        lambda it: (
            it.about == "whole"
            and _allows(it)
            and it.synapse[0] == "fault"
            and not it.version.integer_power_levels
            and any(map(_has_unreadable_level, _power_levels(it)))
        ),
        unsettles=lambda room: (
            not room.version.integer_power_levels
            and any(_has_unreadable_level(event.content) for event in _accepted(room, "m.room.power_levels"))
        ),
    ),
    KnownDifference(
        "other levels that only Python reads",
        # true is 1 to it; to the spec it is no integer, so that there is no level.
        'rooms/v1, "`m.room.power_levels` events accept values as strings": "a single base 10 integer"',
        lambda it: (
            it.about == "dependent"
            and not it.version.integer_power_levels
            and any(
                lenient_integer(level) is None and _python_reads_it(level)
                for content in _power_levels(it)
                for level in _levels(content)
            )
        ),
    ),
    KnownDifference(
        "users with levels that only Python reads",
        'rooms/v1, "Authorisation rules", 10.1: "values that are integers (or a string that is an integer)"; '
        '"`m.room.power_levels` events accept values as strings": "a single base 10 integer"',
        lambda it: (
            _on_state(it)
            and it.synapse[0] == "allowed"
            and it.ours[1].endswith("'users' is not an object of integers")
            and not it.version.integer_power_levels
            and all(
                lenient_integer(level) is not None or _python_reads_it(level)
                for level in _content(it)["users"].values()
            )
        ),
    ),
    KnownDifference(
        "users whose server has no valid name",
        'rooms/v1, "Authorisation rules", 10.1: "keys that are valid user IDs"; appendices, "Server Name"',
        lambda it: (
            _on_state(it)
            and it.synapse[0] == "allowed"
            and it.ours[1].endswith("'users' has a key that is not a user ID")
            and all(
                # As long as an ID may be, so that only the name can be wrong.
                user.startswith("@") and ":" in user and len(user.encode()) <= MAX_IDENTIFIER_BYTES
                for user in _content(it)["users"]
                if not is_user_id(user)
            )
        ),
    ),
    KnownDifference(
        "several signatures of a third-party invite",
        # Synapse tries the first signature only with each key.
        'rooms/v12, "Authorisation rules", 5.4.1.7: "If any signature in `signed` matches any public key"',
        lambda it: (
            _on_state(it)
            and _allows(it)
            and it.synapse[0] in ("refused", "fault")
            and "not invited" in it.synapse[1]
            and _is(it, "m.room.member")
            and it.event is not None
            and _signatures_in_invite(it.event) > 1
        ),
        unsettles=lambda room: any(_signatures_in_invite(event) > 1 for event in _accepted(room, "m.room.member")),
    ),
    KnownDifference(
        "third-party invites with good and with malformed keys",
        # Synapse trips over a key that is none before it comes to the good one.
        'rooms/v12, "Authorisation rules", 5.4.1.7: "If any signature in `signed` matches any public key"',
        lambda it: (
            it.about == "whole"
            and _allows(it)
            and it.synapse[0] == "fault"
            and _is(it, "m.room.member")
            and "third_party_invite" in _content(it)
            and it.room is not None
            and it.state is not None
            and any(
                _has_malformed_key(it.room.events[number].content)
                for (event_type, _), number in it.state.items()
                if event_type == "m.room.third_party_invite"
            )
        ),
        unsettles=lambda room: any(
            _has_malformed_key(event.content) for event in _accepted(room, "m.room.third_party_invite")
        ),
    ),
    KnownDifference(
        "join rules without a rule",
        # Synapse reads `invite` where an event has no rule, as where there is no event.
        'rooms/v12, "Authorisation rules", 5.3.7: "Otherwise, reject"',
        lambda it: (
            _on_state(it)
            and it.synapse[0] == "allowed"
            and it.ours[1].endswith("the join rule of this room lets nobody in")
            and it.room is not None
            and it.state is not None
            and "join_rule" not in it.room.events[it.state["m.room.join_rules", ""]].content
        ),
        unsettles=lambda room: any("join_rule" not in event.content for event in _accepted(room, "m.room.join_rules")),
    ),
    KnownDifference(
        "an authorising user on other memberships than joins",
        'rooms/v8, "Authorisation rules", 4.2: the clause holds for all memberships',
        lambda it: (
            it.about in ("valid", "whole")
            and it.ours[0] == "refused"
            and it.synapse[0] == "allowed"
            and "join_authorised_via_users_server" in _content(it)
            and _content(it).get("membership") != "join"
        ),
    ),
    KnownDifference(
        "an authorising user of nobody's membership",
        # Synapse asks for the signature; for Sennit it is no membership, and refused before that matters.
        'rooms/v8, "Authorisation rules", 4.1: "If there is no `state_key` property ... reject"',
        lambda it: (
            it.about == "valid"
            and _allows(it)
            and it.synapse == ["refused", "403: Event not signed by authorising server"]
            and it.event is not None
            and it.event.state_key is None
        ),
    ),
    # The formats.  Synapse drops few malformed events here, and some of them where it stores them.
    KnownDifference(
        "many references",
        'server-server API, "PDUs", `auth_events`: "Must contain less than or equal to 10 events"; '
        '`prev_events`: "Must contain less than or equal to 20 events"',
        lambda it: _is_format(
            it, "synapse", "auth_events: 11", "auth_events: 20", "auth_events: 21", "prev_events: 21"
        ),
    ),
    KnownDifference(
        "great depths",
        'rooms/v1, "Event format", `depth`: "Must be less than the maximum value for an integer (2^63 - 1)"',
        lambda it: (
            not it.version.strict_canonical_json and _is_format(it, "ours", f"depth: {2**53}", f"depth: {2**63 - 1}")
        ),
    ),
    KnownDifference(
        "names that are no room IDs",
        'appendices, "Room IDs": the sigil is "!"',
        lambda it: _is_format(it, "synapse", "room_id: 'x'"),
    ),
    KnownDifference(
        "hashes without the one that counts",
        'rooms/v1, "Event format", `hashes`: `sha256` is required',
        lambda it: _is_format(it, "synapse", "hashes: {}", "hashes: {'sha1': 'a'}"),
    ),
    KnownDifference(
        "a target of a redaction that is no text",
        'rooms/v1, "Event format", `redacts`: string',
        lambda it: not it.version.redacts_in_content and _is_format(it, "synapse", "redacts: 5", "redacts: None"),
    ),
    KnownDifference(
        "what is no part of an event",
        # Synapse trips over it, Sennit throws it away.
        'server-server API, "Calculating the content hash for an event": "First, any existing `unsigned` ... removed"',
        lambda it: _is_format(it, "ours", "unsigned: 5", "unsigned: None") and it.synapse[0] == "fault",
    ),
)

# -- what is Sennit's fault -------------------------------------------------------------------------------------------

# Each has a test in `test_open_faults` that is expected to fail, and goes from here with it.
OPEN_FAULTS = (
    KnownDifference(
        "times before 1970",
        'rooms/v1, "Event format", `origin_server_ts`: an integer, and no least one is told',
        lambda it: _is_format(it, "synapse", "origin_server_ts: -1"),
    ),
)
