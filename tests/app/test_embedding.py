"""A Twisted application with homeservers in it: everything that `docs/embedding.md` promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface.verify import verifyObject

import homeserver
from homeserver import (
    Config,
    Event,
    EventCommitted,
    EventTemplate,
    GateDenied,
    Homeserver,
    MatrixError,
    Misconfigured,
    RoomID,
    UserRegistered,
)

ROOT = Path(__file__).parents[2]


def _config(folder: Path, name: str = "example.org", **sections: Any) -> Config:
    return Config.from_mapping(
        {
            "server": {"name": name, "data_dir": str(folder / "data")},
            "listeners": [],
            "registration": {"bcrypt_rounds": 4},
            **sections,
        },
        folder,
    )


@pytest_twisted.async_yield_fixture
async def server(tmp_path: Path) -> AsyncIterator[Homeserver]:
    """A started homeserver without listeners, with two accounts."""
    homeserver = Homeserver(_config(tmp_path), reactor=reactor)
    await homeserver.start()
    await homeserver.accounts.create("alice", "wonderland")
    await homeserver.accounts.create("bob", "builder")
    yield homeserver
    await homeserver.stop()


async def _turns(count: int = 3) -> None:
    for _ in range(count):
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)  # type: ignore[attr-defined]
        await turn


# -- the facade ------------------------------------------------------------------------------------------------------


def test_facade_gives_what_it_names() -> None:
    assert all(getattr(homeserver, name) is not None for name in homeserver.__all__)
    assert set(homeserver.__all__) == set(homeserver._HOMES)
    assert set(homeserver.__all__) <= set(dir(homeserver))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        homeserver.Nonsense  # noqa: B018


@pytest.mark.parametrize("module", ["homeserver.model.event", "homeserver.errors", "homeserver.hooks"])
def test_importing_a_low_module_loads_no_server(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'twisted', 'sqlalchemy', 'homeserver.app'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout


# -- life ------------------------------------------------------------------------------------------------------------


def test_construction_does_nothing(tmp_path: Path) -> None:
    made = Homeserver(_config(tmp_path), reactor=reactor)
    made.observe(EventCommitted, print)
    assert [] == list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="not started"):
        made.as_user("@alice:example.org")


@pytest_twisted.ensureDeferred
async def test_stopped_server_starts_again_with_what_it_stored(tmp_path: Path) -> None:
    made = Homeserver(_config(tmp_path), reactor=reactor)
    await made.start()
    await made.accounts.create("alice", "wonderland")
    room_id = await made.as_user("@alice:example.org").create_room(name="Tea")
    await made.stop()
    await made.start()
    name = await made.as_user("@alice:example.org").get_state(room_id, "m.room.name")
    await made.stop()
    assert name is not None
    assert {"name": "Tea"} == name.content


@pytest_twisted.ensureDeferred
async def test_start_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    first = Homeserver(_config(tmp_path, listeners=[{"port": 0}]), reactor=reactor)
    await first.start()
    (port,) = first.ports
    config = _config(tmp_path / "second", listeners=[{"port": port}])
    second = Homeserver(config, reactor=reactor)
    with pytest.raises(Misconfigured, match=f"port {port}"):
        await second.start()
    await first.stop()
    await second.start()
    assert (port,) == second.ports
    await second.stop()


@pytest_twisted.ensureDeferred
async def test_stop_during_a_start_waits_for_it(tmp_path: Path) -> None:
    made = Homeserver(_config(tmp_path), reactor=reactor)
    started = Deferred.fromCoroutine(made.start())
    await made.stop()
    assert started.called
    await made.start()
    await made.stop()


@pytest_twisted.ensureDeferred
async def test_lives_in_a_parent_service(tmp_path: Path) -> None:
    made = Homeserver(_config(tmp_path), reactor=reactor)
    verifyObject(IService, made)
    parent = MultiService()
    made.setServiceParent(parent)  # type: ignore[no-untyped-call]
    parent.startService()
    await made.ready()
    user_id = await made.accounts.create("alice", "wonderland")
    await made.ready()
    await parent.stopService()
    assert "@alice:example.org" == user_id


@pytest_twisted.ensureDeferred
async def test_ready_fails_as_the_start_did(tmp_path: Path) -> None:
    made = Homeserver(_config(tmp_path, database={"url": f"sqlite:///{tmp_path}"}), reactor=reactor)
    made.startService()
    with pytest.raises(Misconfigured):
        await made.ready()
    await made.stopService()


@pytest_twisted.ensureDeferred
async def test_two_live_in_one_process(tmp_path: Path) -> None:
    pair = [Homeserver(_config(tmp_path / name, name), reactor=reactor) for name in ("a.example", "b.example")]
    seen: list[list[str]] = [[], []]
    for made, types in zip(pair, seen, strict=True):
        made.observe(EventCommitted, lambda each, types=types: types.append(each.event.room_id))
        await made.start()
        await made.accounts.create("alice", "wonderland")
    rooms = [await made.as_user(f"@alice:{made.config.server.name}").create_room() for made in pair]
    await _turns()
    for made in pair:
        await made.stop()
    assert [{room} for room in rooms] == [set(types) for types in seen]


# -- acting as a user ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_users_make_a_room_and_talk(server: Homeserver) -> None:
    alice, bob = server.as_user("@alice:example.org"), server.as_user("@bob:example.org")
    room_id = await alice.create_room(preset="private_chat", name="Tea")
    with pytest.raises(MatrixError):
        await bob.send(room_id, "May I?")
    await alice.invite(room_id, "@bob:example.org")
    await bob.join(room_id)
    event_id = await bob.send(room_id, "hello")
    await alice.set_state(room_id, "m.room.topic", {"topic": "cake"})
    member = await alice.get_state(room_id, "m.room.member", "@bob:example.org")
    await bob.leave(room_id, reason="late")
    left = await alice.get_state(room_id, "m.room.member", "@bob:example.org")
    assert event_id.startswith("$")
    assert ["join", "leave"] == [event.membership for event in (member, left) if event is not None]


@pytest_twisted.ensureDeferred
async def test_nobody_acts_as_a_user_without_an_account(server: Homeserver) -> None:
    with pytest.raises(MatrixError, match="no account @carol"):
        await server.as_user("@carol:example.org").create_room()


# -- observers and gates ---------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_observers_are_told_after_the_commit(server: Homeserver) -> None:
    events: list[Event] = []
    users: list[str] = []

    def broken(_: object) -> None:
        raise ZeroDivisionError

    server.observe(EventCommitted, broken)
    server.observe(EventCommitted, lambda each: events.append(each.event))
    server.observe(UserRegistered, lambda each: users.append(each.user_id))
    alice = server.as_user("@alice:example.org")
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, "hello")
    await server.accounts.create("carol", "carolina")
    await _turns()
    assert (event_id, "hello") == (events[-1].event_id, events[-1].content["body"])
    assert ["m.room.create", "m.room.member"] == [event.type for event in events[:2]]
    assert ["@carol:example.org"] == users


@dataclass(frozen=True)
class NoShouting:
    """Denies links and turns capitals down."""

    async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        body = template.content.get("body")
        if template.type != "m.room.message" or not isinstance(body, str):
            return template
        if "://" in body:
            raise GateDenied("No links here")
        return replace(template, content={**template.content, "body": body.lower()})


@pytest_twisted.ensureDeferred
async def test_gate_denies_and_rewrites(server: Homeserver) -> None:
    bodies: list[str] = []
    server.add_gate(NoShouting())
    server.observe(EventCommitted, lambda each: bodies.append(each.event.content.get("body")))
    alice = server.as_user("@alice:example.org")
    room_id = await alice.create_room()
    with pytest.raises(GateDenied, match="No links here"):
        await alice.send(room_id, "https://spam.example")
    await alice.send(room_id, "HELLO")
    await _turns()
    assert ["hello"] == [body for body in bodies if body is not None]


# -- inside a host's web server --------------------------------------------------------------------------------------


async def _serve(site: Site) -> tuple[str, Any]:
    port = reactor.listenTCP(0, site, interface="127.0.0.1")  # type: ignore[attr-defined]
    return f"http://127.0.0.1:{port.getHost().port}", port


async def _json(method: str, url: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    response = await treq.request(method, url, data=data, persistent=False)
    return response.code, await response.json()


@pytest.mark.parametrize("place", ["root", "child"])
@pytest_twisted.ensureDeferred
async def test_is_mounted_in_a_hosts_site(server: Homeserver, place: str) -> None:
    resource: Resource = server.client_resource()
    if place == "child":
        root = Resource()
        root.putChild(b"_matrix", resource)
        root.putChild(b"", Data(b"the host's own page", "text/plain"))
        resource = root
    url, port = await _serve(Site(resource))
    versions = await _json("GET", f"{url}/_matrix/client/versions")
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": "wonderland",
    }
    code, answer = await _json("POST", f"{url}/_matrix/client/v3/login", login)
    unknown = await _json("GET", f"{url}/_matrix/client/v3/nothing")
    if place == "child":
        assert b"the host's own page" == await (await treq.get(url + "/", persistent=False)).content()
    await port.stopListening()
    assert 200 == versions[0]
    assert "v1.1" in versions[1]["versions"]
    assert (200, "@alice:example.org") == (code, answer["user_id"])
    assert (404, "M_UNRECOGNIZED") == (unknown[0], unknown[1]["errcode"])


@pytest_twisted.ensureDeferred
async def test_a_listener_serves_its_resources_and_nothing_else(tmp_path: Path) -> None:
    listeners = [
        {"port": 0, "resources": [name], "bind": ["127.0.0.1"]} for name in ("client", "media", "health", "metrics")
    ]
    homeserver = Homeserver(_config(tmp_path, listeners=listeners), reactor=reactor)
    await homeserver.start()
    paths = ("/_matrix/client/versions", "/_matrix/client/v1/media/config", "/_matrix/media/v3/config", "/health")
    found = []
    for port in homeserver.ports:
        codes = []
        for path in paths:
            answer = await treq.get(f"http://127.0.0.1:{port}{path}", persistent=False)
            await answer.content()
            codes.append(answer.code)
        found.append([code != 404 for code in codes])
    await homeserver.stop()
    # Metrics are not there yet: that port is not opened.
    assert [[True, False, False, False], [False, True, True, False], [False, False, False, True]] == found


def test_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "embedded_app.py"), str(tmp_path), "--once"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    assert "bot saw: hello" in done.stdout
