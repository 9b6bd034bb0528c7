"""Identity keys of local devices, cross-signing keys of users, and signatures over both.

Content is canonical JSON, as uploaded. Spec: client-server API, "End-to-End Encryption".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import BindParameter, bindparam, delete, select

from homeserver.model.canonical_json import encode_canonical

from .tables.accounts import accounts, devices
from .tables.e2ee import cross_signing_keys, device_keys, key_signatures
from .tables.identity import user_ids
from .transaction import Transaction, chunks

# Statements that are run for many users at once, or often, are made here: making one takes longer than most of them.
_NAMES: Final[BindParameter[Any]] = bindparam("names", expanding=True)
_USERS: Final[BindParameter[Any]] = bindparam("users", expanding=True)
_VIEWER: Final[BindParameter[Any]] = bindparam("viewer")
_LOCAL_USERS: Final = select(accounts.c.user_id, accounts.c.user_nid).where(
    accounts.c.is_deactivated.is_(False), accounts.c.user_id.in_(_NAMES)
)
_DEVICE_IDS: Final = select(devices.c.user_nid, devices.c.device_id, devices.c.device_nid).where(
    devices.c.user_nid.in_(_USERS)
)
_DEVICE: Final = select(devices.c.device_nid).where(devices.c.device_nid == bindparam("device"))
_DEVICE_KEYS: Final = (
    select(devices.c.user_nid, devices.c.device_nid, devices.c.device_id, devices.c.display_name, device_keys.c.content)
    .join(
        device_keys,
        (device_keys.c.user_nid == devices.c.user_nid) & (device_keys.c.device_nid == devices.c.device_nid),
    )
    .where(device_keys.c.user_nid.in_(_USERS))
    .order_by(devices.c.device_nid)
)
_CROSS_SIGNING: Final = select(
    cross_signing_keys.c.user_nid,
    cross_signing_keys.c.key_usage,
    cross_signing_keys.c.public_key,
    cross_signing_keys.c.content,
).where(cross_signing_keys.c.user_nid.in_(_USERS))
_SHOWN_CROSS_SIGNING: Final = _CROSS_SIGNING.where(
    (cross_signing_keys.c.key_usage != "user_signing") | (cross_signing_keys.c.user_nid == _VIEWER)
)
_SIGNATURES: Final = (
    select(
        key_signatures.c.target_nid,
        key_signatures.c.target,
        user_ids.c.user_id,
        key_signatures.c.key_id,
        key_signatures.c.signature,
    )
    .join(user_ids, user_ids.c.user_nid == key_signatures.c.signer_nid)
    .where(
        key_signatures.c.target_nid.in_(_USERS),
        (key_signatures.c.signer_nid == key_signatures.c.target_nid) | (key_signatures.c.signer_nid == _VIEWER),
    )
)
# The number of nobody.
_NOBODY: Final = 0


class LocalDevice(NamedTuple):
    """A device with its keys and its name."""

    user_nid: int
    device_nid: int
    device_id: str
    display_name: str | None
    content: bytes


class CrossSigningKey(NamedTuple):
    """A cross-signing key; `usage` is master, self_signing or user_signing."""

    user_nid: int
    usage: str
    public_key: str
    content: bytes


class Signature(NamedTuple):
    """A signature over a device (`target`: its ID) or a cross-signing key (its public key) of a user."""

    target_nid: int
    target: str
    signer_nid: int
    key_id: str
    signature: str


def find_local_users(tx: Transaction, names: Iterable[str]) -> dict[str, int]:
    """Return the numbers of those of these users who have an account that is in use."""
    return {row[0]: row[1] for part in chunks(names) for row in tx.all(_LOCAL_USERS, {"names": part})}


def load_device_ids(tx: Transaction, user_nids: Iterable[int]) -> dict[int, dict[str, int]]:
    """Return all devices of users, with keys or without: user_nid -> device ID -> device_nid."""
    found: dict[int, dict[str, int]] = {}
    for part in chunks(user_nids):
        for user_nid, device_id, device_nid in tx.all(_DEVICE_IDS, {"users": part}):
            found.setdefault(user_nid, {})[device_id] = device_nid
    return found


def has_device(tx: Transaction, device_nid: int) -> bool:
    """Tell whether a device is there, with keys or without."""
    return tx.first(_DEVICE, {"device": device_nid}) is not None


def find_device_keys(tx: Transaction, user_nid: int, device_nid: int) -> bytes | None:
    """Return the identity keys of a device, or None."""
    content = tx.scalar(
        select(device_keys.c.content).where(device_keys.c.user_nid == user_nid, device_keys.c.device_nid == device_nid)
    )
    return None if content is None else bytes(content)


def set_device_keys(tx: Transaction, user_nid: int, device_nid: int, content: bytes) -> None:
    """Store the identity keys of a device."""
    tx.upsert(device_keys, {"user_nid": user_nid, "device_nid": device_nid}, {"content": content})


def load_device_keys(tx: Transaction, user_nids: Iterable[int]) -> list[LocalDevice]:
    """Return the devices of local users that have keys, oldest first."""
    return [
        LocalDevice(row[0], row[1], row[2], row[3], bytes(row[4]))
        for part in chunks(user_nids)
        for row in tx.all(_DEVICE_KEYS, {"users": part})
    ]


def load_cross_signing(tx: Transaction, user_nids: Iterable[int]) -> list[CrossSigningKey]:
    """Return the cross-signing keys of users, ours and others'."""
    return [
        CrossSigningKey(row[0], row[1], row[2], bytes(row[3]))
        for part in chunks(user_nids)
        for row in tx.all(_CROSS_SIGNING, {"users": part})
    ]


