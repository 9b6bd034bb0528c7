"""Synapse as an outside judge: random signed rooms, and what its own functions say of them.

Compared are event formats, event IDs, reference and content hashes, signatures both ways, redacted forms byte by byte,
canonical JSON, the selection of auth events, the verdicts that need no state, those at three states for each event, and
the state resolved from each fork, in every room version that is known here.

What differs is a fault unless it stands in `known_differences`.  A failure tells the version and the seed of the room:
`random_room(seed, version, size)` makes it again.

SENNIT_ORACLE_GRAPHS sets the number of rooms in all (2400 if not set), SENNIT_ORACLE_SEED the first seed.  Without an
environment that has Synapse (see `synapse_process`) these tests are skipped; `make test` builds one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from random import Random

import pytest

from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion

from .graphs import RandomRoom, random_room
from .known_differences import known_difference
from .questions import (
    Checks,
    Difference,
    ask_formats,
    ask_room,
    ask_wires,
    choose_checks,
    compare_formats,
    compare_room,
    compare_value,
    compare_wires,
)
from .synapse_process import SynapseSide, synapse_python
from .wires import random_value, random_wire

GRAPHS = int(os.environ.get("SENNIT_ORACLE_GRAPHS", "2400"))
FIRST_SEED = int(os.environ.get("SENNIT_ORACLE_SEED", "0"))
# The tests of `make test` may not be skipped.
NEED_ALL = bool(os.environ.get("SENNIT_TESTS_NEED_ALL"))

WIRES = 400
VALUES = 5000
MAX_SHOWN = 5

pytestmark = pytest.mark.slow

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


@pytest.fixture(scope="module")
def synapse() -> Iterator[SynapseSide]:
    """Synapse's side, one for the tests of a worker."""
    python = synapse_python()
    if not python.exists():
        reason = f"no Synapse to compare with: {python} is missing (tools/make_synapse_venv.sh)"
        pytest.fail(reason) if NEED_ALL else pytest.skip(reason)
    with SynapseSide(python) as side:
        yield side


@VERSIONS
def test_synapse_agrees_on_random_rooms(synapse: SynapseSide, version: RoomVersion) -> None:
    unexplained: list[Difference] = []
    asked: tuple[RandomRoom, Checks] | None = None
    # While Synapse answers about one room the next is made.
    for seed in range(FIRST_SEED, FIRST_SEED + max(1, GRAPHS // len(KNOWN_ROOM_VERSIONS))):
        room = random_room(seed, version, size_of(seed))
        checks = choose_checks(room)
        question = ask_room(room, checks)
        if asked is not None:
            unexplained += unknown(compare_room(*asked, synapse.take()))
        synapse.put(question)
        asked = room, checks
    assert asked is not None
    unexplained += unknown(compare_room(*asked, synapse.take()))
    report(unexplained)


@VERSIONS
def test_synapse_agrees_on_events_in_no_room(synapse: SynapseSide, version: RoomVersion) -> None:
    random = Random(f"wires {FIRST_SEED} {version.identifier}")
    wires = [random_wire(random, version) for _ in range(WIRES)]
    report(unknown(compare_wires(version, wires, synapse.ask(ask_wires(version, wires)))))


@VERSIONS
def test_synapse_agrees_on_what_is_an_event(synapse: SynapseSide, version: RoomVersion) -> None:
    report(unknown(compare_formats(version, synapse.ask(ask_formats(version)))))


def test_synapse_agrees_on_canonical_json(synapse: SynapseSide) -> None:
    random = Random(f"values {FIRST_SEED}")
    values = [random_value(random, 4, lax=number % 2 == 0) for number in range(VALUES)]
    answers = synapse.ask({"ask": "values", "values": values})
    report(
        [
            difference
            for value, theirs in zip(values, answers, strict=True)
            for difference in unknown(compare_value(value, theirs))
        ]
    )


def test_synapse_knows_all_room_versions_that_are_known_here(synapse: SynapseSide) -> None:
    assert set() == KNOWN_ROOM_VERSIONS.keys() - set(synapse.ask({"ask": "versions"}))


def size_of(seed: int) -> int:
    """Return how many events the room of this seed has: few mostly, many now and then."""
    return (12, 20, 30, 30, 60)[seed % 5]


def unknown(differences: Iterable[Difference]) -> list[Difference]:
    """Return the differences that nothing explains."""
    return [difference for difference in differences if known_difference(difference) is None]


def report(differences: list[Difference]) -> None:
    """Fail with the first few differences, if there are any."""
    if differences:
        shown = "\n\n".join(map(str, differences[:MAX_SHOWN]))
        pytest.fail(f"{len(differences)} differences, the first of them:\n\n{shown}", pytrace=False)
