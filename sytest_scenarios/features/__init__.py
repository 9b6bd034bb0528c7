"""What a homeserver can do, found by asking it: `/versions`, the login flows, the capabilities, or by trying.

A probe returns None if the feature is there, else why not; that is the reason of the skip. To add one: a function with
`@probe("its name")` in any module here, and stories `needs=feature("its name")`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..host import Host

Probe = Callable[["Host"], Awaitable[str | None]]
FEATURES: Final[dict[str, Probe]] = {}


def probe(name: str) -> Callable[[Probe], Probe]:
    """Make a function the probe of a feature."""

    def add(function: Probe) -> Probe:
        FEATURES[name] = function
        return function

    return add


for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
