"""No report tells what opens an account."""

from __future__ import annotations

import json

import pytest

from sytest_scenarios.expect import shown
from sytest_scenarios.hiding import hide
from sytest_scenarios.journal import Exchange, Step, cut

SECRET = "syt_YWxpY2U_\\\"quoted'_x1"


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "password", "new_password", "token", "mac"])
def test_members_are_hidden(name: str) -> None:
    said = json.dumps({"user_id": "@alice:x", "auth": {name: SECRET}, "after": "seen"})
    for text in (hide(said), cut(said), cut(said.encode()), shown({name: SECRET, "user_id": "@alice:x"})):
        assert "x1" not in text and "syt" not in text and "@alice:x" in text
    assert "seen" in hide(said)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"said": json.dumps({"access_token": "hunter22"})}),
        str({"password": "hunter22", "user": "alice"}),
        "GET http://x/_matrix/client/v3/sync?since=s1&access_token=hunter22&timeout=0: 200",
        "http://x/?access_token=hunter22",
        '{"Authorization": "Bearer hunter22"}',
        "authorization: bearer hunter22",
        '{"access_token": "hunter22 and no end of it',
    ],
)
def test_other_forms_are_hidden(text: str) -> None:
    assert "hunter22" not in hide(text)


@pytest.mark.parametrize("text", ['{"since": "s1_2"}', '{"password": ""}', "the bearer of it", '{"tokens": "all"}'])
def test_the_rest_is_left(text: str) -> None:
    assert text == hide(text)


def test_what_is_kept_is_hidden() -> None:
    url = "http://x/?access_token=hunter22"
    exchange = Exchange("Alice", "POST", url, '{"password": "hunter22"}', 0)
    assert "hunter22" not in f"{exchange} {exchange.asked} {Step('says Bearer hunter22', 0).text}"
