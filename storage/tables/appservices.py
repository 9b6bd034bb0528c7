"""How far each application service has been told of the stream."""

from __future__ import annotations

from sqlalchemy import Column, Table

from .base import Identifier, LongBytes, ShortText, metadata, number

# All events at positions up to `position` have been looked at; those that concern the service were acknowledged, or are
# in the transaction that is kept here until it is acknowledged.
appservice_queues = Table(
    "appservice_queues",
    metadata,
    Column("appservice_id", Identifier, primary_key=True),
    number("position"),
    Column("txn_id", ShortText, nullable=True),
    Column("body", LongBytes, nullable=True),
)
