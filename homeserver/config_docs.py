"""The reference of all settings as Markdown, made from the models so that it cannot lie.

`python -m homeserver.config --docs` prints it; docs/configuration.md holds it, and a test compares the two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from homeserver.config import Config, render_default_toml
from homeserver.config_findings import section_in

_HEAD = """\
# Configuration

`sennit run -c FILE` reads a TOML file; without `-c` it takes the file that the environment variable `SENNIT_CONFIG`
names, else `sennit.toml` in the current folder, else it runs with defaults and keeps its things in `./data`.
`sennit check-config` reads the file and tells all mistakes at once.
A file that ends in `.yaml` or `.yml` is read as a Synapse `homeserver.yaml`.

Paths are relative to the folder of the file; defaults lie inside `server.data_dir`.
A size is a number of bytes or like `"50M"`; a duration is a number of milliseconds or like `"1h"`.
A key that does not exist is a mistake, not a comment.

This page is made by `python -m homeserver.config --docs`.

The file that `sennit init example.org` writes:

```toml
{example}```
"""


def render_docs() -> str:
    """Return docs/configuration.md."""
    parts = [_HEAD.format(example=render_default_toml("example.org"))]
    for name, field in Config.model_fields.items():
        model = section_in(field.annotation)
        if model is not None:
            parts.append(_section(name, model, many=_is_list(field.annotation)))
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Print the reference; the command line of `python -m homeserver.config`."""
    parser = argparse.ArgumentParser(prog="python -m homeserver.config")
    parser.add_argument("--docs", action="store_true", required=True, help="print the reference as Markdown")
    parser.parse_args(arguments)
    sys.stdout.write(render_docs())
    return 0


def _section(name: str, model: type[BaseModel], *, many: bool = False) -> str:
    brackets = f"[[{name}]]" if many else f"[{name}]"
    rows = [
        f"| `{key}` | {_kind(field)} | {_default(field)} | {field.description or ''} |" for key, field in _plain(model)
    ]
    text = f"## {brackets}\n\n{_sentence(model)}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
    text += "\n".join(rows) + "\n"
    inner = {
        section.__name__: (key, section, _is_list(field.annotation))
        for key, field in model.model_fields.items()
        if (section := section_in(field.annotation)) is not None and section.__name__ != "RateLimit"
    }
    for key, section, is_list in inner.values():
        dots = ".*" if _is_free_table(model.model_fields[key].annotation) else ""
        text += "\n" + _section(f"{name}.{key}{dots}", section, many=is_list)
    return text


def _plain(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return [
        (key, field)
        for key, field in model.model_fields.items()
        if section_in(field.annotation) is None or _kind(field) == "rate"
    ]


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _parts(annotation: Any) -> list[Any]:
    """Return all types that a type is made of, itself first."""
    found = [annotation]
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        found += _parts(part)
    return found


def _is_list(annotation: Any) -> bool:
    return any(get_origin(part) is tuple for part in _parts(annotation))


def _is_free_table(annotation: Any) -> bool:
    return any(get_origin(part) is dict for part in _parts(annotation))


def _kind(field: FieldInfo) -> str:
    parts = _parts(field.annotation)
    choices = next((get_args(part) for part in parts if get_origin(part) is Literal), None)
    validators = {getattr(part, "func", None) for part in [*field.metadata, *parts]}
    names = {getattr(validator, "__name__", "") for validator in validators}
    if choices is not None:
        text = ", ".join(f'`"{choice}"`' for choice in choices)
        return f"list of {text}" if _is_list(field.annotation) else text
    if "parse_size" in names:
        return "size"
    if "parse_duration_ms" in names:
        return "duration"
    model = section_in(field.annotation)
    if model is not None:
        return "rate" if model.__name__ == "RateLimit" else "table"
    kinds = {bool: "true or false", int: "whole number", float: "number", dict: "table", Path: "path"}
    word = next(
        (word for kind, word in kinds.items() if any(kind in (part, get_origin(part)) for part in parts)), "text"
    )
    return f"list of {word}s".replace("texts", "text") if _is_list(field.annotation) else word


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, BaseModel):
        return "`{ " + ", ".join(f"{key} = {number:g}" for key, number in value.model_dump().items()) + " }`"
    if isinstance(value, tuple):
        return _list_default(value)
    if isinstance(value, dict):
        return ""
    if isinstance(value, int):
        return f"`{_amount(value, _kind(field))}`"
    return f'`"{value}"`'


def _list_default(values: tuple[object, ...]) -> str:
    if len(values) > 5:
        return "see `homeserver/config_values.py`"
    return "`[" + ", ".join(f'"{value}"' for value in values) + "]`"


def _amount(value: int, kind: str) -> str:
    units: dict[str, list[tuple[int, str]]] = {
        "size": [(1024**2, "M"), (1024, "K")],
        "duration": [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")],
    }
    for factor, unit in units.get(kind, []):
        if value and value % factor == 0:
            return f'"{value // factor}{unit}"'
    return str(value)
