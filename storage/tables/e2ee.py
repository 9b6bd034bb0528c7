"""Tables of end-to-end encryption: keys of devices and users, lists of devices, to-device messages, key backups.

Keys are kept as canonical JSON, as they were uploaded, without what others signed: signatures by others are rows of
`key_signatures`.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Table

from .base import Identifier, JsonBytes, LongBytes, ShortText, metadata, number

# The identity keys of a local user's device.
device_keys = Table(
    "device_keys",
    metadata,
    number("user_nid", primary_key=True),
    number("device_nid", primary_key=True),
    Column("content", JsonBytes, nullable=False),
)

# Keys that are handed out once, those with the lowest `key_nid` first; a claimed one is deleted.
one_time_keys = Table(
    "one_time_keys",
    metadata,
    number("device_nid", primary_key=True),
    Column("algorithm", ShortText, primary_key=True),
    Column("key_id", Identifier, primary_key=True),
    number("key_nid"),
    Column("content", JsonBytes, nullable=False),
    Index("one_time_keys_in_order", "device_nid", "algorithm", "key_nid"),
)

# One-time keys that were handed out, so that an upload that is repeated does not bring them back; each device has the
# newest alone. `key_hash` is a sha256 of the whole key in hexadecimal, `key_nid` the number that the key had.
claimed_keys = Table(
    "claimed_keys",
    metadata,
    number("device_nid", primary_key=True),
    Column("key_hash", ShortText, primary_key=True),
    number("key_nid"),
)

# What is handed out when there is no one-time key left; one for each algorithm.
fallback_keys = Table(
    "fallback_keys",
    metadata,
    number("device_nid", primary_key=True),
    Column("algorithm", ShortText, primary_key=True),
    Column("key_id", Identifier, nullable=False),
    Column("content", JsonBytes, nullable=False),
    Column("is_used", Boolean, nullable=False),
)

# The cross-signing keys of local users, and of users of other servers as those tell them. `usage` is master,
# self_signing or user_signing; `public_key` is what the key is known by.
cross_signing_keys = Table(
    "cross_signing_keys",
    metadata,
    number("user_nid", primary_key=True),
    Column("key_usage", ShortText, primary_key=True),
    Column("public_key", ShortText, nullable=False),
    Column("content", JsonBytes, nullable=False),
)

# Signatures that users of this server made over keys afterwards. `target` is a device ID or a public key of the user
# `target_nid`; a signature by another user is shown to that one only.
key_signatures = Table(
    "key_signatures",
    metadata,
    number("target_nid", primary_key=True),
    Column("target", Identifier, primary_key=True),
    number("signer_nid", primary_key=True),
    Column("key_id", Identifier, primary_key=True),
    Column("signature", Identifier, nullable=False),
    Index("key_signatures_by_signer", "signer_nid"),
)

# The newest change of each user's devices or cross-signing keys. `stream_id` is the version of the list as other
# servers know it: for users of this server what was told them last, for others what they told (null: not known).
# `is_fetched`: the devices in `remote_devices` are what the other server has.
device_lists = Table(
    "device_lists",
    metadata,
    number("user_nid", primary_key=True),
    number("position"),
    number("stream_id", nullable=True),
    Column("is_fetched", Boolean, nullable=False, default=False),
    Index("device_lists_by_position", "position"),
)

# Changes of local users' devices that have yet to be told: noted with the change, taken away when it has its place in
# the stream and what other servers are sent is queued. `device_id` "" stands for the cross-signing keys.
untold_devices = Table(
    "untold_devices",
    metadata,
    number("user_nid", primary_key=True),
    Column("device_id", Identifier, primary_key=True),
)

# Devices of users of other servers who share a room with a user of this one.
remote_devices = Table(
    "remote_devices",
    metadata,
    number("user_nid", primary_key=True),
    Column("device_id", Identifier, primary_key=True),
    Column("content", JsonBytes, nullable=False),
    Column("display_name", Identifier, nullable=True),
)

# Messages for devices, in order; deleted when the device has acknowledged them by asking for what comes after.
to_device_messages = Table(
    "to_device_messages",
    metadata,
    number("device_nid", primary_key=True),
    number("position", primary_key=True),
    Column("content", JsonBytes, nullable=False),
)

# Devices whose messages did not fit into one response. Who holds a token under `token` has acknowledged nothing since;
# who holds a later one, the messages up to `acknowledges` (null: all up to the token).
to_device_marks = Table(
    "to_device_marks",
    metadata,
    number("device_nid", primary_key=True),
    number("token"),
    number("acknowledges", nullable=True),
)

# To-device requests of clients (`owner`: the device) and of other servers (the server) that have been carried out: the
# newest of each owner, and none that are old. `owner` and `txn_key` are sha256 in hexadecimal.
to_device_transactions = Table(
    "to_device_transactions",
    metadata,
    Column("owner", ShortText, primary_key=True),
    Column("txn_key", ShortText, primary_key=True),
    number("position"),
    number("created_ts"),
    Index("to_device_transactions_by_age", "created_ts"),
)

# The device that a user has put by to receive keys while nobody is logged in (MSC3814); `content` is what the client
# needs to make it work again, as JSON. The device is one of `devices` besides, with its keys and its inbox.
dehydrated_devices = Table(
    "dehydrated_devices",
    metadata,
    number("user_nid", primary_key=True),
    number("device_nid"),
    Column("content", JsonBytes, nullable=False),
)

# Backups of room keys; only the newest one that is not deleted can be written to. A deleted one keeps its row, so that
# its number is not used again.
key_backups = Table(
    "key_backups",
    metadata,
    number("user_nid", primary_key=True),
    number("version", primary_key=True),
    Column("algorithm", Identifier, nullable=False),
    Column("auth_data", JsonBytes, nullable=False),
    number("etag"),
    number("count"),
    Column("is_deleted", Boolean, nullable=False),
)

backed_up_keys = Table(
    "backed_up_keys",
    metadata,
    number("user_nid", primary_key=True),
    number("version", primary_key=True),
    Column("room_id", Identifier, primary_key=True),
    Column("session_id", Identifier, primary_key=True),
    number("first_message_index"),
    number("forwarded_count"),
    Column("is_verified", Boolean, nullable=False),
    Column("session_data", LongBytes, nullable=False),
)
