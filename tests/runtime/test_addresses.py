"""No way to write a private address gets through, and no public one is kept out."""

from __future__ import annotations

import pytest

from homeserver.config_values import UNREACHABLE_RANGES
from homeserver.runtime.addresses import AddressRules, is_host_name, literal_address

RULES = AddressRules(UNREACHABLE_RANGES)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%eth0",
        "ff02::1", "::ffff:10.0.0.1", "::ffff:7f00:1", "::7f00:1", "::10.0.0.1", "64:ff9b::a00:1",
        "64:ff9b:1::a00:1", "2002:0a00:0001::", "2002:7f00:1::1", "2001:0:a00:1::", "2001:0:101:101::f5ff:fffe",
        "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "", "1.2.3.4.5",
    ],
)  # fmt: skip
def test_address_that_is_not_public_is_denied(address: str) -> None:
    assert not RULES.allows(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "::ffff:1.1.1.1", "2606:4700::1111", "2002:101:101::1"])
def test_public_address_is_allowed(address: str) -> None:
    assert RULES.allows(address)


def test_exceptions_are_allowed_in_each_form_that_they_have() -> None:
    rules = AddressRules(UNREACHABLE_RANGES, ["10.1.0.0/16", "64:ff9b::/96"])
    allowed = ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "64:ff9b::1.1.1.1"]
    assert [True] * 4 == [rules.allows(each) for each in allowed]
    assert not rules.allows("64:ff9b::10.2.0.1")
    assert not rules.allows("10.2.0.1")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("1.2.3.4", "1.2.3.4"), ("[::1]", "::1"), ("::1", "::1"), ("[::FFFF:1.2.3.4]", "::ffff:102:304"),
     ("a.org", None), ("1.2.3", None), ("0x7f.0.0.1", None), ("01.2.3.4", None), ("[fe80::1%lo]", None), ("[]", None)],
)  # fmt: skip
def test_only_the_usual_forms_are_literals(host: str, expected: str | None) -> None:
    assert expected == literal_address(host)


@pytest.mark.parametrize("host", ["a", "a.org", "a-b.xn--p1ai", "a.org.", "3com.com", "_x.org", "a" * 63 + ".org"])
def test_host_names_are_looked_up(host: str) -> None:
    assert is_host_name(host)


@pytest.mark.parametrize(
    "host",
    ["", ".", "a..org", ".org", "-a.org", "a-.org", "a b", "a/b", "ä.org", "2130706433", "0x7f000001", "0177.0.0.1",
     "127.1", "a.0x", "a.1", "1.2.3.4", "a" * 64 + ".org", "a." * 130 + "org", "a\n", "a\0b", "a@b"],
)  # fmt: skip
def test_numbers_and_noise_are_no_host_names(host: str) -> None:
    assert not is_host_name(host)
