"""By whom is counted what."""

from __future__ import annotations

import pytest

from api.ratelimit import ClientRates, Limit
from homeserver.config import Limits, RateLimit
from homeserver.errors import LimitExceeded
from homeserver.model.ids import UserID
from homeserver.runtime.clock import ManualClock
from homeserver.users.sessions import Requester
from homeserver.web.ratelimit import RateLimits
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult
from homeserver.web.router import Route

ONE = RateLimit(per_second=0.5, burst_count=1)


async def _handler(request: WebRequest) -> HandlerResult:
    return {}


def _user(nid: int, appservice: str | None = None) -> Requester:
    return Requester(UserID(f"@u{nid}:example.org"), nid, appservice=appservice, is_admin=True)


def _request(ip: str, requester: Requester | None = None) -> WebRequest:
    request = WebRequest("POST", "/", client_ip=ip)
    request.requester = requester
    return request


def _rates(clock: ManualClock, config: Limits) -> ClientRates:
    return ClientRates(RateLimits(clock), config, is_exempt=lambda requester: requester.appservice == "bridge")


def test_users_are_counted_each_and_strangers_by_address() -> None:
    rates = _rates(ManualClock(), Limits(message=ONE))
    route = Route("POST", "/", _handler, limit=Limit.MESSAGE)
    requests = [_request("a", _user(1)), _request("b", _user(1)), _request("a", _user(2)), _request("a"), _request("a")]
    assert [False, True, False, False, True] == [rates.limit(request, route) is not None for request in requests]


def test_refusal_says_when_to_come_again() -> None:
    clock = ManualClock()
    rates = _rates(clock, Limits(message=ONE))
    rates.check_user(Limit.MESSAGE, _user(1))
    with pytest.raises(LimitExceeded) as refusal:
        rates.check_user(Limit.MESSAGE, _user(1))
    assert 1990 <= refusal.value.retry_after_ms <= 2010
    clock.advance(2.01)
    rates.check_user(Limit.MESSAGE, _user(1))


def test_exempt_appservice_is_never_limited_and_an_admin_is() -> None:
    rates = _rates(ManualClock(), Limits(message=ONE))
    route = Route("POST", "/", _handler, limit=Limit.MESSAGE)
    for _ in range(5):
        assert None is rates.limit(_request("a", _user(1, "bridge")), route)
        rates.check_key(Limit.INVITES_PER_ROOM, "!room", _user(1, "bridge"))
    assert [False, True] == [rates.limit(_request("a", _user(2)), route) is not None for _ in range(2)]


def test_redactions_count_as_messages_unless_they_have_a_rate() -> None:
    shared = _rates(ManualClock(), Limits(message=ONE))
    shared.check_user(Limit.MESSAGE, _user(1))
    with pytest.raises(LimitExceeded):
        shared.check_user(Limit.ADMIN_REDACTION, _user(1))
    own = _rates(ManualClock(), Limits(message=ONE, admin_redaction=ONE))
    own.check_user(Limit.MESSAGE, _user(1))
    own.check_user(Limit.ADMIN_REDACTION, _user(1))


def test_same_key_under_two_limits_is_counted_apart() -> None:
    rates = _rates(ManualClock(), Limits(message=ONE, reports=ONE))
    rates.check_key(Limit.MESSAGE, 1)
    rates.check_key(Limit.REPORTS, 1)


def test_what_is_given_back_can_be_used_again() -> None:
    rates = _rates(ManualClock(), Limits(login_failed=ONE))
    for _ in range(5):
        rates.password_attempts.attempt("alice")
        rates.password_attempts.succeeded("alice")
    rates.password_attempts.attempt("alice")
    with pytest.raises(LimitExceeded):
        rates.password_attempts.attempt("alice")


@pytest.mark.parametrize("limit", list(Limit), ids=lambda limit: limit.value)
def test_every_limit_has_a_rate(limit: Limit) -> None:
    _rates(ManualClock(), Limits()).check_key(limit, "key")
