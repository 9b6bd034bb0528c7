"""The one error tree.

Four facts on every error: who is at fault (the branch), the errcode and status, a safe text for the one who is
told against a detail for the log, and whether trying again may help.

- `MatrixError`: a client or a peer did something; it is told so.  Rendered to HTTP in `web/error_response.py` alone.
- `RemoteError`: another server failed or broke the protocol; never shown raw.
- `InternalFault`: our own trouble; answered as 500 `M_UNKNOWN`, logged with a traceback.

A peer's PDU that fails a check is a `Verdict`, not an exception: rejection is a normal result.

Spec: client-server API, "Standard error response".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class HomeserverError(Exception):
    """Root of all errors that this project raises on purpose."""


class MatrixError(HomeserverError):
    """A request is refused; `message` is told to whoever asked, `detail` goes to the log only."""

    status: ClassVar[int] = 400
    errcode: ClassVar[str] = "M_UNKNOWN"
    temporary: ClassVar[bool] = False

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def body(self) -> dict[str, Any]:
        """Return the JSON object that the caller is answered with."""
        return {"errcode": self.errcode, "error": self.message}

    def headers(self) -> Mapping[str, str]:
        """Return further response headers, usually none."""
        return {}


# -- 400, 405 and 413: the request itself is wrong -------------------------------------------------------------------


class BadRequest(MatrixError):
    """The request cannot be carried out as it stands."""


class NotJson(BadRequest):
    """The body is not JSON at all."""

    errcode = "M_NOT_JSON"


class BadJson(BadRequest):
    """The body is JSON, but of the wrong shape."""

    errcode = "M_BAD_JSON"


class ServerOwned(BadJson):
    """Account data of this type is kept by the server and cannot be set by clients."""

    status = 405


class MissingParam(BadRequest):
    """A required parameter is absent."""

    errcode = "M_MISSING_PARAM"


class InvalidParam(BadRequest):
    """A parameter has a value that is not allowed."""

    errcode = "M_INVALID_PARAM"


class BadIdentifier(InvalidParam):
    """An identifier does not follow the grammar of the appendices."""


class InvalidUsername(BadRequest):
    """The user name asked for is not allowed on this server."""

    errcode = "M_INVALID_USERNAME"


class WeakPassword(BadRequest):
    """The password does not meet the server's policy."""

    errcode = "M_WEAK_PASSWORD"


class TooLarge(BadRequest):
    """The body, or the event made of it, is over the limit."""

    status = 413
    errcode = "M_TOO_LARGE"


class BadState(BadRequest):
    """The change conflicts with the state of the room."""

    errcode = "M_BAD_STATE"


class InvalidRoomState(BadRequest):
    """The initial state given for a new room is not possible."""

    errcode = "M_INVALID_ROOM_STATE"


class UnsupportedRoomVersion(BadRequest):
    """This server does not know the room version asked for."""

    errcode = "M_UNSUPPORTED_ROOM_VERSION"


class InvalidSignature(BadRequest):
    """A signature is missing, or is not by the key that it should be by."""

    errcode = "M_INVALID_SIGNATURE"


class DuplicateAnnotation(BadRequest):
    """The user has annotated the event in the same way before."""

    errcode = "M_DUPLICATE_ANNOTATION"


class BadAlias(BadRequest):
    """A canonical alias points elsewhere, or nowhere."""

    errcode = "M_BAD_ALIAS"


class UnknownDevice(BadRequest):
    """An application service names a device that the user does not have."""

    errcode = "M_UNKNOWN_DEVICE"


class AppserviceLoginUnsupported(BadRequest):
    """The application service has to do without sessions of its users."""

    errcode = "M_APPSERVICE_LOGIN_UNSUPPORTED"


class UrlNotSet(BadRequest):
    """The application service has no URL where it could be reached."""

    errcode = "M_URL_NOT_SET"


class CannotLeaveServerNoticeRoom(MatrixError):
    """The room is the server's notice room."""

    status = 403
    errcode = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"


class ProfileTooLarge(BadRequest):
    """The profile would be over 64 KiB with this field."""

    errcode = "M_PROFILE_TOO_LARGE"


class KeyTooLarge(BadRequest):
    """The name of the profile field is over 255 bytes."""

    errcode = "M_KEY_TOO_LARGE"


