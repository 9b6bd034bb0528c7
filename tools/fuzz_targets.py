"""What `tools/fuzz.py` feeds: one function for each family of pure functions, with valid values to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuzz import KEYS, Chance, Target, Watch, atom, mutate, pick, promise

from homeserver.errors import AuthRuleBroken, BadJson, HomeserverError
from homeserver.model import account_data, receipts
from homeserver.model.acl import ServerACL
from homeserver.model.auth.membership import signing_servers
from homeserver.model.auth.needed import needed_state
from homeserver.model.auth.rules import check_state_dependent, check_state_independent
from homeserver.model.base64 import decode_base64, decode_url_safe_base64
from homeserver.model.canonical_json import check_strict, encode_canonical
from homeserver.model.content import create, guest_access, join_rules, member, naming, third_party_invite
from homeserver.model.content.history_visibility import history_visibility_of
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.filters import Filter
from homeserver.model.folding import fold, words_of
from homeserver.model.globs import compile_glob, contains_words
from homeserver.model.hashing import event_id_of, has_valid_content_hash, with_content_hash
from homeserver.model.ids import EventID, RoomAlias, RoomID, ServerName, UserID, is_opaque_id
from homeserver.model.property_paths import find_property, join_path, split_path
from homeserver.model.push_rules import edit
from homeserver.model.push_rules.base import KINDS, UNCHANGED, StoredRules
from homeserver.model.push_rules.evaluate import EventFacts, RoomFacts, compile_rules, evaluate
from homeserver.model.redaction import redact
from homeserver.model.relations import annotation_of, bundle_relations, is_valid_edit, relation_of
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from homeserver.model.signing import (
    BadKey,
    BadSignature,
    VerifyKey,
    generate_signing_key,
    is_key_id,
    parse_key_file,
    sign_event,
    sign_json,
    verify_signed_event,
    verify_signed_json,
)
from homeserver.model.tokens import PaginationToken, StreamToken
from homeserver.model.visibility import may_server_see, may_user_see_event, pruned_for_server

EXPECTED = (HomeserverError, BadKey, BadSignature)

ALICE, BOB, CAROL = "@alice:a.example", "@bob:b.example", "@carol:c.example"
KEY = generate_signing_key(b"\x01" * 32, "1")
VERSIONS = tuple(KNOWN_ROOM_VERSIONS.values())

# (type, sender, state_key, content): a room of Alice's with everything in it that a rule reads.
ROOM: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
    ("m.room.create", ALICE, "", {"room_version": "1", "creator": ALICE, "m.federate": True}),
    ("m.room.member", ALICE, ALICE, {"membership": "join", "displayname": "Alice"}),
    (
        "m.room.power_levels",
        ALICE,
        "",
        {"users": {BOB: 50}, "users_default": 0, "events": {"m.room.name": 5}, "ban": 5, "notifications": {"room": 5}},
    ),
    (
        "m.room.join_rules",
        ALICE,
        "",
        {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!o:a"}]},
    ),
    ("m.room.history_visibility", ALICE, "", {"history_visibility": "shared"}),
    ("m.room.member", BOB, BOB, {"membership": "join", "join_authorised_via_users_server": ALICE}),
    (
        "m.room.third_party_invite",
        ALICE,
        "token",
        {"public_key": KEY.verify_key_base64, "public_keys": [{"public_key": "A"}]},
    ),
    (
        "m.room.member",
        ALICE,
        CAROL,
        {
            "membership": "invite",
            "third_party_invite": {
                "display_name": "c",
                "signed": sign_json({"mxid": CAROL, "token": "token"}, "id.example", KEY),
            },
        },
    ),
    ("m.room.server_acl", ALICE, "", {"allow": ["*"], "deny": ["*.evil.example"], "allow_ip_literals": False}),
    ("m.room.aliases", ALICE, "a.example", {"aliases": ["#a:a.example"]}),
    ("m.room.message", BOB, None, {"body": "hi @bob", "m.mentions": {"user_ids": [ALICE]}}),
    (
        "m.room.message",
        BOB,
        None,
        {"body": "* x", "m.new_content": {}, "m.relates_to": {"rel_type": "m.replace", "event_id": "$e"}},
    ),
    ("m.room.redaction", BOB, None, {"redacts": "$e:b.example", "reason": "x"}),
    ("m.room.name", ALICE, "", {"name": "n", "topic": "t", "alias": "#a:b", "alt_aliases": ["#c:d"], "url": "mxc://a/b"}),
)  # fmt: skip


def wire_of(version: RoomVersion, place: int) -> dict[str, Any]:
    """Return the wire form of one event of `ROOM`, hashed and signed."""
    kind, sender, state_key, content = ROOM[place]
    references: list[Any] = [["$p:a.example", {"sha256": "x"}]] if version.references_carry_hashes else ["$p"]
    is_create = kind == "m.room.create"
    wire: dict[str, Any] = {
        "type": kind,
        "sender": sender,
        "room_id": "!room:a.example",
        "content": {**content, "room_version": version.identifier} if is_create else content,
        "depth": place + 1,
        "origin_server_ts": 1,
        "prev_events": [] if is_create else references,
        "auth_events": [] if is_create else references,
    }
    if state_key is not None:
        wire["state_key"] = state_key
    if is_create and version.room_id_is_create_hash:
        del wire["room_id"]
    if version.references_carry_hashes:
        wire["event_id"] = f"$e{place}:{sender.partition(':')[2]}"
    if kind == "m.room.redaction" and not version.redacts_in_content:
        wire["redacts"] = "$e:b.example"
    return sign_event(version, with_content_hash(wire), sender.partition(":")[2], KEY)


WIRES = {version: [wire_of(version, place) for place in range(len(ROOM))] for version in VERSIONS}


def some_event(chance: Chance, watch: Watch, version: RoomVersion, *, changes: int | None = None) -> Event | None:
    """Return an event of the room after some changes, or None where its format is refused."""
    wire = mutate(chance, pick(chance, WIRES[version]), changes)
    if chance.randrange(2):
        # Only the content is odd, so that most pass the check of the format.
        wire = {**pick(chance, WIRES[version]), "content": mutate(chance, pick(chance, ROOM)[3])}
    return _checked(watch, version, wire)


def _checked(watch: Watch, version: RoomVersion, wire: Any) -> Event | None:
    try:
        watch(_refused_as_error, version, wire)
    except _Refused:
        return None
    event: Event = watch(event_from_wire, version, wire)
    return event


class _Refused(Exception):
    """The format of an event was refused."""


def _refused_as_error(version: RoomVersion, wire: Any) -> None:
    try:
        check_event_format(version, wire)
    except HomeserverError as fault:
        raise _Refused from fault


def event_format(chance: Chance, watch: Watch) -> None:
    """Wire forms: format, hashes, IDs, redaction, signatures."""
    version: RoomVersion = pick(chance, VERSIONS)
    wire = mutate(chance, pick(chance, WIRES[version]))
    event = _checked(watch, version, wire)
    if event is None:
        if isinstance(wire, dict):
            watch(redact, version, wire)
            watch(has_valid_content_hash, wire)
        return
    redacted = watch(redact, version, event.wire)
    promise(_canonical(redacted) == _canonical(watch(redact, version, redacted)), "a redaction is idempotent")
    watch(has_valid_content_hash, event.wire)
    promise(event.event_id == watch(event_id_of, version, redacted), "a redaction keeps the ID")
    for server in watch(signing_servers, version, event):
        watch(verify_signed_event, version, event.wire, server, KEY.key_id, KEY.verify_key)
    signed = watch(sign_event, version, event.wire, "a.example", KEY)
    verify_signed_event(version, signed, "a.example", KEY.key_id, KEY.verify_key)


def auth(chance: Chance, watch: Watch) -> None:
    """The authorization rules, over states in which anything may stand."""
    version: RoomVersion = pick(chance, VERSIONS)
    state: dict[tuple[str, str], Event] = {}
    for place in range(8):
        if chance.randrange(8) == 0:
            continue
        wire = WIRES[version][place]
        if chance.randrange(3) == 0:
            wire = {**wire, "content": mutate(chance, wire["content"])}
        event = _checked(watch, version, wire)
        if event is not None and event.state_key is not None:
            state[event.type, event.state_key] = event
    room_create = state.get(("m.room.create", "")) or event_from_wire(version, WIRES[version][0])
    event = some_event(chance, watch, version)
    if event is None:
        return
    watch(check_state_dependent, version, event, state, room_create)
    cited = [pick(chance, list(state.values())) for _ in range(chance.randrange(5))] if state else []
    rejected = {each.event_id for each in cited if chance.randrange(6) == 0}
    watch(check_state_independent, version, event, cited, rejected, pick(chance, (room_create, None)))
    watch(
        needed_state,
        version,
        type=event.type,
        sender=event.sender,
        state_key=event.state_key,
        content=event.content,
    )
    levels = watch(PowerLevels.from_events, version, room_create, state.get(("m.room.power_levels", "")))
    for user_id in (ALICE, BOB, event.sender):
        promise(isinstance(levels.of(user_id), int), "a power level is an integer")
    promise(isinstance(levels.needed_for(event.type, True), int), "a level is an integer")
    promise(isinstance(levels.notification("room"), int), "a level is an integer")
    _judged_the_same_again(version, event, state, room_create)


def _judged_the_same_again(version: RoomVersion, event: Event, state: Mapping[Any, Event], room_create: Event) -> None:
    def verdict(judged: Event) -> str | None:
        try:
            check_state_dependent(version, judged, state, room_create)
        except AuthRuleBroken as broken:
            return broken.rule
        return None

    fresh = event_from_wire(version, event.wire, event.event_id, event.room_id)
    promise(verdict(event) == verdict(fresh), "auth is a function of its arguments")


def content_readers(chance: Chance, watch: Watch) -> None:
    """All readers of content, visibility, relations."""
    version: RoomVersion = pick(chance, VERSIONS)
    event = some_event(chance, watch, version)
    other = some_event(chance, watch, version)
    if event is None or other is None:
        return
    watch(create.creators, version, event)
    watch(create.first_creator, version, event)
    for reader in (
        create.is_federated, create.room_type, create.predecessor_room_id, guest_access.guests_may_join,
        join_rules.join_rule_of, join_rules.allowed_room_ids, member.membership_of, member.display_name,
        member.avatar_url, member.is_direct, naming.room_name, naming.room_topic, naming.room_avatar_url,
        naming.canonical_alias, naming.alternative_aliases, third_party_invite.public_keys, history_visibility_of,
        relation_of, annotation_of,
    ):  # fmt: skip
        watch(reader, event)
    watch(member.third_party_token, event.content)
    watch(member.authorising_user, event.content)
    state = {("m.room.history_visibility", ""): other, ("m.room.member", BOB): other}
    watch(may_user_see_event, event, BOB, state, joined_afterwards=False)
    watch(may_server_see, event, "b.example", state, [event, other], joined_afterwards=False)
    watch(pruned_for_server, version, event)
    watch(is_valid_edit, event, other)
    watch(bundle_relations, event, is_redacted=False)


def server_acls(chance: Chance, watch: Watch) -> None:
    """Server ACLs and names of servers."""
    version: RoomVersion = pick(chance, VERSIONS)
    content = mutate(chance, {"allow": ["*"], "deny": ["*.evil.example", "1.2.*"], "allow_ip_literals": False})
    event = _checked(watch, version, {**WIRES[version][8], "content": content})
    if event is None:
        return
    acl = watch(ServerACL.from_event, event)
    name = mutate(chance, [pick(chance, ("a.example", "[::1]:1", "1.2.3.4:8448"))], 2)
    for each in name if isinstance(name, list) else ():
        if isinstance(each, str):
            promise(watch(acl.allows, each) in (True, False), "an ACL answers")


CONDITIONS: tuple[dict[str, Any], ...] = (
    {"kind": "event_match", "key": "content.body", "pattern": "*h?"},
    {"kind": "room_member_count", "is": "<=2"},
    {"kind": "contains_display_name"},
    {"kind": "event_property_is", "key": "content.m\\.mentions.room", "value": True},
    {"kind": "event_property_contains", "key": "content.m\\.mentions.user_ids", "value": 1},
    {"kind": "sender_notification_permission", "key": "room"},
)
RULE_BODIES: tuple[dict[str, Any], ...] = (
    {"actions": ["notify", {"set_tweak": "sound", "value": "x"}], "conditions": list(CONDITIONS)},
    *({"actions": ["notify"], "conditions": [condition]} for condition in CONDITIONS),
    {"actions": ["notify"], "pattern": "h*"},
)
FACTS = RoomFacts(2, lambda user_id: 50, lambda key: 50, lambda user_id: "Al*ice")


def push_rules(chance: Chance, watch: Watch) -> None:
    """Push rules: edited, stored and evaluated."""
    stored: StoredRules = UNCHANGED
    for _ in range(1 + chance.randrange(4)):
        kind = pick(chance, KINDS)
        rule_id = pick(chance, ("r", "s", "t", "!room:a.example", BOB, "a/b", ".x", "\ud800", "é"))
        before = pick(chance, (None, None, None, "r", "s"))
        body = mutate(chance, pick(chance, RULE_BODIES), chance.randrange(3))
        stored = watch(edit.put_rule, stored, kind, rule_id, body, before=before) or stored
    stored = watch(edit.set_enabled, stored, "override", ".m.rule.master", mutate(chance, {"enabled": False})) or stored
    stored = (
        watch(edit.set_actions, stored, "underride", ".m.rule.call", mutate(chance, {"actions": ["notify"]})) or stored
    )
    if chance.randrange(2):
        stored = watch(StoredRules.from_json, _object(mutate(chance, stored.to_json())))
    read_again = StoredRules.from_json(stored.to_json()).to_json()
    promise(_canonical(stored.to_json()) == _canonical(read_again), "rules are read as they were stored")
    watch(edit.render_rules, ALICE, stored)
    event = some_event(chance, watch, VERSIONS[-1])
    if event is not None:
        watch(evaluate, watch(compile_rules, ALICE, stored), EventFacts(event), FACTS)


def _canonical(value: Any) -> bytes | None:
    try:
        return encode_canonical(value)
    except BadJson:
        return None


def filters(chance: Chance, watch: Watch) -> None:
    """Filters: read, printed and asked."""
    part = {
        "types": ["m.*"],
        "not_types": ["*x"],
        "senders": [ALICE],
        "rooms": ["!r:a"],
        "limit": 5,
        "contains_url": True,
    }
    source = mutate(
        chance,
        {
            "room": {"timeline": part, "state": part, "rooms": ["!r:a"], "include_leave": True},
            "presence": part,
            "event_fields": ["content.body", "type"],
            "event_format": "client",
        },
    )
    wanted = watch(Filter.parse, source)
    if wanted is None:
        return
    promise(wanted == Filter.parse(wanted.to_json()), "a filter is read as it was printed")
    watch(wanted.timeline.matches_event, "m.x", ALICE, "!r:a", {"url": 1})
    watch(wanted.presence.matches, "m.presence", None)
    watch(wanted.project, mutate(chance, dict(WIRES[VERSIONS[-1]][10]))) if chance.randrange(2) else None


def texts(chance: Chance, watch: Watch) -> None:
    """Identifiers, tokens, keys, Base64, paths, globs."""
    text = pick(
        chance, (ALICE, "!r:a", "$e", "#a:b", "p123", "s5", KEY.verify_key_base64, "ed25519:1", "a.b\\.c", "<=2")
    )
    changed = mutate(chance, [text], 2)
    for value in changed if isinstance(changed, list) else [changed]:
        for parse in (UserID.parse, RoomID.parse, EventID.parse, RoomAlias.parse, ServerName.parse, VerifyKey.parse):
            watch(parse, value)
        for token in (StreamToken, PaginationToken):
            parsed = watch(token.parse, value)
            promise(parsed is None or parsed == token.parse(str(parsed)), "a token is read as it was printed")
        watch(is_key_id, value)
        if not isinstance(value, str):
            continue
        watch(is_opaque_id, value)
        for decode in (decode_base64, decode_url_safe_base64):
            watch(_refused_value, decode, value)
        promise(split_path(join_path(split_path(value))) == split_path(value), "a path is read as it was printed")
        watch(find_property, WIRES[VERSIONS[0]][0], split_path(value))
        watch(parse_key_file, f"ed25519 1 {value}\n{value}")
        watch(words_of, watch(fold, value, 500))
        glob, subject = atom(chance), atom(chance)
        if isinstance(glob, str) and isinstance(subject, str):
            for words in (False, True):
                watch(watch(compile_glob, glob[:256], ignore_case=True, words=words), subject[:65_536])
            watch(contains_words, glob[:256], subject[:65_536])


def _refused_value(decode: Any, text: str) -> None:
    try:
        decode(text)
    except ValueError:
        pass


def json_values(chance: Chance, watch: Watch) -> None:
    """Canonical JSON and signed JSON of anything."""
    value = mutate(chance, pick(chance, WIRES[VERSIONS[-1]]))
    try:
        check_strict(value)
    except BadJson:
        watch(encode_canonical, value)
    else:
        encoded = watch(encode_canonical, value)
        promise(encoded is None or isinstance(encoded, bytes), "canonical JSON is bytes")
    obj = _object(value)
    signed = watch(sign_json, obj, "a.example", KEY)
    if signed is not None:
        verify_signed_json(signed, "a.example", KEY.key_id, KEY.verify_key)
    watch(verify_signed_json, obj, pick(chance, ("a.example", "", "\ud800")), pick(chance, KEYS), KEY.verify_key)
    watch(verify_signed_json, obj, "a.example", "ed25519:1", KEY.verify_key)


def bodies(chance: Chance, watch: Watch) -> None:
    """Request bodies and account data that pure functions read."""
    valid = {"m.read": "$e", "m.fully_read": "$e", "thread_id": "main", "order": 0.5, "ignored_users": {BOB: {}}}
    body = mutate(chance, {**valid, "tags": {"m.x": {"order": 1}}})
    watch(receipts.parse_thread_id, body, pick(chance, receipts.RECEIPT_TYPES))
    watch(receipts.parse_read_markers, body)
    watch(account_data.check_tag, body)
    watch(account_data.check_settable, pick(chance, ("m.x", "", "\ud800", "m.tag")), body)
    obj = _object(body)
    watch(receipts.read_thread_id, obj)
    watch(account_data.read_tags, obj)
    watch(account_data.read_ignored_users, obj, ALICE)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"a": value}


TARGETS: dict[str, Target] = {
    "event_format": event_format,
    "auth": auth,
    "content_readers": content_readers,
    "server_acls": server_acls,
    "push_rules": push_rules,
    "filters": filters,
    "texts": texts,
    "json_values": json_values,
    "bodies": bodies,
}
