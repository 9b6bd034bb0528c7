"""Making rooms, and who is in them.

Spec: client-server API, "Creation", "Room membership".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.errors import BadJson, NotAllowed, NotFound
from homeserver.model.ids import RoomAlias, RoomID, UserID
from homeserver.model.presets import RoomRequest
from homeserver.rooms.creation import RoomCreation
from homeserver.rooms.directory import Directory
from homeserver.rooms.membership import Membership
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_str, require_str
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult
from homeserver.web.router import Handler, Route, expand_prefixes

from ..auth import Access, refuse_suspended
from ..ratelimit import ClientRates, Limit
from .directory import CheckNamespace


class RoomMembership:
    """`/createRoom`, `/join`, `/rooms/{roomId}/join|leave|invite|kick|ban|unban|forget`, `/knock`."""

    def __init__(
        self,
        creation: RoomCreation,
        membership: Membership,
        directory: Directory,
        rates: ClientRates,
        *,
        check_namespace: CheckNamespace = lambda alias, requester: False,
    ) -> None:
        self._creation = creation
        self._membership = membership
        self._directory = directory
        self._rates = rates
        self._check_namespace = check_namespace

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3"
        room = f"{prefix}/rooms/{{roomId}}"
        joins: dict[str, Any] = {"auth": Access.GUESTS, "limit": Limit.JOINS_LOCAL}
        routes = [
            Route("POST", f"{prefix}/createRoom", self.post_create_room, auth=Access.USERS, limit=Limit.ROOM_CREATION),
            Route("POST", f"{prefix}/join/{{roomIdOrAlias}}", self.post_join, **joins),
            Route("POST", f"{room}/join", self.post_join, **joins),
            Route("POST", f"{prefix}/knock/{{roomIdOrAlias}}", self.post_knock, auth=Access.USERS),
            Route("POST", f"{room}/leave", self._for_members(self.post_leave), auth=Access.GUESTS),
            Route("POST", f"{room}/forget", self.post_forget, auth=Access.USERS),
            Route(
                "POST",
                f"{room}/invite",
                self._for_members(self.post_invite),
                auth=Access.USERS,
                limit=Limit.INVITES_PER_ISSUER,
            ),
            Route("POST", f"{room}/kick", self._for_members(self.post_kick), auth=Access.USERS),
            Route("POST", f"{room}/ban", self._for_members(self.post_ban), auth=Access.USERS),
            Route("POST", f"{room}/unban", self._for_members(self.post_unban), auth=Access.USERS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def post_create_room(self, request: WebRequest) -> dict[str, Any]:
        """Make a room."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        wanted = RoomRequest.parse(request.json())
        if wanted.invite_3pid:
            # Nobody could carry the invites: no identity server is used here.
            raise BadJson("'invite_3pid' is not supported by this server")
        alias = wanted.alias(requester.user_id)
        if alias is not None:
            self._check_namespace(alias, requester)
        for _ in wanted.invite:
            # An invite is an invite, however many come in one request.
            self._rates.check_user(Limit.INVITES_PER_ISSUER, requester)
        room_id = await self._creation.create(requester.user_id, wanted)
        answer: dict[str, Any] = {"room_id": room_id}
        if alias is not None:
            # COMPAT(synapse): clients of old look at it.
            answer["room_alias"] = alias
        return answer

    async def post_join(self, request: WebRequest) -> dict[str, Any]:
        """Join a room by its ID or alias."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        body = request.json_or_empty()
        room_id, servers = await self._find(request)
        self._rates.check_key(Limit.JOINS_PER_ROOM, room_id, requester)
        if await self._membership.is_elsewhere(room_id):
            self._rates.check_user(Limit.JOINS_REMOTE, requester)
        content = _reason(body)
        signed = body.get("third_party_signed")
        if signed is not None:
            if not isinstance(signed, dict):
                raise BadJson("'third_party_signed' must be an object")
            content["third_party_signed"] = signed
        await self._membership.join(
            room_id, requester.user_id, content=content, is_guest=requester.is_guest, servers=servers
        )
        return {"room_id": room_id}

    async def post_knock(self, request: WebRequest) -> dict[str, Any]:
        """Ask to be invited to a room."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        reason = optional_str(request.json_or_empty(), "reason")
        room_id, servers = await self._find(request)
        if await self._membership.is_elsewhere(room_id):
            self._rates.check_user(Limit.JOINS_REMOTE, requester)
        await self._membership.knock(room_id, requester.user_id, reason=reason, servers=servers)
        return {"room_id": room_id}

    async def post_leave(self, request: WebRequest) -> dict[str, Any]:
        """Leave a room, or decline an invite."""
        requester: Requester = request.requester
        reason = optional_str(request.json_or_empty(), "reason")
        await self._membership.leave(_room_id(request), requester.user_id, reason=reason)
        return {}

    async def post_forget(self, request: WebRequest) -> dict[str, Any]:
        """Forget a room that was left."""
        requester: Requester = request.requester
        request.json_or_empty()
        await self._membership.forget(_room_id(request), requester.user_id)
        return {}

    async def post_invite(self, request: WebRequest) -> dict[str, Any]:
        """Invite a user."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        body = request.json()
        if "user_id" not in body and "medium" in body:
            raise BadJson("invites by e-mail or phone number are not supported by this server")
        target = _target(body)
        room_id = _room_id(request)
        self._rates.check_key(Limit.INVITES_PER_ROOM, room_id, requester)
        self._rates.check_key(Limit.INVITES_PER_USER, target, requester)
        await self._membership.invite(room_id, requester.user_id, target, reason=optional_str(body, "reason"))
        return {}

    async def post_kick(self, request: WebRequest) -> dict[str, Any]:
        """Remove a user."""
        requester: Requester = request.requester
        body = request.json()
        await self._membership.kick(
            _room_id(request), requester.user_id, _target(body), reason=optional_str(body, "reason")
        )
        return {}

    async def post_ban(self, request: WebRequest) -> dict[str, Any]:
        """Ban a user."""
        requester: Requester = request.requester
        body = request.json()
        await self._membership.ban(
            _room_id(request), requester.user_id, _target(body), reason=optional_str(body, "reason")
        )
        return {}

    async def post_unban(self, request: WebRequest) -> dict[str, Any]:
        """Lift a ban."""
        requester: Requester = request.requester
        body = request.json()
        await self._membership.unban(
            _room_id(request), requester.user_id, _target(body), reason=optional_str(body, "reason")
        )
        return {}

    def _for_members(self, handler: Handler) -> Handler:
        """Return the handler such that it tells nobody whether there is a room that they are not in."""

        async def handle(request: WebRequest) -> HandlerResult:
            try:
                return await handler(request)
            except NotFound as fault:
                try:
                    await self._membership.current(_room_id(request), request.requester.user_id)
                except NotFound:
                    raise NotAllowed("You are not in this room") from fault
                raise

        return handle

    async def _find(self, request: WebRequest) -> tuple[RoomID, Sequence[str]]:
        """Return the room, and the servers that are said to be in it."""
        # Spec: `POST /join/{roomIdOrAlias}`: `via` was `server_name` before version 1.12; clients send either or both.
        named = [*request.query_all("via"), *request.query_all("server_name")]
        text = request.args.get("roomIdOrAlias")
        if text is None:
            return _room_id(request), named
        if text.startswith("#"):
            alias = RoomAlias.parse(text)
            room_id, servers = await self._directory.resolve_with_servers(alias)
            return room_id, [*named, *servers, alias.server_name]
        return RoomID.parse(text), named


def _room_id(request: WebRequest) -> RoomID:
    return RoomID.parse(request.args["roomId"])


def _target(body: Mapping[str, Any]) -> UserID:
    return UserID.parse(require_str(body, "user_id"))


def _reason(body: Mapping[str, Any]) -> dict[str, Any]:
    reason = optional_str(body, "reason")
    return {} if reason is None else {"reason": reason}