class Unrecognized(MatrixError):
    """No such endpoint."""

    status = 404
    errcode = "M_UNRECOGNIZED"


class WrongMethod(Unrecognized):
    """The endpoint is known, but not with this method."""

    status = 405


# -- 401 and 403: who asks -------------------------------------------------------------------------------------------


class Unauthenticated(MatrixError):
    """The request needs an identity that it did not show."""

    status = 401
    errcode = "M_UNAUTHORIZED"


class MissingToken(Unauthenticated):
    """No access token was given."""

    errcode = "M_MISSING_TOKEN"


class UnknownToken(Unauthenticated):
    """The access token is unknown or no longer valid.

    `soft_logout` tells a client that it may log in again and keep its data.
    """

    errcode = "M_UNKNOWN_TOKEN"

    def __init__(self, message: str, *, soft_logout: bool = False, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.soft_logout = soft_logout

    def body(self) -> dict[str, Any]:
        return {**super().body(), "soft_logout": self.soft_logout}


class UserLocked(Unauthenticated):
    """The account is locked by an administrator."""

    errcode = "M_USER_LOCKED"

    def body(self) -> dict[str, Any]:
        return {**super().body(), "soft_logout": True}


class InteractiveAuthNeeded(Unauthenticated):
    """User-interactive authentication is not complete; `challenge` is the whole answer.

    Spec: client-server API, "User-interactive authentication API".
    """

    def __init__(self, challenge: Mapping[str, Any], *, detail: str | None = None) -> None:
        super().__init__("user-interactive authentication needed", detail=detail)
        self.challenge = challenge

    def body(self) -> dict[str, Any]:
        return dict(self.challenge)


class NotAllowed(MatrixError):
    """Whoever asks may not do this."""

    status = 403
    errcode = "M_FORBIDDEN"


class AuthRuleBroken(NotAllowed):
    """An authorization rule of the room version refuses the event; `rule` is its number there."""

    def __init__(self, rule: str, message: str, *, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.rule = rule


class NotJoined(NotAllowed):
    """The user is not in the room."""


class GateDenied(NotAllowed):
    """A gate of the embedding application denied the event."""


class GuestForbidden(NotAllowed):
    """Guests may not do this."""

    errcode = "M_GUEST_ACCESS_FORBIDDEN"


class WrongRoomKeysVersion(NotAllowed):
    """Keys can be stored in the newest backup only, which is another one."""

    errcode = "M_WRONG_ROOM_KEYS_VERSION"

    def __init__(self, current_version: str) -> None:
        super().__init__("Wrong backup version.")
        self.current_version = current_version

    def body(self) -> dict[str, Any]:
        return {**super().body(), "current_version": self.current_version}


class UserDeactivated(NotAllowed):
    """The account is deactivated."""

    errcode = "M_USER_DEACTIVATED"


class UserSuspended(NotAllowed):
    """The account is suspended by an administrator."""

    errcode = "M_USER_SUSPENDED"


class UnableToAuthoriseJoin(BadRequest):
    """A restricted room's conditions cannot be checked by this server."""

    errcode = "M_UNABLE_TO_AUTHORISE_JOIN"


class UnableToGrantJoin(BadRequest):
    """The user may join the restricted room, but nobody here can vouch for it: another server has to be asked."""

    errcode = "M_UNABLE_TO_GRANT_JOIN"


class IncompatibleRoomVersion(BadRequest):
    """The other server does not know the version of the room, `room_version`; or this one does not."""

    errcode = "M_INCOMPATIBLE_ROOM_VERSION"

    def __init__(self, room_version: str, message: str, *, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.room_version = room_version

    def body(self) -> dict[str, Any]:
        return {**super().body(), "room_version": self.room_version}


class InviteBlocked(NotAllowed):
    """The invitee does not accept invites."""

    errcode = "M_INVITE_BLOCKED"


# -- 404, 409 and 429 ------------------------------------------------------------------------------------------------


class NotFound(MatrixError):
    """What was asked for does not exist, or whoever asks may not know that it does."""

    status = 404
    errcode = "M_NOT_FOUND"


class TooLargeElsewhere(TooLarge):
    """What another server has is too large to be fetched. Spec: `GET /media/download`, 502."""

    status = 502


class NotYetUploaded(MatrixError):
    """The media ID exists, but its content was not uploaded in time."""

    status = 504
    errcode = "M_NOT_YET_UPLOADED"


class Conflict(MatrixError):
    """What was asked for is taken already."""

    status = 409


class CannotOverwriteMedia(Conflict):
    """The media ID has content already."""

    errcode = "M_CANNOT_OVERWRITE_MEDIA"


class UserInUse(BadRequest):
    """The user name is taken."""

    errcode = "M_USER_IN_USE"


class RoomInUse(BadRequest):
    """The room alias is taken."""

    errcode = "M_ROOM_IN_USE"


class AliasInUse(Conflict):
    """The room alias exists already."""

    errcode = "M_UNKNOWN"


class Exclusive(BadRequest):
    """The name belongs to an application service."""

    errcode = "M_EXCLUSIVE"


class ResourceLimitExceeded(NotAllowed):
    """The server has reached a limit that its operator has set."""

    errcode = "M_RESOURCE_LIMIT_EXCEEDED"


class AppserviceSilent(MatrixError):
    """An application service was asked for a user or a room, and did not answer."""

    status = 408
    temporary = True


class AppserviceBadStatus(MatrixError):
    """An application service answered a ping with something other than success; its answer is passed on."""

    status = 502
    errcode = "M_BAD_STATUS"

    def __init__(self, answer_status: int, answer_body: str) -> None:
        super().__init__(f"Ping returned status {answer_status}")
        self.answer_status = answer_status
        self.answer_body = answer_body

    def body(self) -> dict[str, Any]:
        return {**super().body(), "status": self.answer_status, "body": self.answer_body}


class AppserviceUnreachable(MatrixError):
    """An application service cannot be reached for a ping."""

    status = 502
    errcode = "M_CONNECTION_FAILED"


class AppserviceTimeout(MatrixError):
    """An application service did not answer a ping in time."""

    status = 504
    errcode = "M_CONNECTION_TIMEOUT"


class LimitExceeded(MatrixError):
    """Too many requests; `retry_after_ms` says when the next one may come."""

    status = 429
    errcode = "M_LIMIT_EXCEEDED"
    temporary = True

    def __init__(self, retry_after_ms: int, message: str = "Too many requests", *, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_ms = max(1, retry_after_ms)

    def body(self) -> dict[str, Any]:
        return {**super().body(), "retry_after_ms": self.retry_after_ms}

    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(-(-self.retry_after_ms // 1000))}


class UselessServers(MatrixError):
    """Other servers had to be asked, and what they answered is of no use."""

    status = 502
    temporary = True


class UnreachableServers(MatrixError):
    """Other servers had to be asked, and none answered in time."""

    status = 504
    temporary = True


# -- other servers, and ourselves ------------------------------------------------------------------------------------


class RemoteError(HomeserverError):
    """Another server failed or broke the protocol."""

    def __init__(self, server: str, message: str, *, temporary: bool) -> None:
        super().__init__(f"{server}: {message}")
        self.server = server
        self.temporary = temporary


class RemoteUnreachable(RemoteError):
    """No answer was had: no address, no connection, no certificate to trust, or not in time."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(server, message, temporary=True)


class RemoteRefused(RemoteError):
    """The other server answered with an error; `status` and `errcode` are its own, `message` what it said."""

    def __init__(self, server: str, status: int, errcode: str, message: str) -> None:
        super().__init__(server, f"{status} {errcode}: {message}", temporary=status == 429 or status >= 500)
        self.status = status
        self.errcode = errcode
        self.message = message


class RemoteProtocolError(RemoteError):
    """The other server answered what the specification does not let it."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(server, message, temporary=False)


class RemoteTooLarge(RemoteProtocolError):
    """What the other server has, or answers, is over the limit."""


class InternalFault(HomeserverError):
    """Our own trouble; `temporary` says whether trying again may help."""

    temporary: ClassVar[bool] = False


class StorageUnavailable(InternalFault):
    """The database cannot be reached, or refuses to write."""

    temporary = True


class Misconfigured(InternalFault):
    """The operator has to change something; the text says what, where and to what."""


class DatabaseInUse(Misconfigured):
    """Another server runs on the same database."""


class BrokenInvariant(InternalFault):
    """Something that must never happen did."""
