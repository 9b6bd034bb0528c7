"""What all endpoints have in common: CORS, errors, methods, encodings. Every route of the server is asked.

Spec: client-server API, "API Standards", "Standard error response", "Rate limiting", "Client authentication",
"Web Browser Clients".
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hostile.client import Actor
from tests.support.routes import RouteInfo, client_routes
from tests.support.server import RunningServer, run_server

CLIENT = "/_matrix/client/v3"
# Bodies are no JSON, or none is looked at.
NO_JSON_BODY = re.compile(r"/upload|/logout|/media/v1/create")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str | None]:
        """Status and errcode."""
        return self.status, self.json.get("errcode")


class Door:
    """A connection to the server, made anew when the server has closed it."""

    def __init__(self, server: RunningServer) -> None:
        parts = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, named)
        answer = self._connection.getresponse()
        content = answer.read()
        assert "*" == answer.headers["Access-Control-Allow-Origin"], (method, path)
        assert {"GET", "POST", "PUT", "DELETE", "OPTIONS"} <= set(
            answer.headers["Access-Control-Allow-Methods"].split(", ")
        )
        assert {"X-Requested-With", "Content-Type", "Authorization"} <= set(
            answer.headers["Access-Control-Allow-Headers"].split(", ")
        )
        found = Answer(answer.status, answer.headers, content)
        if found.status >= 400 and method != "HEAD":
            assert "application/json" == answer.headers["Content-Type"]
            content_of_error = found.json
            is_challenge = found.status == 401 and "flows" in content_of_error
            assert is_challenge or {"errcode", "error"} <= set(content_of_error), (method, path, content_of_error)
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("envelope")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[RouteInfo]:
    return client_routes(tmp_path_factory.mktemp("routes"))


@pytest.fixture(scope="module")
def token(server: RunningServer) -> str:
    return str(Actor(server.url, "envelope").register().token)


@pytest.fixture
def door(server: RunningServer) -> Door:
    return Door(server)


def example(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", template)


def test_options_is_answered_for_every_route(door: Door, routes: list[RouteInfo]) -> None:
    """Spec: the server MUST NOT perform any logic defined for the endpoints."""
    for path in {example(route.template) for route in routes} | {"/", "/_matrix/nothing", "/a%ZZ"}:
        answer = door.ask("OPTIONS", path, Access_Control_Request_Method="PUT")
        assert (204, b"") == (answer.status, answer.body), path


def test_a_wrong_method_is_unrecognized_and_told_the_right_ones(door: Door, routes: list[RouteInfo]) -> None:
    for path in {example(route.template) for route in routes}:
        answer = door.ask("PATCH", path)
        assert (405, "M_UNRECOGNIZED") == answer.error, path
        assert "OPTIONS" in answer.headers["Allow"]


def test_one_segment_more_is_unrecognized(door: Door, routes: list[RouteInfo]) -> None:
    for route in routes:
        path = f"{example(route.template)}/x/y/z/more"
        assert (404, "M_UNRECOGNIZED") == door.ask(route.method, path).error, path


def test_a_slash_more_is_another_path(door: Door, routes: list[RouteInfo]) -> None:
    known = {(route.method, route.template) for route in routes}
    for route in routes:
        if not route.template.endswith("/") and (route.method, route.template + "/") not in known:
            answer = door.ask(route.method, example(route.template) + "/")
            assert "M_UNRECOGNIZED" == answer.error[1], route


def test_without_a_token_nothing_is_told(door: Door, routes: list[RouteInfo]) -> None:
    for route in routes:
        answer = door.ask(route.method, example(route.template), b"{}" if route.method in ("POST", "PUT") else None)
        if route.needs_token and answer.status == 401 and "flows" not in answer.json:
            assert (401, "M_MISSING_TOKEN") == answer.error, route


@pytest.mark.parametrize(
    "authorization, errcode",
    [
        ("Bearer nonsense", "M_UNKNOWN_TOKEN"),
        ("bearer nonsense", "M_UNKNOWN_TOKEN"),
        ("Bearer " + "x" * 5000, "M_UNKNOWN_TOKEN"),
        ("Bearer \xff\xfe", "M_UNKNOWN_TOKEN"),
        ("Basic eDp5", "M_MISSING_TOKEN"),
        ("Bearer", "M_MISSING_TOKEN"),
    ],
)
def test_a_wrong_token_is_told_so_everywhere(
    authorization: str, errcode: str, door: Door, routes: list[RouteInfo]
) -> None:
    """Spec: "Using access tokens": 401, and M_UNKNOWN_TOKEN with `soft_logout`."""
    for route in routes:
        if route.needs_token:
            answer = door.ask(route.method, example(route.template), Authorization=authorization)
            assert (401, errcode) == answer.error, route
            if errcode == "M_UNKNOWN_TOKEN":
                assert answer.json["soft_logout"] is False


def test_a_token_in_the_query_is_taken(door: Door, token: str) -> None:
    assert 200 == door.ask("GET", f"{CLIENT}/account/whoami?access_token={token}").status


PATH_FIRST = ("M_INVALID_PARAM", "M_FORBIDDEN", "M_NOT_FOUND", "M_UNRECOGNIZED", "M_MISSING_PARAM")


@pytest.mark.parametrize(
    "body, errcode",
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"{} x", "M_NOT_JSON"),
        (b'{"a": "\xff"}', "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b"null", "M_BAD_JSON"),
        (b'"x"', "M_BAD_JSON"),
    ],
)
def test_what_is_no_json_object_is_told_so_everywhere(
    body: bytes, errcode: str, door: Door, routes: list[RouteInfo], token: str
) -> None:
    """No body at all passes for an empty object where no key is needed: clients in use send it so."""
    for route in routes:
        if route.method not in ("POST", "PUT") or NO_JSON_BODY.search(route.template):
            continue
        answer = door.ask(route.method, example(route.template), body, Authorization=f"Bearer {token}")
        if answer.status < 400 or "flows" in answer.json:
            assert b"" == body, route
        elif answer.error[1] not in PATH_FIRST:
            # The path and the query are looked at first by some, the body by others.
            allowed = {errcode} | ({"M_MISSING_PARAM", "M_BAD_JSON"} if body == b"" else set())
            assert answer.error[1] in allowed, (route, answer.error)


def test_head_is_get_without_the_content(door: Door, token: str) -> None:
    for path in ("/_matrix/client/versions", f"{CLIENT}/account/whoami", f"{CLIENT}/nothing", f"{CLIENT}/joined_rooms"):
        whole = door.ask("GET", path, Authorization=f"Bearer {token}")
        head = door.ask("HEAD", path, Authorization=f"Bearer {token}")
        assert (whole.status, b"") == (head.status, head.body)
        assert whole.headers["Content-Length"] == head.headers["Content-Length"]


@pytest.mark.parametrize("path", ["/%zz", "/_matrix/client/v3/profile/%", "/_matrix/client/v3/profile/%4"])
def test_broken_percent_encoding_is_a_bad_request(path: str, door: Door) -> None:
    assert 400 == door.ask("GET", path).status


def test_a_path_that_is_not_utf_8_is_a_bad_request(door: Door) -> None:
    assert 400 == door.ask("GET", f"{CLIENT}/profile/%ff%fe").status


def test_an_encoded_slash_stays_in_its_segment(door: Door, token: str) -> None:
    """It is a part of the event type here, and no further segment of the path."""
    actor_rooms = door.ask("POST", f"{CLIENT}/createRoom", b"{}", Authorization=f"Bearer {token}").json
    room = actor_rooms["room_id"].replace("!", "%21").replace(":", "%3A")
    body = '{"name": "é 😀"}'.encode()
    sent = door.ask("PUT", f"{CLIENT}/rooms/{room}/state/a%2Fb/c%2Fd%C3%A9", body, Authorization=f"Bearer {token}")
    assert 200 == sent.status
    read = door.ask("GET", f"{CLIENT}/rooms/{room}/state/a%2Fb/c%2Fd%C3%A9", Authorization=f"Bearer {token}")
    assert "application/json" == read.headers["Content-Type"]
    assert {"name": "é 😀"} == json.loads(read.body.decode("utf-8"))


def test_too_large_a_body_is_refused_with_all_headers(door: Door, token: str) -> None:
    answer = door.ask("POST", f"{CLIENT}/createRoom", b"x" * 12_000_000, Authorization=f"Bearer {token}")
    assert (413, "M_TOO_LARGE") == answer.error


def test_a_large_body_without_a_token_is_refused(door: Door) -> None:
    answer = door.ask("POST", "/_matrix/media/v3/upload", b"x" * 1_000_000)
    assert (401, "M_MISSING_TOKEN") == answer.error


def test_the_first_challenge_has_no_errcode_and_a_failed_stage_has(door: Door, server: RunningServer) -> None:
    """Spec: "User-interactive API in the REST API"."""
    actor = Actor(server.url, "challenge").register()
    body = {"new_password": "correct horse battery"}
    bearer = f"Bearer {actor.token}"
    first = door.ask("POST", f"{CLIENT}/account/password", json.dumps(body).encode(), Authorization=bearer)
    assert 401 == first.status
    assert not {"errcode", "error", "completed"} & set(first.json)
    assert {"flows", "params", "session"} <= set(first.json)
    body["auth"] = {
        "type": "m.login.password",
        "session": first.json["session"],
        "identifier": {"type": "m.id.user", "user": actor.user_id},
        "password": "wrong",
    }  # type: ignore[assignment]
    second = door.ask("POST", f"{CLIENT}/account/password", json.dumps(body).encode(), Authorization=bearer)
    assert (401, "M_FORBIDDEN") == second.error
    assert first.json["session"] == second.json["session"] and first.json["flows"] == second.json["flows"]


def test_a_refused_rate_says_when_to_come_again_in_header_and_body(door: Door, server: RunningServer) -> None:
    """Spec: "Rate limiting": 429 with `Retry-After`, and `retry_after_ms` for older clients."""
    bearer = f"Bearer {Actor(server.url, 'announcer').register().token}"
    answers = [door.ask("POST", "/_matrix/media/v1/create", b"", Authorization=bearer) for _ in range(6)]
    assert [200] * 5 == [answer.status for answer in answers[:5]]
    assert (429, "M_LIMIT_EXCEEDED") == answers[5].error
    retry_after_ms = answers[5].json["retry_after_ms"]
    assert retry_after_ms > 0
    assert -(-retry_after_ms // 1000) == int(answers[5].headers["Retry-After"])
