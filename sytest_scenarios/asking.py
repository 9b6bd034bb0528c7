"""Asking a server, reading its answers, and doing things at once or after a while."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from .clock import REACTOR
from .expect import Failed, shown
from .http import Answer, TooOften, Web, url_of
from .journal import Journal

if TYPE_CHECKING:
    from .host import Host

JsonObject = dict[str, Any]
CLIENT: Final = "/_matrix/client/v3"
# A server that asks for more patience than this has refused; one that is not ours may have its limits.
LONGEST_RATE_LIMIT_S: Final = 10.0
LONGEST_RATE_LIMIT_OF_OTHERS_S: Final = 60.0
# For one request in all, however short it is told to be each time.
LONGEST_RATE_LIMITS_S: Final = 120.0


async def ask(
    web: Web,
    journal: Journal,
    who: str,
    base: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    patience_s: float | None = None,
) -> Answer:
    """Ask a server; a path that does not begin with /_ or /.well-known is one of the client-server API, version 3."""
    if not path.startswith("/"):
        raise Failed("the path that the story asks for to begin with a slash", path)
    full = path if path.startswith(("/_", "/.well-known")) else f"{CLIENT}{path}"
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    kind = {} if content is None else {"Content-Type": "application/json"}
    return await web.request(
        journal,
        who,
        method,
        url_of(base, full, query or {}),
        body=content,
        headers={**kind, **(headers or {})},
        patience_s=patience_s,
    )


async def unhurried(host: Host, journal: Journal, asking: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask, and ask again when the server says so, as long as it wants fewer requests; TooOften if that is long.

    Of a server that the suite has started, a long one is returned as it is.
    """
    ends = time.monotonic() + LONGEST_RATE_LIMITS_S
    longest_s = LONGEST_RATE_LIMIT_OF_OTHERS_S if host.process is None else LONGEST_RATE_LIMIT_S
    while True:
        answer = await asking()
        wait_s = answer.retry_after_s
        if wait_s is None:
            return answer
        if wait_s > longest_s or time.monotonic() > ends:
            if host.process is not None:
                return answer
            came = f"429, and {wait_s:.0f} s to wait"
            raise TooOften(f"{answer.request} to succeed", came, status=429, errcode=answer.errcode, body=answer.json)
        journal.limited -= 1
        with journal.wait():
            await sleep(wait_s)


async def sleep(seconds: float) -> None:
    """Let time pass."""
    await deferLater(REACTOR, seconds)


async def together(*doing: Coroutine[Any, Any, Any]) -> list[Any]:
    """Do things at once; return what they gave, in order. The first failure is raised when all have ended."""
    ended = await DeferredList([Deferred.fromCoroutine(each) for each in doing], consumeErrors=True)
    for succeeded, result in ended:
        if not succeeded:
            result.raiseException()
    return [result for _, result in ended]


def text(found: Mapping[str, Any], key: str) -> str:
    """Return a text of an answer; Failed if it is not there."""
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, str) or not value:
        raise Failed(f"{key}, a text, in the answer", shown(found))
    return value


def objects(found: Any) -> list[JsonObject]:
    """Return a list of objects of an answer; Failed if it is none."""
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Failed("a list of objects in the answer", shown(found))
    return found


def media_parts(uri: str) -> list[str]:
    """Return the server name and the media ID of an mxc: URI."""
    parts = uri.removeprefix("mxc://").split("/")
    if not uri.startswith("mxc://") or len(parts) != 2 or not all(parts):
        raise Failed("an mxc: URI", shown(uri))
    return parts
