"""The head of an HTTP/1.1 request, parsed strictly: what could be read in two ways is refused.

A request whose framing a proxy in front of us reads otherwise than we do lets a client smuggle a second request past
that proxy.  So: lines end in CR LF and hold no other control character, there is no folding, no space before a colon,
exactly one `Host`, at most one `Content-Length` of digits only, no `Transfer-Encoding` but `chunked`, never both.

Spec: RFC 9112, 2.2, 3, 5 and 6.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_HEADERS: Final = 100

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
# What may be in a head at all, as the characters to delete before nothing is left over.
_ALLOWED: Final = bytes(byte for byte in range(256) if byte >= 0x20 and byte != 0x7F) + b"\t\r\n"
_MAX_LENGTH_DIGITS: Final = 15
_MAX_KNOWN_NAMES: Final = 2000

_known_names: dict[bytes, bytes] = {}


class BadHead(Exception):
    """The head is refused with `status`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head(NamedTuple):
    """A request but for its body.

    `target` is in origin form (or `*`); `headers` are by canonical name; `length` is None for a chunked body.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: dict[bytes, list[bytes]]
    length: int | None
    persistent: bool
    expects_continue: bool


def parse_head(head: bytes) -> Head:
    """Return the head whose lines are `head`, without the empty one at the end; raises `BadHead`."""
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or head.translate(None, _ALLOWED):
        raise BadHead(400, "control characters in the head")
    if breaks > MAX_HEADERS:
        raise BadHead(431, "too many headers")
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise BadHead(400, "the request line is not well-formed")
    method, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        raise BadHead(505 if version.startswith(b"HTTP/") else 400, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if _TOKEN.fullmatch(method) is None or _TARGET.fullmatch(target) is None:
        raise BadHead(400, "the request line is not well-formed")

    headers: dict[bytes, list[bytes]] = {}
    del lines[0]
    for line in lines:
        raw_name, colon, value = line.partition(b":")
        name = _known_names.get(raw_name) or _canonical(raw_name)
        if not colon:
            raise BadHead(400, "a header without a colon")
        values = headers.get(name)
        if values is None:
            headers[name] = [value.strip(b" \t")]
        else:
            values.append(value.strip(b" \t"))

    hosts = headers.get(b"Host")
    if hosts is None:
        if version == b"HTTP/1.1":
            raise BadHead(400, "the Host header is missing")
    elif len(hosts) != 1:
        raise BadHead(400, "more than one Host header")
    if not target.startswith(b"/"):
        target = _origin_form(method, target, hosts)

    connection = headers.get(b"Connection")
    persistent = version == b"HTTP/1.1" and (connection is None or b"close" not in b",".join(connection).lower())
    expect = headers.get(b"Expect")
    if expect is not None and (len(expect) != 1 or expect[0].lower() != b"100-continue"):
        raise BadHead(417, "unknown expectation")
    return Head(
        method,
        target,
        version,
        headers,
        _length(headers, version),
        persistent,
        expect is not None and version == b"HTTP/1.1",
    )


def _length(headers: dict[bytes, list[bytes]], version: bytes) -> int | None:
    lengths = headers.get(b"Content-Length")
    codings = headers.get(b"Transfer-Encoding")
    if codings is not None:
        # Spec: RFC 9112, 6.1 and 6.3: with both, or in HTTP/1.0, the framing is not to be trusted.
        if lengths is not None or version != b"HTTP/1.1":
            raise BadHead(400, "ambiguous length of the body")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise BadHead(501, "no transfer coding but chunked is known")
        return None
    if lengths is None:
        return 0
    digits = lengths[0]
    if len(lengths) != 1 or not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS:
        raise BadHead(400, "the Content-Length is not well-formed")
    return int(digits)


def _canonical(raw_name: bytes) -> bytes:
    if _TOKEN.fullmatch(raw_name) is None:
        raise BadHead(400, "the name of a header is not well-formed")
    name = b"-".join([part.capitalize() for part in raw_name.split(b"-")])
    # LIMIT: names are whatever clients send; beyond this many they are worked out each time.
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names[raw_name] = name
    return name


def _origin_form(method: bytes, target: bytes, hosts: list[bytes] | None) -> bytes:
    if target == b"*" and method == b"OPTIONS":
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadHead(400, "the request target is not well-formed")
    authority, _, path = rest.partition(b"/")
    # RFC 9112, 3.2.2 lets the target win; one that contradicts the header is refused rather than believed.
    if hosts is None or authority.lower() != hosts[0].lower() or b"?" in authority:
        raise BadHead(400, "the request target and the Host header differ")
    return b"/" + path
