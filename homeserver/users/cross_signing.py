"""Cross-signing keys, and signatures that users make over devices and over each other.

A signature is stored only when it is good: by a key of the user who uploads it, over the key as this server has it. So
nobody can fill up other people's keys, and nothing that is shown is in vain. Signatures are checked outside of the
transaction that stores them; there it is looked whether the keys are still those. Of a user of another server the keys
are asked for where there is no copy of them; of one who shares no room, none is kept, and nobody can sign them.

Spec: client-server API, "Cross-signing", `POST /keys/device_signing/upload`, `POST /keys/signatures/upload`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam, InvalidSignature, MatrixError, NotFound, UnknownToken
from homeserver.feed.changes import store_change
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.model.canonical_json import JsonObject, check_strict
from homeserver.model.device_keys import (
    MASTER,
    MAX_ID_CHARACTERS,
    SELF_SIGNING,
    USAGES,
    USER_SIGNING,
    check_cross_signing_key,
    is_user_id,
    without_signatures,
)
from homeserver.model.ids import server_name_of
from homeserver.model.signing import BadKey, BadSignature, VerifyKey, verify_signed_json
from storage import device_keys as storage
from storage import device_lists as lists_storage
from storage.device_keys import CrossSigningKey, Signature
from storage.store import Store
from storage.transaction import Transaction

from .device_lists import SIGNING_KEYS, DeviceLists
from .remote_keys import RemoteKeys
from .sessions import Requester

# LIMIT: keys signed in one request, and signatures on each of them that are looked at.
MAX_SIGNED: Final = 1_000
MAX_SIGNATURES: Final = 10
_FETCH_TIMEOUT_S: Final = 10.0
_CHECKED: Final = "ed25519:checked"


@dataclass(frozen=True, slots=True)
class UploadedKeys:
    """Keys of one user, checked: usage -> (public key, canonical JSON)."""

    keys: Mapping[str, tuple[str, bytes]]
    # Whether the user has to prove who they are before these may be stored.
    needs_proof: bool
    # Whether they are what is stored already.
    is_known: bool
    # What is stored, by which that was found out: usage -> public key.
    present: Mapping[str, str]


class CrossSigning:
    """Stores keys and signatures."""

    def __init__(
        self, store: Store, *, device_lists: DeviceLists, stream: DeviceListsStream, remote: RemoteKeys | None = None
    ) -> None:
        """`remote` asks other servers."""
        self._store = store
        self._remote = remote
        self._device_lists = device_lists
        self._stream = stream

    def erase(self, tx: Transaction, user_nid: int) -> None:
        """Delete the keys of a user, with the signatures; an `AccountEraser`."""
        storage.delete_keys_of_user(tx, user_nid)

    # -- keys --------------------------------------------------------------------------------------------------------

    async def read_upload(self, requester: Requester, body: JsonObject) -> UploadedKeys:
        """Return the keys of a body, checked; raises InvalidParam, BadJson, InvalidSignature."""
        user_id, user_nid = str(requester.user_id), requester.user_nid
        found: dict[str, tuple[str, bytes]] = {}
        for usage in USAGES:
            value = body.get(f"{usage}_key")
            if value is not None:
                found[usage] = check_cross_signing_key(value, user_id, usage)
        stored = await self._store.database.read(
            lambda tx: {key.usage: key for key in storage.load_cross_signing(tx, [user_nid])}
        )
        master = found[MASTER][0] if MASTER in found else stored[MASTER].public_key if MASTER in stored else None
        for usage in (SELF_SIGNING, USER_SIGNING):
            if usage not in found:
                continue
            if master is None:
                raise InvalidParam("No master key available")
            _check(orjson.loads(found[usage][1]), user_id, master)
        # Spec: no proof is needed where "there is no existing master signing key", or "the request contains no new
        # keys".
        is_known = all(usage in stored and stored[usage].public_key == key for usage, (key, _) in found.items())
        present = {usage: key.public_key for usage, key in stored.items()}
        return UploadedKeys(found, MASTER in stored and not is_known, is_known, present)

    async def store(self, requester: Requester, uploaded: UploadedKeys) -> bool:
        """Store keys in the place of those of the same usage; signatures over and by a replaced key go with it.

        False, and nothing is stored, where the user has other keys since `read_upload`: whether these are good, and may
        be stored without a proof, is to be looked at again. Raises InvalidParam where a device has the ID of a key.
        """
        if uploaded.is_known or not uploaded.keys:
            return True
        user_nid = requester.user_nid

        def write(tx: Transaction) -> bool:
            if requester.device_nid is not None and not storage.has_device(tx, requester.device_nid):
                # Logged out since the request came, perhaps because the account was closed.
                raise UnknownToken("The device is gone")
            stored = storage.load_cross_signing(tx, [user_nid])
            if {key.usage: key.public_key for key in stored} != uploaded.present:
                return False
            # Spec: "Cross-signing": servers "must ensure that device IDs will not collide with cross-signing public
            # keys".
            device_ids = storage.load_device_ids(tx, [user_nid]).get(user_nid, {})
            if any(public_key in device_ids for public_key, _ in uploaded.keys.values()):
                raise InvalidParam("A device has the ID of this key")
            for key in stored:
                if key.usage in uploaded.keys and uploaded.keys[key.usage][0] != key.public_key:
                    storage.delete_signatures_of(tx, user_nid, [key.public_key])
                    storage.delete_signatures_by(tx, user_nid, [f"ed25519:{key.public_key}"])
            storage.set_cross_signing(
                tx, [CrossSigningKey(user_nid, usage, *key) for usage, key in uploaded.keys.items()]
            )
            self._device_lists.note(tx, user_nid, [SIGNING_KEYS])
            return True

        if not await self._store.database.write(write):
            return False
        await self._device_lists.tell(requester.user_id, user_nid)
        return True

    # -- signatures --------------------------------------------------------------------------------------------------

    async def sign(self, requester: Requester, body: JsonObject) -> JsonObject:
        """Store signatures; return the failures: user ID -> device ID or public key -> error."""
        wanted: dict[str, dict[str, Any]] = {}
        count = 0
        for user, targets in body.items():
            if not isinstance(targets, dict):
                raise BadJson("the signed keys of a user must be an object")
            count += len(targets)
            if count > MAX_SIGNED:
                raise InvalidParam(f"at most {MAX_SIGNED} keys can be signed at once")
            wanted[user] = targets
        signer = await self._store.database.read(lambda tx: _load_signer(tx, requester))
        nids, masters = await self._find_masters(requester, wanted)
        unknown = [
            user
            for user, targets in wanted.items()
            if is_user_id(user)
            and not any(key.public_key in targets for key in (masters.get(nids.get(user, 0)),) if key)
        ]
        if await self._fetch(requester, signer, unknown):
            nids, masters = await self._find_masters(requester, wanted)
        failures: dict[str, dict[str, JsonObject]] = {}
        good: list[Signature] = []
        for user, targets in wanted.items():
            for target, signed in targets.items():
                try:
                    if user == requester.user_id:
                        good += signer.sign_own(target, signed)
                    else:
                        user_nid = nids.get(user)
                        good += signer.sign_other(user_nid, masters.get(user_nid or 0), target, signed)
                except MatrixError as fault:
                    failures.setdefault(user, {})[target] = fault.body()
        if good:
            names = {nid: user for user, nid in nids.items()}
            kept = await self._keep(requester, signer, masters, good, names)
            for each in good:
                if each not in kept:
                    replaced = NotFound("The key was replaced meanwhile").body()
                    failures.setdefault(names[each.target_nid], {})[each.target] = replaced
        return failures

    async def _find_masters(
        self, requester: Requester, wanted: Iterable[str]
    ) -> tuple[dict[str, int], dict[int, CrossSigningKey]]:
        """Return the numbers of users, and the master keys of those who are not the requester."""
        nids = await self._store.interner.find_users(wanted)
        others = [nid for nid in nids.values() if nid != requester.user_nid]
        return {str(user): nid for user, nid in nids.items()}, await self._store.database.read(
            lambda tx: _load_masters(tx, others)
        )

    async def _fetch(self, requester: Requester, signer: _Signer, users: Iterable[str]) -> bool:
        """Ask other servers for keys that are not known; return whether anything was asked for."""
        own_server = requester.user_id.server_name
        asked: dict[str, dict[str, tuple[str, ...]]] = {}
        for user in users:
            server = server_name_of(user)
            if server != own_server:
                asked.setdefault(server, {})[user] = ()
        if self._remote is None or not asked or signer.public_key(USER_SIGNING) is None:
            return False
        await self._remote.query(asked, timeout_s=_FETCH_TIMEOUT_S)
        return True

    async def _keep(
        self,
        requester: Requester,
        signer: _Signer,
        masters: Mapping[int, CrossSigningKey],
        good: Sequence[Signature],
        names: Mapping[int, str],
    ) -> list[Signature]:
        """Store signatures by and over keys that are still there; return which."""
        user_nid = requester.user_nid

        def write(tx: Transaction, position: int) -> list[Signature]:
            now = _load_signer(tx, requester)
            others = _load_masters(tx, {each.target_nid for each in good if each.target_nid != user_nid})
            kept: list[Signature] = []
            for each in good:
                if each.target_nid == user_nid:
                    is_same = now.content_of(each.target) == signer.content_of(each.target)
                else:
                    is_same = others.get(each.target_nid) == masters.get(each.target_nid)
                name = each.key_id.removeprefix("ed25519:")
                if is_same and now.content_of(name) == signer.content_of(name):
                    kept.append(each)
            storage.set_signatures(tx, kept)
            own = {each.target for each in kept if each.target_nid == user_nid}
            self._device_lists.note(
                tx, user_nid, [SIGNING_KEYS if target == now.public_key(MASTER) else target for target in own]
            )
            for other in {each.target_nid for each in kept if each.target_nid != user_nid}:
                lists_storage.touch_list(tx, other, position)
            return kept

        def publish(position: int, kept: list[Signature]) -> None:
            # Only the signer sees a signature over somebody else's key.
            for other in {each.target_nid for each in kept if each.target_nid != user_nid}:
                self._stream.publish_to(requester.user_id, names[other], position)

        kept = await store_change(
            self._store.positions,
            lambda position: self._store.database.write(lambda tx: write(tx, position)),
            publish,
        )
        await self._device_lists.tell(requester.user_id, user_nid)
        return kept


@dataclass(frozen=True, slots=True)
class _Signer:
    user_id: str
    user_nid: int
    keys: Mapping[str, CrossSigningKey]
    devices: Mapping[str, bytes]

    def public_key(self, usage: str) -> str | None:
        key = self.keys.get(usage)
        return None if key is None else key.public_key

    def content_of(self, target: str) -> bytes | None:
        """Return a device (by its ID) or cross-signing key (by itself), without what others know it by."""
        key = next((key for key in self.keys.values() if key.public_key == target), None)
        if key is not None:
            return key.content
        return self.devices.get(target)

    def sign_own(self, target: str, signed: Any) -> list[Signature]:
        """Return the signatures over a device or the master key of the user's own."""
        names = _signature_names(signed, self.user_id)
        stored = self.devices.get(target)
        if stored is not None:
            _check_same(signed, orjson.loads(stored))
            key = self.public_key(SELF_SIGNING)
            if key is None:
                raise NotFound("There is no self-signing key")
            if f"ed25519:{key}" not in names:
                raise InvalidSignature("The device is not signed by the self-signing key")
            return [self._checked(signed, self.user_nid, target, key, key)]
        master = self.keys.get(MASTER)
        if master is None or target != master.public_key:
            raise NotFound("No such device or key")
        _check_same(signed, orjson.loads(master.content))
        # Spec: the master key may be signed by the user's devices. One of them that has other keys since does not void
        # the signatures of the others.
        found: list[Signature] = []
        fault: InvalidSignature | None = None
        device_ids = [name.partition(":")[2] for name in names]
        for device_id in [each for each in device_ids if each in self.devices][:MAX_SIGNATURES]:
            public = orjson.loads(self.devices[device_id]).get("keys", {}).get(f"ed25519:{device_id}")
            if isinstance(public, str):
                try:
                    found.append(self._checked(signed, self.user_nid, target, device_id, public))
                except InvalidSignature as bad:
                    fault = bad
        if not found:
            raise fault or InvalidSignature("The master key is not signed by a device of the user")
        return found

    def sign_other(
        self, user_nid: int | None, master: CrossSigningKey | None, target: str, signed: Any
    ) -> list[Signature]:
        """Return the signature over another user's master key."""
        if user_nid is None or master is None or target != master.public_key:
            raise NotFound("No such key")
        key = self.public_key(USER_SIGNING)
        if key is None:
            raise NotFound("There is no user-signing key")
        if f"ed25519:{key}" not in _signature_names(signed, self.user_id):
            raise InvalidSignature("The key is not signed by the user-signing key")
        _check_same(signed, orjson.loads(master.content))
        return [self._checked(signed, user_nid, target, key, key)]

    def _checked(self, signed: JsonObject, target_nid: int, target: str, key_id: str, public: str) -> Signature:
        _check(signed, self.user_id, public, key_id)
        name = f"ed25519:{key_id}"
        return Signature(target_nid, target, self.user_nid, name, signed["signatures"][self.user_id][name])


