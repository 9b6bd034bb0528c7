from dataclasses import FrozenInstanceError, fields
from itertools import pairwise

import pytest

from homeserver.errors import UnsupportedRoomVersion
from homeserver.model.room_versions import (
    DEFAULT_ROOM_VERSION,
    KNOWN_ROOM_VERSIONS,
    ROOM_VERSIONS,
    V10,
    V11,
    V12,
    EventIDScheme,
    RoomVersion,
    StateResolution,
    get_room_version,
    is_recognised,
)

# What each page under "rooms" says that it changes.
CHANGES: dict[str, dict[str, object]] = {
    "2": {"state_resolution": StateResolution.V2},
    "3": {
        "event_id_scheme": EventIDScheme.HASH,
        "references_carry_hashes": False,
        "redactions_have_auth_rule": False,
    },
    "4": {"event_id_scheme": EventIDScheme.URL_SAFE_HASH},
    "5": {"enforces_key_validity": True},
    "6": {
        "strict_canonical_json": True,
        "redaction_keeps_aliases": False,
        "aliases_have_auth_rule": False,
        "notification_levels_limited": True,
    },
    "7": {"knocking": True},
    "8": {"restricted_joins": True, "redaction_keeps_allow": True},
    "9": {"redaction_keeps_authorising_user": True},
    "10": {"knock_restricted_joins": True, "integer_power_levels": True},
    "11": {
        "redacts_in_content": True,
        "creator_in_content": False,
        "redaction_keeps_legacy_keys": False,
        "redaction_keeps_third_party_signed": True,
        "redaction_keeps_create_content": True,
        "redaction_keeps_invite_level": True,
        "redaction_keeps_redacts": True,
    },
    "12": {
        "room_id_is_create_hash": True,
        "create_is_implicit_auth_event": True,
        "privileged_creators": True,
        "state_resolution": StateResolution.V2_1,
    },
}


# And what each proposal changes, with the version that it starts from.
UNSTABLE: dict[str, tuple[RoomVersion, dict[str, object]]] = {
    "org.matrix.hydra.11": (V12, {}),
    "org.matrix.msc3757.10": (V10, {"owned_state": True}),
    "org.matrix.msc3757.11": (V11, {"owned_state": True}),
    "org.matrix.msc3389.10": (V10, {"redaction_keeps_relation": True}),
}


def changes(before: RoomVersion, after: RoomVersion) -> dict[str, object]:
    names = [field.name for field in fields(RoomVersion)]
    return {name: getattr(after, name) for name in names if getattr(before, name) != getattr(after, name)}


@pytest.mark.parametrize("identifier", UNSTABLE)
def test_an_unstable_version_is_a_stable_one_but_for_its_proposal(identifier: str) -> None:
    before, changed = UNSTABLE[identifier]
    expected = {"identifier": identifier, "is_stable": False, **changed}
    assert expected == changes(before, get_room_version(identifier))


@pytest.mark.parametrize(
    ("before", "after"),
    list(pairwise(version for version in KNOWN_ROOM_VERSIONS.values() if version.is_stable)),
    ids=lambda v: v.identifier,
)
def test_a_version_changes_what_its_page_says_and_nothing_else(before: RoomVersion, after: RoomVersion) -> None:
    assert {"identifier": after.identifier, **CHANGES[after.identifier]} == changes(before, after)


def test_a_version_is_found_by_its_own_identifier() -> None:
    assert list(KNOWN_ROOM_VERSIONS) == [version.identifier for version in KNOWN_ROOM_VERSIONS.values()]
    assert [str(number) for number in range(1, 13)] + list(UNSTABLE) == list(ROOM_VERSIONS)
    for identifier, version in ROOM_VERSIONS.items():
        assert version is get_room_version(identifier)
    assert "12" == DEFAULT_ROOM_VERSION


@pytest.mark.parametrize("identifier", ["0", "13", "", "11 ", "011", "org.example", "１１", None, 11, [], {}])
def test_other_versions_cannot_be_used(identifier: object) -> None:
    with pytest.raises(UnsupportedRoomVersion):
        get_room_version(identifier)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("identifier", "expected"), [("1", True), ("12", True), ("13", False), ("11 ", False), (11, False), (["1"], False)]
)
def test_all_versions_of_the_spec_are_recognised(identifier: object, expected: bool) -> None:
    assert expected is is_recognised(identifier)


def test_a_version_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        get_room_version("12").knocking = False  # type: ignore[misc]
