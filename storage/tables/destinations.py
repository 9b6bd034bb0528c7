"""What is known of other servers as destinations."""

from __future__ import annotations

from sqlalchemy import Column, Table

from .base import Identifier, LongBytes, metadata, number

# A server without a row, or with null in `failing_since_ts`, is not known to fail.
destinations = Table(
    "destinations",
    metadata,
    Column("server", Identifier, primary_key=True),
    number("failing_since_ts", nullable=True),
    number("retry_after_ts", nullable=True),
    number("retry_interval_ms", nullable=True),
    number("last_success_ts", nullable=True),
    # Up to which stream position everything meant for the server has been sent, or will be by catching up.
    number("sent_position", nullable=True),
    # UTF-8.
    Column("last_error", LongBytes, nullable=True),
)
