"""The extensions that a server run by `sennit` or `twistd` has; an embedding application names its own.

They are named, not imported, because they stand on top of this package.
"""

from __future__ import annotations

import importlib

from homeserver.hooks import Extension

_DEFAULT = ("synapse_compat.extension:SynapseCompat",)


def default_extensions() -> list[Extension]:
    """Return new instances of them."""
    extensions: list[Extension] = []
    for place in _DEFAULT:
        module, _, name = place.partition(":")
        extensions.append(getattr(importlib.import_module(module), name)())
    return extensions
