"""Push rules in the database: what each user has changed, as one JSON value."""

from __future__ import annotations

import orjson
from sqlalchemy import select

from homeserver.model.push_rules.base import UNCHANGED, StoredRules

from .tables.user_state import push_rules
from .transaction import Transaction


def load_rules(tx: Transaction, user_nid: int) -> StoredRules:
    """Return what a user has changed in the push rules."""
    raw = tx.scalar(select(push_rules.c.rules).where(push_rules.c.user_nid == user_nid))
    return UNCHANGED if raw is None else StoredRules.from_json(orjson.loads(raw))


def find_rules_position(tx: Transaction, user_nid: int) -> int | None:
    """Return the position of the user's last change, or None."""
    position: int | None = tx.scalar(select(push_rules.c.position).where(push_rules.c.user_nid == user_nid))
    return position


def store_rules(tx: Transaction, user_nid: int, rules: bytes, position: int) -> None:
    """Store what a user has changed: the JSON form of `StoredRules`."""
    tx.upsert(push_rules, {"user_nid": user_nid}, {"rules": rules, "position": position})
