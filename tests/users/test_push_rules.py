"""A changed push rule is told, counts anew, and cannot grow without end."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import TooLarge
from homeserver.model.push_rules import edit
from tests.support.user_state import UserState

BASE = "/_matrix/client/v3/pushrules"


@pytest_twisted.ensureDeferred
async def test_rule_comes_changes_and_goes(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    rule = f"{BASE}/global/content/cake"
    assert 404 == (await world.call("GET", rule, alice))[0]
    assert 404 == (await world.call("DELETE", rule, alice))[0]
    body = {"pattern": "cake*lie", "actions": ["notify"]}
    assert (200, {}) == await world.call("PUT", rule, alice, body)
    expected = {**body, "rule_id": "cake", "default": False, "enabled": True}
    assert (200, expected) == await world.call("GET", rule, alice)
    assert (200, {}) == await world.call("PUT", f"{rule}/enabled", alice, {"enabled": False})
    assert (200, {"enabled": False}) == await world.call("GET", f"{rule}/enabled", alice)
    assert (200, {}) == await world.call("PUT", f"{rule}/actions", alice, {"actions": []})
    assert (200, {"actions": []}) == await world.call("GET", f"{rule}/actions", alice)
    status, rules = await world.call("GET", f"{BASE}/", alice)
    assert (200, ["cake"]) == (status, [each["rule_id"] for each in rules["global"]["content"]])
    assert (200, rules["global"]) == await world.call("GET", f"{BASE}/global/", alice)
    assert (200, {}) == await world.call("DELETE", rule, alice)
    assert 404 == (await world.call("GET", rule, alice))[0]


@pytest_twisted.ensureDeferred
async def test_order_follows_before_and_after(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    for rule_id, query in (("b", ""), ("d", "?after=b"), ("a", "?before=b"), ("c", "?before=d&after=a")):
        path = f"{BASE}/global/override/{rule_id}{query}"
        assert 200 == (await world.call("PUT", path, alice, {"actions": [], "conditions": []}))[0]
    rules = (await world.call("GET", f"{BASE}/global/", alice))[1]["override"]
    assert ["a", "b", "c", "d"] == [rule["rule_id"] for rule in rules if not rule["default"]]
    path = f"{BASE}/global/override/e?before=.m.rule.master"
    assert (400, "M_UNKNOWN") == await _refusal(world, "PUT", path, alice, {"actions": []})


@pytest_twisted.ensureDeferred
async def test_change_is_told_as_account_data(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    user = await world.server.user_feed(alice)
    before = world.now
    path = f"{BASE}/global/override/.m.rule.master/enabled"
    assert (200, {}) == await world.call("PUT", path, alice, {"enabled": True})
    assert user.last_change > before
    with world.no_reads():
        warm = await world.told_user(world.account_data_stream, alice, before)
    for told in (warm, await world.told_user(world.account_data_stream, alice, 0)):
        assert ["m.push_rules"] == [event["type"] for event in told]
        master = told[0]["content"]["global"]["override"][0]
        assert (".m.rule.master", True) == (master["rule_id"], master["enabled"])
    before = world.now
    assert (200, {}) == await world.call("PUT", path, alice, {"enabled": True})
    assert [] == await world.told_user(world.account_data_stream, alice, before)


@pytest_twisted.ensureDeferred
async def test_unread_is_counted_by_the_new_rules(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    user = await server.user_feed(bob)

    async def count() -> int:
        found = await world.unread.counts(user, [user.rooms[room]], world.now, by_thread=False)
        return found[room].notifications

    await server.say(room, alice)
    assert 1 == await count()
    await world.push_rules.put(world.requester(bob), "room", room, {"actions": []})
    assert 0 == await count()


@pytest_twisted.ensureDeferred
async def test_rules_do_not_grow_through_their_actions(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "MAX_STORED_BYTES", 2_000)
    (alice,) = await world.server.users("alice")
    me = world.requester(alice)
    big = {"actions": [{"set_tweak": "sound", "value": "x" * 1_000}]}
    for rule_id in ("!a:example.org", "!b:example.org"):
        await world.push_rules.put(me, "room", rule_id, {"actions": []})
    await world.push_rules.set_actions(me, "room", "!a:example.org", big)
    with pytest.raises(TooLarge):
        await world.push_rules.set_actions(me, "room", "!b:example.org", big)


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("GET", "device/x", None, (400, "M_INVALID_PARAM")),
        ("PUT", "override/.mine", {"actions": []}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/a%2Fb", {"actions": []}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/a%5Cb", {"actions": []}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/a", {}, (400, "M_MISSING_PARAM")),
        ("PUT", "override/a", {"actions": "notify"}, (400, "M_INVALID_PARAM")),
        ("PUT", "content/a", {"actions": []}, (400, "M_MISSING_PARAM")),
        ("PUT", "content/a", {"actions": [], "pattern": "*a" * 500}, (413, "M_TOO_LARGE")),
        ("PUT", "override/a", {"actions": [], "conditions": [{}]}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/a/enabled", {"enabled": True}, (404, "M_NOT_FOUND")),
        ("PUT", "override/.m.rule.master/enabled", {"enabled": "yes"}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/.m.rule.master/enabled", {}, (400, "M_MISSING_PARAM")),
        ("DELETE", "override/.m.rule.master", None, (404, "M_NOT_FOUND")),
        ("GET", "override/a/actions", None, (404, "M_NOT_FOUND")),
    ],
)
async def test_bad_request_is_refused(
    world: UserState, method: str, path: str, body: Any, refusal: tuple[int, str]
) -> None:
    (alice,) = await world.server.users("alice")
    assert refusal == await _refusal(world, method, f"{BASE}/global/{path}", alice, body)


async def _refusal(world: UserState, method: str, path: str, person: Any, body: Any) -> tuple[int, str]:
    status, answer = await world.call(method, path, person, body)
    return status, answer["errcode"]
