"""From method and path to a route: a trie over path segments.

Templates are paths whose segments are literal, `{name}` or, at the end, `{name...}`.  A segment of a request is split
off before it is percent-decoded, so `%2F` stays inside it; it is decoded once, as UTF-8.  `{name}` matches one segment
that is not empty; what ends in a slash is a route of its own (`/state/{eventType}/`).  `{name...}` matches all the
rest, decoded, joined by slashes.  A literal goes before a parameter.

Spec: client-server API, "API Standards" (404 and 405 with `M_UNRECOGNIZED`); RFC 3986, 2.1 and 3.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from homeserver.errors import BadRequest, InvalidParam, Unrecognized, WrongMethod
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult

Handler = Callable[[WebRequest], Awaitable[HandlerResult]]

DEFAULT_MAX_BODY_BYTES: Final = 1_310_720

_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint.

    - `auth`, `limit`: what they mean is up to the callbacks of the `JsonResource`; None: the callback is not called.
    - `max_body_bytes`: a longer body is refused before it is read.
    - `cancel_when_gone`: cancel the handler when the client goes away.  For reads and long polls only: work that has
      several steps should get to its end.
    - `is_long_poll`: the handler may wait so long that whoever asks may have lost the right to the answer meanwhile;
      it is handed out only if the `readmit` callback of the `JsonResource` lets it.
    """

    method: str
    path_template: str
    handler: Handler
    auth: Any = None
    limit: Any = None
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    cancel_when_gone: bool = False
    is_long_poll: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A route and the parameters of the path."""

    route: Route
    args: dict[str, str]


class MethodNotAllowed(WrongMethod):
    """The path is known, but with the methods `allowed` only."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__("Unrecognized request: the endpoint does not know this method")
        self.allowed = tuple(sorted({*allowed, "OPTIONS"}))

    def headers(self) -> Mapping[str, str]:
        # RFC 9110, 15.5.6: a 405 names the methods that there are.
        return {"Allow": ", ".join(self.allowed)}


class _Node:
    __slots__ = ("literals", "parameter", "rest", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.rest: dict[str, tuple[Route, tuple[str, ...]]] = {}
        self.routes: dict[str, tuple[Route, tuple[str, ...]]] = {}


class Router:
    """All routes of a door."""

    __slots__ = ("_all", "_root")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._root = _Node()
        self._all: list[Route] = []
        self.add_all(routes)

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes, in the order of their adding."""
        return tuple(self._all)

    def add_all(self, routes: Iterable[Route]) -> None:
        """Add routes."""
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Add a route; raises ValueError for a template that is not well-formed, or that there is already."""
        if not route.path_template.startswith("/"):
            raise ValueError(f"a path template starts with a slash: {route.path_template}")
        node = self._root
        names: list[str] = []
        segments = route.path_template.split("/")[1:]
        table = None
        for position, segment in enumerate(segments):
            if segment.startswith("{") and segment.endswith("...}"):
                if position != len(segments) - 1:
                    raise ValueError(f"only the last segment may take all the rest: {route.path_template}")
                names.append(segment[1:-4])
                table = node.rest
            elif segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            elif "{" in segment or "}" in segment:
                raise ValueError(f"a parameter is a whole segment: {route.path_template}")
            else:
                node = node.literals.setdefault(segment, _Node())
        if len(set(names)) != len(names):
            raise ValueError(f"two parameters of one name: {route.path_template}")
        if table is None:
            table = node.routes
        if route.method in table:
            raise ValueError(f"there is a route already for {route.method} {route.path_template}")
        table[route.method] = (route, tuple(names))
        self._all.append(route)

    def match(self, method: str, path: str) -> Match:
        """Return the route for `method` and the percent-encoded `path`.

        Raises `Unrecognized` for an unknown path, `MethodNotAllowed` for a known one that has no such method, and
        `BadRequest` if the path is not properly encoded.  HEAD finds the route of GET.
        """
        segments = path.split("/")
        if "%" in path or not path.isascii():
            segments = [_decoded(segment) for segment in segments]
        allowed: set[str] = set()
        found = _find(self._root, segments, 1, "GET" if method == "HEAD" else method, [], allowed)
        if found is not None:
            return found
        if allowed:
            if "GET" in allowed:
                allowed.add("HEAD")
            raise MethodNotAllowed(allowed)
        raise Unrecognized("Unrecognized request")


def expand_prefixes(route: Route, *also: str) -> list[Route]:
    """Return the route and its likes under the prefixes that older clients call.

    For `/_matrix/client/v3/…` that is `/_matrix/client/r0/…`, for `/_matrix/media/v3/…` `r0` and `v1`.  `also` names
    further versions, such as `v1` or `unstable`, or whole prefixes to put in place of the first three segments, such as
    `/_matrix/client/unstable/org.matrix.msc3440`.
    """
    template = route.path_template
    versions: list[str] = []
    head, slash, tail = "", "", ""
    for prefix, older in (("/_matrix/client/v3/", ("r0",)), ("/_matrix/media/v3/", ("r0", "v1"))):
        if template.startswith(prefix):
            versions.extend(older)
    versions.extend(version for version in also if version not in versions)
    if versions:
        parts = template.split("/", 4)
        if len(parts) < 5:
            raise ValueError(f"there is no version in {template}")
        head, slash, tail = "/".join(parts[:3]), "/", parts[4]
    expanded = [route]
    for version in versions:
        prefix = version if version.startswith("/") else head + slash + version
        expanded.append(replace(route, path_template=f"{prefix}/{tail}"))
    return expanded


def _find(
    node: _Node, segments: list[str], position: int, method: str, values: list[str], allowed: set[str]
) -> Match | None:
    """Walk on from `node`; the depth is that of the longest template, whatever the request is."""
    if position == len(segments):
        hit = node.routes.get(method)
        if hit is not None:
            return Match(hit[0], dict(zip(hit[1], values, strict=True)))
        allowed.update(node.routes)
        return None
    segment = segments[position]
    following = node.literals.get(segment)
    if following is not None:
        found = _find(following, segments, position + 1, method, values, allowed)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        values.append(segment)
        found = _find(node.parameter, segments, position + 1, method, values, allowed)
        if found is not None:
            return found
        values.pop()
    if node.rest:
        hit = node.rest.get(method)
        if hit is not None:
            return Match(hit[0], dict(zip(hit[1], [*values, "/".join(segments[position:])], strict=True)))
        allowed.update(node.rest)
    return None


def _decoded(segment: str) -> str:
    if "%" not in segment and segment.isascii():
        return segment
    raw = segment.encode("latin-1")
    # unquote leaves a stray percent sign as it is, and then two encodings would mean the same.
    at = raw.find(b"%")
    while at >= 0:
        if len(raw) < at + 3 or raw[at + 1] not in _HEX or raw[at + 2] not in _HEX:
            raise InvalidParam("the path is not properly percent-encoded")
        at = raw.find(b"%", at + 3)
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise BadRequest("the path is not UTF-8") from fault