def _load_signer(tx: Transaction, requester: Requester) -> _Signer:
    user_nid = requester.user_nid
    return _Signer(
        str(requester.user_id),
        user_nid,
        {key.usage: key for key in storage.load_cross_signing(tx, [user_nid])},
        {device.device_id: device.content for device in storage.load_device_keys(tx, [user_nid])},
    )


def _load_masters(tx: Transaction, user_nids: Iterable[int]) -> dict[int, CrossSigningKey]:
    return {key.user_nid: key for key in storage.load_cross_signing(tx, user_nids) if key.usage == MASTER}


def _signature_names(signed: Any, user_id: str) -> list[str]:
    if not isinstance(signed, dict):
        raise BadJson("a signed key must be an object")
    signatures = signed.get("signatures")
    own = signatures.get(user_id) if isinstance(signatures, dict) else None
    if not isinstance(own, dict):
        raise InvalidSignature("There is no signature of yours")
    return [name for name in own if name.startswith("ed25519:") and len(name) <= MAX_ID_CHARACTERS]


def _check_same(signed: JsonObject, stored: JsonObject) -> None:
    # Of the same value no second form: equal objects have equal canonical JSON.
    check_strict(without_signatures(signed))
    if without_signatures(signed) != without_signatures(stored):
        raise InvalidParam("The signed key is not the one that is stored")


def _check(signed: JsonObject, user_id: str, public: str, key_id: str | None = None) -> None:
    signatures = signed.get("signatures")
    own = signatures.get(user_id) if isinstance(signatures, dict) else None
    signature = own.get(f"ed25519:{key_id or public}") if isinstance(own, dict) else None
    # A device may have any ID; it is looked for here, for what checks signatures knows the names of servers' keys.
    named = {**signed, "signatures": {user_id: {_CHECKED: signature}}}
    try:
        verify_signed_json(named, user_id, _CHECKED, VerifyKey.parse(public))
    except (BadSignature, BadKey) as fault:
        raise InvalidSignature(f"The signature is not good: {fault}") from fault
