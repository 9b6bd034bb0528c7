"""Making an account as a client does, step by step: for stories about that. (Other stories are given their users.)"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Final

from ..actors import Server
from ..asking import JsonObject, text
from ..expect import Failed, shown
from ..http import Answer

BY_SECRET: Final = "/_synapse/admin/v1/register"


def fresh_name(beginning: str) -> str:
    """Return a name that nobody has, not even in another run."""
    return f"{beginning}-{secrets.token_hex(4)}"


def fresh_password() -> str:
    """Return a password that is good anywhere."""
    return f"Correct-horse-7-{secrets.token_urlsafe(9)}"


async def sign_up(server: Server, username: str | None = None, *, who: str = "Dora", **wishes: Any) -> JsonObject:
    """Make an account with no more proof than the dummy stage, and return what the client is told; Refused."""
    named = {} if username is None else {"username": username}
    return (await try_to_sign_up(server, {"password": fresh_password(), **named, **wishes}, who=who)).good()


async def try_to_sign_up(server: Server, body: JsonObject, *, who: str = "Dora") -> Answer:
    """Ask for an account, with the dummy stage if that is asked for; return the last answer, whatever it is."""
    answer = await server.request("POST", "/register", body, who=who)
    if answer.status != 401 or answer.errcode is not None:
        return answer
    if not offers(answer.json, "m.login.dummy"):
        raise Failed("a flow of nothing but m.login.dummy", shown(answer.json))
    proof = {"type": "m.login.dummy", "session": text(answer.json, "session")}
    return await server.request("POST", "/register", {**body, "auth": proof}, who=who)


def offers(asked: Any, *stages: str) -> bool:
    """Tell whether an answer that asks for a proof has a flow of just these stages."""
    flows = asked.get("flows") if isinstance(asked, dict) else None
    return any(each.get("stages") == list(stages) for each in flows or [])


async def sign_up_by_secret(server: Server, body: JsonObject, *, secret: str, signed: str = "notadmin") -> Answer:
    """Make an account with the secret of the server; `signed` is what the code says about being an administrator."""
    said = "\0".join((body["nonce"], body["username"], body["password"], signed))
    mac = hmac.new(secret.encode(), said.encode(), hashlib.sha1).hexdigest()
    return await server.request("POST", BY_SECRET, {**body, "mac": mac}, who="The operator")
