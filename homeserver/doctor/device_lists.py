"""Device lists that lag: who encrypts with an old list leaves out a device, or writes to one that is gone.

A list of a user of another server is behind when an update was missed and the list could not be fetched since; one of
ours is behind elsewhere while updates wait to be sent. Since when a list is behind is told by the events around it, so
the real time may be longer.

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

from typing import Final

from homeserver.model.edu import DEVICE_LIST_UPDATE, SIGNING_KEY_UPDATE
from homeserver.model.ids import server_name_of
from storage.device_list_lag import StaleList, find_time_after, load_stale_lists, load_waiting_updates
from storage.device_lists import load_users_with_untold
from storage.transaction import Transaction

from .findings import Findings, duration

# LIMIT: lists that are looked at, and servers that are named.
MAX_LISTS: Final = 10_000
MAX_NAMED: Final = 5
# In less, a list is fetched and an update is sent, where the other server answers.
TOO_LONG_MS: Final = 10 * 60_000
_CHECK: Final = "devices"


def check_device_lists(tx: Transaction, now_ms: int, findings: Findings) -> None:
    """Tell which device lists are behind, here and elsewhere."""
    before = len(findings.all)
    _check_untold(tx, findings)
    _check_ours_elsewhere(tx, now_ms, findings)
    _check_theirs_here(tx, now_ms, findings)
    if len(findings.all) == before:
        findings.good(_CHECK, "No device list is behind.")


def _check_untold(tx: Transaction, findings: Findings) -> None:
    untold = load_users_with_untold(tx)
    if untold:
        text = (
            f"Changes of the devices of {len(untold)} users, such as {untold[0][1]}, have not been told to others yet."
        )
        findings.warn(_CHECK, text, "Let the server run; if this stays so for minutes, look into its log.")


def _check_ours_elsewhere(tx: Transaction, now_ms: int, findings: Findings) -> None:
    waiting = load_waiting_updates(tx, (DEVICE_LIST_UPDATE, SIGNING_KEY_UPDATE))
    late = [each for each in waiting if now_ms - each.since_ts > TOO_LONG_MS]
    if late:
        named = [f"{each.server} ({each.updates}, for {duration(now_ms - each.since_ts)})" for each in late]
        findings.warn(
            _CHECK,
            f"Changes of our users' devices wait for servers that do not take them: {_listed(named)}.",
            f"They are sent when the server answers; to see why it does not, run `sennit doctor {late[0].server}`.",
        )
    elif waiting:
        findings.good(_CHECK, f"Changes of our users' devices are on their way to {len(waiting)} servers.")


def _check_theirs_here(tx: Transaction, now_ms: int, findings: Findings) -> None:
    stale = load_stale_lists(tx, MAX_LISTS)
    if not stale:
        return
    by_server: dict[str, list[StaleList]] = {}
    for each in stale:
        by_server.setdefault(server_name_of(each.user_id), []).append(each)
    named: list[str] = []
    longest_ms = 0
    # The one that has been behind longest is the first of its server, and the servers are in that order, too.
    for server, lists in list(by_server.items())[:MAX_NAMED]:
        since_ts = find_time_after(tx, lists[0].position)
        age_ms = 0 if since_ts is None else max(0, now_ms - since_ts)
        longest_ms = max(longest_ms, age_ms)
        users = f"{len(lists)} user{'' if len(lists) == 1 else 's'}"
        named.append(f"{server} ({users} such as {lists[0].user_id}, for {duration(age_ms)} at least)")
    count = f"{len(stale)}{' or more' if len(stale) == MAX_LISTS else ''}"
    text = f"Device lists of {count} users of other servers are out of date: {_listed(named, len(by_server))}."
    if longest_ms > TOO_LONG_MS:
        server = next(iter(by_server))
        remedy = (
            "Each is fetched again when somebody here writes to the user, if the server answers then; "
            f"run `sennit doctor {server}` to see whether it does."
        )
        findings.warn(_CHECK, text, remedy)
    else:
        findings.good(_CHECK, text)


def _listed(named: list[str], count: int | None = None) -> str:
    more = (len(named) if count is None else count) - len(named[:MAX_NAMED])
    return ", ".join(named[:MAX_NAMED]) + (f" and {more} more" if more else "")
