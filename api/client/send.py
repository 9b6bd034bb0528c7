"""Sending events: messages, state and redactions.

Spec: client-server API, "Sending events to a room", "Redactions".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from homeserver.errors import AuthRuleBroken, BadJson, InvalidParam, MissingParam, NotAllowed, NotFound, NotJoined
from homeserver.model.event import EventTemplate
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.rooms.door import RoomDoor
from homeserver.rooms.membership import Membership
from homeserver.rooms.relation_rules import RelationRules
from homeserver.rooms.transactions import ClientTransaction, TransactionIDs
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult, Response
from homeserver.web.router import Handler, Route, expand_prefixes

from ..auth import Access, refuse_suspended
from ..ratelimit import ClientRates, Limit

CheckAlias = Callable[[RoomID, Mapping[str, Any]], Awaitable[None]]
"""Raises where the content of `m.room.canonical_alias` names aliases that do not point to the room."""

_REDACTION = "m.room.redaction"


class Send:
    """`/send`, `/state` (PUT) and `/redact`."""

    def __init__(
        self,
        door: RoomDoor,
        membership: Membership,
        transactions: TransactionIDs,
        relations: RelationRules,
        rates: ClientRates,
        *,
        check_alias: CheckAlias,
    ) -> None:
        self._door = door
        self._membership = membership
        self._transactions = transactions
        self._relations = relations
        self._rates = rates
        self._check_alias = check_alias

    def routes(self) -> list[Route]:
        """Return the routes."""
        room = "/_matrix/client/v3/rooms/{roomId}"
        message: dict[str, Any] = {"auth": Access.GUESTS, "limit": Limit.MESSAGE}
        routes = [
            Route("PUT", f"{room}/send/{{eventType}}/{{txnId}}", self._alike(self.put_send), **message),
            Route("POST", f"{room}/send/{{eventType}}", self._alike(self.put_send), **message),
            Route("PUT", f"{room}/state/{{eventType}}/{{stateKey}}", self._alike(self.put_state), **message),
            Route("PUT", f"{room}/state/{{eventType}}/", self._alike(self.put_state), **message),
            Route("PUT", f"{room}/state/{{eventType}}", self._alike(self.put_state), **message),
            Route("PUT", f"{room}/redact/{{eventId}}/{{txnId}}", self._alike(self.put_redact), **message),
            Route("POST", f"{room}/redact/{{eventId}}", self._alike(self.put_redact), **message),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    def _alike(self, handler: Handler) -> Handler:
        """Return the handler such that who is not in a room learns nothing of it, not even whether it exists."""

        async def handle(request: WebRequest) -> HandlerResult:
            try:
                return await handler(request)
            except (NotFound, NotAllowed) as fault:
                if type(fault) not in (NotFound, NotAllowed, NotJoined, AuthRuleBroken):
                    raise
                if await self._is_joined(RoomID.parse(request.args["roomId"]), request.requester.user_id):
                    raise
                raise NotJoined("You are not in this room", detail=fault.message) from fault

        return handle

    async def _is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        try:
            current = await self._membership.current(room_id, user_id)
        except NotFound:
            return False
        return current is not None and current.event.membership == "join"

    async def put_send(self, request: WebRequest) -> Response:
        """Send a message event."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        _refuse_delay(request)
        room_id = RoomID.parse(request.args["roomId"])
        kind = request.args["eventType"]
        content = request.json()
        redacts = None
        if kind == _REDACTION:
            # Spec: room version 11: the target of a redaction is in the content.
            target = content.get("redacts")
            if not isinstance(target, str):
                raise MissingParam("a redaction needs 'redacts'")
            redacts = EventID.parse(target)
        template = EventTemplate(kind, content, requester.user_id, redacts=redacts, origin_server_ts=_ts(request))
        return await self._once(request, f"{room_id}/send/{kind}", room_id, template)

    async def put_state(self, request: WebRequest) -> Response:
        """Send a state event."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        _refuse_delay(request)
        room_id = RoomID.parse(request.args["roomId"])
        kind, state_key = request.args["eventType"], request.args.get("stateKey", "")
        content = request.json()
        if kind == "m.room.member":
            await self._check_member(room_id, requester, state_key, content)
            if content.get("membership") == "invite" and self._membership.is_remote(UserID.parse(state_key)):
                # The other server has to sign it.
                target = UserID.parse(state_key)
                return _event_id(await self._membership.invite(room_id, requester.user_id, target, content=content))
        elif kind == "m.room.canonical_alias" and state_key == "":
            await self._check_alias(room_id, content)
        template = EventTemplate(kind, content, requester.user_id, state_key=state_key, origin_server_ts=_ts(request))
        same = await self._door.find_same_state(room_id, template)
        if same is not None:
            # Saying the same again changes nothing.
            return _event_id(same.event_id)
        return _event_id((await self._door.send(room_id, template)).event_id)

    async def put_redact(self, request: WebRequest) -> Response:
        """Redact an event."""
        requester: Requester = request.requester
        room_id = RoomID.parse(request.args["roomId"])
        target = EventID.parse(request.args["eventId"])
        body = request.json_or_empty()
        reason = body.get("reason")
        if reason is not None and not isinstance(reason, str):
            raise BadJson("'reason' must be a string")
        content: dict[str, Any] = {} if reason is None else {"reason": reason}
        template = EventTemplate(_REDACTION, content, requester.user_id, redacts=target)
        return await self._once(request, f"{room_id}/redact/{target}", room_id, template)

    async def _once(self, request: WebRequest, endpoint: str, room_id: RoomID, template: EventTemplate) -> Response:
        requester: Requester = request.requester
        txn_id = request.args.get("txnId")
        scope = requester.device_nid
        if scope is None and requester.appservice is not None:
            # It acts without a device; its users have numbers that no device has.
            scope = requester.user_nid
        if txn_id is None or scope is None:
            return _event_id(await self._send(room_id, template))
        if len(txn_id.encode()) > 255:
            raise InvalidParam("the transaction ID is over 255 bytes")

        async def send(transaction: ClientTransaction) -> EventID:
            return await self._send(room_id, template, transaction)

        return _event_id(await self._transactions.once(scope, endpoint, txn_id, send))

    async def _send(
        self, room_id: RoomID, template: EventTemplate, transaction: ClientTransaction | None = None
    ) -> EventID:
        if "m.relates_to" in template.content:
            return (await self._relations.send(room_id, template, transaction=transaction)).event_id
        return (await self._door.send(room_id, template, transaction=transaction)).event_id

    async def _check_member(
        self, room_id: RoomID, requester: Requester, state_key: str, content: Mapping[str, Any]
    ) -> None:
        target = UserID.parse(state_key)
        membership = content.get("membership")
        if not isinstance(membership, str):
            raise BadJson("a membership needs 'membership'")
        if membership == "join" and target == requester.user_id:
            current = await self._membership.current(room_id, target)
            if current is None or current.event.membership != "join":
                # Joining has conditions that only the join endpoints know how to meet.
                raise NotAllowed("Use the join endpoint to join a room")
        if membership == "invite":
            # As at the invite endpoint.
            self._rates.check_user(Limit.INVITES_PER_ISSUER, requester)
            self._rates.check_key(Limit.INVITES_PER_ROOM, room_id, requester)
            self._rates.check_key(Limit.INVITES_PER_USER, target, requester)
            await self._membership.check_invite(room_id, requester.user_id, target)
        for field in ("displayname", "avatar_url"):
            if content.get(field) is not None and not isinstance(content[field], str):
                raise BadJson(f"'{field}' must be a string")


def _refuse_delay(request: WebRequest) -> None:
    # MSC4140: what is to be sent later must not be sent at once. A call that hangs up by it would end as it begins.
    if request.query("org.matrix.msc4140.delay") is not None:
        raise InvalidParam("this server sends no delayed events")


def _ts(request: WebRequest) -> int | None:
    # Spec: application service API, "Timestamp massaging": for application services only.
    requester: Requester = request.requester
    if requester.appservice is None:
        return None
    return request.query_int("ts", None, 0, 2**53 - 1)


def _event_id(event_id: str) -> Response:
    return Response(200, b'{"event_id":' + orjson.dumps(event_id) + b"}")
