"""What a server says that it can do against what is not wanted, and for those who run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("server notices")
async def _server_notices(host: Host) -> str | None:
    answer = await host.ask("POST", "/_synapse/admin/v1/send_server_notice", {})
    return f"no server notices can be sent ({answer.status})" if answer.errcode == "M_UNRECOGNIZED" else None


@probe("admin API")
async def _admin_api(host: Host) -> str | None:
    """Synapse's, under /_synapse/admin."""
    answer = await host.ask("GET", "/_synapse/admin/v2/users")
    return None if answer.status in (401, 403) else f"the server has no admin API of Synapse's kind ({answer.status})"
