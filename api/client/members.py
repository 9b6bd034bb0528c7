"""Who is in a room, and in which rooms one is.

Spec: client-server API, "Getting events for a room"; "Room membership"; "Mutual rooms".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.errors import InvalidParam
from homeserver.model.content.member import Membership
from homeserver.model.ids import RoomID, UserID
from homeserver.rooms.members import StateReads
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .reading import read_token

_MEMBERSHIPS: Final = frozenset(member.value for member in Membership)
_MAX_TOKEN_CHARACTERS: Final = 19


class Members:
    """`/rooms/{roomId}/members` and `/joined_members`, `/joined_rooms`, `/mutual_rooms`."""

    def __init__(self, state: StateReads) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3"
        room = f"{prefix}/rooms/{{roomId}}"
        routes = [
            Route("GET", f"{room}/members", self.get_members, auth=Access.GUESTS, cancel_when_gone=True),
            Route("GET", f"{room}/joined_members", self.get_joined_members, auth=Access.USERS, cancel_when_gone=True),
            Route("GET", f"{prefix}/joined_rooms", self.get_joined_rooms, auth=Access.USERS),
        ]
        mutual = Route("GET", "/_matrix/client/v1/mutual_rooms", self.get_mutual_rooms, auth=Access.USERS)
        unstable = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
        return [
            *(each for route in routes for each in expand_prefixes(route)),
            mutual,
            Route("GET", unstable, self.get_mutual_rooms, auth=Access.USERS),
        ]

    async def get_members(self, request: WebRequest) -> Response:
        """The member events of a room."""
        return raw_json(
            await self._state.members(
                request.requester,
                RoomID.parse(request.args["roomId"]),
                at=read_token(request, "at"),
                membership=_membership(request, "membership"),
                not_membership=_membership(request, "not_membership"),
            )
        )

    async def get_joined_members(self, request: WebRequest) -> dict[str, Any]:
        """Names and pictures of everybody in the room."""
        return dict(await self._state.joined_members(request.requester, RoomID.parse(request.args["roomId"])))

    async def get_joined_rooms(self, request: WebRequest) -> dict[str, Any]:
        """The rooms that the user is in."""
        return {"joined_rooms": await self._state.joined_rooms(request.requester)}

    async def get_mutual_rooms(self, request: WebRequest) -> dict[str, Any]:
        """The rooms that the user shares with another."""
        requester: Requester = request.requester
        other = UserID.parse(request.require_query("user_id"))
        if other == requester.user_id:
            raise InvalidParam("'user_id' must be of another user")
        after = 0
        token = request.query("from")
        if token is not None:
            if not (token.isascii() and token.isdigit()) or len(token) >= _MAX_TOKEN_CHARACTERS:
                raise InvalidParam("Unknown pagination token")
            after = int(token)
        joined, total, end = await self._state.mutual_rooms(requester, other, after=after)
        return {"joined": joined, "count": total, **({"next_batch": str(end)} if end is not None else {})}


def _membership(request: WebRequest, name: str) -> str | None:
    value = request.query(name)
    if value is not None and value not in _MEMBERSHIPS:
        raise InvalidParam(f"'{name}' must be one of join, invite, knock, leave and ban")
    return value
