"""Events that must not be what they seem to be: the cases of the matrix, each built for a scene.

A case is a function of the scene and of a marker, a word that stands in the event and nowhere else; it returns the PDU
as an object, or as the bytes that are sent. What has to become of it:

- DROP     nothing of it is stored;
- REFUSE   it may be kept, as refused, and nobody sees it;
- CUT      it may be taken in, without the marker;
- TAKE     it may be taken in, where somebody tells the state before it.

Spec: server-server API, "Checks performed on receipt of a PDU"; hostile inputs 1 to 35.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from typing import Any

from homeserver.model.canonical_json import dump_exactly
from homeserver.model.signing import generate_signing_key, sign_event, sign_json

from .scene import Scene


class Fate(Enum):
    """What may become of an event."""

    DROP = "drop"
    REFUSE = "refuse"
    CUT = "cut"
    TAKE = "take"


Case = Callable[[Scene, str], Any]
CASES: dict[str, tuple[Fate, Case]] = {}
# Further wrong values of one field: all inlets have one reader for them, so each value goes through one inlet.
MORE: dict[str, tuple[Fate, Case]] = {}

DEEP = 10_000
OTHER_KEY = generate_signing_key(b"\x07" * 32, "played")


def case(name: str, fate: Fate) -> Callable[[Case], Case]:
    def note(build: Case) -> Case:
        CASES[name] = (fate, build)
        return build

    return note


def message(scene: Scene, marker: str, **changes: Any) -> dict[str, Any]:
    return scene.wire("m.room.message", scene.low, {"msgtype": "m.text", "body": marker}, **changes)


# -- JSON and shape --------------------------------------------------------------------------------------------------


def _raw(name: str, value: bytes, fate: Fate = Fate.DROP) -> None:
    @case(name, fate)
    def build(scene: Scene, marker: str) -> bytes:
        wire = scene.wire("m.room.message", scene.low, {"body": marker, "odd": "ODD"})
        return dump_exactly(wire).replace(b'"ODD"', value)


_raw("NaN", b"NaN")
_raw("Infinity", b"-Infinity")
_raw("1e400", b"1e400")
_raw("10^400", b"1" + b"0" * 400)
_raw("2^53", b"9007199254740992")
_raw("1.5", b"1.5")
_raw("deep lists", b"[" * DEEP + b"]" * DEEP)
_raw("deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP)
_raw("half a character", b'"\\ud800"')
_raw("not UTF-8", b'"\xff\xfe"')
_raw("twice", b'"x","odd":"ODD"', Fate.TAKE)
_raw("a megabyte", b'"' + b"x" * 10**6 + b'"')


def _field(name: str, field: str, value: Any, fate: Fate = Fate.DROP) -> None:
    @case(name, fate)
    def build(scene: Scene, marker: str) -> dict[str, Any]:
        return {**message(scene, marker), field: value}


for _name, _values in {
    "type": [None, 7, "x" * 256],
    "sender": [None, 7, "", "@", "@x", "@low:" + "x" * 300],
    "room_id": [None, 7, "", "!" + "x" * 300],
    "state_key": [7, None, "x" * 256],
    "content": [None, [], "x"],
    "depth": [None, "1", -1, 1.5, 2**63, True],
    "origin_server_ts": [None, "1", -1, 2**60, []],
    "prev_events": [None, "$x", [1], ["$e"] * 21, {}],
    "auth_events": [None, "$x", [1], ["$e"] * 11, {}],
    "hashes": [None, [], {}, {"sha256": 1}],
    "signatures": [None, [], {}, "x"],
}.items():
    for _number, _value in enumerate(_values):
        _field(f"{_name} {_number}", _name, _value)
        if _number:
            MORE[f"{_name} {_number}"] = CASES.pop(f"{_name} {_number}")


for _number, _no_event in enumerate((b"null", b"[]", b'"x"', b"1", b"{}", b"[[{}]]", b'{"type":"m.room.message"}')):
    CASES[f"no event {_number}"] = (Fate.DROP, lambda scene, marker, _no_event=_no_event: _no_event)  # type: ignore[misc]


@case("too large", Fate.DROP)
def too_large(scene: Scene, marker: str) -> Any:
    return message(scene, marker + "x" * 65_536)


@case("content twice", Fate.CUT)
def content_twice(scene: Scene, marker: str) -> bytes:
    wire = message(scene, "harmless")
    return b'{"content":{"body":"' + marker.encode() + b'"},' + json.dumps(wire).encode()[1:]


# -- identity and signatures -----------------------------------------------------------------------------------------


@case("sender of another server", Fate.DROP)
def another_sender(scene: Scene, marker: str) -> Any:
    return scene.wire("m.room.message", scene.carol, {"body": marker}, signed_by=[scene.evil.name])


@case("signature moved to another name", Fate.DROP)
def moved_signature(scene: Scene, marker: str) -> Any:
    wire = scene.wire("m.room.message", scene.carol, {"body": marker}, signed_by=[scene.evil.name])
    return {**wire, "signatures": {scene.honest.name: wire["signatures"][scene.evil.name]}}


@case("sender changed", Fate.DROP)
def changed_sender(scene: Scene, marker: str) -> Any:
    return {**message(scene, marker), "sender": scene.mallory}


@case("signed by another key", Fate.DROP)
def another_key(scene: Scene, marker: str) -> Any:
    wire = {**message(scene, marker), "signatures": {}}
    return sign_event(scene.version, wire, scene.evil.name, OTHER_KEY)


@case("in our name", Fate.DROP)
def in_our_name(scene: Scene, marker: str) -> Any:
    return scene.wire("m.room.message", scene.alice, {"body": marker}, signed_by=[scene.evil.name])


@case("in our name, our signature made up", Fate.DROP)
def our_signature_made_up(scene: Scene, marker: str) -> Any:
    wire = scene.wire("m.room.message", scene.alice, {"body": marker}, signed_by=[scene.evil.name])
    made_up = sign_event(scene.version, wire, scene.server_name, OTHER_KEY)
    return made_up


@case("our name in odd letters", Fate.DROP)
def our_name_odd(scene: Scene, marker: str) -> Any:
    return scene.wire("m.room.message", f"@alice:{scene.server_name}.", {"body": marker}, signed_by=[scene.evil.name])


@case("our join changed", Fate.CUT)
def our_join_changed(scene: Scene, marker: str) -> Any:
    """An event of ours comes back with other content: it is known, and what it says is what we said."""
    ours = scene.state.get(("m.room.member", scene.alice))
    wire = dict(scene.by_id[ours].wire) if ours else message(scene, "x")
    return {**wire, "content": {**wire["content"], "displayname": marker}}


@case("our join, now a ban", Fate.DROP)
def our_join_banned(scene: Scene, marker: str) -> Any:
    ours = scene.state.get(("m.room.member", scene.alice))
    wire = dict(scene.by_id[ours].wire) if ours else message(scene, "x")
    return {**wire, "content": {"membership": "ban", "reason": marker}, "depth": wire["depth"] + 1}


@case("many signatures", Fate.DROP)
def many_signatures(scene: Scene, marker: str) -> Any:
    crowd = {f"ed25519:{number}": "A" * 86 for number in range(400)}
    return {**message(scene, marker), "signatures": {scene.evil.name: crowd}}


@case("tampered content", Fate.CUT)
def tampered(scene: Scene, marker: str) -> Any:
    return {**message(scene, "true"), "content": {"body": marker}}


@case("tampered unsigned", Fate.TAKE)
def tampered_unsigned(scene: Scene, marker: str) -> Any:
    wire = message(scene, "true")
    return {**wire, "unsigned": {"prev_content": {"x": marker}, "redacted_because": {"type": marker}, "age": "x"}}


@case("tampered depth", Fate.DROP)
def tampered_depth(scene: Scene, marker: str) -> Any:
    return {**message(scene, marker), "depth": 99}


@case("another room", Fate.DROP)
def another_room(scene: Scene, marker: str) -> Any:
    return message(scene, marker, room_id="!" + "A" * 43)


@case("a room of ours", Fate.REFUSE)
def our_room(scene: Scene, marker: str) -> Any:
    return message(scene, marker, room_id=scene.foreign_room)


@case("another event_id", Fate.TAKE)
def another_id(scene: Scene, marker: str) -> Any:
    return {**message(scene, marker), "event_id": "$made-up"}


# -- what the rules forbid -------------------------------------------------------------------------------------------


def _forbidden(name: str, build: Callable[[Scene], tuple[Any, ...]], **changes: Any) -> None:
    @case(name, Fate.REFUSE)
    def made(scene: Scene, marker: str) -> Any:
        kind, sender, content, *state_key = build(scene)
        return scene.wire(kind, sender, {**content, "marker": marker}, *state_key, **changes)


_MEMBER, _POWER = "m.room.member", "m.room.power_levels"
_forbidden("message of a stranger", lambda s: ("m.room.message", s.stranger, {}))
_forbidden("message of who is banned", lambda s: ("m.room.message", s.banned, {}))
_forbidden("join of who is banned", lambda s: (_MEMBER, s.banned, {"membership": "join"}, s.banned))
_forbidden("name without power", lambda s: ("m.room.name", s.low, {"name": "pwned"}, ""))
_forbidden("power for oneself", lambda s: (_POWER, s.low, {"users": {s.low: 100}}, ""))
_forbidden("power as text", lambda s: (_POWER, s.low, {"users": {s.low: "100"}}, ""))
_forbidden("ACL without power", lambda s: ("m.room.server_acl", s.low, {"allow": [s.evil.name]}, ""))
_forbidden("ban without power", lambda s: (_MEMBER, s.low, {"membership": "ban"}, s.alice))
_forbidden("kick without power", lambda s: (_MEMBER, s.low, {"membership": "leave"}, s.carol))
_forbidden("join for another", lambda s: (_MEMBER, s.low, {"membership": "join"}, s.stranger))
_forbidden("join for one of ours", lambda s: (_MEMBER, s.low, {"membership": "join"}, s.nobody))
_forbidden("leave of who was never there", lambda s: (_MEMBER, s.stranger, {"membership": "leave"}, s.stranger))
_forbidden("knock in a public room", lambda s: (_MEMBER, s.stranger, {"membership": "knock"}, s.stranger))
_forbidden("invite by a stranger", lambda s: (_MEMBER, s.stranger, {"membership": "invite"}, s.nobody))
_forbidden("invite of who is banned", lambda s: (_MEMBER, s.low, {"membership": "invite"}, s.banned))
_forbidden("odd membership", lambda s: (_MEMBER, s.low, {"membership": ["join"]}, s.low))
_forbidden("no membership", lambda s: (_MEMBER, s.low, {}, s.low))
_forbidden("state of another user", lambda s: ("org.example.state", s.low, {}, s.alice))
_forbidden("second create", lambda s: ("m.room.create", s.low, {"room_version": s.version.identifier}, ""))
_forbidden("no auth events", lambda s: ("m.room.name", s.low, {"name": "pwned"}, ""), auth=[])
_forbidden("no auth events, a join", lambda s: (_MEMBER, s.low, {"membership": "join"}, s.low), auth=[])


@case("create event of another room", Fate.REFUSE)
def another_create(scene: Scene, marker: str) -> Any:
    content = {"room_version": scene.version.identifier, "creator": scene.low, "marker": marker}
    return scene.wire("m.room.create", scene.low, content, "", prev=[], auth=[])


@case("auth event that nobody has", Fate.REFUSE)
def unknown_auth(scene: Scene, marker: str) -> Any:
    return message(scene, marker, auth=[scene.unknown_id()])


@case("auth event of another kind", Fate.REFUSE)
def message_as_auth(scene: Scene, marker: str) -> Any:
    good = [scene.state[key] for key in ((_POWER, ""), (_MEMBER, scene.low))]
    return message(scene, marker, auth=[*good, scene.state["m.room.join_rules", ""]])


@case("auth event twice", Fate.REFUSE)
def auth_twice(scene: Scene, marker: str) -> Any:
    good = [scene.state[key] for key in ((_POWER, ""), (_MEMBER, scene.low))]
    return message(scene, marker, auth=[*good, good[0]])


@case("prev events that nobody has", Fate.TAKE)
def unknown_prev(scene: Scene, marker: str) -> Any:
    return message(scene, marker, prev=[scene.unknown_id() for _ in range(20)])


@case("no prev events", Fate.REFUSE)
def no_prev(scene: Scene, marker: str) -> Any:
    return scene.wire("m.room.name", scene.low, {"name": marker}, "", prev=[])


@case("forged third-party invite", Fate.REFUSE)
def forged_third_party(scene: Scene, marker: str) -> Any:
    signed = sign_json({"mxid": scene.nobody, "token": marker}, "id.example", OTHER_KEY)
    content = {"membership": "invite", "third_party_invite": {"display_name": marker, "signed": signed}}
    return scene.wire(_MEMBER, scene.low, content, scene.nobody)


@case("our user vouches, unasked", Fate.DROP)
def vouched_unasked(scene: Scene, marker: str) -> Any:
    content = {"membership": "join", "join_authorised_via_users_server": scene.alice, "reason": marker}
    return scene.wire(_MEMBER, scene.stranger, content, scene.stranger)


# -- what is allowed, and odd ----------------------------------------------------------------------------------------


@case("at the end of time", Fate.TAKE)
def at_the_end_of_time(scene: Scene, marker: str) -> Any:
    return message(scene, marker, origin_server_ts=253_402_300_799_000)


@case("redaction of nothing", Fate.TAKE)
def redaction_of_nothing(scene: Scene, marker: str) -> Any:
    return scene.wire("m.room.redaction", scene.low, {"redacts": "$x", "reason": marker}, redacts="$x")


@case("redaction of the create event", Fate.TAKE)
def redaction_of_create(scene: Scene, marker: str) -> Any:
    create = scene.state["m.room.create", ""]
    return scene.wire("m.room.redaction", scene.low, {"redacts": create, "reason": marker}, redacts=create)


@case("odd profile", Fate.TAKE)
def odd_profile(scene: Scene, marker: str) -> Any:
    content = {"membership": "join", "displayname": {"a": [marker]}, "avatar_url": [1], "is_direct": "x"}
    return scene.wire(_MEMBER, scene.low, content, scene.low)
