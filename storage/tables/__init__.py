"""The tables, one module per area; `all_tables` is for what needs them all."""

from __future__ import annotations

import importlib
import pkgutil

from sqlalchemy import MetaData


def all_tables() -> MetaData:
    """Return the metadata with the tables of every module here."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    from .base import metadata

    return metadata
