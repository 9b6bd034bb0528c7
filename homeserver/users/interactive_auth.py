"""User-interactive authentication: proving again who one is before something dear is done.

A session begins with the first request that lacks a proof. It belongs to one operation: the endpoint and method, the
user and device that ask, and the parameters of the request; a stage completed in it counts for nothing else. When all
stages of a flow are complete the session is used up, so a proof cannot be played twice.

LIMIT: sessions live in memory only: an hour at most, `MAX_SESSIONS` at once, the oldest giving way. One that is lost
(a restart, a crowd) costs its user one more prompt: the answer to an unknown session is a challenge with a new one.

Spec: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from homeserver.errors import BadJson, InteractiveAuthNeeded, LimitExceeded, MatrixError, MissingParam, NotAllowed
from homeserver.model.canonical_json import encode_canonical
from homeserver.runtime.clock import Clock

from .credentials import Credentials, is_same_user, parse_user
from .sessions import Requester

PASSWORD: Final = "m.login.password"
DUMMY: Final = "m.login.dummy"
REGISTRATION_TOKEN: Final = "m.login.registration_token"

MAX_SESSIONS: Final = 10_000
SESSION_LIFE_MS: Final = 3_600_000

Flows = Sequence[tuple[str, ...]]
TokenCheck = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is to be authorized.

    `name` is the method and path template. `parameters` is the body without `auth`; None where the endpoint lets them
    vary from stage to stage (registration, whose clients send them once and remember nothing).
    """

    name: str
    requester: Requester | None
    parameters: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Proof:
    """All stages of a flow are complete: what each one yielded, and what the session was asked to keep.

    The password stage yields the user ID, the registration token stage the token.
    """

    results: Mapping[str, str]
    kept: Mapping[str, Any]


@dataclass(slots=True)
class _Session:
    session_id: str
    binding: bytes
    expires_ts: int
    results: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


