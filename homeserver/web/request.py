"""A request as handlers see it: decoded once, typed, independent of the transport.

Everything a client sends is read here with a defined outcome: the path and query are percent-decoded once, as UTF-8;
JSON is at most `MAX_JSON_DEPTH` deep, of two equal keys the later counts, and NaN, invalid UTF-8 and anything after the
value are refused.

Spec: client-server API, "API Standards"; RFC 3986, 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import parse_qsl

import orjson

from homeserver.errors import BadJson, BadRequest, InvalidParam, MissingParam, NotJson

if TYPE_CHECKING:
    from twisted.web.http import Request as TwistedRequest

    from homeserver.web.router import Route

MAX_JSON_DEPTH: Final = 200
MAX_QUERY_PARAMETERS: Final = 1000

_INTEGER: Final = re.compile(r"-?[0-9]{1,16}", re.ASCII)


class UnsupportedEncoding(BadRequest):
    """The body is compressed; a small one could stand for a huge one."""

    status = 415


class Headers:
    """Request headers by name, in any case; several of one name keep their order."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, Sequence[bytes]]) -> None:
        """`raw` is by canonical name, such as `Content-Type` and `X-Forwarded-For`."""
        self._raw = raw

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Headers:
        """Return headers made from text."""
        return cls({_canonical(name): [value.encode("latin-1")] for name, value in headers.items()})

    def get(self, name: str) -> str | None:
        """Return the first header of that name."""
        values = self._raw.get(_canonical(name))
        return values[0].decode("latin-1") if values else None

    def get_all(self, name: str) -> list[str]:
        """Return all headers of that name, in order."""
        return [value.decode("latin-1") for value in self._raw.get(_canonical(name), ())]

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield names and values."""
        for name, values in self._raw.items():
            for value in values:
                yield name.decode("latin-1"), value.decode("latin-1")


_canonical_names: dict[str, bytes] = {}


def _canonical(name: str) -> bytes:
    known = _canonical_names.get(name)
    if known is None:
        known = b"-".join(part.capitalize() for part in name.encode("latin-1").split(b"-"))
        # Names come from our code, so the table stays small.
        _canonical_names[name] = known
    return known


class WebRequest:
    """One request.

    - `method`: in capitals; `path`: as received, percent-encoded, without the query; `raw_query` the same, bytes.
    - `args`: the parameters of the path, decoded.
    - `requester`: whatever the authenticate step returned; None without one.
    - `is_checked`: the authenticate and limit steps have been taken, and let it pass.
    - `client_ip`: of the peer, or of the client that a trusted proxy names.
    - `finished`: the answer has been handed to the transport.  `disconnected`: the client went away before that.
    - `twisted_request`: the transport's object, for those who take the connection over; None in tests.
    """

    __slots__ = (
        "_body",
        "_json",
        "_on_disconnect",
        "_query",
        "args",
        "body_length",
        "client_ip",
        "disconnected",
        "finished",
        "headers",
        "is_checked",
        "method",
        "path",
        "raw_query",
        "requester",
        "route",
        "twisted_request",
    )

    def __init__(
        self,
        method: str,
        path: str,
        raw_query: bytes = b"",
        headers: Headers | None = None,
        body: bytes | BinaryIO = b"",
        body_length: int | None = None,
        client_ip: str = "127.0.0.1",
        twisted_request: TwistedRequest | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.raw_query = raw_query
        self.headers = Headers({}) if headers is None else headers
        self._body = body
        self.body_length: int = len(body) if isinstance(body, bytes) else (body_length or 0)
        self.client_ip = client_ip
        self.twisted_request = twisted_request
        self.args: dict[str, str] = {}
        self.route: Route | None = None
        self.requester: Any = None
        self.is_checked = False
        self.finished = False
        self.disconnected = False
        self._query: dict[str, list[str]] | None = None
        self._json: dict[str, Any] | None = None
        self._on_disconnect: list[Callable[[], object]] | None = None

    @classmethod
    def of_route(
        cls,
        route: Route,
        args: dict[str, str],
        *,
        requester: Any,
        client_ip: str,
        headers: Headers,
        json: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> WebRequest:
        """Return a request for a route that did not come as HTTP: everything is decoded already."""
        request = cls(route.method, route.path_template, b"", headers, client_ip=client_ip)
        request.route = route
        request.args = args
        request.requester = requester
        request._json = {} if json is None else json
        # Only whether there is a body counts.
        request.body_length = 0 if json is None else 1
        request._query = {} if query is None else {name: [value] for name, value in query.items()}
        return request

    # -- headers ---------------------------------------------------------------------------------------------------

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case, or None."""
        return self.headers.get(name)

    @property
    def uri(self) -> str:
        """The path and query as received: what a federation signature covers."""
        return f"{self.path}?{self.raw_query.decode('latin-1')}" if self.raw_query else self.path

    # -- the query -------------------------------------------------------------------------------------------------

    def query(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None; it may be empty."""
        values = self._parsed_query().get(name)
        return values[0] if values else None

    def require_query(self, name: str) -> str:
        """Return the first value of a query parameter; raises `MissingParam` without one."""
        values = self._parsed_query().get(name)
        if not values:
            raise MissingParam(f"the query parameter '{name}' is missing")
        return values[0]

    def query_all(self, name: str) -> list[str]:
        """Return all values of a query parameter, in order."""
        return list(self._parsed_query().get(name, ()))

    def query_int(
        self, name: str, default: int | None = None, minimum: int | None = None, maximum: int | None = None
    ) -> int | None:
        """Return an integer, or `default` without one; under `minimum` is an `InvalidParam`, `maximum` is a ceiling.

        Above `maximum` the value is lowered to it: the spec lets servers give less than was asked for.
        """
        text = self.query(name)
        if text is None:
            return default
        if _INTEGER.fullmatch(text) is None:
            raise InvalidParam(f"the query parameter '{name}' must be an integer")
        value = int(text)
        if minimum is not None and value < minimum:
            raise InvalidParam(f"the query parameter '{name}' must be at least {minimum}")
        if maximum is not None and value > maximum:
            return maximum
        return value

    def query_bool(self, name: str, default: bool = False) -> bool:
        """Return a boolean, or `default` without one; anything but `true` and `false` is an `InvalidParam`."""
        text = self.query(name)
        if text is None:
            return default
        if text == "true":
            return True
        if text == "false":
            return False
        raise InvalidParam(f"the query parameter '{name}' must be true or false")

    def _parsed_query(self) -> dict[str, list[str]]:
        parsed = self._query
        if parsed is None:
            parsed = {}
            if self.raw_query:
                try:
                    pairs = parse_qsl(
                        self.raw_query.decode("utf-8"),
                        keep_blank_values=True,
                        errors="strict",
                        max_num_fields=MAX_QUERY_PARAMETERS,
                    )
                except ValueError as fault:  # which UnicodeDecodeError is, too
                    raise InvalidParam("the query is not UTF-8, or too long") from fault
                for name, value in pairs:
                    parsed.setdefault(name, []).append(value)
            self._query = parsed
        return parsed

    # -- the body --------------------------------------------------------------------------------------------------

    @property
    def body_file(self) -> BinaryIO:
        """The body as a file, from its start."""
        body = self._body
        if isinstance(body, bytes):
            return BytesIO(body)
        body.seek(0)
        return body

    def body_bytes(self) -> bytes:
        """Return the whole body; only for routes whose body limit is small."""
        body = self._body
        if not isinstance(body, bytes):
            body.seek(0)
            body = self._body = body.read()
        return body

    def json(self) -> dict[str, Any]:
        """Return the JSON object that the body is; raises `NotJson`, or `BadJson` if it is JSON but no object."""
        value = self._json
        if value is None:
            self._refuse_encoding()
            value = self._json = parse_json_object(self.body_bytes())
        return value

    def json_or_empty(self) -> dict[str, Any]:
        """Return the JSON object that the body is; no body counts as an empty object."""
        return self.json() if self.body_length else {}

    def _refuse_encoding(self) -> None:
        encoding = self.headers.get("Content-Encoding")
        if encoding is not None and encoding.lower() != "identity":
            raise UnsupportedEncoding("compressed request bodies are not accepted")

    # -- the end ---------------------------------------------------------------------------------------------------

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Call `callback()` if the client goes away before the answer; at once if it has."""
        if self.disconnected:
            callback()
        elif self._on_disconnect is None:
            self._on_disconnect = [callback]
        else:
            self._on_disconnect.append(callback)

    def client_gone(self) -> None:
        """Note that the client went away; called by the transport."""
        if self.disconnected or self.finished:
            return
        self.disconnected = True
        callbacks, self._on_disconnect = self._on_disconnect, None
        for callback in callbacks or ():
            callback()


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the object that `body` is; raises `NotJson` or `BadJson`.

    Of equal keys the last counts.  Numbers that no double can hold are refused.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise NotJson("the body is not JSON") from fault
    if type(value) is not dict:
        raise BadJson("the body must be a JSON object")
    # There are at least as many brackets as levels; few bodies need the walk.
    if body.count(b"{") + body.count(b"[") > MAX_JSON_DEPTH:
        _refuse_depth(value)
    return value


def _refuse_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        deeper: list[Any] = []
        for node in level:
            deeper.extend(
                inner
                for inner in (node.values() if type(node) is dict else node)
                if type(inner) is dict or type(inner) is list
            )
        if not deeper:
            return
        level = deeper
    raise BadJson(f"the JSON is nested deeper than {MAX_JSON_DEPTH}")
