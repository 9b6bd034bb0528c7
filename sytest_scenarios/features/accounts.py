"""Accounts, logins and the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("stream")
async def _stream(host: Host) -> str | None:
    """The WebSocket of docs/stream.md."""
    if host.unstable_features.get("org.sennit.stream"):
        return None
    return "the server has no stream (org.sennit.stream is not in /versions)"


@probe("password login")
async def _password_login(host: Host) -> str | None:
    return await _login_flow(host, "m.login.password")


@probe("jwt")
async def _jwt(host: Host) -> str | None:
    return await _login_flow(host, "org.matrix.login.jwt")


@probe("open registration")
async def _open_registration(host: Host) -> str | None:
    """Anybody may make an account, with no more than the dummy stage."""
    answer = await host.ask("POST", "/register", {})
    flows = answer.json.get("flows") if answer.status == 401 and isinstance(answer.json, dict) else None
    if any(each.get("stages") == ["m.login.dummy"] for each in flows or []):
        return None
    return f"registration is not open to everybody ({answer.status})"


@probe("guests")
async def _guests(host: Host) -> str | None:
    answer = await host.ask("POST", "/register", {}, query={"kind": "guest"})
    return None if answer.status == 200 else f"guests have no access ({answer.status} {answer.errcode or ''})"


async def _login_flow(host: Host, wanted: str) -> str | None:
    found: Any = (await host.ask("GET", "/login")).good().get("flows") or []
    kinds = [each.get("type") for each in found if isinstance(each, dict)]
    return None if wanted in kinds else f"no login by {wanted} (only {', '.join(map(str, kinds)) or 'none'})"
