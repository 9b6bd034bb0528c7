"""Invites of people whose user ID became known after they were invited by e-mail or phone number.

The room holds an `m.room.third_party_invite` with the identity server's public keys. Whoever binds the address gets
from the identity server a claim, signed with such a key, that names their user ID; it turns the third-party invite into
a true one:

- `bound`: the identity server tells us, the invited user's server. Where this server is in the room it makes the invite
  itself, in the name of who invited; else it asks that user's server to.
- `exchange`: another server, whose user was invited by one of ours, asks us.

Nothing of a claim is believed that the signature does not cover. The inviting server, and only that one, also asks the
identity server whether the key is still valid.

Spec: server-server API, "Third-party invites"; client-server API, "Third-party invites".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

from homeserver.errors import (
    BadIdentifier,
    BadJson,
    HomeserverError,
    InvalidParam,
    MatrixError,
    NotAllowed,
    NotFound,
    RemoteError,
)
from homeserver.model.auth.needed import THIRD_PARTY_INVITE, needed_state
from homeserver.model.auth.third_party_invites import keys_that_signed
from homeserver.model.canonical_json import JsonObject, check_strict, encode_canonical
from homeserver.model.compose import compose
from homeserver.model.content.reading import mapping, sequence, text
from homeserver.model.content.third_party_invite import MAX_PUBLIC_KEYS, public_keys
from homeserver.model.event import Event, EventTemplate
from homeserver.model.ids import RoomID, UserID
from homeserver.model.judgement import judge_local
from homeserver.model.receipt_of_events import trust_own
from homeserver.ports import RemoteServers
from homeserver.runtime.clock import Clock
from storage.events import HIDDEN

from .door import Identity, RoomDoor
from .membership import InvitePolicy
from .server_guard import ServerGuard
from .templates import Templates
from .tip import RoomTip

logger = logging.getLogger(__name__)

FetchJson = Callable[[str], Awaitable[object]]
"""Gets a URL that a stranger has chosen, from a public address, and returns its JSON; raises RemoteError."""

# LIMIT: of one notice of an identity server; more invites of one address are not looked at.
MAX_INVITES: Final = 20
# LIMIT: bytes of what an identity server has signed.
MAX_CLAIM_BYTES: Final = 8 * 1024
_MAX_URL: Final = 2_000


class InviteSender(Protocol):
    """Sends an invite of a local user to anybody."""

    async def invite(
        self, room_id: RoomID, sender: UserID, target: UserID, *, content: Mapping[str, Any] | None = None
    ) -> object: ...


class ThirdPartyInvites:
    """Turns third-party invites into invites."""

    def __init__(
        self,
        door: RoomDoor,
        guard: ServerGuard,
        templates: Templates,
        inviter: InviteSender,
        remote: RemoteServers | None,
        identity: Identity,
        clock: Clock,
        *,
        may_invite: InvitePolicy,
        fetch_json: FetchJson | None,
    ) -> None:
        """`fetch_json` None: keys with a validity URL cannot be checked, and count as invalid."""
        self._door = door
        self._guard = guard
        self._templates = templates
        self._inviter = inviter
        self._remote = remote
        self._identity = identity
        self._clock = clock
        self._may_invite = may_invite
        self._fetch_json = fetch_json

    async def exchange(self, origin: str, room_id: RoomID, partial: Mapping[str, Any]) -> None:
        """Invite a user of `origin` whom a local user has invited by address; `partial` is the event that is asked for.

        Raises InvalidParam, BadJson, NotFound and NotAllowed.
        """
        await self._guard.admit(room_id, origin)
        if partial.get("type") != "m.room.member" or partial.get("room_id") != room_id:
            raise InvalidParam("The event is not a membership of the room that the URL names")
        content = mapping(partial, "content")
        if content.get("membership") != "invite":
            raise InvalidParam("The membership is not 'invite'")
        sender, target = _user(partial, "sender"), _user(partial, "state_key")
        if sender.server_name != self._identity.server_name:
            raise InvalidParam("The sender is not a user of this server")
        if target.server_name != origin:
            raise InvalidParam("The invited user is not of the server that asks")
        signed = _claim(mapping(content, "third_party_invite").get("signed"), target)
        invite = await self._find_invite(room_id, sender, signed)
        await self._check_keys(invite, signed)
        await self._inviter.invite(room_id, sender, target, content=_content(invite, signed))

    async def bound(self, user_id: UserID, invites: Sequence[object]) -> None:
        """Claim the invites that waited for an address which a local user now has; those that fail are left.

        Raises NotAllowed for a user who is not of this server.
        """
        if user_id.server_name != self._identity.server_name:
            raise NotAllowed("The user is not of this server")
        for each in invites[:MAX_INVITES]:
            try:
                await self._claim_one(user_id, each)
            except (HomeserverError, ValueError) as fault:
                logger.info("A third-party invite of %s could not be claimed: %s", user_id, fault)

    async def _claim_one(self, user_id: UserID, invite: object) -> None:
        if not isinstance(invite, dict):
            raise BadJson("An invite must be an object")
        room_id = RoomID.parse(invite.get("room_id") or "")
        sender = _user(invite, "sender")
        signed = _claim(invite.get("signed"), user_id)
        await self._may_invite(sender, user_id)
        try:
            tip = await self._guard.admit(room_id, self._identity.server_name)
        except NotFound:
            await self._ask(sender, user_id, room_id, signed)
            return
        await self._make(tip, sender, user_id, signed)

    async def _ask(self, sender: UserID, user_id: UserID, room_id: RoomID, signed: JsonObject) -> None:
        """Ask the server of who invited to make the invite."""
        server = sender.server_name
        if self._remote is None or server == self._identity.server_name:
            raise NotFound("Unknown room")
        # The true name is in the room, and who makes the invite takes it from there.
        claim = {"display_name": "", "signed": signed}
        event = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": sender,
            "state_key": user_id,
            "content": {"membership": "invite", "third_party_invite": claim},
        }
        await self._remote.exchange_third_party_invite(server, room_id, event)

    async def _make(self, tip: RoomTip, sender: UserID, user_id: UserID, signed: JsonObject) -> None:
        """Put the invite into a room that this server is in, in the name of who invited.

        Spec: "Validating hashes and signatures on received events": the signature of the sender's server is not needed.
        """
        invite = await self._find_invite(tip.room_id, sender, signed)
        if sender.server_name == self._identity.server_name:
            await self._check_keys(invite, signed)
        content = {"membership": "invite", **_content(invite, signed)}
        keys = needed_state(tip.version, type="m.room.member", sender=sender, state_key=user_id, content=content)
        found = await self._door.state_events(tip.room_id, keys)
        state = {key: found[key] for key in keys if key in found}
        event = compose(
            tip.version,
            EventTemplate("m.room.member", content, sender, user_id),
            room_id=tip.room_id,
            place=await self._templates.place(tip, state),
            server_name=self._identity.server_name,
            key=self._identity.key,
            now_ms=self._clock.now_ms(),
        )
        judge_local(tip.version, event, {key: stored.event for key, stored in state.items()}, tip.create.event)
        stored = await self._door.receive(tip.room_id, trust_own(event), relay=True)
        if stored.flags & HIDDEN:
            raise NotAllowed("The invite is not allowed")

    async def _find_invite(self, room_id: RoomID, sender: UserID, signed: JsonObject) -> Event:
        stored = await self._door.state_event(room_id, THIRD_PARTY_INVITE, signed["token"])
        if stored is None or stored.event.sender != sender:
            raise NotAllowed("There is no such invite in this room")
        return stored.event

    async def _check_keys(self, invite: Event, signed: JsonObject) -> None:
        """Return if a key of the invite that is still valid has signed the claim, else raise NotAllowed.

        Spec: client-server API, "Third-party invites", "Server behaviour": "by making a request to the identity
        server's /pubkey/isvalid endpoint, using the provided URL rather than constructing a new one".
        """
        for key in keys_that_signed(signed, public_keys(invite)):
            if await self._is_valid(key, _validity_urls(invite, key)):
                return
        raise NotAllowed("No valid key of the third-party invite has signed this")

    async def _is_valid(self, key: str, urls: Sequence[str]) -> bool:
        for url in urls:
            if self._fetch_json is None or len(url) > _MAX_URL:
                return False
            try:
                parts = urlsplit(url)
                if parts.scheme != "https" or not parts.hostname:
                    return False
                asked = parts._replace(
                    query=f"{parts.query}&" * bool(parts.query) + f"public_key={quote(key, safe='')}", fragment=""
                )
                answer = await self._fetch_json(asked.geturl())
            except (RemoteError, MatrixError, ValueError) as fault:
                logger.info("The validity of a key could not be asked for at %.100r: %s", url, fault)
                return False
            if not isinstance(answer, dict) or answer.get("valid") is not True:
                return False
        # Spec: `m.room.third_party_invite`, `key_validity_url`: "If this is absent, the key must be considered valid
        # indefinitely."
        return True


def _validity_urls(invite: Event, key: str) -> list[str]:
    """Return where the invite says that one asks for the validity of a key."""
    content = invite.content
    entries = [
        content,
        *(each for each in sequence(content, "public_keys")[:MAX_PUBLIC_KEYS] if isinstance(each, dict)),
    ]
    urls = (text(each, "key_validity_url") for each in entries if each.get("public_key") == key)
    return list(dict.fromkeys(url for url in urls if url is not None))


def _claim(signed: object, target: UserID) -> JsonObject:
    """Return what an identity server has signed, if it has the right shape and is about the user."""
    if not isinstance(signed, dict):
        raise BadJson("'signed' must be an object")
    if not isinstance(signed.get("token"), str) or not isinstance(signed.get("signatures"), dict):
        raise BadJson("'signed' must have a token and signatures")
    if signed.get("mxid") != target:
        raise InvalidParam("The claim is about another user")
    check_strict(signed)
    if len(encode_canonical(signed)) > MAX_CLAIM_BYTES:
        raise InvalidParam("The claim is too large")
    return signed


def _content(invite: Event, signed: JsonObject) -> JsonObject:
    """Return what an invite says of the third-party invite that it comes from: the name is that of the room."""
    return {"third_party_invite": {"display_name": text(invite.content, "display_name") or "", "signed": signed}}


def _user(obj: Mapping[str, Any], name: str) -> UserID:
    try:
        return UserID.parse(obj.get(name) or "")
    except BadIdentifier as fault:
        raise InvalidParam(f"'{name}' must be a user ID") from fault
