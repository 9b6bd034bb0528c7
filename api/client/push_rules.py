"""Push rules.

Spec: client-server API, "Push Rules: API".
"""

from __future__ import annotations

from typing import Any

from homeserver.model.push_rules.base import Kind
from homeserver.model.push_rules.edit import check_kind
from homeserver.users.push_rules import PushRules
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class PushRulesApi:
    """`/pushrules/…`."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    def routes(self) -> list[Route]:
        """Return the routes."""
        base = "/_matrix/client/v3/pushrules"
        rule = f"{base}/global/{{kind}}/{{ruleId}}"
        routes = [
            Route("GET", f"{base}/", self.get_rulesets, auth=Access.USERS),
            Route("GET", f"{base}/global/", self.get_global, auth=Access.USERS),
            # COMPAT: some clients leave out the slash at the end.
            Route("GET", base, self.get_rulesets, auth=Access.USERS),
            Route("GET", f"{base}/global", self.get_global, auth=Access.USERS),
            Route("GET", rule, self.get_rule, auth=Access.USERS),
            Route("PUT", rule, self.put_rule, auth=Access.USERS),
            Route("DELETE", rule, self.delete_rule, auth=Access.USERS),
            Route("GET", f"{rule}/enabled", self.get_enabled, auth=Access.USERS),
            Route("PUT", f"{rule}/enabled", self.put_enabled, auth=Access.USERS),
            Route("GET", f"{rule}/actions", self.get_actions, auth=Access.USERS),
            Route("PUT", f"{rule}/actions", self.put_actions, auth=Access.USERS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_rulesets(self, request: WebRequest) -> dict[str, Any]:
        """All rulesets, of which there is one."""
        return {"global": await self._push_rules.get_all(request.requester)}

    async def get_global(self, request: WebRequest) -> dict[str, Any]:
        """All rules."""
        return await self._push_rules.get_all(request.requester)

    async def get_rule(self, request: WebRequest) -> dict[str, Any]:
        """One rule."""
        return await self._push_rules.get(request.requester, *_named(request))

    async def put_rule(self, request: WebRequest) -> dict[str, Any]:
        """Make or replace a rule."""
        kind, rule_id = _named(request)
        await self._push_rules.put(
            request.requester,
            kind,
            rule_id,
            request.json(),
            before=request.query("before"),
            after=request.query("after"),
        )
        return {}

    async def delete_rule(self, request: WebRequest) -> dict[str, Any]:
        """Delete a rule."""
        await self._push_rules.delete(request.requester, *_named(request))
        return {}

    async def get_enabled(self, request: WebRequest) -> dict[str, Any]:
        """Whether a rule is enabled."""
        return {"enabled": (await self._push_rules.get(request.requester, *_named(request)))["enabled"]}

    async def put_enabled(self, request: WebRequest) -> dict[str, Any]:
        """Switch a rule on or off."""
        await self._push_rules.set_enabled(request.requester, *_named(request), request.json())
        return {}

    async def get_actions(self, request: WebRequest) -> dict[str, Any]:
        """The actions of a rule."""
        return {"actions": (await self._push_rules.get(request.requester, *_named(request)))["actions"]}

    async def put_actions(self, request: WebRequest) -> dict[str, Any]:
        """Replace the actions of a rule."""
        await self._push_rules.set_actions(request.requester, *_named(request), request.json())
        return {}


def _named(request: WebRequest) -> tuple[Kind, str]:
    return check_kind(request.args["kind"]), request.args["ruleId"]
