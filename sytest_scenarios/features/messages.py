"""Messages that are said later; and what only Sennit promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors import Server
from ..journal import Journal
from ..view import part
from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("delayed events")
async def _delayed_events(host: Host) -> str | None:
    """Told by MSC4140 in /versions, or in the capabilities."""
    if host.unstable_features.get("org.matrix.msc4140"):
        return None
    user = await host.new_user(Server(host, Journal()), "Probe")
    if part(await user.get("/capabilities"), "capabilities", "org.matrix.msc4140.delayed_events"):
        return None
    return "the server knows no delayed events (org.matrix.msc4140 is neither in /versions nor in /capabilities)"


@probe("promises of Sennit")
async def _promises_of_sennit(host: Host) -> str | None:
    """What its makers promise, and the specification does not ask for."""
    return None if host.implementation == "sennit" else "a promise of Sennit's, which no other server has to keep"
