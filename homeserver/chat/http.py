"""The HTTP half of the chat: what has no method of the stream; and what goes wrong, in sentences.

Spec: client-server API, "API Standards".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, TimeoutError
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from homeserver.streamclient import StreamError
from homeserver.streamclient.address import Address, Trust
from homeserver.streamclient.http import HTTP, segment

from . import text

USER_AGENT: Final = "sennit-chat"
_LOOPBACK: Final = ("localhost", "127.", "[::1]")


class ChatError(Exception):
    """Something that was asked for cannot be done; the text is a sentence for the user, neutralised."""


class Refused(ChatError):
    """The server says no. `body` is what it said."""

    def __init__(self, error: StreamError) -> None:
        self.errcode = error.errcode
        self.body = error.body
        super().__init__(refusal_text(error))


class Unreachable(ChatError):
    """There was no answer."""


class Http:
    """Requests to one server, with the access token once there is one. `ca_file`: whose certificates are believed."""

    def __init__(self, url: str, reactor: Any, *, access_token: str | None = None, ca_file: str | None = None) -> None:
        """Raises ChatError if there are no certificates in the file."""
        self.url = url
        self.access_token = access_token
        self.ca_file = ca_file
        try:
            self._http = HTTP(reactor, Address.parse(url), Trust(ca_file), user_agent=USER_AGENT)
        except (ValueError, OSError) as error:
            raise ChatError(f"{text.one_line(str(error))}.") from error

    async def ask(self, method: str, *path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer of an endpoint of the client API; `path` is what comes after `/_matrix/client`.

        Raises Refused and Unreachable.
        """
        target = "/_matrix/client/" + "/".join(segment(part) for part in path)
        try:
            return await self._http.call(method, target, body, token=self.access_token)
        except StreamError as error:
            raise Refused(error) from error
        except (ConnectError, DNSLookupError) as error:
            raise Unreachable(f"Nothing answers at {self.url}. Does the server run?") from error
        except (TimeoutError, CancelledError) as error:
            raise Unreachable(f"The server at {self.url} does not answer.") from error
        except (ResponseFailed, ResponseNeverReceived, ConnectionClosed, SSL.Error) as error:
            raise Unreachable(f"The connection to {self.url} broke: {_reason(error)}.") from error


def refusal_text(error: StreamError) -> str:
    """Return what a server's refusal means, in a sentence."""
    if error.errcode == "M_LIMIT_EXCEEDED":
        if error.retry_after_ms:
            return f"That was too much at once; try again in {-(-error.retry_after_ms // 1000)} s."
        return "That was too much at once; try again later."
    # A body without a sentence: the errcode tells more than the status, which stands in for it.
    said = text.one_line(error.message) if "error" in error.body or not error.body else ""
    return f"{said.rstrip('.')}." if said else f"The server says {text.one_line(error.errcode, 100)}."


def normal_url(typed: str) -> str:
    """Return the URL of a server as it was typed, with a scheme; ChatError if it is none."""
    typed = typed.strip()
    if "://" not in typed:
        typed = ("http://" if typed.lower().startswith(_LOOPBACK) else "https://") + typed
    typed = typed.rstrip("/")
    try:
        parts = urlsplit(typed)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good or parts.query or parts.fragment or "@" in parts.netloc or not typed.isprintable() or " " in typed:
        raise ChatError(f"{text.one_line(typed)} is no address of a server; expected one such as http://127.0.0.1:8008")
    return typed


def _reason(error: Exception) -> str:
    reasons = [each.value if isinstance(each, Failure) else each for each in getattr(error, "reasons", ())]
    return text.one_line(str(reasons[0] if reasons else error), 200).rstrip(".")
