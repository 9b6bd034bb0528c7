"""Room versions are asked by their switches: each is used, and no code compares identifiers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion

ROOT = Path(__file__).parents[2]
PACKAGES = ("homeserver", "storage", "federation", "api")
TABLE = ROOT / "homeserver" / "model" / "room_versions.py"


@cache
def _nodes() -> tuple[tuple[Path, ast.AST], ...]:
    def all_of() -> Iterator[tuple[Path, ast.AST]]:
        for package in PACKAGES:
            for path in sorted((ROOT / package).rglob("*.py")):
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Attribute | ast.Compare):
                        yield path, node

    return tuple(all_of())


@pytest.mark.parametrize("switch", [field.name for field in fields(RoomVersion)])
def test_every_switch_is_used_by_some_code(switch: str) -> None:
    users = {path for path, node in _nodes() if isinstance(node, ast.Attribute) and node.attr == switch}
    # `max_integer` stands in the table itself for whoever asks for the greatest number.
    assert users - {TABLE}


def test_no_code_compares_the_identifiers_of_versions() -> None:
    def is_version(node: ast.expr) -> bool:
        if isinstance(node, ast.Attribute) and node.attr == "identifier":
            return True
        return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in unstable

    # Numbers as text stand for other things too; those of the unstable versions cannot.
    unstable = {identifier for identifier, version in KNOWN_ROOM_VERSIONS.items() if not version.is_stable}
    culprits = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in _nodes()
        if isinstance(node, ast.Compare) and any(is_version(each) for each in (node.left, *node.comparators))
    ]
    assert not culprits


def test_no_code_compares_the_records_of_versions() -> None:
    names = {f"V{number}" for number in range(1, 13)}
    culprits = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in _nodes()
        if isinstance(node, ast.Compare)
        and any(isinstance(each, ast.Name) and each.id in names for each in (node.left, *node.comparators))
    ]
    assert not culprits
