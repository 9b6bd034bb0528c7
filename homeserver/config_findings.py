"""From pydantic's mistakes to sentences for an operator.

A mistake of the checking models becomes a `Finding`: the place, what was expected there and what was found, and for
an unknown key the one that was probably meant.  Values are never repeated in a sentence: they may be secrets.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from homeserver.config_source import Finding, Location, nearest

_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list in square brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}

_FOUND: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
)


def at_key(key: str, message: str) -> PydanticCustomError:
    """Return a mistake of a whole section that is shown at one of its keys; of the whole file: `section.key`."""
    return PydanticCustomError("at_key", "{message}", {"key": key, "message": message})


def findings_of(root: type[BaseModel], error: ValidationError) -> list[Finding]:
    """Return what the mistakes in a model mean to whoever wrote the file; `root` is the model of the whole file."""
    details = error.errors(include_url=False)
    # A list whose only item is wrong would also be told to be too short.
    lists = {each["loc"][:-1] for each in details}
    return [_finding(root, each) for each in details if each["type"] != "too_short" or each["loc"] not in lists]


def _finding(root: type[BaseModel], details: ErrorDetails) -> Finding:
    location: Location = tuple(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if kind == "at_key":
        return Finding((*location, *str(context["key"]).split(".")), str(context["message"]))
    if kind == "extra_forbidden":
        return Finding(location, f"there is no such key{suggestion(root, location)}")
    if kind == "missing":
        return Finding(location, "is missing")
    if kind in _EXPECTED:
        return Finding(location, f"expected {_EXPECTED[kind]}, found {_found(details.get('input'))}")
    if kind == "literal_error":
        return Finding(location, f"expected one of {context['expected']}")
    if kind == "value_error":
        return Finding(location, str(context["error"]))
    if kind in ("too_short", "too_long"):
        return Finding(location, "has too few items" if kind == "too_short" else "has too many items")
    return Finding(location, details["msg"].replace("Input should", "must"))


def _found(value: object) -> str:
    return next((text for kind, text in _FOUND if isinstance(value, kind)), "something else")


def suggestion(root: type[BaseModel], location: Location) -> str:
    """Say which key was probably meant: one of the same table, or else the same key of another section."""
    wrong = str(location[-1])
    table = _model_at(root, location[:-1])
    here = nearest(wrong, table.model_fields) if table is not None else None
    if here is not None:
        return f'; did you mean "{here}"?'
    elsewhere = {
        name: section
        for section, model in sections_of(root).items()
        for name in model.model_fields
        if name == wrong.lower()
    }
    if elsewhere:
        name, section = next(iter(elsewhere.items()))
        return f'; "{name}" belongs to [{section}]'
    if table is None:
        return ""
    return f"; valid here: {', '.join(table.model_fields)}"


def _model_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    model: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        field = model.model_fields.get(part)
        # A name that is no field is one of a table with free names, such as old_signing_keys.
        model = section_in(field.annotation) if field is not None else model
    return model


def sections_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the tables inside a table by name."""
    found = {name: section_in(field.annotation) for name, field in model.model_fields.items()}
    return {name: section for name, section in found.items() if section is not None}


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field's type is made of: itself, optional, a list or a table of it; or None."""
    origin = get_origin(annotation)
    if origin is None:
        return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    if origin is Literal:
        return None
    return next((found for part in get_args(annotation) if (found := section_in(part)) is not None), None)
