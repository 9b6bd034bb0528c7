"""Fixtures of the tests with a real Synapse: one Synapse for all of them, and a fresh Sennit for each.

One worker gets all these tests, so that there is one Synapse (see `tests.support.selection`).
Without an environment that has Synapse they are skipped; `make test` builds one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted

from tests.oracle.synapse_process import synapse_python
from tests.support.certificates import Authority
from tests.support.federation import sqlite_url_in

from .pairs import Pair, Sides
from .synapse import Synapse

# The tests of `make test` may not be skipped.
NEED_ALL: Final = bool(os.environ.get("SENNIT_TESTS_NEED_ALL"))
SYNAPSE_ADDRESS: Final = "127.0.1.1"
_HERE: Final = Path(__file__).parent
_NETWORKS: Final = (f"127.{1 + number // 250}.{1 + number % 250}" for number in count(1))
_LOGGED: Final = pytest.StashKey[tuple[Synapse, int]]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark all tests of this folder as slow; what runs on both databases does so in one direction each, or is deep."""
    if _HERE in item.path.parents:
        given: dict[str, object] = item.callspec.params if hasattr(item, "callspec") else {}
        is_on_mariadb, is_turned = given.get("new_database") == "mariadb", given.get("pair") == "synapse_hosts"
        if {"new_database", "pair"} <= given.keys() and is_on_mariadb != is_turned:
            item.add_marker("deep")
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show what Synapse has logged during a test that fails."""
    report = yield
    logged = item.stash.get(_LOGGED, None)
    if logged is not None and report.failed and call.when == "call":
        synapse, size = logged
        report.sections.append(("Synapse's log", synapse.log_since(size)[-20_000:]))
    return report


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom all servers trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def shared_synapse(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A Synapse that runs."""
    python = synapse_python()
    if not python.exists():
        reason = f"no Synapse to federate with: {python} is missing (tools/make_synapse_venv.sh)"
        if NEED_ALL:
            raise RuntimeError(reason)
        pytest.skip(reason)
    synapse = Synapse(tmp_path_factory.mktemp("synapse"), authority, SYNAPSE_ADDRESS)
    try:
        synapse.launch()
        yield synapse
    finally:
        synapse.kill()


@pytest_twisted.async_yield_fixture
async def synapse(shared_synapse: Synapse, request: pytest.FixtureRequest) -> AsyncIterator[Synapse]:
    """The running Synapse, whole again whatever the last test did to it."""
    await shared_synapse.start()
    request.node.stash[_LOGGED] = (shared_synapse, shared_synapse.log_size())
    yield shared_synapse


@pytest.fixture
def new_database(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """What gives Sennit the URL of a fresh database: of SQLite, unless a test is parametrized with "mariadb"."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield sqlite_url_in
        return
    with request.getfixturevalue("mariadb").database() as url:
        yield lambda folder: url


@pytest_twisted.async_yield_fixture
async def sides(
    synapse: Synapse, authority: Authority, tmp_path: Path, new_database: Callable[[Path], str]
) -> AsyncIterator[Sides]:
    """A fresh Sennit beside Synapse."""
    made = Sides(synapse, authority, tmp_path, new_database, network=next(_NETWORKS))
    try:
        await made.sennit.start()
        yield made
    finally:
        await made.stop()


@pytest_twisted.async_yield_fixture(params=["sennit_hosts", "synapse_hosts"])
async def pair(sides: Sides, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Alice, who makes rooms, and Bob, who comes to them from the other server: each test runs in both directions."""
    host, guest = (sides.sennit, sides.synapse) if request.param == "sennit_hosts" else (sides.synapse, sides.sennit)
    yield Pair(sides, await host.register("alice"), await guest.register("bob"))
