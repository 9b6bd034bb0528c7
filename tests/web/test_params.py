"""Typed readers of bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, StrictInt

from homeserver.errors import BadJson, MatrixError, MissingParam
from homeserver.web import params

BODY: dict[str, Any] = {"s": "x", "i": 1, "b": True, "o": {}, "l": ["x"], "n": None, "f": 1.0, "big": 2**53, "m": [1]}


@pytest.mark.parametrize(
    ("read", "key", "expected"),
    [
        (params.require_str, "s", "x"),
        (params.require_int, "i", 1),
        (params.require_bool, "b", True),
        (params.require_object, "o", {}),
        (params.require_list, "m", [1]),
        (params.require_str_list, "l", ["x"]),
        (params.optional_str, "n", None),
        (params.optional_int, "absent", None),
        (params.optional_bool, "absent", False),
        (params.optional_object, "n", None),
        (params.optional_list, "absent", None),
        (params.optional_str_list, "l", ["x"]),
        (params.require_str, "absent", MissingParam),
        (params.require_str, "n", BadJson),
        (params.require_str, "i", BadJson),
        (params.require_int, "b", BadJson),
        (params.require_int, "f", BadJson),
        (params.require_int, "big", BadJson),
        (params.require_bool, "i", BadJson),
        (params.require_object, "l", BadJson),
        (params.require_list, "o", BadJson),
        (params.require_str_list, "m", BadJson),
        (params.optional_str, "i", BadJson),
        (params.optional_bool, "s", BadJson),
    ],
)
def test_a_value_has_its_type_or_is_refused(read: Callable[..., object], key: str, expected: Any) -> None:
    if isinstance(expected, type) and issubclass(expected, MatrixError):
        with pytest.raises(expected):
            read(BODY, key)
    else:
        assert expected == read(BODY, key)


def test_integers_have_bounds() -> None:
    assert params.require_int({"i": 5}, "i", 5, 5) == 5
    for bounds in ((6, None), (None, 4)):
        with pytest.raises(BadJson):
            params.require_int({"i": 5}, "i", *bounds)


class Inner(BaseModel):
    number: StrictInt


class Outer(BaseModel):
    inner: Inner
    name: str


@pytest.mark.parametrize(
    ("body", "error", "path"),
    [
        ({"inner": {}, "name": "x"}, MissingParam, "'inner.number'"),
        ({"inner": {"number": "1"}, "name": "x"}, BadJson, "'inner.number'"),
        ({"inner": {"number": 1}, "name": 3}, BadJson, "'name'"),
    ],
)
def test_a_model_names_the_field_that_is_wrong(body: dict[str, Any], error: type[MatrixError], path: str) -> None:
    with pytest.raises(error) as caught:
        params.parse_body(Outer, body)
    assert path in caught.value.message
