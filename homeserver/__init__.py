"""Sennit, a Matrix homeserver to run or to embed in a Twisted application; what is named here is the public surface.

    from homeserver import Config, Homeserver

The names are loaded when they are first used (PEP 562), so that importing a module of this package, such as
`homeserver.model.event`, loads nothing else. All other modules are internal, but for `homeserver.errors` and, for
extensions, `homeserver.web.router`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import Homeserver
    from .config import Config
    from .embedding import LocalUser
    from .errors import GateDenied, HomeserverError, MatrixError, Misconfigured, StorageUnavailable
    from .hooks import EventCommitted, EventGate, Extension, Observation, Observer, UserRegistered
    from .model.event import Event, EventTemplate
    from .model.ids import EventID, RoomID, UserID
    from .streamclient import StreamClient

__all__ = [
    "Config",
    "Homeserver",
    "LocalUser",
    "EventGate",
    "GateDenied",
    "Observer",
    "Observation",
    "EventCommitted",
    "UserRegistered",
    "Extension",
    "StreamClient",
    "Event",
    "EventTemplate",
    "EventID",
    "RoomID",
    "UserID",
    "HomeserverError",
    "MatrixError",
    "Misconfigured",
    "StorageUnavailable",
]

_HOMES = {
    "Homeserver": "app",
    "Config": "config",
    "LocalUser": "embedding",
    "GateDenied": "errors",
    "HomeserverError": "errors",
    "MatrixError": "errors",
    "Misconfigured": "errors",
    "StorageUnavailable": "errors",
    "EventCommitted": "hooks",
    "EventGate": "hooks",
    "Extension": "hooks",
    "Observation": "hooks",
    "Observer": "hooks",
    "UserRegistered": "hooks",
    "Event": "model.event",
    "EventTemplate": "model.event",
    "EventID": "model.ids",
    "RoomID": "model.ids",
    "UserID": "model.ids",
    "StreamClient": "streamclient",
}


def __getattr__(name: str) -> Any:
    """Load a public name."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
