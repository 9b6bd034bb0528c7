"""What a server says that it can do against what is not wanted, and for those who run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("invite permission")
async def _invite_permission(host: Host) -> str | None:
    """`m.invite_permission_config`, which is told by nothing but the version of the specification."""
    versions = {tuple(int(part) for part in each[1:].split(".")) for each in host.versions if each.startswith("v")}
    if max(versions, default=()) >= (1, 18):
        return None
    return "invites cannot be refused beforehand (the specification that the server follows is older than v1.18)"


@probe("server notices")
async def _server_notices(host: Host) -> str | None:
    answer = await host.ask("POST", "/_synapse/admin/v1/send_server_notice", {})
    return f"no server notices can be sent ({answer.status})" if answer.errcode == "M_UNRECOGNIZED" else None
