"""The `Authorization: X-Matrix` header, and the JSON that its signature is over.

Pure, and the same for both sides: what this server builds, it would also read.

A header names who asks, who is asked, the key and the signature. Reading it is strict and bounded: a header that could
be read in two ways (a parameter twice, a value that goes on behind its quote) is none. What it says is not believed
here; the signature has to be checked with the origin's key.

Spec: server-server API, "Request Authentication"; RFC 9110, sections 5.6.2, 5.6.4 and 11.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import orjson

from homeserver.errors import BadIdentifier
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import ServerName
from homeserver.model.signing import is_key_id

# LIMIT: of the whole header. Two server names, a key ID and a signature are under 1 KiB.
MAX_HEADER_CHARACTERS: Final = 4096
# LIMIT: parameters, those that mean nothing included.
MAX_PARAMETERS: Final = 16
# Base64 of 64 bytes, with padding or without.
_SIGNATURE: Final = re.compile(r"[A-Za-z0-9+/]{86}(?:==)?")

_SCHEME: Final = re.compile(r"X-Matrix +", re.IGNORECASE)
# A value is a token, or quoted text with escapes. Spec: "the recipient should allow colons to be included in values
# without requiring the value to be enclosed in quotes".
_PARAMETER: Final = re.compile(
    r"""(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*(?:"""
    r"""(?P<token>[!#$%&'*+\-.^_`|~0-9A-Za-z:]+)"""
    r"""|"(?P<quoted>(?:[^"\\\x00-\x08\x0a-\x1f\x7f-\U0010ffff]|\\[\t -~])*)")"""
)
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class XMatrix:
    """What a header says. `destination` is None where an old server left it out; `signature` is Base64."""

    origin: ServerName
    destination: ServerName | None
    key_id: str
    signature: str


def parse_x_matrix(value: str) -> XMatrix:
    """Return what the header's value says, or raise ValueError with a text that may be told to the sender."""
    if len(value) > MAX_HEADER_CHARACTERS:
        raise ValueError("the Authorization header is too long")
    parameters = _parameters(value)
    # The table in the spec says `signature`, its example and all servers say `sig`.
    signature = parameters.get("sig", parameters.get("signature"))
    if "sig" in parameters and "signature" in parameters:
        raise ValueError("the Authorization header has two signatures")
    if signature is None or not _SIGNATURE.fullmatch(signature):
        raise ValueError("the Authorization header has no ed25519 signature")
    key_id = parameters.get("key")
    if not is_key_id(key_id) or key_id is None:
        raise ValueError("the Authorization header names no ed25519 key")
    origin = parameters.get("origin")
    if origin is None:
        raise ValueError("the Authorization header has no origin")
    destination = parameters.get("destination")
    return XMatrix(_server_name(origin), None if destination is None else _server_name(destination), key_id, signature)


def build_x_matrix(origin: str, destination: str, key_id: str, signature: str) -> str:
    """Return the value of the header; all four are plain text without quotes and backslashes, as their grammars say."""
    # Spec: "only include one space after X-Matrix", "only use lower-case names", no white space around commas.
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}"'


def signed_request_json(method: str, uri: str, origin: str, destination: str, content: JsonObject | None) -> JsonObject:
    """Return the object that a request's signature is over; without a body, `content` is None and left out.

    `uri` is the request's target as it stands in the request line: path, and `?` with the query where there is one.
    """
    # Spec: "Request Authentication", step 1.
    signed: JsonObject = {"method": method, "uri": uri, "origin": str(origin), "destination": str(destination)}
    if content is not None:
        signed["content"] = content
    return signed


def encode_signed_request(method: str, uri: str, origin: str, destination: str, body: bytes | None) -> bytes:
    """Return the bytes that a request's signature is over, for a `body` that is canonical JSON already.

    The same as the canonical form of `signed_request_json`, without reading or encoding the body again.
    """
    rest = (
        b'"destination":' + orjson.dumps(str(destination)) + b',"method":' + orjson.dumps(method)
        + b',"origin":' + orjson.dumps(str(origin)) + b',"uri":' + orjson.dumps(uri) + b"}"
    )  # fmt: skip
    return b"{" + rest if body is None else b"".join((b'{"content":', body, b",", rest))


def _parameters(value: str) -> dict[str, str]:
    scheme = _SCHEME.match(value)
    if scheme is None:
        raise ValueError("the Authorization header is not of the scheme X-Matrix")
    found: dict[str, str] = {}
    position = scheme.end()
    # White space at the end is not part of a header's value.
    end = len(value.rstrip(" \t"))
    while True:
        parameter = _PARAMETER.match(value, position, end)
        if parameter is None:
            raise ValueError("the Authorization header is malformed")
        # Spec: "The names are case insensitive and order does not matter."
        name = parameter["name"].lower()
        if name in found:
            raise ValueError("the Authorization header has a parameter twice")
        if len(found) == MAX_PARAMETERS:
            raise ValueError("the Authorization header has too many parameters")
        token = parameter["token"]
        # Spec: "a backslash-character pair is replaced by the character that follows the backslash".
        found[name] = token if token is not None else _ESCAPED.sub(r"\1", parameter["quoted"])
        position = parameter.end()
        if position == end:
            return found
        comma = _COMMA.match(value, position, end)
        if comma is None:
            raise ValueError("the Authorization header is malformed")
        position = comma.end()


def _server_name(text: str) -> ServerName:
    try:
        return ServerName.parse(text)
    except BadIdentifier as fault:
        raise ValueError("the Authorization header has a server name that is none") from fault
