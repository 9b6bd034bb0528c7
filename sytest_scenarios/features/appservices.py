"""Application services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("login of application services")
async def _login(host: Host) -> str | None:
    found = (await host.ask("GET", "/login")).good().get("flows") or []
    kinds = [each.get("type") for each in found if isinstance(each, dict)]
    wanted = "m.login.application_service"
    return None if wanted in kinds else f"no login by {wanted}"
