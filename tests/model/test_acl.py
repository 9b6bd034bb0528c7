"""Server ACLs let in whom the five steps of the spec let in, quickly.  Spec: client-server API, `m.room.server_acl`."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.acl import ServerACL, host_of, is_ip_literal
from homeserver.model.content.server_acl import ServerACLContent, server_acl_content
from homeserver.model.event import Event
from homeserver.model.globs import glob_match
from homeserver.model.room_versions import V12

from .rooms_in_memory import ALICE, StateRoom

EVERYBODY = ["*"]


def event(content: dict[str, Any]) -> Event:
    return StateRoom(V12).event("m.room.server_acl", ALICE, content, "")


def acl(**content: Any) -> ServerACL:
    return ServerACL.from_event(event(content))


def test_a_room_without_acl_lets_everybody_in() -> None:
    assert ServerACL.from_event(None).allows("evil.example")
    assert ServerACL.from_event(None).allows("127.0.0.1")


@pytest.mark.parametrize(
    ("content", "server_name", "expected"),
    [
        pytest.param({}, "a.example", False, id="empty: nobody"),
        pytest.param({"deny": []}, "a.example", False, id="no allow: nobody"),
        pytest.param({"allow": []}, "a.example", False, id="empty allow: nobody"),
        pytest.param({"allow": EVERYBODY}, "a.example", True, id="everybody"),
        pytest.param({"allow": ["a.example"]}, "a.example", True, id="allowed by name"),
        pytest.param({"allow": ["a.example"]}, "b.example", False, id="not allowed by name"),
        pytest.param({"allow": EVERYBODY, "deny": ["a.example"]}, "a.example", False, id="deny before allow"),
        pytest.param({"allow": ["a.example"], "deny": ["*"]}, "a.example", False, id="deny all"),
        pytest.param({"allow": EVERYBODY, "deny": ["b.example"]}, "a.example", True, id="another denied"),
        pytest.param({"allow": ["*.example"]}, "a.example", True, id="star in front"),
        pytest.param({"allow": ["*.example"]}, "a.b.example", True, id="star spans dots"),
        pytest.param({"allow": ["*.example"]}, "example", False, id="star in front wants its dot"),
        pytest.param({"allow": ["*.example"]}, "a.example.org", False, id="star in front is bound at the end"),
        pytest.param({"allow": ["*example"]}, "example", True, id="star for nothing"),
        pytest.param({"allow": ["a.*"]}, "a.example", True, id="star behind"),
        pytest.param({"allow": ["a.*"]}, "b.a.example", False, id="star behind is bound at the start"),
        pytest.param({"allow": ["a.example*"]}, "a.example", True, id="star behind for nothing"),
        pytest.param({"allow": ["a*b*e"]}, "a.b.example", True, id="stars inside"),
        pytest.param({"allow": ["*b*"]}, "a.b.example", True, id="stars around"),
        pytest.param({"allow": ["**"]}, "a.example", True, id="two stars"),
        pytest.param({"allow": ["?.example"]}, "a.example", True, id="question mark"),
        pytest.param({"allow": ["?.example"]}, "aa.example", False, id="question mark is one"),
        pytest.param({"allow": ["?*.example"]}, "a.example", True, id="both"),
        pytest.param({"allow": ["a[.]example", "a.e.ample"]}, "a.example", False, id="no regular expressions"),
        pytest.param({"allow": [""]}, "a.example", False, id="empty glob"),
        # Case-insensitive, both ways.
        pytest.param({"allow": EVERYBODY, "deny": ["EVIL.example"]}, "evil.example", False, id="upper case denied"),
        pytest.param({"allow": EVERYBODY, "deny": ["evil.example"]}, "EVIL.Example", False, id="upper case suspect"),
        pytest.param({"allow": EVERYBODY, "deny": ["*.EVIL.example"]}, "x.evil.EXAMPLE", False, id="upper case glob"),
        pytest.param({"allow": ["A.Example"]}, "a.example", True, id="upper case allowed"),
        # Ports.
        pytest.param({"allow": EVERYBODY, "deny": ["evil.example"]}, "evil.example:8448", False, id="port 8448"),
        pytest.param({"allow": EVERYBODY, "deny": ["evil.example"]}, "evil.example:1234", False, id="another port"),
        pytest.param({"allow": EVERYBODY, "deny": ["evil.example"]}, "evil.example:08448", False, id="odd port"),
        pytest.param({"allow": EVERYBODY, "deny": ["evil.example:8448"]}, "evil.example:8448", True, id="glob's port"),
        pytest.param({"allow": EVERYBODY, "deny": ["[::1]"]}, "[::1]:8448", False, id="port behind an address"),
        # Addresses.
        pytest.param({"allow": EVERYBODY}, "1.2.3.4", True, id="v4 by default"),
        pytest.param({"allow": EVERYBODY}, "[::1]", True, id="v6 by default"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": True}, "1.2.3.4", True, id="v4 allowed"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "1.2.3.4", False, id="v4"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "1.2.3.4:8448", False, id="v4 with port"),
        pytest.param({"allow": ["1.2.3.4"], "allow_ip_literals": False}, "1.2.3.4", False, id="v4 before allow"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "[::1]", False, id="v6"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "[2001:DB8::1]:8448", False, id="v6 with port"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "[::ffff:1.2.3.4]", False, id="v4 in v6"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "1.2.3.4.example", True, id="name with numbers"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": False}, "a.example", True, id="a name"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": 0}, "1.2.3.4", True, id="zero is not false"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": "false"}, "1.2.3.4", True, id="text is not false"),
        pytest.param({"allow": EVERYBODY, "allow_ip_literals": None}, "1.2.3.4", True, id="null is not false"),
        pytest.param({"allow": EVERYBODY, "deny": ["1.2.*"]}, "1.2.3.4", False, id="v4 by glob"),
        pytest.param({"allow": EVERYBODY, "deny": ["[2001:db8::*"]}, "[2001:DB8::1]", False, id="v6 by glob"),
        # Wrong types.
        pytest.param({"allow": "*"}, "a.example", False, id="allow is text"),
        pytest.param({"allow": {"*": True}}, "a.example", False, id="allow is an object"),
        pytest.param({"allow": None}, "a.example", False, id="allow is null"),
        pytest.param({"allow": EVERYBODY, "deny": "a.example"}, "a.example", True, id="deny is text"),
        pytest.param({"allow": EVERYBODY, "deny": {"a.example": 1}}, "a.example", True, id="deny is an object"),
        pytest.param(
            {"allow": [1, None, [], {}, "a.example"], "deny": [1, None, ["a.example"]]}, "a.example", True, id="entries"
        ),
    ],
)
def test_table(content: dict[str, Any], server_name: str, expected: bool) -> None:
    assert expected is acl(**content).allows(server_name)
    assert expected is acl(**content).allows(server_name), "remembered"


@pytest.mark.parametrize(
    "server_name",
    [
        "127.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "999.999.999.999",
        "1.2.3.4.",
        "1.2.3.0x4",
        "[::]",
        "[0:0:0:0:0:0:0:1]:1",
        "[::FFFF:7f00:1]",
        "[not:an:address]",
    ],
)
def test_hostile_35_every_way_to_write_an_address_is_an_address(server_name: str) -> None:
    assert not acl(allow=EVERYBODY, allow_ip_literals=False).allows(server_name)


@pytest.mark.parametrize("host", ["a.example", "1.example", "0x7f.example", "1.2.3.4.in-addr.arpa", "face", "x0"])
def test_names_are_not_addresses(host: str) -> None:
    assert not is_ip_literal(host)


@pytest.mark.parametrize(
    ("denied", "server_name"),
    [
        ("evil.example", "evil.example."),
        ("*.example", "evil.example."),
        ("[::1]", "[0:0:0:0:0:0:0:1]"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[2001:db8::1]", "[2001:0DB8:0::0001]:8448"),
        ("1.2.3.4", "1.2.3.4."),
    ],
)
def test_hostile_19_another_spelling_does_not_slip_through_deny(denied: str, server_name: str) -> None:
    assert not acl(allow=EVERYBODY, deny=[denied]).allows(server_name)


def test_hostile_19_another_spelling_is_not_taken_for_an_allowed_name() -> None:
    assert not acl(allow=["good.example"]).allows("good.example.")


@pytest.mark.parametrize(
    "server_name",
    [
        "",
        ":",
        ":8448",
        "@",
        "a@b.example",
        "a b",
        "a.example\n",
        "a.example:",
        "a.example:123456",
        "a.example:x",
        "[::1",
        "::1",
        "[::1]x",
        "bücher.example",
        "ａ.example",
        "a/b",
        "a\x00",
        "*",
        "x" * 10_000,
    ],
)
def test_hostile_19_what_is_no_server_name_is_not_let_in(server_name: str) -> None:
    assert host_of(server_name) is None
    assert not acl(allow=EVERYBODY).allows(server_name)


def test_content_is_read_as_it_stands() -> None:
    content = {"allow": ["*", 1], "deny": ["A"], "allow_ip_literals": False}
    assert ServerACLContent(("*",), ("A",), False) == server_acl_content(event(content))


def test_acl_is_compiled_once_for_an_event() -> None:
    one = event({"allow": EVERYBODY})
    assert ServerACL.from_event(one) is ServerACL.from_event(one)


@pytest.mark.parametrize("pattern", ["*?*?*?*?*?*a", "*a*a*a*a*a*a*a*b", "?" * 200 + "*b", "*" * 30_000 + "b"])
def test_hostile_35_no_glob_is_slow(pattern: str) -> None:
    room_acl = acl(allow=EVERYBODY, deny=[pattern])
    begin = time.process_time()
    assert room_acl.allows("a" * 200 + ".c.x")
    assert time.process_time() - begin < 0.05


@pytest.mark.parametrize(
    "globs",
    [
        pytest.param([f"evil{i}.example" for i in range(10_000)], id="names"),
        pytest.param([f"*.{i}.example" for i in range(10_000)], id="suffixes"),
        pytest.param([f"evil{i}.*" for i in range(10_000)], id="prefixes"),
        pytest.param([f"*?{i}*?*a" for i in range(10_000)], id="wild"),
    ],
)
def test_hostile_35_ten_thousand_globs_are_compiled_once_and_answer_fast(globs: list[str]) -> None:
    one = event({"allow": EVERYBODY, "deny": [*globs, "*.denied.example"]})
    assert not ServerACL.from_event(one).allows("is.denied.example")
    begin = time.process_time()
    for i in range(10):
        assert ServerACL.from_event(one).allows(f"server{i}.org")
    assert (time.process_time() - begin) / 10 < 0.1
    begin = time.process_time()
    for _ in range(1_000):
        ServerACL.from_event(one).allows("server1.org")
    assert (time.process_time() - begin) / 1_000 < 0.000_1


def test_names_are_remembered_within_bounds() -> None:
    room_acl = acl(allow=["*.example"])
    for i in range(3_000):
        assert room_acl.allows(f"{i}.example")
    assert len(room_acl._answers) <= 1_024


NAMES = st.text("ab.", min_size=1, max_size=8)
GLOBS = st.lists(st.text("aB.*?", max_size=6), max_size=6)


@given(GLOBS, GLOBS, NAMES)
def test_look_ups_agree_with_matching_one_by_one(allow: list[str], deny: list[str], name: str) -> None:
    def has_match(globs: list[str], text: str) -> bool:
        return any(glob_match(glob, text, ignore_case=True) for glob in globs)

    expected = has_match(allow, name) and not has_match(deny, name) and not has_match(deny, name.rstrip("."))
    assert expected is acl(allow=allow, deny=deny).allows(name)


@given(
    st.dictionaries(
        st.sampled_from(["allow", "deny", "allow_ip_literals"]),
        st.none() | st.booleans() | st.text() | st.lists(st.none() | st.integers() | st.text() | st.just("*")),
    ),
    st.text(),
)
def test_any_content_and_name_give_an_answer(content: dict[str, Any], name: str) -> None:
    assert acl(**content).allows(name) in (True, False)
