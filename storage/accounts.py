"""Accounts and registration tokens in the database.

Functions over a `Transaction`. What may be done, and to whom it matters, is decided in `homeserver.users`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from .tables.accounts import accounts, registration_tokens
from .tables.rooms import memberships
from .transaction import Transaction
from .user_directory import index_user

_ACCOUNT_COLUMNS: Final = (
    accounts.c.user_nid,
    accounts.c.user_id,
    accounts.c.password_hash,
    accounts.c.is_admin,
    accounts.c.is_guest,
    accounts.c.is_deactivated,
    accounts.c.is_locked,
    accounts.c.is_suspended,
    accounts.c.is_shadow_banned,
    accounts.c.is_erased,
    accounts.c.created_ts,
    accounts.c.appservice,
)


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account of this server."""

    user_nid: int
    user_id: str
    password_hash: str | None
    is_admin: bool
    is_guest: bool
    is_deactivated: bool
    is_locked: bool
    is_suspended: bool
    is_shadow_banned: bool
    is_erased: bool
    created_ts: int
    appservice: str | None


@dataclass(frozen=True, slots=True)
class RegistrationTokenRow:
    """A token that lets its holder register; `uses_allowed` None means any number of times."""

    token: str
    uses_allowed: int | None
    uses_made: int
    expires_ts: int | None
    makes_admin: bool

    def is_valid(self, now_ms: int) -> bool:
        """Tell whether an account may be registered with it now."""
        if self.expires_ts is not None and self.expires_ts <= now_ms:
            return False
        return self.uses_allowed is None or self.uses_made < self.uses_allowed


def create_account(
    tx: Transaction,
    *,
    user_nid: int,
    user_id: str,
    password_hash: str | None,
    is_admin: bool,
    is_guest: bool,
    created_ts: int,
    appservice: str | None,
) -> bool:
    """Insert an account; False when the user ID is taken."""
    values: dict[str, Any] = {
        "user_nid": user_nid,
        "user_id": user_id,
        "password_hash": password_hash,
        "is_admin": is_admin,
        "is_guest": is_guest,
        "is_deactivated": False,
        "is_locked": False,
        "is_suspended": False,
        "is_shadow_banned": False,
        "is_erased": False,
        "must_leave_rooms": False,
        "created_ts": created_ts,
        "appservice": appservice,
    }
    try:
        tx.execute(insert(accounts), values)
    except IntegrityError:
        # Both databases roll back the statement alone; the transaction goes on.
        return False
    index_user(tx, user_nid)
    return True


def find_account(tx: Transaction, user_id: str) -> AccountRow | None:
    """Return the account of exactly this user ID, or None."""
    row = tx.first(select(*_ACCOUNT_COLUMNS).where(accounts.c.user_id == user_id))
    return None if row is None else _account(row)


def find_accounts(tx: Transaction, user_ids: Sequence[str]) -> dict[str, AccountRow]:
    """Return those accounts that exist of a few user IDs, by user ID."""
    rows: Sequence[Any] = tx.all(select(*_ACCOUNT_COLUMNS).where(accounts.c.user_id.in_(list(user_ids))))
    return {row[1]: _account(row) for row in rows}


def list_accounts(tx: Transaction, *, after: str = "", limit: int = 100) -> list[AccountRow]:
    """Return accounts in the order of their user IDs, those after `after`."""
    query = select(*_ACCOUNT_COLUMNS).where(accounts.c.user_id > after).order_by(accounts.c.user_id).limit(limit)
    return [_account(row) for row in tx.all(query)]


def has_accounts(tx: Transaction) -> bool:
    """Tell whether anybody was ever registered."""
    return tx.first(select(accounts.c.user_nid).limit(1)) is not None


def has_account(tx: Transaction, user_id: str) -> bool:
    """Tell whether this user ID is taken."""
    return tx.first(select(accounts.c.user_nid).where(accounts.c.user_id == user_id)) is not None


def set_password_hash(tx: Transaction, user_nid: int, password_hash: str | None) -> None:
    """Replace the password."""
    tx.execute(update(accounts).where(accounts.c.user_nid == user_nid).values(password_hash=password_hash))


def set_upgraded(tx: Transaction, user_nid: int, password_hash: str | None) -> bool:
    """Make a full account of a guest's; False when it is not a guest's (any more)."""
    guest = (accounts.c.user_nid == user_nid) & accounts.c.is_guest.is_(True)
    changed = tx.execute(update(accounts).where(guest).values(is_guest=False, password_hash=password_hash))
    return changed.rowcount == 1


