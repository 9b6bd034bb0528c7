"""The user's own account: who am I, another password, closing it.

Spec: client-server API, "Current account information", "Password management", "Account deactivation", "Adding Account
Administrative Contact Information".
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import GuestForbidden, NotAllowed, UserLocked
from homeserver.model.ids import UserID
from homeserver.users.accounts import Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.interactive_auth import PASSWORD, InteractiveAuth, Operation
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_bool, require_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from ..ratelimit import Limit


class Account:
    """`/account/…`."""

    def __init__(
        self,
        accounts: Accounts,
        credentials: Credentials,
        interactive_auth: InteractiveAuth,
        *,
        has_passwords: bool,
    ) -> None:
        self._accounts = accounts
        self._credentials = credentials
        self._interactive_auth = interactive_auth
        self._has_passwords = has_passwords

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3/account"
        routes = [
            Route("GET", f"{prefix}/whoami", self.get_whoami, auth=Access.GUESTS),
            Route("GET", f"{prefix}/3pid", self.get_3pid, auth=Access.USERS),
            Route("POST", f"{prefix}/password", self.post_password, auth=Access.OPTIONAL, limit=Limit.PROBING),
            Route("POST", f"{prefix}/deactivate", self.post_deactivate, auth=Access.OPTIONAL, limit=Limit.PROBING),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_whoami(self, request: WebRequest) -> dict[str, Any]:
        """Whose token this is."""
        requester: Requester = request.requester
        answer: dict[str, Any] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            answer["device_id"] = requester.device_id
        return answer

    async def get_3pid(self, request: WebRequest) -> dict[str, Any]:
        """The addresses bound to the account: there are none."""
        return {"threepids": []}

    async def post_password(self, request: WebRequest) -> dict[str, Any]:
        """Change the password; all other devices are logged out unless the client asks not to."""
        if not self._has_passwords:
            raise NotAllowed("Passwords are not used on this server")
        body = request.json()
        new_password = require_str(body, "new_password")
        logout_devices = optional_bool(body, "logout_devices", True)
        self._credentials.check_policy(new_password)
        user_id, user_nid = await self._authorize(request, "POST /account/password", body)
        requester: Requester | None = request.requester
        await self._accounts.set_password_hash(
            user_id,
            user_nid,
            await self._credentials.hash(new_password),
            logout_devices=logout_devices,
            except_device=None if requester is None else requester.device_nid,
        )
        return {}

    async def post_deactivate(self, request: WebRequest) -> dict[str, Any]:
        """Close the account for good."""
        body = request.json_or_empty()
        erase = optional_bool(body, "erase")
        user_id, user_nid = await self._authorize(request, "POST /account/deactivate", body)
        await self._accounts.deactivate(user_id, user_nid, erase=erase)
        # Spec: "must be `success` if the homeserver has no identifiers to unbind for the user".
        return {"id_server_unbind_result": "success"}

    async def _authorize(self, request: WebRequest, name: str, body: dict[str, Any]) -> tuple[UserID, int]:
        """Return whose account it is: the requester's, or without an access token that of whoever has the password."""
        requester: Requester | None = request.requester
        if requester is not None and requester.is_guest:
            raise GuestForbidden("Guests have no account of their own")
        if requester is not None and requester.appservice is not None:
            return requester.user_id, requester.user_nid
        proof = await self._interactive_auth.require(Operation(name, requester, body), [(PASSWORD,)], body.get("auth"))
        if requester is not None:
            return requester.user_id, requester.user_nid
        account = await self._accounts.get(proof.results[PASSWORD])
        # Spec: "Account locking": what a locked account may still do is to log out.
        if account.is_locked:
            raise UserLocked("This account has been locked")
        return UserID(account.user_id), account.user_nid
