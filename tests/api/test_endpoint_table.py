"""Every released endpoint of the client-server API is served, or is said to be unknown in the way of the spec.

`endpoints.tsv` has a row for each endpoint: method, path, who may call it (`access_token`, `optional`, `none`, `as` for
application services), whether the spec opens it to guests, and its state, `served` or `later`. Whoever builds an
endpoint changes its state here.
"""

from __future__ import annotations

import csv
import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.routes import RouteInfo, all_routes
from tests.support.server import RunningServer, run_server

TABLE = Path(__file__).with_name("endpoints.tsv")

# Paths of the spec before the row's own that clients in use call, and unstable ones of what is served.
OTHER_PREFIXES = (
    ("/_matrix/client/v3/", ("/_matrix/client/r0/",)),
    ("/_matrix/media/v3/", ("/_matrix/media/r0/", "/_matrix/media/v1/")),
)
UNSTABLE = (
    ("GET", "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}"),
    ("GET", "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary"),
    ("GET", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}"),
    ("PUT", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}"),
    ("DELETE", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}"),
    ("GET", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc2432/rooms/{roomId}/aliases"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc2946/rooms/{roomId}/hierarchy"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc3030/rooms/{roomId}/timestamp_to_event"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc3856/rooms/{roomId}/threads"),
    ("GET", "/_matrix/client/unstable/rooms/{roomId}/relations/{eventId}/{relType}"),
    ("POST", "/_matrix/client/unstable/keys/device_signing/upload"),
    ("POST", "/_matrix/client/unstable/keys/signatures/upload"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"),
    ("PUT", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"),
    ("DELETE", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events"),
    ("POST", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events"),
)
# What is served and is in no released version of the client-server API.
OF_OUR_OWN = {
    ("GET", "/health"),
    ("POST", "/_matrix/client/v3/rooms/{}/send/{}"),
    ("POST", "/_matrix/client/v3/rooms/{}/redact/{}"),
    ("PUT", "/_matrix/client/v3/rooms/{}/state/{}"),
    ("PUT", "/_matrix/client/v3/rooms/{}/state/{}/"),
    ("GET", "/_matrix/client/v3/rooms/{}/state/{}"),
    ("GET", "/_matrix/client/v3/rooms/{}/state/{}/"),
    ("GET", "/_matrix/client/v3/pushrules"),
    ("GET", "/_matrix/client/v3/pushrules/global"),
}


# These have a table of their own, tests/federation/endpoints.tsv.
FOR_SERVERS = ("/_matrix/federation/", "/_matrix/key/", "/.well-known/matrix/server")

# The spec asks for no token, this server does, unless the operator says `rooms.public_rooms_without_login`.
CLOSED_BY_DEFAULT = ("GET", "publicRooms")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    method: str
    path: str
    auth: str
    guests: str
    state: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def read_table() -> list[Row]:
    with TABLE.open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file, delimiter="\t")]


ROWS = read_table()
SERVED = [row for row in ROWS if row.state == "served"]
LATER = [row for row in ROWS if row.state == "later"]


def older(row: Row) -> list[Row]:
    return [
        Row(row.method, older + row.path.removeprefix(prefix), row.auth, row.guests, row.state)
        for prefix, others in OTHER_PREFIXES
        if row.path.startswith(prefix)
        for older in others
    ]


def example(path: str) -> str:
    """Return the path with something in place of its parameters."""
    return re.sub(r"\{[^}]*\}", "x", path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("table")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}") as running:
        yield running


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[RouteInfo]:
    return all_routes(tmp_path_factory.mktemp("routes"))


@pytest.fixture(scope="module")
def connection(server: RunningServer) -> http.client.HTTPConnection:
    parts = urlsplit(server.url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)


@pytest.fixture(scope="module")
def guest_token(connection: http.client.HTTPConnection) -> str:
    connection.request("POST", "/_matrix/client/v3/register?kind=guest", b"{}")
    return str(json.loads(connection.getresponse().read())["access_token"])


def ask(
    connection: http.client.HTTPConnection, row: Row, path: str, token: str | None = None
) -> tuple[int, str | None]:
    """Return status and errcode of the answer."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection.request(row.method, path, b"{}" if row.method in ("POST", "PUT") else None, headers)
    answer = connection.getresponse()
    content = answer.read()
    assert "*" == answer.getheader("Access-Control-Allow-Origin")
    assert "application/json" == answer.getheader("Content-Type")
    return answer.status, json.loads(content).get("errcode")


def test_every_row_has_a_state() -> None:
    assert {"served", "later"} == {row.state for row in ROWS}
    assert len(ROWS) == len({(row.method, row.path) for row in ROWS})


@pytest.mark.parametrize("row", [each for row in SERVED for each in (row, *older(row))], ids=str)
def test_a_served_endpoint_is_known_and_asks_for_a_token_if_the_spec_says_so(
    row: Row, connection: http.client.HTTPConnection
) -> None:
    status, errcode = ask(connection, row, example(row.path))
    if row.auth in ("access_token", "as") or (row.method, row.path.rpartition("/")[2]) == CLOSED_BY_DEFAULT:
        assert (401, "M_MISSING_TOKEN") == (status, errcode)
    else:
        assert errcode not in ("M_UNRECOGNIZED", "M_MISSING_TOKEN") and status < 500


@pytest.mark.parametrize("row", [row for row in SERVED if row.guests == "yes"], ids=str)
def test_what_the_spec_opens_to_guests_is_open_to_them(
    row: Row, connection: http.client.HTTPConnection, guest_token: str
) -> None:
    """Spec: client-server API, "Guest Access", client behaviour."""
    # For GET /events a room must be named.
    status, errcode = ask(connection, row, example(row.path) + "?timeout=0&room_id=!x:x", guest_token)
    assert errcode not in ("M_GUEST_ACCESS_FORBIDDEN", "M_UNKNOWN_TOKEN")
    # A server of the name "x" cannot be asked for its media.
    assert status < 500 or (status == 504 and "{serverName}" in row.path)


@pytest.mark.parametrize("method, path", UNSTABLE)
def test_an_unstable_path_of_what_is_served_is_known(
    method: str, path: str, connection: http.client.HTTPConnection
) -> None:
    _, errcode = ask(connection, Row(method, path, "", "", ""), example(path))
    assert "M_UNRECOGNIZED" != errcode


@pytest.mark.parametrize("row", [each for row in LATER for each in (row, *older(row))], ids=str)
def test_what_is_not_served_is_unrecognized(row: Row, connection: http.client.HTTPConnection) -> None:
    """404, or 405 where the path is served with another method.

    Spec: client-server API, "Common error codes", M_UNRECOGNIZED.
    """
    shape = re.sub(r"\{[^}]*\}", "{}", row.path)
    v3 = re.sub(r"^/_matrix/(client|media)/(r0|v1)/", r"/_matrix/\1/v3/", shape)
    paths = {re.sub(r"\{[^}]*\}", "{}", served.path) for served in SERVED}
    assert (405 if {shape, v3} & paths else 404, "M_UNRECOGNIZED") == ask(connection, row, example(row.path))


def test_there_is_no_route_that_nobody_asked_for(routes: list[RouteInfo]) -> None:
    wanted = {(row.method, row.path) for row in SERVED} | {
        (older_row.method, older_row.path) for row in SERVED for older_row in older(row)
    }
    wanted_shapes = {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in wanted} | OF_OUR_OWN
    surprising = []
    for route in routes:
        if route.template.startswith(FOR_SERVERS):
            continue
        shape = re.sub(r"\{[^}]*\}", "{}", route.template)
        v3 = re.sub(r"^/_matrix/client/r0/", "/_matrix/client/v3/", shape)
        if "/unstable/" not in shape and not {(route.method, shape), (route.method, v3)} & wanted_shapes:
            surprising.append(str(route))
    assert [] == surprising
