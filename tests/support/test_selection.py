"""Which tests a run leaves out, and how they are handed out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .selection import DEEP_VARIABLE, half, portion_of, seeds

CONFTEST = """
import pytest
from tests.support.selection import mark_turns, put_long_ones_first, without_deep

@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    mark_turns(items)
    yield
    items[:] = without_deep(config, items)
    put_long_ones_first(items)
"""
TESTS = """
import pytest

@pytest.mark.in_turns
@pytest.mark.parametrize("url", ["sqlite", "mariadb"])
@pytest.mark.parametrize("case", ["a-b", "c", "d"])
def test_table(url, case): pass

@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_seed(seed): pass

@pytest.mark.deep_on("sqlite")
@pytest.mark.parametrize("url", ["sqlite", "mariadb"])
def test_long(url): pass
"""
PYTHON = Path(__file__).parents[2]


def _collected(folder: Path, *options: str, deep: str = "") -> list[str]:
    """Return the names of the tests that would run, in order."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    deep\n    deep_on\n    in_turns\n    slow\n")
    (folder / "test_a.py").write_text(TESTS)
    (folder / "test_b.py").write_text("import pytest\n@pytest.mark.slow\ndef test_slow(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(PYTHON), DEEP_VARIABLE: deep},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


def test_cases_take_turns_and_slow_files_come_first(tmp_path: Path) -> None:
    table = [f"test_table[{each}]" for each in ("a-b-sqlite", "c-mariadb", "d-sqlite")]
    assert ["test_slow", *table, "test_seed[1]", "test_long[mariadb]"] == _collected(tmp_path)


def test_deep_ones_run_where_they_are_wanted(tmp_path: Path) -> None:
    assert 11 == len(_collected(tmp_path, deep="1"))
    assert 5 == len(_collected(tmp_path, "-m", "deep"))


def test_of_two_tables_every_name_is_in_the_ordinary_half() -> None:
    inlets, names = [f"inlet {number}" for number in range(4)], [f"case {number}" for number in range(30)]
    pairs = half(inlets, names)
    ordinary = [each.values for each in pairs if not each.marks]
    assert 120 == len(pairs)
    assert 40 <= len(ordinary) <= 80
    assert set(inlets) == {inlet for inlet, _ in ordinary}


def test_two_seeds_are_not_deep() -> None:
    assert [50, 51] == [each for each in seeds(50, 53) if isinstance(each, int)]
    assert 3 == len(seeds(50, 53))


@pytest.mark.parametrize(
    ("nodeid", "portion"),
    [
        ("tests/rooms/test_door.py::test_a[x/y::z]", "tests/rooms/test_door.py"),
        ("tests/interop/test_reach.py::test_a", "tests/interop"),
        ("tests/hostile/stream/test_rights.py::test_a", "tests/hostile/stream"),
        ("tests/hostile/graph/test_shape.py::test_a", "tests/hostile/graph/test_shape.py"),
    ],
)
def test_files_that_share_a_server_are_one_portion(nodeid: str, portion: str) -> None:
    assert portion == portion_of(nodeid)
