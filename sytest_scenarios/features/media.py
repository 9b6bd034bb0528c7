"""What not every server does with media."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors import Server
from ..journal import Journal
from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("URL previews")
async def _url_previews(host: Host) -> str | None:
    user = await host.new_user(Server(host, Journal()), "Probe")
    answer = await user.request("GET", "/_matrix/client/v1/media/preview_url", query={"url": "x"})
    return "there are no URL previews (M_UNRECOGNIZED)" if answer.errcode == "M_UNRECOGNIZED" else None