def load_shown_cross_signing(
    tx: Transaction, user_nids: Iterable[int], viewer_nid: int | None
) -> list[CrossSigningKey]:
    """Return the cross-signing keys of users but for the user-signing keys of others than the viewer."""
    viewer = _NOBODY if viewer_nid is None else viewer_nid
    return [
        CrossSigningKey(row[0], row[1], row[2], bytes(row[3]))
        for part in chunks(user_nids)
        for row in tx.all(_SHOWN_CROSS_SIGNING, {"users": part, "viewer": viewer})
    ]


def set_cross_signing(tx: Transaction, keys: Sequence[CrossSigningKey]) -> None:
    """Store cross-signing keys; each takes the place of the user's key of that usage."""
    tx.insert_many(
        cross_signing_keys,
        ("user_nid", "key_usage", "public_key", "content"),
        [tuple(key) for key in keys],
        update=("public_key", "content"),
    )


def delete_cross_signing(tx: Transaction, user_nid: int, usages: Iterable[str]) -> None:
    """Forget the cross-signing keys of these usages of a user."""
    table = cross_signing_keys.c
    for part in chunks(usages):
        tx.execute(delete(cross_signing_keys).where(table.user_nid == user_nid, table.key_usage.in_(part)))


def load_signatures(
    tx: Transaction, target_nids: Iterable[int], viewer_nid: int | None
) -> dict[tuple[int, str], dict[str, dict[str, str]]]:
    """Return the signatures over keys of users: those by the users themselves and by the viewer.

    By (target_nid, target): signer's user ID -> key ID -> signature.
    """
    viewer = _NOBODY if viewer_nid is None else viewer_nid
    found: dict[tuple[int, str], dict[str, dict[str, str]]] = {}
    for part in chunks(target_nids):
        for target_nid, target, signer, key_id, signature in tx.all(_SIGNATURES, {"users": part, "viewer": viewer}):
            found.setdefault((target_nid, target), {}).setdefault(signer, {})[key_id] = signature
    return found


def set_signatures(tx: Transaction, signatures: Sequence[Signature]) -> None:
    """Store signatures."""
    tx.insert_many(
        key_signatures,
        ("target_nid", "target", "signer_nid", "key_id", "signature"),
        [tuple(each) for each in signatures],
        update=("signature",),
    )


def delete_signatures_of(tx: Transaction, target_nid: int, targets: Iterable[str]) -> None:
    """Forget the signatures over these keys of a user."""
    for part in chunks(targets):
        tx.execute(
            delete(key_signatures).where(key_signatures.c.target_nid == target_nid, key_signatures.c.target.in_(part))
        )


def delete_signatures_by(tx: Transaction, signer_nid: int, key_ids: Iterable[str]) -> None:
    """Forget the signatures that a user made with these keys, such as `ed25519:DEVICE`."""
    table = key_signatures.c
    for part in chunks(key_ids):
        tx.execute(delete(key_signatures).where(table.signer_nid == signer_nid, table.key_id.in_(part)))


def delete_signatures_by_devices(tx: Transaction, user_nid: int, device_ids: Sequence[str]) -> bool:
    """Forget the signatures that devices of a user made, also those that came with a cross-signing key.

    Return whether there were any.
    """
    key_ids = [f"ed25519:{device_id}" for device_id in device_ids]
    table = key_signatures.c
    is_changed = False
    for part in chunks(key_ids):
        made = delete(key_signatures).where(table.signer_nid == user_nid, table.key_id.in_(part))
        is_changed = tx.execute(made).rowcount > 0 or is_changed
    left: list[CrossSigningKey] = []
    for key in load_cross_signing(tx, [user_nid]):
        content = orjson.loads(key.content)
        own = content.get("signatures", {}).get(content["user_id"], {})
        gone = [key_id for key_id in key_ids if key_id in own]
        for key_id in gone:
            del own[key_id]
        if gone:
            left.append(key._replace(content=encode_canonical(content)))
    set_cross_signing(tx, left)
    return is_changed or bool(left)


def delete_keys_of_user(tx: Transaction, user_nid: int) -> None:
    """Forget the cross-signing keys of a user, and the signatures by the user and over the user's keys."""
    tx.execute(delete(cross_signing_keys).where(cross_signing_keys.c.user_nid == user_nid))
    table = key_signatures.c
    for condition in (table.target_nid == user_nid, table.signer_nid == user_nid):
        tx.execute(delete(key_signatures).where(condition))


def delete_keys_of_devices(tx: Transaction, user_nid: int, device_nids: Sequence[int]) -> None:
    """Forget the identity keys of devices, and the signatures over and by them; the devices are still there."""
    for part in chunks(device_nids):
        names = [row[0] for row in tx.all(select(devices.c.device_id).where(devices.c.device_nid.in_(part)))]
        delete_signatures_of(tx, user_nid, names)
        delete_signatures_by_devices(tx, user_nid, names)
        tx.execute(delete(device_keys).where(device_keys.c.user_nid == user_nid, device_keys.c.device_nid.in_(part)))
