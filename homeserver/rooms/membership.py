"""Joining, leaving, inviting, kicking, banning, knocking and forgetting, for local users.

In a room that this server is in, each is a template through the write door; the rules decide. What is here is what a
member event says (profile, reason, who vouches for a restricted join) and what the client API wants refused before an
event is made. For a room that it is not in, and for invites of users of other servers, other servers have to be asked
(`joining`, `remote_membership`); a membership there is one that `outside` keeps.

Spec: client-server API, "Room membership"; room version 8, "Restricted rooms".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, update

from homeserver.errors import (
    BadRequest,
    GuestForbidden,
    MatrixError,
    NotAllowed,
    NotFound,
    StorageUnavailable,
    UnableToAuthoriseJoin,
)
from homeserver.feed.feed import Feed
from homeserver.model.content.join_rules import allowed_room_ids, is_restricted, join_rule_of
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.content.reading import mapping
from homeserver.model.event import EventTemplate
from homeserver.model.ids import EventID, RoomID, UserID, server_name_of
from homeserver.runtime.lanes import Lanes
from storage.events import StoredEvent
from storage.outliers import find_room
from storage.store import Store
from storage.tables.rooms import memberships
from storage.transaction import Transaction

from .door import RoomDoor
from .joining import Joining
from .outside import OutsideMembership, OutsideRooms
from .remote_membership import RemoteMembership

ProfileOf = Callable[[UserID], Awaitable[Mapping[str, Any]]]
"""Returns the `displayname` and `avatar_url` of a local user, where set."""

InvitePolicy = Callable[[UserID, UserID], Awaitable[None]]
"""Called with inviter and invitee; raises where the invitee takes no invites."""

# LIMIT: joined members that are looked at for one who may vouch for a restricted join.
MAX_VOUCHERS: Final = 200
NO_FEDERATION: Final = "Users of other servers cannot be invited: this server does not federate"
# LIMIT: joins of other users that a join waits for.
MAX_WAITS: Final = 5
_GONE: Final = ("leave", "ban")


@dataclass(frozen=True, slots=True)
class OtherServers:
    """The ways into rooms of other servers and out of them."""

    outside: OutsideRooms
    joining: Joining
    remote: RemoteMembership


class Membership:
    """Changes who is in a room."""

    def __init__(
        self,
        store: Store,
        door: RoomDoor,
        feed: Feed,
        *,
        server_name: str,
        profile_of: ProfileOf,
        may_invite: InvitePolicy,
        others: OtherServers | None = None,
    ) -> None:
        """`others` is None where this server does not federate."""
        self._store = store
        self._door = door
        self._feed = feed
        self._server_name = server_name
        self._profile_of = profile_of
        self._may_invite = may_invite
        self._others = others
        # Who says twice at once that they come or go, comes or goes once.
        self._moving: Lanes[tuple[RoomID, UserID]] = Lanes()

    async def current(self, room_id: RoomID, user_id: UserID) -> StoredEvent | None:
        """Return the user's current member event in a room, or None; raise NotFound for an unknown room."""
        return await self._door.state_event(room_id, "m.room.member", user_id)

    async def is_elsewhere(self, room_id: RoomID) -> bool:
        """Tell whether other servers have to be asked about a room, because this one is not in it."""
        return self._others is not None and not await self._others.joining.is_in(room_id)

    async def join(
        self,
        room_id: RoomID,
        user_id: UserID,
        *,
        content: Mapping[str, Any] | None = None,
        is_guest: bool = False,
        servers: Sequence[str] = (),
    ) -> None:
        """Join a room; joining again changes nothing. `servers` may be in it, where this one is not."""
        for _ in range(MAX_WAITS):
            if not await self.is_elsewhere(room_id):
                is_done = await self._join_here(room_id, user_id, content or {}, is_guest)
            elif is_guest:
                # Whether guests may is not known before somebody is in.
                raise GuestForbidden("Guests may not join rooms of other servers")
            else:
                is_done = await self._join_elsewhere(room_id, user_id, content or {}, servers)
            if is_done:
                return
        raise StorageUnavailable(f"others kept joining {room_id}")

    async def _join_here(self, room_id: RoomID, user_id: UserID, content: Mapping[str, Any], is_guest: bool) -> bool:
        try:
            async with self._moving.enter((room_id, user_id)):
                current = await self.current(room_id, user_id)
                if current is not None and current.event.membership == "join":
                    return True
                if is_guest:
                    await self._admit_guest(room_id)
                vouched = await self._vouch(room_id, user_id, current)
                await self._send(room_id, user_id, user_id, "join", {**content, **vouched}, with_profile=True)
        except UnableToAuthoriseJoin:
            if self._others is None:
                raise
            # Spec: server-server API, "Restricted rooms": another server that is in the room can.
            return await self._join_elsewhere(room_id, user_id, content, await self._vouching_servers(room_id))
        return True

    async def _join_elsewhere(
        self, room_id: RoomID, user_id: UserID, content: Mapping[str, Any], servers: Sequence[str]
    ) -> bool:
        assert self._others is not None
        said = {**await self._profile_of(user_id), **content}
        return await self._others.joining.join(room_id, user_id, content=said, servers=servers)

    async def leave(self, room_id: RoomID, user_id: UserID, *, reason: str | None = None) -> None:
        """Leave a room, decline an invite or take back a knock; having left already is well."""
        outside = await self._find_outside(room_id, user_id)
        if outside is not None and self._others is not None:
            if outside.membership in ("invite", "knock"):
                await self._others.remote.leave(room_id, user_id, outside, content=_reason(reason))
            elif outside.membership != "leave":
                raise NotAllowed("You are not in this room")
            return
        async with self._moving.enter((room_id, user_id)):
            current = await self.current(room_id, user_id)
            membership = current.event.membership if current is not None else None
            if membership == "leave":
                return
            if membership not in ("join", "invite", "knock"):
                raise NotAllowed("You are not in this room")
            await self._send(room_id, user_id, user_id, "leave", _reason(reason))

    async def invite(
        self,
        room_id: RoomID,
        sender: UserID,
        target: UserID,
        *,
        reason: str | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> EventID:
        """Invite a user; return the ID of the event."""
        await self.check_invite(room_id, sender, target)
        said = {**(content or {}), **_reason(reason)}
        if self.is_remote(target):
            return await self.invite_remote(room_id, _template(sender, target, {**said, "membership": "invite"}))
        return (await self._send(room_id, sender, target, "invite", said, with_profile=True)).event_id

    def is_remote(self, user_id: UserID) -> bool:
        """Tell whether a user is one of another server."""
        return user_id.server_name != self._server_name

    async def invite_remote(self, room_id: RoomID, template: EventTemplate) -> EventID:
        """Invite a user of another server, who takes invites as far as this server knows; return the event's ID."""
        if self._others is None:
            raise NotAllowed(NO_FEDERATION)
        return (await self._others.remote.invite(room_id, template)).event_id

    async def check_invite(self, room_id: RoomID, sender: UserID, target: UserID) -> None:
        """Return if `target` may be invited, as far as the rules of the room do not decide; else raise.

        To be asked for every event of a local user that invites, however it is made.
        """
        await self._require_joined(room_id, sender)
        await self.check_invitee(sender, target)

    async def check_invitee(self, sender: UserID, target: UserID) -> None:
        """Return if `target` takes invites of `sender`; raise NotAllowed, or what the policy for invites raises."""
        if self.is_remote(target) and self._others is None:
            raise NotAllowed(NO_FEDERATION)
        await self._may_invite(sender, target)

    async def kick(self, room_id: RoomID, sender: UserID, target: UserID, *, reason: str | None = None) -> None:
        """Remove a user from a room, take back an invite or refuse a knock."""
        await self._require_joined(room_id, sender)
        current = await self.current(room_id, target)
        if current is None or current.event.membership not in ("join", "invite", "knock"):
            raise NotAllowed("The target user is not in the room")
        await self._send(room_id, sender, target, "leave", _reason(reason))

    async def ban(self, room_id: RoomID, sender: UserID, target: UserID, *, reason: str | None = None) -> None:
        """Ban a user from a room."""
        await self._require_joined(room_id, sender)
        await self._send(room_id, sender, target, "ban", _reason(reason))

    async def unban(self, room_id: RoomID, sender: UserID, target: UserID, *, reason: str | None = None) -> None:
        """Lift a ban."""
        await self._require_joined(room_id, sender)
        current = await self.current(room_id, target)
        if current is None or current.event.membership != "ban":
            raise BadRequest("The target user is not banned from this room")
        await self._send(room_id, sender, target, "leave", _reason(reason))

    async def knock(
        self, room_id: RoomID, user_id: UserID, *, reason: str | None = None, servers: Sequence[str] = ()
    ) -> None:
        """Ask to be invited. `servers` may be in the room, where this one is not."""
        if self._others is not None and await self.is_elsewhere(room_id):
            said = {**await self._profile_of(user_id), **_reason(reason)}
            await self._others.remote.knock(room_id, user_id, content=said, servers=servers)
            return
        await self._send(room_id, user_id, user_id, "knock", _reason(reason), with_profile=True)

    async def forget(self, room_id: RoomID, user_id: UserID) -> None:
        """Forget a room that the user has left."""
        room_nid = await self._left_room(room_id, user_id)
        user_nid = await self._store.interner.user(user_id)

        def write(tx: Transaction) -> None:
            tx.execute(
                update(memberships)
                .where(
                    memberships.c.room_nid == room_nid,
                    memberships.c.user_nid == user_nid,
                    # Not where the user has joined again meanwhile.
                    memberships.c.membership.in_(_GONE),
                )
                .values(is_forgotten=True)
            )

        await self._store.database.write(write)
        user = self._feed.find_user(user_id)
        place = user.rooms.get(room_id) if user is not None else None
        if place is not None and place.membership in _GONE:
            place.is_forgotten = True

    async def update_profile(self, user_id: UserID, user_nid: int) -> None:
        """Put the user's present profile into the member events of all rooms that the user is in.

        A room that refuses is left as it is.
        """
        profile = await self._profile_of(user_id)
        user = await self._feed.user(user_id, user_nid)
        for place in user.joined():
            current = await self.current(place.room_id, user_id)
            if current is None or current.event.membership != "join":
                continue
            content = {
                key: value
                for key, value in current.event.content.items()
                if key not in ("displayname", "avatar_url", "reason", "join_authorised_via_users_server")
            }
            content.update(profile)
            if content == current.event.content:
                continue
            try:
                await self._door.send(place.room_id, _template(user_id, user_id, content))
            except MatrixError:
                continue

    async def leave_all(self, user_id: UserID, user_nid: int) -> None:
        """Leave every room and decline every invite, as for a user who is deactivated."""
        user = await self._feed.user(user_id, user_nid)
        for place in list(user.rooms.values()):
            if place.membership in ("join", "invite", "knock"):
                try:
                    await self.leave(place.room_id, user_id)
                except NotAllowed:
                    continue

    # -- private ------------------------------------------------------------------------------------------------------

    async def _find_outside(self, room_id: RoomID, user_id: UserID) -> OutsideMembership | None:
        """Return the user's membership in a room that this server is not in."""
        if self._others is None or not await self.is_elsewhere(room_id):
            return None
        return await self._others.outside.find(room_id, user_id)

    async def _left_room(self, room_id: RoomID, user_id: UserID) -> int:
        """Return the number of a room that the user has left; raise NotFound and BadRequest."""
        outside = await self._find_outside(room_id, user_id)
        if outside is not None:
            found = await self._store.database.read(lambda tx: find_room(tx, room_id))
            room_nid, membership, is_shown = found[0] if found is not None else 0, outside.membership, True
        else:
            current = await self.current(room_id, user_id)
            if current is None:
                raise NotFound("Unknown room")
            room_nid, membership = current.room_nid, current.event.membership or ""
            is_shown = (current.position or 0) <= self._feed.watermark
        if membership not in _GONE or not is_shown:
            raise BadRequest("You are still in this room: leave it first")
        return room_nid

    async def _vouching_servers(self, room_id: RoomID) -> list[str]:
        """Return the servers of those who are likely to be able to invite, the room's creator first."""
        tip = await self._door.tip(room_id)
        levels = await self._door.state_event(room_id, "m.room.power_levels")
        named = mapping(levels.event.content, "users") if levels is not None else {}
        return list(dict.fromkeys(map(server_name_of, (tip.create.event.sender, *named))))

    async def _send(
        self,
        room_id: RoomID,
        sender: UserID,
        target: UserID,
        membership: str,
        said: Mapping[str, Any],
        *,
        with_profile: bool = False,
    ) -> StoredEvent:
        content = {key: value for key, value in said.items() if key != "membership"}
        if with_profile and target.server_name == self._server_name:
            content = {**await self._profile_of(target), **content}
        content["membership"] = membership
        return await self._door.send(room_id, _template(sender, target, content))

    async def _require_joined(self, room_id: RoomID, user_id: UserID) -> None:
        current = await self.current(room_id, user_id)
        if current is None or current.event.membership != "join":
            raise NotAllowed("You are not in this room")

    async def _admit_guest(self, room_id: RoomID) -> None:
        access = await self._door.state_event(room_id, "m.room.guest_access")
        if access is None or access.event.content.get("guest_access") != "can_join":
            raise NotAllowed("Guests may not join this room")

    async def _vouch(self, room_id: RoomID, user_id: UserID, current: StoredEvent | None) -> dict[str, Any]:
        """Return who vouches for a restricted join. Spec: server-server API, "Restricted rooms"."""
        tip = await self._door.tip(room_id)
        rules = await self._door.state_event(room_id, "m.room.join_rules")
        if rules is None or not is_restricted(tip.version, join_rule_of(rules.event)):
            return {}
        if current is not None and current.event.membership == "invite":
            return {}
        user_nid = await self._store.interner.user(user_id)
        user = await self._feed.user(user_id, user_nid)
        allowed = allowed_room_ids(rules.event)
        if not any(
            (place := user.rooms.get(allowed_id)) is not None and place.membership == "join" for allowed_id in allowed
        ):
            raise NotAllowed("You are not a member of any room that would let you in here")
        levels_event = await self._door.state_event(room_id, "m.room.power_levels")
        levels = PowerLevels.from_events(
            tip.version, tip.create.event, levels_event.event if levels_event is not None else None
        )
        for member in await self._local_members(tip.room_nid):
            if levels.of(member) >= levels.invite:
                return {"join_authorised_via_users_server": member}
        raise UnableToAuthoriseJoin("Nobody on this server may vouch for a join of this room")

    async def _local_members(self, room_nid: int) -> list[UserID]:
        rows = await self._store.database.read(
            lambda tx: tx.all(
                select(memberships.c.user_nid)
                .where(
                    memberships.c.room_nid == room_nid,
                    memberships.c.membership == "join",
                    memberships.c.is_local.is_(True),
                )
                .order_by(memberships.c.position)
                .limit(MAX_VOUCHERS)
            )
        )
        names = await self._store.interner.user_names(row[0] for row in rows)
        return [UserID(name) for name in names.values()]


def _template(sender: UserID, target: UserID, content: Mapping[str, Any]) -> EventTemplate:
    return EventTemplate(type="m.room.member", content=content, sender=sender, state_key=target)


def _reason(reason: str | None) -> dict[str, Any]:
    return {"reason": reason} if reason is not None else {}
