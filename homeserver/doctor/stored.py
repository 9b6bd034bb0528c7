"""What the database says about federation: servers that fail, rooms that are not whole, changes that were not told.

Read in one read-only snapshot, so a server may run on it meanwhile.
"""

from __future__ import annotations

from typing import Final

from homeserver.config import Config
from homeserver.errors import Misconfigured
from storage.destinations import DestinationRow, list_failing
from storage.device_lists import load_users_with_untold
from storage.inspection import open_snapshot
from storage.partial_rooms import load_partial_rooms

from .findings import Findings

# LIMIT: servers that fail and are counted, and of these named.
MAX_FAILING: Final = 10_000
MAX_NAMED: Final = 5
# The members of the largest rooms come in less.
PARTIAL_TOO_LONG_MS: Final = 30 * 60_000
_DAY_MS: Final = 24 * 3_600_000


def check_stored(config: Config, now_ms: int, findings: Findings) -> None:
    """Tell what waits in the database for other servers."""
    try:
        with open_snapshot(config.database.url) as tx:
            failing = list_failing(tx, MAX_FAILING)
            partial = load_partial_rooms(tx)
            untold = load_users_with_untold(tx)
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
        text = f"The members of {room.room_id} are missing, for {_duration(age_ms)}; joined through {room.via}."
        if age_ms > PARTIAL_TOO_LONG_MS:
            findings.warn(
                "rooms", text, f"Run `sennit doctor {room.via}`; if it is gone, leave the room and join anew."
            )
        else:
            findings.good("rooms", text)
    if untold:
        text = (
            f"Changes of the devices of {len(untold)} users, such as {untold[0][1]}, have not been told to others yet."
        )
        findings.warn("devices", text, "Let the server run; if this stays so for minutes, look into its log.")


def _failing(row: DestinationRow, now_ms: int) -> str:
    since_ts = now_ms if row.failing_since_ts is None else row.failing_since_ts
    return f"{row.server} (for {_duration(now_ms - since_ts)}: {row.last_error or 'no answer'})"


def _duration(ms: int) -> str:
    if ms >= 2 * _DAY_MS:
        return f"{ms // _DAY_MS} days"
    return f"{ms // 3_600_000} h" if ms >= 2 * 3_600_000 else f"{max(0, ms) // 60_000} min"
