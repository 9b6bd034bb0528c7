"""Every endpoint of the server-server API is served, to signed requests alone where the spec says so.

`endpoints.tsv` has a row for each endpoint: method, path, who may call it (`signed`; `token` for an OpenID token;
`none`), and its state, `served` or `later`. Whoever builds an endpoint changes its state here.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import pytest_twisted

from tests.api.test_endpoint_table import FOR_SERVERS
from tests.support.federation import Federation, sqlite_federation
from tests.support.routes import all_routes

__all__ = ["sqlite_federation"]

TABLE = Path(__file__).with_name("endpoints.tsv")

# Of earlier versions of the spec.
OLD = {("GET", "/_matrix/key/v2/query/{}/{}"), ("GET", "/_matrix/key/v2/server/")}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    method: str
    path: str
    auth: str
    state: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def example(self) -> str:
        """The path with something in place of its parameters."""
        return re.sub(r"\{[^}]*\}", "x", self.path)


def read_table() -> list[Row]:
    with TABLE.open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file, delimiter="\t")]


ROWS = read_table()
SERVED = [row for row in ROWS if row.state == "served"]
LATER = [row for row in ROWS if row.state == "later"]


def test_every_row_has_a_state() -> None:
    assert {"served", "later"} == {row.state for row in ROWS}
    assert len(ROWS) == len({(row.method, row.path) for row in ROWS})


@pytest_twisted.ensureDeferred
async def test_what_is_served_answers_whom_the_table_names(sqlite_federation: Federation) -> None:
    (server,) = await sqlite_federation.start(server={"serve_server_wellknown": True})
    remote = await sqlite_federation.play()
    for row in SERVED:
        content = {} if row.method in ("POST", "PUT") else None
        answer = await server.request(row.method, row.example, content)
        told = (answer.status, answer.json.get("errcode"))
        if row.auth == "signed":
            assert 401 == answer.status, (str(row), told)
            answer = await remote.request(row.method, server.name, row.example, content)
            told = (answer.status, answer.json.get("errcode"))
            assert told[0] != 401 and told[0] < 500, (str(row), told)
            if row.path.endswith("{queryType}"):
                continue
        elif row.auth == "token":
            assert told[0] in (400, 401), (str(row), told)
        assert "M_UNRECOGNIZED" != told[1] and told[0] < 500, (str(row), told)


@pytest_twisted.ensureDeferred
async def test_what_is_not_served_is_unrecognized(sqlite_federation: Federation) -> None:
    """Spec: server-server API, "Unsupported endpoints"."""
    (server,) = await sqlite_federation.start()
    remote = await sqlite_federation.play()
    for row in LATER:
        answer = await remote.request(row.method, server.name, row.example, {})
        assert (404, "M_UNRECOGNIZED") == (answer.status, answer.json["errcode"]), str(row)


def test_there_is_no_route_for_servers_that_nobody_asked_for(tmp_path: Path) -> None:
    wanted = {(row.method, re.sub(r"\{[^}]*\}", "{}", row.path)) for row in SERVED}
    routes = {
        (route.method, re.sub(r"\{[^}]*\}", "{}", route.template))
        for route in all_routes(tmp_path)
        if route.template.startswith(FOR_SERVERS)
    }
    # It is served where the configuration says so.
    routes.add(("GET", "/.well-known/matrix/server"))
    assert wanted == routes - OLD
