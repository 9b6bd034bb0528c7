"""The import law holds, and each package is one."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("homeserver", "storage", "federation", "api", "synapse_compat", "sytest_scenarios")
PLUGIN_FOLDER = ROOT / "homeserver" / "twistd_plugin"
MAY_PICK_THE_REACTOR = (
    "homeserver/runtime/",
    "homeserver/run_command.py",
    "homeserver/twisted_service.py",
    "sytest_scenarios/clock.py",
)


def _modules(*packages: str) -> list[Path]:
    paths = (path for package in packages for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in paths if "node_modules" not in path.parts)


@cache
def _imports(path: Path) -> frozenset[str]:
    """Return all absolute names that a module imports, wherever in it; `from a import b` counts as `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def test_import_contracts_are_kept() -> None:
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def test_nothing_but_the_ends_picks_the_global_reactor() -> None:
    culprits = [
        relative
        for path in _modules(*PACKAGES)
        if "twisted.internet.reactor" in _imports(path)
        and not (relative := path.relative_to(ROOT).as_posix()).startswith(MAY_PICK_THE_REACTOR)
    ]
    assert [] == culprits


def _folders_with_code() -> Iterator[Path]:
    for path in _modules(*PACKAGES, "tests"):
        if path.parent != PLUGIN_FOLDER:
            yield path.parent


def test_every_folder_with_code_is_a_package() -> None:
    # tests too: without it, pytest would import tests/api as the package `api`.
    assert [] == sorted({str(folder) for folder in _folders_with_code() if not (folder / "__init__.py").exists()})


def test_plugin_folder_is_not_a_package() -> None:
    # It is installed as twisted/plugins, whose __init__.py is Twisted's.
    assert not (PLUGIN_FOLDER / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_distribution_requires(package: str) -> None:
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    required = {normal(re.split(r"[\[<>=]", line)[0]) for line in wanted}
    distributions = importlib.metadata.packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in _modules(package)
        for name in _imports(path)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names
        and top not in PACKAGES
        and not required & {normal(distribution) for distribution in distributions.get(top, [])}
    }
    assert set() == missing
