"""YAML files with the line of every key, read within bounds.

PyYAML composes a document into nodes that know their place; here they become plain values, and the places a mapping
of lines.  An alias is followed each time it is used, so the number of values is bounded, not only the size of the
file; the nesting is bounded before anything recurses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from homeserver.config import read_config_text
from homeserver.config_source import ConfigError, Location, Problem

MAX_DEPTH = 40
MAX_VALUES = 100_000


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A mapping from a YAML file; `lines` has the line of every key and list item."""

    path: Path
    mapping: dict[str, Any]
    lines: dict[Location, int]


def read_yaml(path: Path) -> YamlDocument:
    """Return the mapping in a YAML file, or raise ConfigError saying where it is not one."""
    text = read_config_text(path)
    try:
        _check_depth(path, text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return YamlDocument(path, {}, {})
            if not isinstance(node, yaml.MappingNode):
                raise ConfigError(str(path), [Problem(1, "", "expected settings of the form `key: value`")])
            reading = _Reading(loader)
            mapping = reading.value(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        raise ConfigError(
            str(path), [Problem(line, "", f"this is not YAML: {error.problem or error.context}")]
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(str(path), [Problem(None, "", f"this is not YAML: {str(error).splitlines()[0]}")]) from None
    if reading.problems:
        raise ConfigError(str(path), reading.problems)
    return YamlDocument(path, mapping, reading.lines)


def _check_depth(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark is not None else None
                raise ConfigError(str(path), [Problem(line, "", f"is nested more than {MAX_DEPTH} levels deep")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


@dataclass(slots=True)
class _Reading:
    """Nodes into values; aliases may point to what contains them, so depth and number are counted."""

    loader: yaml.SafeLoader
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _count: int = 0
    _depth: int = 0

    def value(self, node: yaml.Node, location: Location) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or self._depth > MAX_DEPTH:
            raise ValueError("aliases make it too large")
        self._depth += 1
        try:
            return self._value(node, location)
        finally:
            self._depth -= 1

    def _value(self, node: yaml.Node, location: Location) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*location, index)] = item.start_mark.line + 1
                items.append(self.value(item, (*location, index)))
            return items
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        # Merge keys (`<<: *name`) come first, so that the mapping's own keys win.
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                value = self.value(value_node, location)
                for part in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(part, dict):
                        raise ValueError("<< takes a mapping")
                    merged.update(part)
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            line = key_node.start_mark.line + 1
            if key in own:
                self.problems.append(Problem(line, key, "stands here a second time"))
            self.lines[(*location, key)] = line
            own[key] = self.value(value_node, (*location, key))
        return {**merged, **own}
