"""Which tests an ordinary run leaves out, and in which order and portions the workers of a run get them.

**Deep** are tests that say again what another one says: further seeds, room versions, databases. They run with
`SENNIT_TESTS_DEEP=1` or where `-m` speaks of them (`make test-deep`). What is claimed at all, and on which databases,
is in the ordinary run: `deep` marks further cases only.

`in_turns` is for a table of cases that runs on each kind of database, or in both directions between two servers: in
the ordinary run the cases take turns, the first on the one, the second on the other; the rest is deep. `deep_on` is for
one long test that need not run on both.

A portion is a file, or a folder whose files share servers: so that what a module starts is started once, and not by
each worker. Long ones come first, lest one worker has to end alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Final
from zlib import crc32

import pytest

DEEP_VARIABLE: Final = "SENNIT_TESTS_DEEP"
# What tests run on, or which way round; where a case names several, each combination is one.
TURNS: Final = (frozenset({"sqlite", "mariadb"}), frozenset({"sennit_hosts", "synapse_hosts"}))
# Their files share servers that a fixture of the folder starts.
WHOLE_FOLDERS: Final = frozenset({"tests/hostile", "tests/hostile/stream", "tests/interop", "tests/stream_conformance"})
# From what takes minutes down; after them comes what has tests that are marked as slow.
LONGEST: Final = (
    "tests/interop",
    "tests/scenarios/test_stories_synapse.py",
    "tests/scenarios/test_stories_mariadb.py",
    "tests/scenarios/test_stories.py",
    "tests/federation/test_simulation.py",
    "tests/hostile/federation/test_events.py",
    "tests/hostile",
    "tests/hostile/stream",
    "tests/chat/test_whole.py",
    "tests/feed/test_sync_forks.py",
    "tests/feed/test_sync_story.py",
    "tests/feed/test_live_forks.py",
    "tests/hostile/graph/test_authorisation.py",
)


def is_deep() -> bool:
    """Tell whether this run wants deep tests, for a test that does more then."""
    return bool(os.environ.get(DEEP_VARIABLE))


def seeds(first: int, end: int) -> list[Any]:
    """Return the seeds of a random story, up to `end`: two of an ordinary run, and those that are deep."""
    return [pytest.param(seed, marks=pytest.mark.deep) if seed >= first + 2 else seed for seed in range(first, end)]


def versions(known: Iterable[Any], *ordinary: str) -> list[Any]:
    """Return room versions (or identifiers of them) as parameters, all but the `ordinary` ones deep."""
    named = {str(getattr(each, "identifier", each)): each for each in known}
    return [
        pytest.param(each, id=name, marks=() if name in ordinary else pytest.mark.deep) for name, each in named.items()
    ]


def half(first: Iterable[str], second: Iterable[str]) -> list[Any]:
    """Return all pairs of two tables of names as parameters, every other one deep: each name comes often enough."""
    return [
        pytest.param(
            one, other, id=f"{one}-{other}", marks=() if crc32(f"{one} {other}".encode()) % 2 else pytest.mark.deep
        )
        for one in first
        for other in second
    ]


def portion_of(nodeid: str) -> str:
    """Return what a test is handed to a worker together with: its file, or the folder of that."""
    path = nodeid.partition("::")[0]
    folder = str(PurePosixPath(path).parent)
    return folder if folder in WHOLE_FOLDERS else path


def put_long_ones_first(items: list[pytest.Item]) -> None:
    """Sort tests by portions; within one they keep their order."""
    slow = {portion_of(item.nodeid) for item in items if item.get_closest_marker("slow")}
    first = {portion: -number for number, portion in enumerate(reversed(LONGEST), 1)}
    places: dict[str, int] = {}
    for item in items:
        places.setdefault(portion_of(item.nodeid), len(places))

    def place(item: pytest.Item) -> tuple[int, bool, int]:
        portion = portion_of(item.nodeid)
        return first.get(portion, 0), portion not in slow, places[portion]

    items.sort(key=place)


def mark_turns(items: Iterable[pytest.Item]) -> None:
    """Mark as deep those cases of tables `in_turns` whose turn it is not, and those that a test is `deep_on`."""
    cases: dict[str, dict[tuple[str, ...], list[pytest.Item]]] = {}
    for item in items:
        if item.get_closest_marker("in_turns"):
            case = tuple(each for each in _parts(item) if not any(each in turn for turn in TURNS))
            test = item.nodeid.partition("[")[0]
            cases.setdefault(test, {}).setdefault(case, []).append(item)
    for item in items:
        elsewhere = item.get_closest_marker("deep_on")
        if elsewhere is not None and set(elsewhere.args) & set(_parts(item)):
            item.add_marker("deep")
    for by_case in cases.values():
        # One that was asked for alone runs wherever it was asked for.
        if len(by_case) > 1:
            for number, same in enumerate(by_case.values()):
                for place, item in enumerate(same):
                    if place != number % len(same):
                        item.add_marker("deep")


def without_deep(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests of an ordinary run, all where deep ones are wanted; the others are noted as left out."""
    if is_deep() or "deep" in config.option.markexpr:
        return items
    left_out = [item for item in items if item.get_closest_marker("deep")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    return [item for item in items if not item.get_closest_marker("deep")]


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return what hands portions to the workers of pytest-xdist, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class PortionScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return portion_of(nodeid)

    config.option.loadscopereorder = False
    return PortionScheduling(config, log)


def _parts(item: pytest.Item) -> list[str]:
    """Return what is in the brackets, in order; the IDs of a case may hold dashes, but no kind of database."""
    return item.name.partition("[")[2].removesuffix("]").split("-")
