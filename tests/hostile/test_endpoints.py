"""Every route x every bad input: answered with an error that Matrix knows, quickly, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.hostile.client import Actor, Reply
from tests.hostile.conftest import Bystander
from tests.hostile.inputs import (
    BAD_QUERIES,
    BAD_SEGMENTS,
    FIELDS,
    NOT_BODIES,
    ODD_BODIES,
    QUERY_NAMES,
    STATE_FIELDS,
    TOO_LARGE,
    compressed,
    fill,
    short,
    wrong_bodies,
)
from tests.support.routes import RouteInfo
from tests.support.selection import is_deep
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

# Routes that have no body: what is sent as one is not looked at.
BODILESS = {
    "POST /logout",
    "POST /logout/all",
    "DELETE /directory/room/{roomAlias}",
    "DELETE /profile/{userId}/{keyName}",
    "DELETE /pushrules/global/{kind}/{ruleId}",
    "DELETE /user/{userId}/rooms/{roomId}/tags/{tag}",
    "POST /_matrix/media/v1/create",
    # Only for application services, which is asked first.
    "POST /appservice/{appserviceId}/ping",
}
REFUSALS = {"M_NOT_JSON", "M_BAD_JSON"}
VALUES_OF_A_QUERY = 5 if is_deep() else 2


class Attack:
    """One user who tries things; renewed where what was tried has taken the account or the room."""

    def __init__(self, running: RunningServer) -> None:
        self._url = running.url
        self.faults: list[str] = []
        self.renew()

    def renew(self) -> None:
        self.actor = Actor(self._url, "mallory").register()
        self.new_room()

    def new_room(self) -> None:
        if not self.actor.is_logged_in():
            self.renew()
            return
        self.room_id = self.actor.create_room()
        self.event_id = self.actor.say(self.room_id)

    def judge(self, what: str, reply: Reply, further: str | None = None) -> None:
        fault = reply.fault() or further
        if fault is not None:
            self.faults.append(f"{what}: {fault}: {str(reply.json)[:200]}")


@pytest.fixture
def attack(running: RunningServer) -> Attack:
    return Attack(running)


def with_bodies(routes: list[RouteInfo]) -> list[RouteInfo]:
    return [
        route
        for route in routes
        if route.method != "GET"
        and short(route) not in BODILESS
        and "upload" not in str(route)
        # They look for a backup before a body: see tests/users/test_encryption.py.
        and "/room_keys/keys" not in str(route)
        and not (route.method == "DELETE" and "/room_keys/" in str(route))
    ]


def check(attack: Attack, bystander: Bystander) -> None:
    bystander.check()
    assert [] == attack.faults, "\n".join([f"{len(attack.faults)} faults", *attack.faults[:60]])


def test_what_is_no_json_object_is_refused_everywhere(
    attack: Attack, bystander: Bystander, routes: list[RouteInfo]
) -> None:
    packed = compressed()
    for route in with_bodies(routes):
        attack.new_room()
        before = attack.actor.newest(attack.room_id)
        for name, body in NOT_BODIES.items():
            reply = attack.actor.send(route.method, fill(route, attack.actor, attack.room_id, attack.event_id), body)
            is_refused = reply.status == 400 and reply.errcode in REFUSALS
            attack.judge(f"{route} < {name}", reply, None if is_refused else f"answered {reply.status} {reply.errcode}")
        path = fill(route, attack.actor, attack.room_id, attack.event_id)
        reply = attack.actor.send(route.method, path, TOO_LARGE)
        is_refused = reply.status == 413 or len(TOO_LARGE) <= route.max_body_bytes
        attack.judge(f"{route} < too large", reply, None if is_refused else f"answered {reply.status}")
        reply = attack.actor.send(route.method, path, packed, {"Content-Encoding": "gzip"})
        attack.judge(f"{route} < gzip", reply, None if reply.status in (400, 415) else f"answered {reply.status}")
        assert before == attack.actor.newest(attack.room_id), route
    check(attack, bystander)


def test_odd_objects_do_no_harm(attack: Attack, bystander: Bystander, routes: list[RouteInfo]) -> None:
    for route in with_bodies(routes):
        attack.new_room()
        for name, body in ODD_BODIES.items():
            path = fill(route, attack.actor, attack.room_id, attack.event_id)
            attack.judge(f"{route} < {name}", attack.actor.send(route.method, path, body))
    check(attack, bystander)


def test_a_field_of_a_wrong_type_does_no_harm(attack: Attack, bystander: Bystander, routes: list[RouteInfo]) -> None:
    known = {short(route): route for route in routes}
    for name, fields in FIELDS.items():
        route = known.get(name)
        if route is None:
            continue
        attack.new_room()
        for what, body in wrong_bodies(fields):
            path = fill(route, attack.actor, attack.room_id, attack.event_id)
            attack.judge(f"{route} < {what}", attack.actor.send(route.method, path, body))
        if not attack.actor.is_logged_in():
            attack.renew()
    check(attack, bystander)


def test_state_of_wrong_types_does_no_harm(attack: Attack, bystander: Bystander) -> None:
    for kind, fields in STATE_FIELDS.items():
        attack.new_room()
        for what, body in wrong_bodies(fields):
            room = f"/_matrix/client/v3/rooms/{attack.room_id}"
            attack.judge(f"{kind} < {what}", attack.actor.send("PUT", f"{room}/state/{kind}/", body))
        attack.judge(f"{kind}: sync", attack.actor.send("GET", "/_matrix/client/v3/sync?timeout=0"))
        for read in ("/state", "/members", "/joined_members", "/messages?dir=b&limit=100", "/initialSync"):
            attack.judge(f"{kind}: {read}", attack.actor.send("GET", f"{room}{read}"))
        attack.judge(f"{kind}: rooms", attack.actor.send("GET", "/_matrix/client/v3/publicRooms"))
    check(attack, bystander)


def _each(attack: Attack, routes: list[RouteInfo], paths: Callable[[RouteInfo], list[str]], body: bytes | None) -> None:
    for route in routes:
        for path in paths(route):
            attack.judge(f"{route.method} {path[:150]}", attack.actor.send(route.method, path, body))
        attack.new_room()


def test_odd_segments_of_the_path_do_no_harm(attack: Attack, bystander: Bystander, routes: list[RouteInfo]) -> None:
    def paths(route: RouteInfo) -> list[str]:
        names = [part[1:-1] for part in route.template.split("/") if part.startswith("{")]
        return [
            fill(route, attack.actor, attack.room_id, attack.event_id, **{name: segment})
            for name in names
            for segment in BAD_SEGMENTS
        ]

    _each(attack, routes, paths, b"{}")
    check(attack, bystander)


def test_odd_query_parameters_do_no_harm(attack: Attack, bystander: Bystander, routes: list[RouteInfo]) -> None:
    def paths(route: RouteInfo) -> list[str]:
        path = fill(route, attack.actor, attack.room_id, attack.event_id)
        # Those that wait for something would wait; how a bad timeout is taken is asked elsewhere.
        waits = path.endswith(("/sync", "/events"))
        path += "?timeout=0&" if waits else "?"
        names = [name for name in QUERY_NAMES if name != "timeout"]
        # All pairs would be tens of thousands; over the routes every value meets every name.
        turn = routes.index(route)
        return [
            f"{path}{name}={BAD_QUERIES[(turn + 5 * number + step) % len(BAD_QUERIES)]}"
            for number, name in enumerate(names)
            for step in range(VALUES_OF_A_QUERY)
        ]

    _each(attack, [route for route in routes if route.method == "GET"], paths, None)
    check(attack, bystander)


def test_without_a_token_nothing_is_told(running: RunningServer, routes: list[RouteInfo]) -> None:
    stranger = Actor(running.url, "stranger")
    owner = Actor(running.url, "owner").register()
    room_id = owner.create_room()
    event_id = owner.say(room_id)
    for route in routes:
        if route.needs_token:
            for token in (None, "", "x", "\u00e9", "x" * 10_000):
                stranger.token = token
                reply = stranger.send(route.method, fill(route, owner, room_id, event_id), b"{}")
                assert (401, None) == (reply.status, reply.fault()), (route, token, reply)
                assert reply.errcode in ("M_MISSING_TOKEN", "M_UNKNOWN_TOKEN"), (route, reply)
