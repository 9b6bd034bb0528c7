"""Tables of OpenID tokens: with one, a user shows another service who they are."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from .accounts import Digest
from .base import metadata, number

openid_tokens = Table(
    "openid_tokens",
    metadata,
    # The sha256 of the token.
    Column("token_hash", Digest, primary_key=True),
    number("user_nid"),
    number("expires_ts"),
    Index("openid_tokens_by_user", "user_nid"),
    Index("openid_tokens_by_expiry", "expires_ts"),
)
