"""Registration files: what they say, and what is told of those that say something wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from homeserver.appservices.registry import Appservice, Registry
from homeserver.errors import Misconfigured

SERVER = "example.org"
# The example of the specification.
IRC = """
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: "312df522183efd404ec1cd22d2ffa4bbc76a8c1ccf541dd692eef281356bb74e"
sender_localpart: "_irc_bot"
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"""


def _load(folder: Path, *values: dict[str, Any]) -> Registry:
    files = []
    for index, each in enumerate(values):
        files.append(folder / f"{index}.yaml")
        files[-1].write_text(yaml.safe_dump({**yaml.safe_load(IRC), **each}))
    return Registry.load(files, SERVER)


def _one(folder: Path, **values: Any) -> Appservice:
    return next(iter(_load(folder, values)))


def test_example_of_the_specification_is_read(tmp_path: Path) -> None:
    service = _one(tmp_path)
    assert ("IRC Bridge", "http://127.0.0.1:1234") == (service.id, service.url)
    assert "@_irc_bot:example.org" == service.sender
    assert service.is_rate_limited
    assert service.sends_ephemeral_as is None
    assert not service.takes_device_news
    assert _one(tmp_path, **{"org.matrix.msc3202": True}).takes_device_news


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        ("@_irc_bridge_alice:example.org", True),
        ("@_irc_bot:example.org", True),
        ("@_irc_bridge_alice:elsewhere.org", False),
        ("@alice:example.org", False),
        ("@x@_irc_bridge_:example.org", False),
        ("@_irc_bridge_" + "a" * 300 + ":example.org", False),
    ],
)
def test_only_local_users_are_in_a_namespace(tmp_path: Path, user_id: str, expected: bool) -> None:
    assert expected == _one(tmp_path).is_user(user_id)


def test_exclusive_namespaces_are_refused_to_others_only(tmp_path: Path) -> None:
    registry = _load(tmp_path, {}, {"id": "other", "as_token": "other", "sender_localpart": "_other"})
    assert registry.is_exclusive_user("@_irc_bridge_alice:example.org")
    assert registry.is_exclusive_user("@_irc_bot:example.org")
    assert not registry.is_exclusive_user("@alice:example.org")
    assert not registry.is_exclusive_alias("#_irc_bridge_room:example.org")
    assert registry.is_exclusive_alias("#room:example.org", "IRC Bridge")
    assert not registry.is_exclusive_alias("#_irc_bridge_room:example.org", "IRC Bridge")


def test_sender_is_not_rate_limited(tmp_path: Path) -> None:
    registry = _load(tmp_path, {}, {"id": "free", "as_token": "free", "rate_limited": False})
    assert registry.is_rate_limited("IRC Bridge", "@_irc_bridge_alice:example.org")
    assert not registry.is_rate_limited("IRC Bridge", "@_irc_bot:example.org")
    assert not registry.is_rate_limited("free", "@_irc_bridge_alice:example.org")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"receive_ephemeral": True}, "ephemeral"),
        ({"de.sorunome.msc2409.push_ephemeral": True}, "de.sorunome.msc2409.ephemeral"),
        ({"receive_ephemeral": True, "de.sorunome.msc2409.push_ephemeral": True}, "ephemeral"),
    ],
)
def test_ephemeral_events_are_wanted_under_either_name(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    assert expected == _one(tmp_path, **values).sends_ephemeral_as


@pytest.mark.parametrize("url", [None, ""])
def test_url_may_be_null(tmp_path: Path, url: str | None) -> None:
    assert _one(tmp_path, url=url).url is None


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"id": 5}, "id"),
        ({"url": 5}, "url"),
        ({"url": "ftp://example.org"}, "url"),
        ({"as_token": ""}, "as_token"),
        ({"as_token": "a\nb"}, "as_token"),
        ({"hs_token": None}, "hs_token"),
        ({"sender_localpart": "Not Allowed"}, "sender_localpart"),
        ({"namespaces": []}, "namespaces"),
        ({"namespaces": {"users": {}}}, "namespaces.users"),
        ({"namespaces": {"users": ["@a"]}}, "namespaces.users[0]"),
        ({"namespaces": {"rooms": [{"regex": "a"}]}}, "namespaces.rooms[0].exclusive"),
        ({"namespaces": {"rooms": [{"exclusive": True}]}}, "namespaces.rooms[0].regex"),
        ({"namespaces": {"aliases": [{"exclusive": True, "regex": "("}]}}, "namespaces.aliases[0].regex"),
        ({"rate_limited": "no"}, "rate_limited"),
        ({"protocols": "irc"}, "protocols"),
        ({"io.element.msc4190": 1}, "io.element.msc4190"),
    ],
)
def test_fault_names_file_and_key(tmp_path: Path, values: dict[str, Any], key: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        _load(tmp_path, values)
    assert f"{tmp_path / '0.yaml'}: '{key}' " in str(caught.value)


@pytest.mark.parametrize("key", ["id", "url", "as_token", "hs_token", "sender_localpart"])
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    values = yaml.safe_load(IRC)
    del values[key]
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(Misconfigured, match=f"'{key}' is missing"):
        Registry.load([file], SERVER)


@pytest.mark.parametrize("text", ["[]", "a: [", "\x00", "5", "", "[" * 5000, "id: !!python/object:os.system {}"])
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=r"a\.yaml"):
        Registry.load([file], SERVER)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"gone\.yaml cannot be read"):
        Registry.load([tmp_path / "gone.yaml"], SERVER)


@pytest.mark.parametrize("values", [{"id": "IRC Bridge", "as_token": "x"}, {"id": "x"}])
def test_two_services_have_neither_id_nor_token_in_common(tmp_path: Path, values: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match="is the same as in"):
        _load(tmp_path, {}, values)
