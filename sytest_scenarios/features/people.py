"""What servers may know of people: profiles, finding each other, being left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("state after the timeline")
async def _state_after(host: Host) -> str | None:
    """`use_state_after` of /sync."""
    return _version(host, "v1.16")


@probe("profile fields")
async def _profile_fields(host: Host) -> str | None:
    """Fields besides the name and the avatar."""
    return _version(host, "v1.16", "uk.tcpip.msc4133.stable")


@probe("blocking of invites")
async def _invite_blocking(host: Host) -> str | None:
    """`m.invite_permission_config`."""
    return _version(host, "v1.18", "org.matrix.msc4380.stable")


@probe("strangers are not found")
async def _strangers_are_not_found(host: Host) -> str | None:
    """The search for people is among those who can be seen; the spec leaves it to the server whom else it searches."""
    if host.process is not None and host.implementation in ("sennit", "synapse"):
        return None  # the start files of the suite say so
    return "the server may let everybody be found (the spec allows it)"


def _version(host: Host, version: str, *flags: str) -> str | None:
    """Return None if the server says this version, or one of these flags."""
    if version in host.versions or any(host.unstable_features.get(each) for each in flags):
        return None
    return f"the server does not say {' or '.join((version, *flags))} in /versions"
