"""Logging set up by a Synapse log config: a YAML file for Python's `logging.config.dictConfig`.

Such files name classes of Synapse itself.  A buffering handler of it is replaced by the handler behind it, its
filters are left out together with the `request` field they provide, and its JSON formatters become plain text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homeserver.config_source import ConfigError, Problem

from .yaml_source import read_yaml

_PLAIN_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def read_log_config(path: Path) -> dict[str, Any]:
    """Return the settings for `dictConfig` in a log config file; raises ConfigError."""
    settings = read_yaml(path).mapping
    if settings.get("version") != 1:
        raise ConfigError(str(path), [Problem(1, "version", "expected 1; is it a file for Python's logging.config?")])
    settings.setdefault("disable_existing_loggers", False)
    formatters, filters, handlers = (_tables(settings, key) for key in ("formatters", "filters", "handlers"))
    for name, formatter in formatters.items():
        if _is_synapses(formatter):
            formatters[name] = {"format": _PLAIN_FORMAT}
        elif isinstance(formatter.get("format"), str):
            formatter["format"] = formatter["format"].replace("%(request)s", "-")
    gone_filters = {name for name, each in filters.items() if _is_synapses(each)}
    behind: dict[str, str] = {}
    for name, handler in handlers.items():
        if _is_synapses(handler):
            if not isinstance(handler.get("target"), str):
                raise ConfigError(
                    str(path), [Problem(None, f"handlers.{name}", "is a class of Synapse; use one of Python's")]
                )
            behind[name] = handler["target"]
    for each in [*handlers.values(), *_tables(settings, "loggers").values(), settings.get("root")]:
        if not isinstance(each, dict):
            continue
        if isinstance(each.get("filters"), list):
            each["filters"] = [name for name in each["filters"] if name not in gone_filters]
        if isinstance(each.get("handlers"), list):
            each["handlers"] = [behind.get(name, name) if isinstance(name, str) else name for name in each["handlers"]]
    for name in gone_filters:
        del filters[name]
    for name in behind:
        del handlers[name]
    return settings


def _tables(settings: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    tables = settings.get(key)
    if not isinstance(tables, dict):
        return {}
    return {name: each for name, each in tables.items() if isinstance(each, dict)} if _mixed(tables) else tables


def _mixed(tables: dict[str, Any]) -> bool:
    return any(not isinstance(each, dict) for each in tables.values())


def _is_synapses(definition: dict[str, Any]) -> bool:
    return any(str(definition.get(key, "")).startswith("synapse.") for key in ("()", "class"))
