"""`sennit user …`: accounts are made and changed by the running server, or by one that is started for it."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import TYPE_CHECKING

from homeserver.explaining import Refused
from homeserver.run_command import Work, with_accounts

if TYPE_CHECKING:
    from homeserver.admin_socket import AccountCommands
    from homeserver.config import Config


def add(options: argparse.Namespace, config: Config) -> int:
    """Make an account; its password is asked for, read from standard input, or made up."""
    localpart = _localpart(options.name, config)
    password, is_generated = _new_password(options)

    async def work(accounts: AccountCommands) -> int:
        user_id = await accounts.create(localpart, password, admin=options.admin)
        print(f"Made {'the administrator ' if options.admin else ''}{user_id}.")
        if is_generated:
            print(f"Password: {password}")
        return 0

    return with_accounts(config, _naming(localpart, work), debug=options.debug)


def change_password(options: argparse.Namespace, config: Config) -> int:
    """Set a new password, which logs out all devices."""
    localpart = _localpart(options.name, config)
    password, is_generated = _new_password(options)

    async def work(accounts: AccountCommands) -> int:
        await accounts.set_password(localpart, password)
        print(f"The password of {localpart} is changed, and its devices are logged out.")
        if is_generated:
            print(f"Password: {password}")
        return 0

    return with_accounts(config, _naming(localpart, work), debug=options.debug)


def deactivate(options: argparse.Namespace, config: Config) -> int:
    """Close an account for good."""
    localpart = _localpart(options.name, config)

    async def work(accounts: AccountCommands) -> int:
        await accounts.deactivate(localpart)
        print(f"{localpart} is deactivated.")
        return 0

    return with_accounts(config, _naming(localpart, work), debug=options.debug)


def list_all(options: argparse.Namespace, config: Config) -> int:
    """List all accounts."""

    async def work(accounts: AccountCommands) -> int:
        for account in await accounts.list_accounts():
            marks = (("admin", account.is_admin), ("guest", account.is_guest), ("deactivated", account.is_deactivated))
            print(account.user_id, *(mark for mark, is_set in marks if is_set))
        return 0

    return with_accounts(config, work, debug=options.debug)


def devices(options: argparse.Namespace, config: Config) -> int:
    """List the devices of a user, or remove some."""
    from homeserver.devices_command import device_lines

    localpart = _localpart(options.name, config)

    async def work(accounts: AccountCommands) -> int:
        if options.remove:
            await accounts.remove_devices(localpart, options.remove)
            count = len(set(options.remove))
            print(f"Removed {count} device{'' if count == 1 else 's'} of {localpart}.")
            return 0
        encoding = sys.stdout.encoding or "utf-8"
        for line in device_lines(await accounts.list_devices(localpart)):
            # What the terminal cannot show must not end the list.
            print(line.encode(encoding, "backslashreplace").decode(encoding))
        return 0

    return with_accounts(config, _naming(localpart, work), debug=options.debug)


def make_token(options: argparse.Namespace, config: Config) -> int:
    """Make a registration token."""
    if options.uses < 1:
        print("sennit: --uses must be at least 1", file=sys.stderr)
        return 2

    async def work(accounts: AccountCommands) -> int:
        print(await accounts.create_token(options.uses))
        if not (config.registration.enabled and config.registration.requires_token):
            print(
                "sennit: registration tokens are not asked for; set enabled = true and requires_token = true "
                "under [registration]",
                file=sys.stderr,
            )
        return 0

    return with_accounts(config, work, debug=options.debug)


def _naming(localpart: str, work: Work) -> Work:
    """Return `work` whose refusals name the account."""
    from homeserver.errors import MatrixError

    async def named(accounts: AccountCommands) -> int:
        try:
            return await work(accounts)
        except MatrixError as error:
            raise Refused(f"{localpart}: {error.message.rstrip('.')}.") from error

    return named


def _localpart(name: str, config: Config) -> str:
    """Return the local part of a user name or of a user ID of this server."""
    from homeserver.errors import MatrixError, Misconfigured
    from homeserver.model.ids import UserID

    localpart, colon, server_name = name.removeprefix("@").partition(":")
    if colon and server_name != config.server.name:
        raise Misconfigured(f"{name} is not a user of {config.server.name}.")
    try:
        return UserID.of(localpart, config.server.name).localpart
    except MatrixError as error:
        raise Misconfigured(f"{name} cannot be used: {error.message}.") from error


def _new_password(options: argparse.Namespace) -> tuple[str, bool]:
    """Return a password and whether it was made up: asked for twice on a terminal, else one line of standard input."""
    from homeserver.errors import Misconfigured
    from homeserver.first_run import readable_secret

    if options.generate:
        return readable_secret(), True
    try:
        if not sys.stdin.isatty():
            password = sys.stdin.readline(4096).rstrip("\r\n")
            if not password:
                raise Misconfigured("No password came on standard input. Write one there, or use --generate.")
            return password, False
        password = getpass.getpass("Password (leave empty to have one made up): ")
        if not password:
            return readable_secret(), True
        if getpass.getpass("Once more: ") != password:
            raise Misconfigured("The two passwords differ; nothing was changed.")
    except (EOFError, UnicodeDecodeError):
        raise Misconfigured("No password could be read; nothing was changed.") from None
    return password, False
