"""Signing keys of other servers in the database.

What is known of a server's keys is one JSON value: `{key ID: [public key, valid_until_ts, expired_ts or null]}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import orjson
from sqlalchemy import select

from homeserver.model.base64 import decode_base64, encode_base64
from homeserver.model.server_keys import ServerKey, ServerKeys
from homeserver.model.signing import VerifyKey

from .tables.server_keys import server_keys
from .transaction import Transaction, chunks

_COLUMNS = ("server_name", "known", "published", "valid_until_ts", "fetched_ts")


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What is known of a server's keys, and the newest list as the server has signed it, JSON."""

    keys: ServerKeys
    published: bytes


def find_server_keys(tx: Transaction, server_names: Iterable[str]) -> dict[str, KnownKeys]:
    """Return what is known, by server; those of whom nothing is known are left out."""
    found: dict[str, KnownKeys] = {}
    columns = (server_keys.c[name] for name in _COLUMNS)
    query = select(*columns)
    for part in chunks(server_names):
        for name, known, published, valid_until_ts, fetched_ts in tx.all(
            query.where(server_keys.c.server_name.in_([str(each) for each in part]))
        ):
            found[name] = KnownKeys(
                ServerKeys(name, _load(known), int(valid_until_ts), int(fetched_ts)), bytes(published)
            )
    return found


def store_server_keys(tx: Transaction, found: Iterable[KnownKeys]) -> None:
    """Store what is known now; keys that only the database knows stay."""
    found = list(found)
    before = find_server_keys(tx, [each.keys.server_name for each in found])
    rows = []
    for each in found:
        known = before.get(each.keys.server_name)
        keys = each.keys if known is None else known.keys.merged(each.keys)
        rows.append((str(keys.server_name), _dump(keys.keys), each.published, keys.valid_until_ts, keys.fetched_ts))
    tx.insert_many(server_keys, _COLUMNS, rows, update=_COLUMNS[1:])


def _dump(keys: Mapping[str, ServerKey]) -> bytes:
    return orjson.dumps(
        {
            key_id: (encode_base64(each.key.public_key), each.valid_until_ts, each.expired_ts)
            for key_id, each in keys.items()
        }
    )


def _load(known: bytes) -> Mapping[str, ServerKey]:
    # They were checked when they came in; the check costs more than all else here.
    return MappingProxyType(
        {
            key_id: ServerKey(VerifyKey(decode_base64(key)), valid_until_ts, expired_ts)
            for key_id, (key, valid_until_ts, expired_ts) in orjson.loads(known).items()
        }
    )
