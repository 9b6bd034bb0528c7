"""What the database says about federation: servers that fail, rooms that are not whole, device lists that lag.

Read in one read-only snapshot, so a server may run on it meanwhile.
"""

from __future__ import annotations

from typing import Final

from homeserver.config import Config
from homeserver.errors import Misconfigured
from storage.destinations import DestinationRow, list_failing
from storage.inspection import open_snapshot
from storage.partial_rooms import load_partial_rooms

from .device_lists import check_device_lists
from .findings import Findings, duration

# LIMIT: servers that fail and are counted, and of these named.
MAX_FAILING: Final = 10_000
MAX_NAMED: Final = 5
# The members of the largest rooms come in less.
PARTIAL_TOO_LONG_MS: Final = 30 * 60_000


def check_stored(config: Config, now_ms: int, findings: Findings) -> None:
    """Tell what waits in the database for other servers."""
    try:
        with open_snapshot(config.database.url) as tx:
            failing = list_failing(tx, MAX_FAILING)
            partial = load_partial_rooms(tx)
            devices = Findings(findings.server_name)
            check_device_lists(tx, now_ms, devices)
    except Misconfigured as fault:
        findings.warn("database", str(fault), "Run the server once, and the doctor as the same user.")
        return
    if failing:
        longest = sorted(failing, key=lambda row: row.failing_since_ts or 0)[:MAX_NAMED]
        named = ", ".join(_failing(row, now_ms) for row in longest)
        more = f" and {len(failing) - len(longest)} more" if len(failing) > len(longest) else ""
        remedy = (
            "Nothing has to be done if they are down; if most fail, look at the firewall and the DNS of this machine."
        )
        findings.warn("destinations", f"Servers that do not answer: {named}{more}.", remedy)
    else:
        findings.good("destinations", "No other server fails.")
    for room in partial:
        age_ms = now_ms - room.started_ts
        text = f"The members of {room.room_id} are missing, for {duration(age_ms)}; joined through {room.via}."
        if age_ms > PARTIAL_TOO_LONG_MS:
            findings.warn(
                "rooms", text, f"Run `sennit doctor {room.via}`; if it is gone, leave the room and join anew."
            )
        else:
            findings.good("rooms", text)
    findings.all.extend(devices.all)


def _failing(row: DestinationRow, now_ms: int) -> str:
    since_ts = now_ms if row.failing_since_ts is None else row.failing_since_ts
    return f"{row.server} (for {duration(now_ms - since_ts)}: {row.last_error or 'no answer'})"