class InteractiveAuth:
    """Keeps the sessions and judges the stages."""

    def __init__(
        self, clock: Clock, credentials: Credentials, *, check_registration_token: TokenCheck, proof_life_ms: int = 0
    ) -> None:
        """`proof_life_ms`: for how long a device that has just given a password is not asked again; 0: always asked."""
        self._clock = clock
        self._credentials = credentials
        self._check_registration_token = check_registration_token
        self._proof_life_ms = proof_life_ms
        self._sessions: dict[str, _Session] = {}
        self._proven_until: dict[int, int] = {}

    async def require(
        self,
        operation: Operation,
        flows: Flows,
        auth: object,
        *,
        keep: Mapping[str, Any] | None = None,
    ) -> Proof:
        """Return the proof that `operation` may be done, or raise InteractiveAuthNeeded with what is still to do.

        `auth` is the request's `auth` member, None without one. `keep` is stored in the session and handed back with
        the proof; what earlier requests of the session kept stays unless overwritten.
        """
        if auth is None:
            if self._is_proven(operation.requester):
                return Proof({}, dict(keep or {}))
            session = self._open(operation)
            session.kept.update(keep or {})
            raise self._challenge(session, flows)
        if type(auth) is not dict:
            raise BadJson("'auth' must be an object")
        session = self._find(operation, flows, auth.get("session"))
        session.kept.update(keep or {})
        stage = auth.get("type")
        if stage is not None and type(stage) is not str:
            raise BadJson("'auth.type' must be a string")
        # Spec: "Completed stages cannot be retried by clients".
        if stage is not None and stage not in session.results:
            await self._try(session, operation, flows, stage, auth)
        done = tuple(session.results)
        if done not in {tuple(flow) for flow in flows}:
            raise self._challenge(session, flows)
        # The stage was awaited: of two requests that completed it at once, only one goes on.
        if self._sessions.pop(session.session_id, None) is None:
            raise NotAllowed("This authentication session was used already")
        self._note_proven(operation.requester, session)
        return Proof(session.results, session.kept)

    async def _try(
        self, session: _Session, operation: Operation, flows: Flows, stage: str, auth: Mapping[str, Any]
    ) -> None:
        done = tuple(session.results)
        # Spec: "the flow's stages must be completed in order".
        possible = {flow[len(done)] for flow in flows if len(flow) > len(done) and tuple(flow[: len(done)]) == done}
        if stage not in possible:
            raise self._challenge(session, flows, NotAllowed("This stage is not part of the flow, or not yet its turn"))
        try:
            result = await self._judge(operation.requester, stage, auth)
        except LimitExceeded:
            raise
        except NotAllowed as refusal:
            # Spec: "the same HTTP status 401 response as above, with the addition of errcode and error".
            raise self._challenge(session, flows, refusal) from refusal
        session.results[stage] = result

    async def _judge(self, requester: Requester | None, stage: str, auth: Mapping[str, Any]) -> str:
        if stage == DUMMY:
            return ""
        if stage == PASSWORD:
            return await self._judge_password(requester, auth)
        token = auth.get("token")
        if type(token) is not str:
            raise MissingParam("'auth.token' is missing") if token is None else BadJson("'auth.token' must be a string")
        if not await self._check_registration_token(token):
            raise NotAllowed("Invalid registration token")
        return token

    async def _judge_password(self, requester: Requester | None, auth: Mapping[str, Any]) -> str:
        password = auth.get("password")
        if type(password) is not str:
            raise MissingParam("'auth.password' is missing")
        user = parse_user(auth.get("identifier"))
        if user is None:
            # COMPAT: what clients sent before there were identifier objects.
            user = auth.get("user")
        if type(user) is not str:
            if auth.get("identifier") is not None:
                # No address is bound to any account here. Spec: "must respond with 403 Forbidden".
                raise NotAllowed("Only users of this server can be identified")
            raise MissingParam("'auth.identifier' is missing")
        if requester is not None:
            if not is_same_user(user, requester.user_id):
                raise NotAllowed("This is not the user who is logged in")
            user = requester.user_id
        account = await self._credentials.check(user, password)
        return account.user_id

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _open(self, operation: Operation) -> _Session:
        now_ms = self._clock.now_ms()
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if oldest.expires_ts > now_ms and len(self._sessions) < MAX_SESSIONS:
                break
            del self._sessions[oldest.session_id]
        session = _Session(secrets.token_urlsafe(18), _binding(operation), now_ms + SESSION_LIFE_MS)
        self._sessions[session.session_id] = session
        return session

    def _find(self, operation: Operation, flows: Flows, session_id: object) -> _Session:
        if session_id is None:
            # Spec: the session must be given "if one was given"; who knows the flow may begin with its first stage.
            return self._open(operation)
        if type(session_id) is not str:
            raise BadJson("'auth.session' must be a string")
        session = self._sessions.get(session_id)
        if session is None or session.expires_ts <= self._clock.now_ms():
            raise self._challenge(self._open(operation), flows, NotAllowed("Unknown or expired session"))
        if session.binding != _binding(operation):
            raise NotAllowed("The operation has changed during the authentication session")
        return session

    def _challenge(self, session: _Session, flows: Flows, refusal: MatrixError | None = None) -> InteractiveAuthNeeded:
        challenge: dict[str, Any] = {
            "session": session.session_id,
            "flows": [{"stages": list(flow)} for flow in flows],
            "params": {},
        }
        if session.results:
            challenge["completed"] = list(session.results)
        if refusal is not None:
            challenge.update(refusal.body())
        return InteractiveAuthNeeded(challenge)

    # -- proofs that last --------------------------------------------------------------------------------------------

    def _is_proven(self, requester: Requester | None) -> bool:
        if requester is None or requester.device_nid is None or not self._proof_life_ms:
            return False
        return self._proven_until.get(requester.device_nid, 0) > self._clock.now_ms()

    def _note_proven(self, requester: Requester | None, session: _Session) -> None:
        if not self._proof_life_ms or requester is None or requester.device_nid is None:
            return
        if PASSWORD in session.results:
            now_ms = self._clock.now_ms()
            if len(self._proven_until) >= MAX_SESSIONS:
                self._proven_until = {nid: until for nid, until in self._proven_until.items() if until > now_ms}
            if len(self._proven_until) < MAX_SESSIONS:
                self._proven_until[requester.device_nid] = now_ms + self._proof_life_ms


def _binding(operation: Operation) -> bytes:
    requester = operation.requester
    who: list[Any] = [] if requester is None else [requester.user_id, requester.device_nid or 0]
    parameters = None
    if operation.parameters is not None:
        parameters = {key: value for key, value in operation.parameters.items() if key != "auth"}
    return hashlib.sha256(encode_canonical([operation.name, who, parameters])).digest()
