"""`sennit user devices`: the devices of a user in a list.

What a device is called is the user's own text, so nothing of it reaches a terminal as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from homeserver.admin_socket import DeviceLine
from homeserver.model.graph_drawing import plain

_MAX_CHARACTERS: Final = 255
_TIME_CHARACTERS: Final = 20
_LAST_TS: Final = 253_402_300_799_999


def device_lines(devices: Sequence[DeviceLine]) -> Iterator[str]:
    """Give a head, a line for each device, and how many there are."""
    names = [plain(device.device_id, _MAX_CHARACTERS) for device in devices]
    # A device ID may be a key of 43 characters; longer ones are nobody's in use.
    width = min(43, max([len("DEVICE"), *map(len, names)]))
    if devices:
        yield f"{'DEVICE':<{width}}  {'LAST SEEN':<{_TIME_CHARACTERS}}  {'ADDRESS':<15}  {'KEYS':<10}  NAME"
    for name, device in zip(names, devices, strict=True):
        address = plain(device.last_seen_ip or "-", 45)
        called = plain(device.display_name or "", _MAX_CHARACTERS) + (" [dehydrated]" if device.is_dehydrated else "")
        line = (
            f"{name:<{width}}  {_time(device.last_seen_ts):<{_TIME_CHARACTERS}}  {address:<15}  {_keys(device):<10}  "
        )
        yield (line + called.strip()).rstrip()
    yield f"{len(devices)} device{'' if len(devices) == 1 else 's'}"


def _keys(device: DeviceLine) -> str:
    if not device.has_keys:
        return "none"
    return "verified" if device.is_verified else "unverified"


def _time(ts: int | None) -> str:
    if ts is None or not 0 <= ts <= _LAST_TS:
        return "never"
    return datetime.fromtimestamp(ts // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
