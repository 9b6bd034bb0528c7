"""The opening handshake of a WebSocket: what is wrong is answered here, what is right is written anew for Autobahn.

A client is told with an errcode what is wrong with its request, while it is still an ordinary one. Autobahn then gets a
head in which nothing can be wrong and nothing is that it does not need: it answers faults with a bare status, refuses
origins that it cannot parse, and takes an offer of compression that it does not understand for a fault.

Whence a page comes is of no matter: a token is needed, and no cookie is one.

Spec: RFC 6455, 4.2.1, 4.4, 9.1, 11.3; RFC 7692, 5.1, 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from homeserver.errors import BadRequest
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, json_response

VERSION: Final = "13"

_EXTENSION: Final = "permessage-deflate"
# 16 bytes in base64: the last character before the padding has two bits.
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_WINDOW_BITS: Final = re.compile(r"[89]|1[0-5]")
# zlib has no window of 256 bytes without a header.
_IMPOSSIBLE_BITS: Final = "8"


def refuse_handshake(request: WebRequest) -> Response | None:
    """Return the answer to what does not ask for a WebSocket of a version that is spoken here; None: it does.

    Raises BadRequest for a key that is none.
    """
    is_upgrade = "websocket" in _tokens(request, "Upgrade") and "upgrade" in _tokens(request, "Connection")
    # Spec: RFC 9110, 7.8: an Upgrade in a request of HTTP/1.0 is ignored.
    is_old = getattr(request.twisted_request, "clientproto", b"HTTP/1.1") == b"HTTP/1.0"
    if not is_upgrade or is_old or request.method != "GET":
        return _refusal("This is a WebSocket; the request does not ask for one")
    if request.headers.get_all("Sec-WebSocket-Version") != [VERSION]:
        return _refusal(f"Version {VERSION} of WebSocket is spoken here")
    keys = request.headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise BadRequest("'Sec-WebSocket-Key' must be 16 bytes in base64")
    return None


def plain_head(request: WebRequest, subprotocol: str) -> bytes:
    """Return a head that says what `request` does, as far as it matters; it was not refused."""
    lines = [
        "GET / HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Version: {VERSION}",
        f"Sec-WebSocket-Key: {request.header('Sec-WebSocket-Key')}",
    ]
    # Spec: RFC 6455, 11.3.4: the header may be there several times. Names of subprotocols have a case.
    if subprotocol in _elements(request.headers.get_all("Sec-WebSocket-Protocol")):
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    offer = acceptable_offer(_elements(request.headers.get_all("Sec-WebSocket-Extensions")))
    if offer is not None:
        lines.append(f"Sec-WebSocket-Extensions: {offer}")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"


def acceptable_offer(offers: Iterable[str]) -> str | None:
    """Return the first offer of permessage-deflate that can be taken, in its shortest form; None: there is none.

    Spec: RFC 7692, 7.1: an offer with a parameter that is unknown, invalid, or there twice "MUST" be declined.
    """
    for offer in offers:
        name, *parts = (part.strip() for part in offer.split(";"))
        if name.lower() != _EXTENSION:
            continue
        parameters = dict(_parameter(part) for part in parts)
        if len(parameters) < len(parts) or not all(_is_valid(*each) for each in parameters.items()):
            continue
        if parameters.get("server_max_window_bits") == _IMPOSSIBLE_BITS:
            continue
        # What the client would use for itself at most is a hint; it is told what to use.
        if "client_max_window_bits" in parameters:
            parameters["client_max_window_bits"] = None
        return "; ".join(
            [_EXTENSION, *(key if value is None else f"{key}={value}" for key, value in parameters.items())]
        )
    return None


def _parameter(text: str) -> tuple[str, str | None]:
    key, has_value, value = text.partition("=")
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return key.strip().lower(), value if has_value else None


def _is_valid(key: str, value: str | None) -> bool:
    if key in ("client_no_context_takeover", "server_no_context_takeover"):
        return value is None
    if value is None:
        return key == "client_max_window_bits"
    is_known = key in ("client_max_window_bits", "server_max_window_bits")
    return is_known and _WINDOW_BITS.fullmatch(value) is not None


def _refusal(text: str) -> Response:
    # Spec: RFC 9110, 15.5.22: says what to upgrade to. RFC 6455, 4.4: says which version.
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": VERSION}
    return json_response({"errcode": "M_UNRECOGNIZED", "error": text}, 426, headers)


def _tokens(request: WebRequest, name: str) -> set[str]:
    return {element.lower() for element in _elements(request.headers.get_all(name))}


def _elements(values: Iterable[str]) -> list[str]:
    return [element.strip() for value in values for element in value.split(",")]
