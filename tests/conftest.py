"""Fixtures of all tests: databases; and which tests are run, in which order (see `support.selection`).

A test that takes `database_url` runs twice, on SQLite and on MariaDB.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import Mariadb, MariadbUnavailable, shared_mariadb, sqlite_url_in
from tests.support.selection import mark_turns, put_long_ones_first, scheduler, without_deep

# Set by `make test`: what cannot be tested here is then an error, not a skip.
NEED_ALL = bool(os.environ.get("SENNIT_TESTS_NEED_ALL"))
# Common to the workers of one run: they inherit it from the process that starts them.
RUN_VARIABLE = "SENNIT_TESTS_RUN_PID"
LEAST_FREE_BYTES = 3 * 1024**3


def pytest_configure(config: pytest.Config) -> None:
    """Remember which process is the test run, for what must end together with it."""
    if not hasattr(config, "workerinput"):
        os.environ[RUN_VARIABLE] = str(os.getpid())


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Leave out what is deep, and have what takes long first."""
    # Before `-m` looks at marks, and after pytest has put together what shares a fixture.
    mark_turns(items)
    yield
    items[:] = without_deep(config, items)
    put_long_ones_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand whole files to the workers, where nothing else is said."""
    return scheduler(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def mariadb() -> Mariadb:
    """A private mariadbd; one for the whole run, started when first asked for."""
    run_pid = int(os.environ[RUN_VARIABLE])
    # Not under pytest's own folders: the path of a socket may be no longer than 107 bytes.
    folder = _roomy_folder() / f"sennit-tests-{os.getuid()}-{run_pid}"
    try:
        return shared_mariadb(folder, run_pid)
    except MariadbUnavailable as error:
        if NEED_ALL:
            raise
        pytest.skip(str(error))


def _roomy_folder() -> Path:
    """Return where a database server of the tests may live: in memory if there is room, for each test makes its tables.

    What is flushed there outlives every process, and no test cuts the power.
    """
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > LEAST_FREE_BYTES:
        return memory
    return Path(tempfile.gettempdir())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file that has the tables, and nothing in them."""
    return sqlite_url_in(tmp_path)


@pytest.fixture
def mariadb_url(mariadb: Mariadb) -> Iterator[str]:
    """The SQLAlchemy URL of a database on a private mariadbd that has the tables, and nothing in them."""
    with mariadb.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The SQLAlchemy URL of a database as a first start leaves it: the test runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'homeserver.db'}"


@pytest.fixture
def empty_mariadb_url(mariadb: Mariadb) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh database without tables."""
    with mariadb.fresh_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """The SQLAlchemy URL of a database without tables, for what is about making them: once on each kind."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url