def load_guests(tx: Transaction, room_nid: int) -> list[str]:
    """Return the user IDs of the guests of this server who are in a room."""
    query = (
        select(accounts.c.user_id)
        .join(memberships, memberships.c.user_nid == accounts.c.user_nid)
        .where(memberships.c.room_nid == room_nid, memberships.c.membership == "join", accounts.c.is_guest.is_(True))
        .order_by(memberships.c.position)
    )
    return [row[0] for row in tx.all(query)]


def set_flags(
    tx: Transaction,
    user_nid: int,
    *,
    is_admin: bool | None = None,
    is_locked: bool | None = None,
    is_suspended: bool | None = None,
    is_shadow_banned: bool | None = None,
) -> None:
    """Set those flags that are given."""
    given = {
        "is_admin": is_admin,
        "is_locked": is_locked,
        "is_suspended": is_suspended,
        "is_shadow_banned": is_shadow_banned,
    }
    values = {name: value for name, value in given.items() if value is not None}
    if values:
        tx.execute(update(accounts).where(accounts.c.user_nid == user_nid).values(**values))


def set_deactivated(tx: Transaction, user_nid: int, *, is_erased: bool) -> None:
    """Close the account for good: no password, and its rooms are to be left."""
    values: dict[str, Any] = {"is_deactivated": True, "password_hash": None, "must_leave_rooms": True}
    if is_erased:
        values["is_erased"] = True
    tx.execute(update(accounts).where(accounts.c.user_nid == user_nid).values(**values))


def set_rooms_left(tx: Transaction, user_nid: int) -> None:
    """Note that a deactivated user is in no room any more."""
    tx.execute(update(accounts).where(accounts.c.user_nid == user_nid).values(must_leave_rooms=False))


def list_leaving(tx: Transaction) -> list[tuple[int, str]]:
    """Return (user_nid, user_id) of deactivated users who are still to be taken out of their rooms."""
    query = select(accounts.c.user_nid, accounts.c.user_id).where(accounts.c.must_leave_rooms.is_(True))
    rows: Sequence[Any] = tx.all(query)
    return [(row[0], row[1]) for row in rows]


# -- registration tokens ---------------------------------------------------------------------------------------------


def create_registration_token(tx: Transaction, row: RegistrationTokenRow) -> bool:
    """Insert a registration token; False when there is one of this name."""
    values = {
        "token": row.token,
        "uses_allowed": row.uses_allowed,
        "uses_made": row.uses_made,
        "expires_ts": row.expires_ts,
        "makes_admin": row.makes_admin,
    }
    try:
        tx.execute(insert(registration_tokens), values)
    except IntegrityError:
        return False
    return True


def find_registration_token(tx: Transaction, token: str) -> RegistrationTokenRow | None:
    """Return a registration token, used up or not, or None."""
    table = registration_tokens.c
    columns = (table.token, table.uses_allowed, table.uses_made, table.expires_ts, table.makes_admin)
    row: Any = tx.first(select(*columns).where(table.token == token))
    return None if row is None else RegistrationTokenRow(row[0], row[1], row[2], row[3], bool(row[4]))


def use_registration_token(tx: Transaction, token: str, now_ms: int) -> RegistrationTokenRow | None:
    """Count one use of a token and return it as it was; None when it is not valid (any more)."""
    table = registration_tokens.c
    row = find_registration_token(tx, token)
    if row is None or not row.is_valid(now_ms):
        return None
    changed = tx.execute(
        update(registration_tokens)
        .where(table.token == token, or_(table.uses_allowed.is_(None), table.uses_made < table.uses_allowed))
        .values(uses_made=table.uses_made + 1)
    )
    return row if changed.rowcount == 1 else None


def delete_registration_token(tx: Transaction, token: str) -> bool:
    """Delete a registration token; False when there is none."""
    return tx.execute(delete(registration_tokens).where(registration_tokens.c.token == token)).rowcount == 1


def count_open_admin_tokens(tx: Transaction, now_ms: int) -> int:
    """Return how many tokens could still make an administrator."""
    table = registration_tokens.c
    found = tx.scalar(
        select(func.count())
        .select_from(registration_tokens)
        .where(
            table.makes_admin.is_(True),
            or_(table.uses_allowed.is_(None), table.uses_made < table.uses_allowed),
            or_(table.expires_ts.is_(None), table.expires_ts > now_ms),
        )
    )
    return int(found)


def _account(row: Any) -> AccountRow:
    return AccountRow(
        user_nid=row[0],
        user_id=row[1],
        password_hash=row[2],
        is_admin=bool(row[3]),
        is_guest=bool(row[4]),
        is_deactivated=bool(row[5]),
        is_locked=bool(row[6]),
        is_suspended=bool(row[7]),
        is_shadow_banned=bool(row[8]),
        is_erased=bool(row[9]),
        created_ts=row[10],
        appservice=row[11],
    )
