"""What the first start makes: the data folder, the signing key, the first account's password.

Everything here can be called again on every start: what exists is kept and read.  Files with secrets are made with
mode 0600 and appear under their name only when complete.  Trouble is told as `Misconfigured`, in a sentence that
names the file and what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homeserver.config import Config, Listener
from homeserver.errors import Misconfigured
from homeserver.model.server_keys import MAX_VERIFY_KEYS
from homeserver.model.signing import (
    BadKey,
    SigningKey,
    VerifyKey,
    generate_signing_key,
    is_key_id,
    key_file_line,
    parse_key_file,
)

# Returns that many random bytes; `os.urandom` unless a test says otherwise.
Entropy = Callable[[int], bytes]

# 32 signs that nobody confuses when reading them aloud: five bits each.
_SIGNS = "abcdefghijkmnpqrstuvwxyz23456789"
_MAX_KEY_FILE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the server starts with: `config` with the secrets that were made, and its keys.

    `signing_keys` are in the order of their file, and the first signs events; `old_signing_keys` by key ID, each with
    when it was last used.
    """

    config: Config
    signing_keys: tuple[SigningKey, ...]
    made_signing_key: bool
    old_signing_keys: Mapping[str, tuple[VerifyKey, int]]


def prepare(config: Config, *, entropy: Entropy = os.urandom) -> Prepared:
    """Make what is missing on disk and read what is there; blocking, so call it before the reactor has work to do.

    Makes the data and media folders (mode 0700), the signing key and the file of the registration secret.
    Raises `Misconfigured`.
    """
    make_private_folder(config.server.data_dir)
    if config.media.enabled:
        make_private_folder(config.media.store_path)
    keys, made = _signing_keys(config.server.signing_key_path, entropy)
    old_keys = _old_signing_keys(config, {key.key_id for key in keys})
    return Prepared(_with_registration_secret(config, entropy), keys, made, old_keys)


