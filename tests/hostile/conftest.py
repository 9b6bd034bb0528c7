"""Fixtures of the hostile tests: one running server for each kind of database, its routes, and a bystander."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hostile.client import PREFIX, Actor
from tests.support.routes import RouteInfo, client_routes
from tests.support.server import RunningServer, run_server


@pytest.fixture(scope="package", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running server that all tests of the folder share; each kind of database has one."""
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{folder / 'homeserver.db'}"
        else:
            url = stack.enter_context(request.getfixturevalue("mariadb").database())
        server = stack.enter_context(run_server(folder / "server", url))
        yield server
        assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="package")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[RouteInfo]:
    """The routes of the client API, each under one prefix."""
    found = client_routes(tmp_path_factory.mktemp("routes"))
    return [
        route for route in found if not any(part in route.template for part in ("/r0/", "/media/v1/", "/unstable/"))
    ]


class Bystander:
    """Somebody who goes on using the server meanwhile."""

    def __init__(self, url: str) -> None:
        self.actor = Actor(url, "bystander").register()
        self.room_id = self.actor.create_room()
        self.since = str(self.actor.sync()["next_batch"])

    def check(self) -> None:
        """Raise AssertionError unless the server still works."""
        versions = self.actor.send("GET", "/_matrix/client/versions")
        assert (200, None) == (versions.status, versions.fault())
        event_id = self.actor.say(self.room_id)
        answer = self.actor.sync(self.since)
        self.since = answer["next_batch"]
        seen = [event["event_id"] for event in answer["rooms"]["join"][self.room_id]["timeline"]["events"]]
        assert [event_id] == seen


@pytest.fixture(scope="package")
def bystander(running: RunningServer) -> Bystander:
    """Whoever must not notice anything."""
    return Bystander(running.url)


@pytest.fixture
def mallory(running: RunningServer) -> Actor:
    """A user with bad intentions."""
    return Actor(running.url, "mallory").register()


__all__ = ["PREFIX", "Bystander"]
