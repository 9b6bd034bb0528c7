"""How the answer to a read shows its events: what the filter says of their form, and bundles where there are any.

Spec: client-server API, "Filtering", `event_fields` and `event_format`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from homeserver.feed.client_event import client_dict, render
from homeserver.model.event_json import dump_shown
from homeserver.model.filters import Filter
from storage.events import StoredEvent

Show = Callable[[StoredEvent, bytes | None], bytes]
"""Encodes an event; with the reader's membership at it as JSON, where that is told."""

NO_BUNDLES: Final[Mapping[int, bytes]] = {}


def shape_of(source: Mapping[str, Any]) -> Filter:
    """Return what a filter for the events of rooms says of their form.

    COMPAT(synapse): there these keys belong to whole filters only; clients put them here as well, and are heeded.
    """
    return Filter.parse({key: source[key] for key in ("event_fields", "event_format") if key in source})


def renderer(now_ms: int, device_nid: int | None, shape: Filter, bundles: Mapping[int, bytes] = NO_BUNDLES) -> Show:
    """Return what encodes the events of one answer."""
    if shape.event_format == "federation":
        return lambda stored, _membership: dump_shown({**stored.event.wire, "event_id": stored.event.event_id})
    if shape.event_fields is not None:

        def project(stored: StoredEvent, membership: bytes | None) -> bytes:
            whole = client_dict(
                stored,
                now_ms,
                device_nid=device_nid,
                membership=membership,
                relations=bundles.get(stored.nid),
                with_room_id=True,
            )
            return orjson.dumps(shape.project(whole))

        return project

    def show(stored: StoredEvent, membership: bytes | None) -> bytes:
        return render(
            stored,
            now_ms,
            device_nid=device_nid,
            membership=membership,
            relations=bundles.get(stored.nid) if bundles else None,
            with_room_id=True,
        )

    return show


def array(encoded: list[bytes]) -> bytes:
    """Return the JSON array of encoded values."""
    return b"[" + b",".join(encoded) + b"]"


def object_of(parts: Mapping[str, Any]) -> bytes:
    """Return a JSON object, in which values that are bytes are JSON already; the others are of this server's making."""
    return b"{" + b",".join(_member(name, value) for name, value in parts.items()) + b"}"


def _member(name: str, value: Any) -> bytes:
    return orjson.dumps(name) + b":" + (value if isinstance(value, bytes) else orjson.dumps(value))
