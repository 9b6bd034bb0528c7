"""OpenID tokens as they are stored: by their sha256, until they expire."""

from __future__ import annotations

from sqlalchemy import delete, func, select

from .tables.accounts import accounts
from .tables.openid import openid_tokens
from .transaction import Transaction


def add_token(tx: Transaction, token_hash: bytes, user_nid: int, expires_ts: int, now_ms: int, most: int) -> None:
    """Add a token of a user, forget all that have expired, and the user's oldest where there would be over `most`."""
    tx.execute(delete(openid_tokens).where(openid_tokens.c.expires_ts <= now_ms))
    own = openid_tokens.c.user_nid == user_nid
    count = tx.scalar(select(func.count()).select_from(openid_tokens).where(own)) or 0
    if count >= most:
        oldest = tx.all(
            select(openid_tokens.c.token_hash).where(own).order_by(openid_tokens.c.expires_ts).limit(count - most + 1)
        )
        tx.execute(delete(openid_tokens).where(openid_tokens.c.token_hash.in_([row[0] for row in oldest])))
    tx.insert_many(openid_tokens, ("token_hash", "user_nid", "expires_ts"), [(token_hash, user_nid, expires_ts)])


def find_owner(tx: Transaction, token_hash: bytes, now_ms: int) -> str | None:
    """Return whose token this is, or None for one that is unknown or expired, or of a closed or locked account."""
    owner: str | None = tx.scalar(
        select(accounts.c.user_id)
        .join(openid_tokens, openid_tokens.c.user_nid == accounts.c.user_nid)
        .where(
            openid_tokens.c.token_hash == token_hash,
            openid_tokens.c.expires_ts > now_ms,
            accounts.c.is_deactivated.is_(False),
            accounts.c.is_locked.is_(False),
        )
    )
    return owner
