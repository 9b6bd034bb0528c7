"""The ways in: a password, or a new account.

Spec: client-server API, "Login", "Account registration and management", "User-Interactive Authentication API".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .http import ChatError, Http, Refused
from .saved import SavedSession

DEVICE_NAME: Final = "sennit chat"
STREAM_FEATURE: Final = "org.sennit.stream"
_DUMMY: Final = "m.login.dummy"
_TOKEN: Final = "m.login.registration_token"
# One for each stage that we know, and one to begin with.
_MAX_STEPS: Final = 4


async def check_server(http: Http) -> None:
    """Raise ChatError where no server answers that has a stream."""
    answer = await http.ask("GET", "versions")
    features = answer.get("unstable_features")
    if not isinstance(features, dict) or features.get(STREAM_FEATURE) is not True:
        raise ChatError(
            f"The server at {http.url} has no live stream: it is not Sennit, an older one, or [stream] is not enabled."
        )


async def log_in(http: Http, user: str, password: str) -> SavedSession:
    """Return a new session of `user`, a user ID or its localpart. Raises ChatError."""
    answer = await http.ask(
        "POST",
        "v3",
        "login",
        body={
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
            "initial_device_display_name": DEVICE_NAME,
        },
    )
    return _session(http, answer)


async def check_registration(http: Http, user: str) -> None:
    """Raise ChatError where this account cannot be made, before a password is asked for."""
    try:
        await http.ask("POST", "v3", "register", body={"username": _localpart(user)})
    except Refused as refusal:
        if "flows" not in refusal.body:
            raise
        _next_stage(refusal)


async def register(http: Http, user: str, password: str, ask_token: Callable[[], str]) -> SavedSession:
    """Make an account and return its first session. `ask_token` is called where the server wants a registration token.

    Raises ChatError, also where the server wants something that a terminal has not.
    """
    body: dict[str, Any] = {
        "username": _localpart(user),
        "password": password,
        "initial_device_display_name": DEVICE_NAME,
    }
    for _step in range(_MAX_STEPS):
        try:
            return _session(http, await http.ask("POST", "v3", "register", body=body))
        except Refused as refusal:
            if "flows" not in refusal.body:
                raise
            stage = _next_stage(refusal)
            auth = {"type": stage, "session": refusal.body.get("session")}
            if stage == _TOKEN:
                auth["token"] = ask_token()
            body["auth"] = auth
    raise ChatError("The server did not accept the registration token.")


async def log_out(http: Http) -> None:
    """End the session on the server; one that has ended already is as good."""
    try:
        await http.ask("POST", "v3", "logout", body={})
    except Refused as refusal:
        if refusal.errcode != "M_UNKNOWN_TOKEN":
            raise


def _localpart(user: str) -> str:
    return user.removeprefix("@").partition(":")[0]


def _next_stage(refusal: Refused) -> str:
    """Return the next stage of a flow that we can go through."""
    flows, completed = refusal.body.get("flows"), refusal.body.get("completed")
    done = completed if isinstance(completed, list) else []
    if "errcode" in refusal.body:
        # Spec: "User-Interactive Authentication API": a stage was tried, and failed.
        raise refusal
    for flow in flows if isinstance(flows, list) else ():
        stages = flow.get("stages") if isinstance(flow, dict) else None
        if isinstance(stages, list) and all(stage in (_DUMMY, _TOKEN) for stage in stages):
            remaining = [str(stage) for stage in stages if stage not in done]
            if remaining:
                return remaining[0]
    raise ChatError("The server lets accounts be made only in a browser, or by its administrator (sennit user add).")


def _session(http: Http, answer: dict[str, Any]) -> SavedSession:
    user_id, device_id, token = answer.get("user_id"), answer.get("device_id"), answer.get("access_token")
    if not (isinstance(user_id, str) and isinstance(device_id, str) and isinstance(token, str)):
        raise ChatError(f"What answers at {http.url} is no Matrix server.")
    return SavedSession(http.url, user_id, device_id, token)
