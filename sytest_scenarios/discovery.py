"""Where the homeserver of a name is, as its `/.well-known/matrix/client` tells.

Spec: client-server API, "Well-Known URIs". Redirects are followed, a few of them.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urljoin, urlsplit

from .expect import Failed, shown
from .http import Web
from .journal import Journal

PATH: Final = "/.well-known/matrix/client"
MOST_REDIRECTS: Final = 5


def with_scheme(url: str) -> str:
    """Return a URL; a name alone is one of HTTPS."""
    return (url if "://" in url else f"https://{url}").rstrip("/")


async def discover(web: Web, url: str, *, patience_s: float) -> str | None:
    """Return the base URL that is told where this URL leads; None if nothing is told, Failed if it is wrong."""
    place = urljoin(f"{url}/", PATH)
    for _ in range(MOST_REDIRECTS):
        answer = await web.request(Journal(), "the suite", "GET", place, patience_s=patience_s)
        if not 300 <= answer.status < 400:
            break
        place = urljoin(place, answer.headers.get("location", ""))
        if urlsplit(place).scheme not in ("http", "https"):
            raise Failed(f"a redirect of {PATH} to a web page", shown(place))
    if answer.status == 404:
        return None
    found = answer.good().get("m.homeserver")
    base = found.get("base_url") if isinstance(found, dict) else None
    if not isinstance(base, str) or urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise Failed(f"the URL of a homeserver in {PATH}", shown(found))
    return base.rstrip("/")
