"""The user directory in the database: its index, and searching it with a bounded effort.

A user is found by the beginnings of words. Words are looked up in the order of the index, a page at a time, and each
page is reduced to those whom the searcher may see; both the pages and the finds are bounded, so the effort does not
depend on how many users there are.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson
from sqlalchemy import ColumnElement, and_, delete, exists, or_, select

from homeserver.model.folding import fold, words_of

from .tables.accounts import accounts, profiles
from .tables.rooms import memberships, room_stats, rooms
from .tables.user_directory import user_words
from .transaction import Transaction

MAX_NAME_CHARACTERS: Final = 256
# LIMIT: index entries looked at for one search, and users found before they are ranked.
MAX_SCANNED: Final = 5_000
MAX_FOUND: Final = 300
_PAGE: Final = 500
# No word begins so.
_WHOLE: Final = " "
_WHOLE_CHARACTERS: Final = 63
# Above every character that a word may have.
_LAST: Final = "\U0010ffff"


def index_user(tx: Transaction, user_nid: int) -> None:
    """Make the index of a local user what account and profile say; call it after changing either."""
    user_id = tx.scalar(select(accounts.c.user_id).where(accounts.c.user_nid == user_nid))
    if user_id is None:
        return
    name = tx.scalar(select(profiles.c.value).where(profiles.c.user_nid == user_nid, profiles.c.field == "displayname"))
    words: dict[str, None] = {}
    for text in (user_id[1:].partition(":")[0], orjson.loads(name) if name is not None else ""):
        if isinstance(text, str) and text:
            folded = fold(text, MAX_NAME_CHARACTERS)
            words[whole(folded)] = None
            words.update(dict.fromkeys(words_of(folded)))
    tx.execute(delete(user_words).where(user_words.c.user_nid == user_nid))
    tx.insert_many(user_words, ("word", "user_nid"), [(word, user_nid) for word in words])


def whole(folded: str) -> str:
    """Return the word that stands for a whole localpart or display name."""
    return _WHOLE + folded[:_WHOLE_CHARACTERS]


def search(tx: Transaction, folded: str, *, searcher_nid: int | None, among: int) -> list[int]:
    """Return user_nids of those who are found by all words of a folded term, at most `among` of them.

    Whoever has the term as the whole name comes first. `searcher_nid` None: everybody is visible.
    """
    found: dict[int, None] = {}
    for nid in _visible(tx, _named(tx, whole(folded)), searcher_nid, ()):
        found[nid] = None
    words = sorted(words_of(folded), key=len, reverse=True)
    if not words:
        return list(found)[:among]
    first, *others = words
    after: tuple[str, int] | None = None
    scanned = 0
    while len(found) < among and scanned < MAX_SCANNED:
        page = _beginning_with(tx, first, after)
        if not page:
            break
        scanned += len(page)
        after = page[-1]
        for nid in _visible(tx, [nid for _, nid in page], searcher_nid, others):
            found[nid] = None
        if len(page) < _PAGE:
            break
    return list(found)[:among]


def _named(tx: Transaction, word: str) -> list[int]:
    query = select(user_words.c.user_nid).where(user_words.c.word == word).order_by(user_words.c.user_nid)
    return [row[0] for row in tx.all(query.limit(_PAGE))]


def _beginning_with(tx: Transaction, word: str, after: tuple[str, int] | None) -> list[tuple[str, int]]:
    query = (
        select(user_words.c.word, user_words.c.user_nid)
        .where(user_words.c.word < word + _LAST)
        .order_by(user_words.c.word, user_words.c.user_nid)
        .limit(_PAGE)
    )
    if after is None:
        query = query.where(user_words.c.word >= word)
    else:
        # The first condition says nothing new; it lets MariaDB use the index.
        query = query.where(
            user_words.c.word >= after[0],
            or_(user_words.c.word > after[0], user_words.c.user_nid > after[1]),
        )
    return [(row[0], row[1]) for row in tx.all(query)]


def _visible(tx: Transaction, nids: Sequence[int], searcher_nid: int | None, words: Sequence[str]) -> list[int]:
    """Return those who are in use, have a word beginning with each of `words`, and are visible; in the order given."""
    if not nids:
        return []
    conditions: list[ColumnElement[bool]] = [
        accounts.c.user_nid.in_(set(nids)),
        accounts.c.is_deactivated.is_(False),
        accounts.c.is_locked.is_(False),
    ]
    for word in words:
        other = user_words.alias()
        conditions.append(
            exists().where(other.c.user_nid == accounts.c.user_nid, other.c.word >= word, other.c.word < word + _LAST)
        )
    if searcher_nid is not None:
        conditions.append(_is_visible_to(searcher_nid))
    rows = {row[0] for row in tx.all(select(accounts.c.user_nid).where(*conditions))}
    return [nid for nid in dict.fromkeys(nids) if nid in rows]


def _is_visible_to(searcher_nid: int) -> ColumnElement[bool]:
    # Spec: POST /user_directory/search: users that share a room with the requesting user, and users who are joined to
    # rooms with a public join rule or with world-readable history.
    theirs, own = memberships.alias("theirs"), memberships.alias("own")
    shared = exists().where(
        own.c.room_nid == theirs.c.room_nid, own.c.user_nid == searcher_nid, own.c.membership == "join"
    )
    public = exists().where(
        room_stats.c.room_nid == theirs.c.room_nid,
        or_(room_stats.c.join_rule == "public", room_stats.c.history_visibility == "world_readable"),
    )
    published = exists().where(and_(rooms.c.room_nid == theirs.c.room_nid, rooms.c.is_published.is_(True)))
    return exists().where(
        theirs.c.user_nid == accounts.c.user_nid, theirs.c.membership == "join", or_(shared, public, published)
    )
