"""Readers for JSON bodies: a value of the right type, or the error that the spec names.

A missing parameter is `MissingParam`, one of the wrong type `BadJson`; a null counts as wrong for a required parameter
and as absent for an optional one.  `parse_body` does the same for a whole body by a pydantic model.  The only module of
`web` in which values are `Any`.

Spec: client-server API, "Common error codes".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from homeserver.errors import BadJson, MissingParam

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_JSON_INTEGER: Final = 2**53 - 1


def require_str(obj: Mapping[str, Any], key: str) -> str:
    """Return the string at `key`."""
    value = obj.get(key)
    if type(value) is not str:
        raise _wrong(obj, key, "a string")
    return value


def optional_str(obj: Mapping[str, Any], key: str, default: str | None = None) -> str | None:
    """Return the string at `key`, or `default` if there is none."""
    value = obj.get(key)
    if value is None:
        return default
    if type(value) is not str:
        raise _wrong(obj, key, "a string")
    return value


def require_int(obj: Mapping[str, Any], key: str, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return the integer at `key`, within the bounds and within 53 bits."""
    value = obj.get(key)
    # `type() is`, since a bool is an int to isinstance.
    if type(value) is not int or not -MAX_JSON_INTEGER <= value <= MAX_JSON_INTEGER:
        raise _wrong(obj, key, "an integer")
    if minimum is not None and value < minimum:
        raise BadJson(f"'{key}' must be at least {minimum}")
    if maximum is not None and value > maximum:
        raise BadJson(f"'{key}' must be at most {maximum}")
    return value


def optional_int(
    obj: Mapping[str, Any],
    key: str,
    default: int | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
) -> int | None:
    """Return the integer at `key`, or `default` if there is none."""
    if obj.get(key) is None:
        return default
    return require_int(obj, key, minimum, maximum)


def require_bool(obj: Mapping[str, Any], key: str) -> bool:
    """Return the boolean at `key`."""
    value = obj.get(key)
    if type(value) is not bool:
        raise _wrong(obj, key, "a boolean")
    return value


def optional_bool(obj: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """Return the boolean at `key`, or `default` if there is none."""
    if obj.get(key) is None:
        return default
    return require_bool(obj, key)


def require_object(obj: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object at `key`."""
    value = obj.get(key)
    if type(value) is not dict:
        raise _wrong(obj, key, "an object")
    return value


def optional_object(obj: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return the object at `key`, or None if there is none."""
    if obj.get(key) is None:
        return None
    return require_object(obj, key)


def require_list(obj: Mapping[str, Any], key: str) -> list[Any]:
    """Return the array at `key`."""
    value = obj.get(key)
    if type(value) is not list:
        raise _wrong(obj, key, "an array")
    return value


def optional_list(obj: Mapping[str, Any], key: str) -> list[Any] | None:
    """Return the array at `key`, or None if there is none."""
    if obj.get(key) is None:
        return None
    return require_list(obj, key)


def require_str_list(obj: Mapping[str, Any], key: str) -> list[str]:
    """Return the array of strings at `key`."""
    value = require_list(obj, key)
    for member in value:
        if type(member) is not str:
            raise BadJson(f"'{key}' must be an array of strings")
    return value


def optional_str_list(obj: Mapping[str, Any], key: str) -> list[str] | None:
    """Return the array of strings at `key`, or None if there is none."""
    if obj.get(key) is None:
        return None
    return require_str_list(obj, key)


def parse_body(model: type[ModelT], obj: Mapping[str, Any]) -> ModelT:
    """Return `obj` as a `model`; the error names the path of the first field that is not right."""
    try:
        return model.model_validate(obj)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step)[:100] for step in first["loc"]) or "the body"
        if first["type"] == "missing":
            raise MissingParam(f"'{path}' is missing") from fault
        raise BadJson(f"'{path}' is not valid: {first['msg'][:300]}") from fault


def _wrong(obj: Mapping[str, Any], key: str, wanted: str) -> BadJson | MissingParam:
    if key not in obj:
        return MissingParam(f"'{key}' is missing")
    return BadJson(f"'{key}' must be {wanted}")