def make_private_folder(path: Path) -> None:
    """Make a folder that only we may enter, or check that the one that exists can be written to."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise Misconfigured(f"{path} should be a folder, but is a file. Move it away or name another place.") from None
    except OSError as error:
        raise Misconfigured(f"The folder {path} cannot be made: {_reason(error)}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise Misconfigured(f"The folder {path} cannot be written to by this user. Change its owner or name another.")


def readable_secret(entropy: Entropy = os.urandom) -> str:
    """Return a secret of 100 random bits that can be read aloud, such as `h4kd2-…`; fits as password and as token."""
    signs = [_SIGNS[byte & 31] for byte in entropy(20)]
    return "-".join("".join(signs[start : start + 5]) for start in range(0, 20, 5))


def cannot_listen_text(interface: object, port: object, reason: OSError, section: str = "[[listeners]]") -> str:
    """Return why a port cannot be listened on, and what to do about it in a section of the configuration."""
    place = f"port {port} of {interface or 'this machine'}"
    if reason.errno == errno.EADDRINUSE:
        return (
            f"Cannot listen on {place}: another program uses it already."
            f" Stop that program, or set another port under {section}."
        )
    if reason.errno == errno.EACCES:
        remedy = "Set a higher one" if section == "[stream]" else "Use 8008 and a reverse proxy"
        return f"Cannot listen on {place}: ports below 1024 need a privilege. {remedy}."
    if reason.errno == errno.EADDRNOTAVAIL:
        key = "lines_bind" if section == "[stream]" else "bind"
        return f"Cannot listen on {place}: this machine does not have that address. Correct `{key}` under {section}."
    return f"Cannot listen on {place}: {reason.strerror or reason}."


def welcome_text(config: Config, *, user_id: str, password: str, program: str = "sennit") -> str:
    """Return what the first start prints: where the server is, and what to open and type next."""
    command = f"{program} user add NAME{f' -c {config.source}' if config.source is not None else ''}"
    address = client_address(config)
    where = f"at {address}" if address is not None else "(no listener serves clients)"
    return (
        f"\nThis is the first start of {config.server.name}, {where}.\n\n"
        f"  1. Open a Matrix client, such as https://app.element.io\n"
        f"  2. As its homeserver, type  {address or config.server.name}\n"
        f"  3. Log in as                {user_id}\n"
        f"     with the password        {password}\n"
        f"  Or talk in the terminal:    {program} chat --user {user_id[1:].partition(':')[0]}\n\n"
        f"The password is shown only now. This account is an administrator.\n"
        f"For the next one:  {command}\n"
    )


def client_address(config: Config) -> str | None:
    """Return the address that clients on this machine, or from outside if it is known, reach this server at."""
    if config.server.public_base_url is not None:
        return config.server.public_base_url
    serving = [listener for listener in config.listeners if "client" in listener.resources]
    return _address(serving[0]) if serving else None


def _address(listener: Listener) -> str:
    # Of both kinds of address, clients take the one with dots everywhere.
    host = min(listener.bind, key=lambda address: ":" in address)
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    scheme = "https" if listener.tls_certificate_path is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.port}"


def _signing_keys(path: Path, entropy: Entropy) -> tuple[tuple[SigningKey, ...], bool]:
    text = _read_private(path, "The signing key")
    made = text is None
    if text is None:
        version = "a_" + "".join(_SIGNS[byte & 31] for byte in entropy(4))
        _write_private(path, key_file_line(generate_signing_key(entropy(32), version)).rstrip("\n") + "\n")
        text = _read_private(path, "The signing key") or ""
    try:
        keys: Sequence[SigningKey] = parse_key_file(text)
    except ValueError as error:
        raise Misconfigured(
            f"{path} is not a signing key: {error}. Expected a line such as `ed25519 a_1234 <base64>`."
            " Put the right file there; without it other servers no longer believe this one."
        ) from error
    if not keys:
        raise Misconfigured(f"{path} holds no signing key. Put the right file there, or remove it to get a new key.")
    if len(keys) > MAX_VERIFY_KEYS:
        raise Misconfigured(
            f"{path} holds more than {MAX_VERIFY_KEYS} keys. Keep those that are to be used, and move the public halves"
            " of the others to server.old_signing_keys."
        )
    return tuple(keys), made


def _old_signing_keys(config: Config, in_use: Collection[str]) -> Mapping[str, tuple[VerifyKey, int]]:
    old_keys: dict[str, tuple[VerifyKey, int]] = {}
    for key_id, old in config.server.old_signing_keys.items():
        name = f"The key {key_id} under server.old_signing_keys"
        if key_id in in_use:
            raise Misconfigured(f"{name} is in {config.server.signing_key_path} too. Remove it from one of them.")
        if not is_key_id(key_id):
            raise Misconfigured(f"{name} has no name of a key, such as ed25519:a_1234. Correct it.")
        try:
            old_keys[key_id] = VerifyKey.parse(old.key), old.expired_ts
        except BadKey as error:
            raise Misconfigured(f"{name} is no public key: {error}. Correct it.") from error
    return old_keys


def _with_registration_secret(config: Config, entropy: Entropy) -> Config:
    registration = config.registration
    path = registration.shared_secret_path
    if path is None or registration.shared_secret is not None:
        return config
    secret = _read_private(path, "The registration secret")
    if secret is None:
        _write_private(path, readable_secret(entropy) + "\n")
        secret = _read_private(path, "The registration secret") or ""
    return config.with_section("registration", registration.model_copy(update={"shared_secret": secret.strip()}))


def _read_private(path: Path, what: str) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_FILE_BYTES)
        return content.decode("ascii")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Misconfigured(f"{what} in {path} cannot be read: {_reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{what} in {path} cannot be read: it is not text.") from error


def _write_private(path: Path, text: str) -> None:
    """Make a file of mode 0600 that is complete as soon as it has its name; one that exists is left as it is."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link does not replace a key that another process has just made.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {_reason(error)}.") from error


def _reason(error: OSError) -> str:
    return (error.strerror or "unknown reason").lower()
