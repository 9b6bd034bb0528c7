"""The number that a rule has in the text of a room version.

The code names every rule as room version 12 does.  Older versions lack some rules, so that later ones move up: rules
2 and 10.4 came with version 12, 10.1 and 10.2 with version 10, 5.2 and 5.3.5 with version 8, 5.7 with version 7; and a
rule about aliases, before 5, went with version 6.  Only a refusal asks for a number, so an allowed event pays nothing
for it.
"""

from __future__ import annotations

from homeserver.errors import AuthRuleBroken

from ..room_versions import RoomVersion


def broken(version: RoomVersion, rule: str, message: str) -> AuthRuleBroken:
    """Return the error for breaking `rule`, a number of room version 12, under the number that `version` gives it."""
    number = rule_number(version, rule)
    return AuthRuleBroken(number, message, detail=f"rule {number} of room version {version.identifier}")


def rule_number(version: RoomVersion, rule: str) -> str:
    """Return the number in `version`'s text of what is `rule` in room version 12's."""
    numbers = [int(part) for part in rule.split(".")]
    section = numbers[0]
    if section == 10 and len(numbers) > 1:
        numbers[1] = _clause_of_power_levels(version, numbers[1])
    elif section == 5 and len(numbers) > 1:
        _renumber_membership(version, numbers)
    if section > 2 and not version.room_id_is_create_hash:
        numbers[0] -= 1
    if section > 4 and version.aliases_have_auth_rule:
        numbers[0] += 1
    return ".".join(str(number) for number in numbers)


def _clause_of_power_levels(version: RoomVersion, clause: int) -> int:
    # 10.4 is new in version 12; 10.1 and 10.2 are new in version 10.
    lower = clause - (clause > 4 and not version.privileged_creators)
    return lower if version.integer_power_levels else lower - 2


def _renumber_membership(version: RoomVersion, numbers: list[int]) -> None:
    # 5.7 (knocks) is new in version 7.
    if numbers[1] == 8 and not version.knocking:
        numbers[1] = 7
    if version.restricted_joins:
        return
    # 5.2 (the authorising server) and 5.3.5 (the restricted rules) are new in version 8.
    if numbers[1] == 3 and len(numbers) > 2 and numbers[2] > 5:
        numbers[2] -= 1
    if numbers[1] > 2:
        numbers[1] -= 1
