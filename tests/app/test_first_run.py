"""What the first start makes on disk, and what it says when it cannot."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from homeserver.config import Config
from homeserver.errors import Misconfigured
from homeserver.first_run import client_address, prepare, readable_secret, welcome_text
from homeserver.model.signing import generate_signing_key, key_file_line

IS_ROOT = os.geteuid() == 0


def _entropy(count: int) -> bytes:
    return bytes(range(count))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_private_folders_and_a_key(tmp_path: Path) -> None:
    config = Config.default(tmp_path / "data")
    prepared = prepare(config, entropy=_entropy)
    assert prepared.made_signing_key
    assert 1 == len(prepared.signing_keys)
    assert 0o700 == _mode(tmp_path / "data")
    assert 0o700 == _mode(tmp_path / "data/media")
    assert 0o600 == _mode(config.server.signing_key_path)
    assert ["media", "signing.key"] == sorted(path.name for path in (tmp_path / "data").iterdir())
    assert config.server.signing_key_path.read_text().startswith("ed25519 a_")


def test_the_second_start_keeps_the_key(tmp_path: Path) -> None:
    config = Config.default(tmp_path / "data")
    first = prepare(config)
    second = prepare(config)
    assert not second.made_signing_key
    assert first.signing_keys[0].verify_key == second.signing_keys[0].verify_key


def test_a_key_file_may_hold_several_keys_and_the_first_signs(tmp_path: Path) -> None:
    config = Config.default(tmp_path)
    keys = [generate_signing_key(bytes([number]) * 32, f"k{number}") for number in range(3)]
    config.server.signing_key_path.write_text("".join(key_file_line(key) for key in keys))
    assert ["ed25519:k0", "ed25519:k1", "ed25519:k2"] == [key.key_id for key in prepare(config).signing_keys]


def test_more_keys_than_other_servers_take_are_told(tmp_path: Path) -> None:
    config = Config.default(tmp_path)
    keys = [generate_signing_key(bytes([number]) * 32, f"k{number}") for number in range(33)]
    config.server.signing_key_path.write_text("".join(key_file_line(key) for key in keys))
    with pytest.raises(Misconfigured, match="more than 32 keys"):
        prepare(config)


def _with_old_key(folder: Path, key_id: str, key: str) -> Config:
    old_keys = {key_id: {"key": key, "expired_ts": 5}}
    return Config.from_mapping({"server": {"name": "a", "data_dir": str(folder), "old_signing_keys": old_keys}})


def test_old_keys_are_read_from_the_configuration(tmp_path: Path) -> None:
    old = generate_signing_key(b"\x01" * 32, "old")
    config = _with_old_key(tmp_path, "ed25519:old", old.verify_key_base64)
    assert {"ed25519:old": (old.verify_key, 5)} == prepare(config).old_signing_keys


@pytest.mark.parametrize(
    ("key_id", "key", "text"),
    [
        ("ed25519:old", "AAAA", "is no public key"),
        ("ed25519:old", "A" * 43, "is no public key"),
        ("old", generate_signing_key(b"\x01" * 32, "old").verify_key_base64, "has no name of a key"),
        ("ed25519:new", generate_signing_key(b"\x01" * 32, "old").verify_key_base64, "is in .* too"),
    ],
    ids=["short", "zero", "no algorithm", "in use"],
)
def test_an_old_key_that_is_none_is_told(tmp_path: Path, key_id: str, key: str, text: str) -> None:
    config = _with_old_key(tmp_path, key_id, key)
    config.server.signing_key_path.write_text(key_file_line(generate_signing_key(b"\x02" * 32, "new")))
    with pytest.raises(Misconfigured, match=text):
        prepare(config)


def test_the_registration_secret_is_made_once(tmp_path: Path) -> None:
    mapping = {
        "server": {"name": "a", "data_dir": str(tmp_path / "d")},
        "registration": {"shared_secret_path": str(tmp_path / "d/secret")},
    }
    made = prepare(Config.from_mapping(mapping)).config.registration.shared_secret
    assert made is not None and 23 == len(made)
    assert 0o600 == _mode(tmp_path / "d/secret")
    assert made == Config.from_mapping(mapping).registration.shared_secret
    assert made == prepare(Config.from_mapping(mapping)).config.registration.shared_secret


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello",
        b"ed25519 a_1234 tooshort",
        b"rsa a_1 AAAA",
        b"\xff\xfe\x00",
        b"ed25519 a b c d",
        b"\x00" * 99,
    ],
    ids=["empty", "blank", "word", "short", "other kind", "not text", "many words", "nul"],
)
def test_a_key_file_that_is_none_is_told_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    config = Config.default(tmp_path)
    config.server.signing_key_path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"signing\.key"):
        prepare(config)
    assert content == config.server.signing_key_path.read_bytes()


def test_a_file_in_place_of_the_data_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(Misconfigured, match="should be a folder"):
        prepare(Config.default(tmp_path / "data"))
    with pytest.raises(Misconfigured, match="cannot be made: not a directory"):
        prepare(Config.default(tmp_path / "data/inside"))


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Misconfigured, match="cannot be"):
        prepare(Config.default(tmp_path))


def test_a_key_that_is_a_folder_is_told(tmp_path: Path) -> None:
    config = Config.default(tmp_path)
    config.server.signing_key_path.mkdir()
    with pytest.raises(Misconfigured, match="cannot be read: is a directory"):
        prepare(config)


def test_nothing_is_left_when_the_key_cannot_be_written(tmp_path: Path) -> None:
    key = tmp_path / ("k" * 254)
    config = Config.from_mapping(
        {"server": {"name": "a", "data_dir": str(tmp_path), "signing_key_path": str(key)}, "media": {"enabled": False}}
    )
    with pytest.raises(Misconfigured, match="cannot be written: file name too long"):
        prepare(config)
    assert [] == list(tmp_path.iterdir())


def test_a_secret_has_a_hundred_bits_in_four_groups() -> None:
    secret = readable_secret(_entropy)
    assert "abcde-fghij-kmnpq-rstuv" == secret
    assert secret != readable_secret()


@pytest.mark.parametrize(
    ("sections", "address"),
    [
        ({}, "http://127.0.0.1:8008"),
        ({"listeners": [{"port": 1, "bind": ["::"]}]}, "http://localhost:1"),
        ({"listeners": [{"port": 1, "bind": ["::1"]}]}, "http://[::1]:1"),
        ({"listeners": [{"port": 1, "bind": ["::1", "127.0.0.1"]}]}, "http://127.0.0.1:1"),
        ({"listeners": [{"port": 1, "resources": ["metrics"]}]}, None),
        ({"listeners": []}, None),
        (
            {"listeners": [{"port": 1, "tls_certificate_path": "/c", "tls_key_path": "/k"}]},
            "https://127.0.0.1:1",
        ),
        ({"server": {"name": "a", "public_base_url": "https://m.example.org/"}}, "https://m.example.org"),
    ],
)
def test_the_address_for_clients(sections: dict[str, object], address: str | None) -> None:
    assert address == client_address(Config.from_mapping({"server": {"name": "a"}, **sections}))


def test_the_welcome_says_what_to_open_and_type() -> None:
    text = welcome_text(Config.default(Path("d")), user_id="@admin:localhost", password="secret-word")
    for part in ("http://127.0.0.1:8008", "@admin:localhost", "secret-word", "sennit user add NAME"):
        assert part in text


def test_the_welcome_names_the_program_as_it_was_called() -> None:
    text = welcome_text(Config.default(Path("d")), user_id="@a:localhost", password="p", program=".venv/bin/sennit")
    assert "For the next one:  .venv/bin/sennit user add NAME\n" in text
