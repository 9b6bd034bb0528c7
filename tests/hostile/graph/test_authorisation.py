"""Hostile inputs 21 to 35: authorisation and the graph, as far as the rules see it, in every room version."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.model.acl import ServerACL
from homeserver.model.content.join_rules import MAX_ALLOW_CONDITIONS, allowed_room_ids
from homeserver.model.judgement import Verdict, judge_remote
from homeserver.model.receipt_of_events import check_received, read_received
from homeserver.model.room_versions import RoomVersion
from homeserver.model.signing import sign_json

from .room import ALICE, BOB, CAROL, KEYS, KNOWN_KEYS, MALLORY, NOW, VALID_UNTIL, VERSIONS, Graph


def auth_of(graph: Graph, *keys: tuple[str, str]) -> list[str]:
    """Return the IDs of these parts of the state, the create event in front where the version wants it."""
    create = [] if graph.version.create_is_implicit_auth_event else [graph.create.event_id]
    return [*create, *(graph.state[key].event_id for key in keys)]


BOBS = (("m.room.power_levels", ""), ("m.room.member", BOB))


@VERSIONS
def test_hostile_21_auth_events_that_are_not_those_of_the_rules_reject_the_event(version: RoomVersion) -> None:
    graph = Graph(version)
    message = graph.add("m.room.message", BOB, {"body": "x"})
    good = auth_of(graph, *BOBS)

    def verdict(auth: list[str]) -> str:
        return graph.take(graph.wire("m.room.message", BOB, {}, auth=auth))

    assert "accepted" == verdict(good)
    assert "rejected" == verdict([*good, good[-1]]), "twice"
    assert "rejected" == verdict([*good, message.event_id]), "a message"
    assert "rejected" == verdict([*good, graph.state["m.room.join_rules", ""].event_id]), "of no use"
    assert "rejected" == verdict([*good, graph.state["m.room.member", MALLORY].event_id]), "somebody else"
    assert "rejected" == verdict([*good, "$unknown:b.example"]), "missing"
    assert "rejected" == verdict([]), "none"
    assert "rejected" == verdict(auth_of(graph)), "without the sender's membership"
    assert "dropped" == verdict(good * 6), "over ten"
    assert "dropped" == verdict([f"$e{number}:b.example" for number in range(10_000)])
    if version.create_is_implicit_auth_event:
        assert "rejected" == verdict([graph.create.event_id, *good]), "the create event is not selected"
    else:
        assert "rejected" == verdict(good[1:]), "without the create event"


@VERSIONS
def test_hostile_21_an_event_cannot_cite_itself_or_another_room(version: RoomVersion) -> None:
    graph, other = Graph(version), Graph(version, type="other")
    foreign = other.state["m.room.member", BOB]
    if foreign.room_id != graph.room_id:
        graph.events[foreign.event_id] = foreign
        auth = [*auth_of(graph, BOBS[0]), foreign.event_id]
        assert "rejected" == graph.take(graph.wire("m.room.message", BOB, {}, auth=auth))
    if version.references_carry_hashes:
        itself = f"$e{len(graph.events)}:b.example"
        auth = [*auth_of(graph, *BOBS), itself]
        assert "rejected" == graph.take(graph.wire("m.room.message", BOB, {}, auth=auth))


@VERSIONS
def test_hostile_22_who_cites_a_rejected_event_is_rejected(version: RoomVersion) -> None:
    graph = Graph(version)
    join = graph.wire("m.room.member", CAROL, {"membership": "join"}, CAROL, auth=auth_of(graph, BOBS[0]))
    assert "rejected" == graph.take(join, keep=True)
    rejected = next(iter(graph.rejected))
    auth = [*auth_of(graph, BOBS[0]), rejected]
    assert "rejected" == graph.take(graph.wire("m.room.message", CAROL, {}, auth=auth))
    assert ("m.room.member", CAROL) not in graph.state


@VERSIONS
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"room_version": "11 "},
        {"room_version": "nonsense"},
        {"room_version": 1},
        {"room_version": None},
        {"creator": 1},
    ],
    ids=repr,
)
def test_hostile_23_there_is_one_create_event(version: RoomVersion, content: dict[str, Any]) -> None:
    graph = Graph(version)
    for sender in (ALICE, MALLORY):
        for prev in ([], [graph.tip or ""]):
            wire = graph.wire("m.room.create", sender, {"creator": sender, **content}, "", prev=prev, auth=[])
            assert "rejected" == graph.take(wire)


LEVELS = {
    "text": "100",
    "text with a power": "  1e2",
    "float": 50.5,
    "null": None,
    "bool": True,
    "2^53": 2**53,
    "2^63": 2**63,
    "-2^63": -(2**63),
    "10^400": 10**400,
    "list": [100],
    "object": {"a": 1},
}


@VERSIONS
@pytest.mark.parametrize("level", LEVELS)
def test_hostile_24_odd_levels_give_nobody_power(version: RoomVersion, level: str) -> None:
    graph = Graph(version)
    for key in ("users", "events", "notifications", "ban", "users_default"):
        _check_odd_level(graph, key, level)


def _check_odd_level(graph: Graph, key: str, level: str) -> None:
    version, value = graph.version, LEVELS[level]
    odd = (
        {MALLORY: value} if key == "users" else {"m.room.name": value} if key in ("events", "notifications") else value
    )
    content = {**graph.state["m.room.power_levels", ""].content, key: odd}
    wire = graph.wire("m.room.power_levels", BOB, content, "")
    verdict = graph.take(wire)
    # Bob has 50: nothing that he sets may be above, and nothing may be of a wrong type.
    assert verdict in ("rejected", "dropped", "accepted")
    if level in ("text", "2^53", "2^63", "10^400", "list", "object") and key == "users":
        assert verdict in ("rejected", "dropped")
    if version.integer_power_levels and level not in ("2^53", "2^63", "-2^63", "10^400"):
        assert verdict in ("rejected", "dropped")
    if version.strict_canonical_json and level in ("float", "2^53", "2^63", "-2^63", "10^400"):
        assert verdict == "dropped"


@VERSIONS
@pytest.mark.parametrize(
    "users",
    [None, [], "x", 1, {"bob": 1}, {"@": 1}, {"": 1}, {"@x\x00:a": 1}, {"@b:" + "x" * 300: 1}],
    ids=lambda users: repr(users)[:16],
)
def test_hostile_24_users_are_user_ids(version: RoomVersion, users: Any) -> None:
    graph = Graph(version)
    assert "rejected" == graph.take(graph.wire("m.room.power_levels", ALICE, {"users": users}, ""))


@VERSIONS
def test_hostile_24_many_users_are_read_in_time(version: RoomVersion) -> None:
    graph = Graph(version)
    old = graph.state["m.room.power_levels", ""].content
    users = {**old["users"], **{f"@{number}:a": 1 for number in range(4_000)}}
    assert "accepted" == graph.take(graph.wire("m.room.power_levels", ALICE, {**old, "users": users}, ""))
    users = {f"@{number}:a": 1 for number in range(20_000)}
    assert "dropped" == graph.take(graph.wire("m.room.power_levels", ALICE, {"users": users}, ""))


@VERSIONS
def test_hostile_24_creators_are_not_listed_and_not_demoted_by_others(version: RoomVersion) -> None:
    graph = Graph(version)
    old = graph.state["m.room.power_levels", ""].content
    demoted = {**old, "users": {BOB: 50, ALICE: 0}}
    assert "rejected" == graph.take(graph.wire("m.room.power_levels", BOB, demoted, ""))
    by_herself = graph.take(graph.wire("m.room.power_levels", ALICE, demoted, ""))
    assert ("rejected" if version.privileged_creators else "accepted") == by_herself


@VERSIONS
def test_hostile_25_restricted_joins_need_power_and_signature(version: RoomVersion) -> None:
    graph = Graph(version)
    allow: list[Any] = [{"type": "m.room_membership", "room_id": f"!r{number}:a"} for number in range(600)]
    allow += [None, 1, [], {}, {"type": 1}, {"type": "m.room_membership", "room_id": ["!r"]}]
    rules = graph.add("m.room.join_rules", ALICE, {"join_rule": "restricted", "allow": allow}, "")
    assert len(allowed_room_ids(rules)) <= MAX_ALLOW_CONDITIONS

    def join(authoriser: Any, *signers: str) -> str:
        content = {"membership": "join", "join_authorised_via_users_server": authoriser}
        auth = auth_of(graph, BOBS[0], ("m.room.join_rules", ""))
        if version.restricted_joins and ("m.room.member", authoriser) in graph.state:
            auth.append(graph.state["m.room.member", authoriser].event_id)
        wire = graph.wire("m.room.member", CAROL, content, CAROL, auth=auth, signed_by=("c.example", *signers))
        return graph.take(wire)

    if not version.restricted_joins:
        assert "rejected" == join(BOB, "b.example")
        return
    assert "accepted" == join(BOB, "b.example")
    assert "dropped" == join(BOB), "the authorising server has not signed"
    assert "dropped" == join(BOB, "a.example"), "another server has"
    assert "rejected" == join(MALLORY, "evil.example"), "no power to invite"
    assert "rejected" == join(CAROL, "c.example"), "not in the room"
    for odd in (None, 1, "", "bob", "@"):
        assert join(odd) in ("rejected", "dropped")


@VERSIONS
def test_hostile_26_a_third_party_invite_needs_what_the_room_holds(version: RoomVersion) -> None:
    graph = Graph(version)
    content = {"public_key": KEYS["a.example"].verify_key_base64, "key_validity_url": "http://169.254.169.254/"}
    third_party = graph.add("m.room.third_party_invite", ALICE, content, "token")

    def invite(signer: str, token: str = "token", mxid: str = CAROL) -> str:
        signed = sign_json({"mxid": mxid, "token": token}, "id.example", KEYS[signer])
        keys = (("m.room.power_levels", ""), ("m.room.member", ALICE), ("m.room.join_rules", ""))
        auth = [*auth_of(graph, *keys), third_party.event_id]
        body = {"membership": "invite", "third_party_invite": {"display_name": "c", "signed": signed}}
        return graph.take(graph.wire("m.room.member", ALICE, body, CAROL, auth=auth))

    assert "accepted" == invite("a.example")
    assert "rejected" == invite("evil.example"), "another key"
    assert "rejected" == invite("a.example", token="forged")
    assert "rejected" == invite("a.example", mxid=MALLORY)
    third_party = graph.add("m.room.third_party_invite", ALICE, {}, "token")
    assert "rejected" == invite("a.example"), "revoked"


@VERSIONS
def test_hostile_27_edges_of_membership(version: RoomVersion) -> None:
    graph = Graph(version)

    def change(sender: str, target: str, membership: str, **content: Any) -> str:
        return graph.take(graph.wire("m.room.member", sender, {"membership": membership, **content}, target))

    assert "rejected" == change(ALICE, CAROL, "join"), "join for another"
    assert "rejected" == change(CAROL, CAROL, "leave"), "leave of who never joined"
    assert "rejected" == change(CAROL, CAROL, "knock"), "knock in a public room"
    assert "accepted" == change(CAROL, CAROL, "join", displayname={"a": []}, avatar_url=[1]), "odd profile"
    graph.add("m.room.member", ALICE, {"membership": "ban"}, MALLORY)
    assert "rejected" == change(MALLORY, MALLORY, "join"), "banned"
    assert "rejected" == change(MALLORY, MALLORY, "leave"), "unban by oneself"
    assert "rejected" == change(BOB, MALLORY, "invite"), "unban by invite"
    assert "rejected" == graph.take(graph.wire("m.room.message", MALLORY, {}))
    assert "accepted" == change(ALICE, MALLORY, "leave"), "unban"


@VERSIONS
def test_hostile_28_redactions_are_only_events_to_the_rules(version: RoomVersion) -> None:
    graph = Graph(version)

    def redact(sender: str, target: Any) -> str:
        if version.redacts_in_content:
            return graph.take(graph.wire("m.room.redaction", sender, {"redacts": target}))
        return graph.take(graph.wire("m.room.redaction", sender, {}, redacts=target))

    for target in (graph.create.event_id, graph.tip, "$unknown", "$other:room.example"):
        assert "accepted" == redact(ALICE, target)
    by_who_may_not = redact(MALLORY, "$x:a.example")
    assert ("rejected" if version.redactions_have_auth_rule else "accepted") == by_who_may_not
    for odd in (None, 1, [], {}):
        assert redact(ALICE, odd) in ("accepted", "dropped")


@VERSIONS
def test_hostile_29_prev_events_are_bounded(version: RoomVersion) -> None:
    graph = Graph(version)
    for count, expected in ((0, "accepted"), (20, "accepted"), (21, "dropped"), (10_000, "dropped")):
        prev = [f"$unknown{number}:b.example" for number in range(count)]
        assert expected == graph.take(graph.wire("m.room.message", BOB, {}, prev=prev))


@VERSIONS
@pytest.mark.parametrize("ts", [0, 1, NOW, VALID_UNTIL])
def test_hostile_32_clocks_and_depths_have_no_effect_on_permissions(version: RoomVersion, ts: int) -> None:
    graph = Graph(version)
    for depth in (0, 1, 2**53 - 1):
        times = {"origin_server_ts": ts, "depth": depth}
        assert "accepted" == graph.take(graph.wire("m.room.message", BOB, {}, **times))
        assert "rejected" == graph.take(graph.wire("m.room.message", CAROL, {}, **times))


@VERSIONS
def test_hostile_33_what_was_allowed_then_but_not_now_is_soft_failed(version: RoomVersion) -> None:
    graph = Graph(version)
    wire = graph.wire("m.room.message", MALLORY, {})
    before = dict(graph.state)
    graph.add("m.room.member", ALICE, {"membership": "ban"}, MALLORY)
    checked = check_received(read_received(version, wire), KNOWN_KEYS)
    judged = judge_remote(
        version,
        checked,
        auth_events=[graph.events[event_id] for event_id in checked.event.auth_event_ids],
        rejected_ids=(),
        state_before=before,
        current_state=graph.state,
        create=graph.create,
    )
    assert judged.verdict is Verdict.SOFT_FAILED


@VERSIONS
def test_hostile_35_an_acl_is_an_event_like_any_and_cheap_to_ask(version: RoomVersion) -> None:
    graph = Graph(version)
    globs: list[Any] = [f"*{number}?*?a" for number in range(4_000)]
    content = {
        "allow": ["*", None, 1, {}],
        "deny": [*globs, "EVIL.example", "*?*?*?*?*?*a"],
        "allow_ip_literals": False,
    }
    acl = ServerACL.from_event(graph.add("m.room.server_acl", ALICE, content, ""))
    assert not acl.allows("evil.EXAMPLE:8448")
    assert not acl.allows("[::1]")
    assert acl.allows("b.example")
    assert "rejected" == graph.take(graph.wire("m.room.server_acl", MALLORY, {"deny": ["a.example"]}, ""))
    nobody = graph.add("m.room.server_acl", ALICE, {"deny": "*"}, "")
    assert not ServerACL.from_event(nobody).allows("a.example")


@VERSIONS
@pytest.mark.parametrize("key", ["users", "events", "notifications", "ban", "users_default"])
def test_hostile_24_a_level_beyond_a_double_refuses_the_whole_event(version: RoomVersion, key: str) -> None:
    """Spec: rooms/v1, "accept values as floats": "Values outside the range ... cause the powerlevel event to be"."""
    graph = Graph(version)
    old = graph.state["m.room.power_levels", ""].content
    value = {CAROL: -(10**400)} if key in ("users", "events", "notifications") else -(10**400)
    verdict = graph.take(graph.wire("m.room.power_levels", ALICE, {**old, key: value}, ""))
    assert ("dropped" if version.strict_canonical_json else "rejected") == verdict
