"""Paths to routes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadRequest, MatrixError, Unrecognized
from homeserver.web.request import WebRequest
from homeserver.web.router import MethodNotAllowed, Route, Router, expand_prefixes


async def nothing(_: WebRequest) -> dict[str, Any]:
    return {}


def route(method: str, template: str) -> Route:
    return Route(method, template, nothing)


ROUTER = Router(
    [
        route("GET", "/v3/login"),
        route("GET", "/v3/rooms/{roomId}/state"),
        route("GET", "/v3/rooms/{roomId}/state/{eventType}"),
        route("PUT", "/v3/rooms/{roomId}/state/{eventType}/"),
        route("PUT", "/v3/rooms/{roomId}/state/{eventType}/{stateKey}"),
        route("GET", "/v3/profile/{userId}/{field}"),
        route("PUT", "/v3/profile/{userId}/displayname"),
        route("POST", "/v3/join/{roomIdOrAlias}"),
        route("GET", "/static/{path...}"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "template", "args"),
    [
        ("GET", "/v3/login", "/v3/login", {}),
        ("HEAD", "/v3/login", "/v3/login", {}),
        ("GET", "/v3/%6Cogin", "/v3/login", {}),
        (
            "PUT",
            "/v3/rooms/!a:b/state/m.x/",
            "/v3/rooms/{roomId}/state/{eventType}/",
            {"roomId": "!a:b", "eventType": "m.x"},
        ),
        (
            "PUT",
            "/v3/rooms/!a:b/state/m.x/a%2Fb",
            "/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
            {"roomId": "!a:b", "eventType": "m.x", "stateKey": "a/b"},
        ),
        ("POST", "/v3/join/%23caf%C3%A9:b", "/v3/join/{roomIdOrAlias}", {"roomIdOrAlias": "#café:b"}),
        ("POST", "/v3/join/%2525", "/v3/join/{roomIdOrAlias}", {"roomIdOrAlias": "%25"}),
        ("POST", "/v3/join/a+b;c", "/v3/join/{roomIdOrAlias}", {"roomIdOrAlias": "a+b;c"}),
        ("POST", "/v3/join/%2e%2e", "/v3/join/{roomIdOrAlias}", {"roomIdOrAlias": ".."}),
        # The literal goes first, but a parameter that has the method is better than a literal that has not.
        (
            "GET",
            "/v3/profile/@a:b/displayname",
            "/v3/profile/{userId}/{field}",
            {"userId": "@a:b", "field": "displayname"},
        ),
        ("PUT", "/v3/profile/@a:b/displayname", "/v3/profile/{userId}/displayname", {"userId": "@a:b"}),
        ("GET", "/static/a/b%20c/", "/static/{path...}", {"path": "a/b c/"}),
    ],
)
def test_a_path_finds_its_route(method: str, path: str, template: str, args: dict[str, str]) -> None:
    match = ROUTER.match(method, path)
    assert (template, args) == (match.route.path_template, match.args)


@pytest.mark.parametrize(
    "path", ["/", "", "/v3", "/v3/login/", "/v3//login", "/v3/join/", "/v3/join/a/b", "/v3/../v3/login", "/V3/login"]
)
def test_other_paths_are_unrecognized(path: str) -> None:
    with pytest.raises(Unrecognized) as caught:
        ROUTER.match("GET", path)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "path", ["/v3/join/%", "/v3/join/%2", "/v3/join/%zz", "/v3/join/%FF", "/v3/join/%C0%AF", "/v3/join/\xff"]
)
def test_improper_encoding_is_a_bad_request(path: str) -> None:
    with pytest.raises(BadRequest):
        ROUTER.match("POST", path)


def test_a_known_path_with_another_method_names_those_there_are() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.match("DELETE", "/v3/profile/@a:b/displayname")
    assert (405, {"Allow": "GET, HEAD, OPTIONS, PUT"}) == (caught.value.status, caught.value.headers())


@pytest.mark.parametrize("template", ["v3/x", "/{a...}/b", "/x{a}", "/{a}/{a}", "/v3/login"])
def test_a_template_that_is_not_well_formed_or_new_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        Router([route("GET", "/v3/login"), route("GET", template)])


@given(st.text(alphabet="/%.v3loginrms2FA\xe9{}", max_size=60), st.sampled_from(["GET", "PUT", "DELETE", "HEAD"]))
def test_any_path_is_matched_or_refused(path: str, method: str) -> None:
    try:
        ROUTER.match(method, path)
    except MatrixError:
        pass


def test_a_path_of_many_segments_costs_no_stack() -> None:
    with pytest.raises(Unrecognized):
        ROUTER.match("GET", "/v3" * 20_000)


@pytest.mark.parametrize(
    ("template", "also", "expected"),
    [
        ("/_matrix/client/v3/sync", (), ["/_matrix/client/v3/sync", "/_matrix/client/r0/sync"]),
        (
            "/_matrix/media/v3/upload/{a}",
            (),
            ["/_matrix/media/v3/upload/{a}", "/_matrix/media/r0/upload/{a}", "/_matrix/media/v1/upload/{a}"],
        ),
        ("/_matrix/client/v1/x", (), ["/_matrix/client/v1/x"]),
        (
            "/_matrix/client/v1/x/y",
            ("unstable", "/_matrix/client/unstable/org.x"),
            ["/_matrix/client/v1/x/y", "/_matrix/client/unstable/x/y", "/_matrix/client/unstable/org.x/x/y"],
        ),
    ],
)
def test_older_prefixes_are_added(template: str, also: tuple[str, ...], expected: list[str]) -> None:
    assert expected == [each.path_template for each in expand_prefixes(route("GET", template), *also)]
