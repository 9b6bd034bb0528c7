"""Encryption beyond what every homeserver has, and what a story needs to encrypt with."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("dehydrated devices")
async def _dehydrated_devices(host: Host) -> str | None:
    """MSC3814."""
    answer = await host.ask("GET", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device")
    # Who is nobody is refused where the endpoint is there.
    return None if answer.status == 401 else f"no dehydrated devices (MSC3814: {answer.status} {answer.errcode or ''})"


@probe("olm")
async def _olm(host: Host) -> str | None:
    """Not of the server, but of the suite: the package with which clients encrypt."""
    found = importlib.util.find_spec("vodozemac") is not None
    return None if found else "the Python package vodozemac is not installed beside the suite"
