"""The keys of other servers: remembered, stored, fetched from them, and where they do not answer, from notaries.

What is known and was valid at the time in question is enough, however old it is. Else the server is asked, then the
notaries are asked for all that is still missing at once. Requests for the keys of one server share one fetch. A server
that failed is left alone for a while, longer each time, and one that answered for a minute, so that nobody can make
this server ask without end by naming keys that there are not.

What comes in is merged with what is known: keys are never forgotten, because old events need them, and a key ID never
changes its meaning while the old one is valid.

Spec: server-server API, "Retrieving server keys", "Validating hashes and signatures on received events"; rooms/v5,
"Signing key validity period".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList

from homeserver.config import KeyServer
from homeserver.errors import RemoteError
from homeserver.model.canonical_json import dump_exactly, parse_exactly
from homeserver.model.server_keys import BadServerKeys, ServerKeys, parse_server_keys
from homeserver.model.signing import VerifyKey
from homeserver.runtime.backoff import Backoff
from homeserver.runtime.clock import Clock
from homeserver.runtime.slots import Slots
from homeserver.runtime.tasks import Tasks
from storage.database import Database
from storage.server_keys import KnownKeys, find_server_keys, store_server_keys

from .notaries import SERVERS_PER_QUESTION, KeyFetcher, Notary, Published, Wanted
from .own_keys import OwnKeys

logger = logging.getLogger(__name__)

# LIMIT: servers whose keys are in memory, about 2 KiB each; the rest is in the database.
MAX_CACHED: Final = 5000
# LIMIT: servers in one call; what is over is as if it could not be had.
MAX_PER_CALL: Final = 1000
# LIMIT: servers whose keys are being fetched, all calls together.
MAX_UNDERWAY: Final = 2000
# LIMIT: servers that are remembered as having been asked.
MAX_ATTEMPTS: Final = 20_000
# Servers that one call asks at once.
ASKED_AT_ONCE: Final = 24

LIST_BYTES: Final = 256 * 1024
TIMEOUT_S: Final = 10.0
# When the notaries take over from servers that were not asked yet.
DIRECT_PATIENCE_S: Final = 10.0
# After which a call goes on with what is known; the fetch itself goes on as well.
PATIENCE_S: Final = 60.0
REFETCH_S: Final = 60.0
FIRST_WAIT_S: Final = 30.0
MOST_WAIT_S: Final = 60.0
# Clocks differ: an event may be a little younger than now.
SKEW_MS: Final = 600_000


class KeyRing:
    """Implements `homeserver.ports.KeySource`, and `RequestKeys` of `federation.server.auth`."""

    def __init__(
        self,
        database: Database,
        own: OwnKeys,
        fetcher: KeyFetcher,
        *,
        clock: Clock,
        tasks: Tasks,
        notaries: Sequence[KeyServer] = (),
    ) -> None:
        """Raises Misconfigured if a pinned key of a notary is none."""
        self._database = database
        self._own = own
        self._fetcher = fetcher
        self._clock = clock
        self._tasks = tasks
        self._notaries = [Notary(each, clock) for each in notaries if each.server_name != own.server_name]
        self._cache: OrderedDict[str, KnownKeys] = OrderedDict()
        # Strangers' questions are apart: a server that does not answer them must not count as one that the notaries
        # have been asked about.
        self._fetches = _Fetches(clock)
        self._fetches_for_strangers = _Fetches(clock)

    # -- what others ask ---------------------------------------------------------------------------------------------

    def key_at_hand(self, server: str, key_id: str, at_ts: int) -> VerifyKey | None:
        """Return a key that is in memory and valid at that time, or None."""
        if server == self._own.server_name:
            return self._own.known.key(key_id, at_ts)
        known = self._cache.get(server)
        if known is None:
            return None
        self._cache.move_to_end(server)
        return known.keys.key(key_id, at_ts)

    async def keys_of(
        self, wanted: Mapping[str, int], *, key_ids: Mapping[str, frozenset[str]]
    ) -> Mapping[str, ServerKeys]:
        """Return what is known of the keys of these servers; see `KeySource`."""
        latest = self._clock.now_ms() + SKEW_MS
        needs = {
            # Lists are never valid long enough for an event of the year 9999: asking again would not help.
            server: Wanted(min(at_ts, latest), key_ids.get(server, frozenset()))
            for server, at_ts in islice(wanted.items(), MAX_PER_CALL)
        }
        result: dict[str, ServerKeys] = {}
        if needs.pop(self._own.server_name, None) is not None:
            result[self._own.server_name] = self._own.known
        known = await self._known(needs)
        lacking = {server: need for server, need in needs.items() if not need.is_met_by(_keys(known.get(server)))}
        if lacking:
            known.update(await self._fetched(lacking))
        for server, each in known.items():
            result[server] = each.keys
        return result

    async def lists_of(
        self, wanted: Mapping[str, int | None], *, may_fetch: Callable[[], bool]
    ) -> list[Mapping[str, Any]]:
        """Return the lists of these servers as they have signed them, for a notary to pass on; those there are.

        `wanted`: server name -> until when its list has to be valid, None for now. `may_fetch()` is asked before a
        server is. What only this has fetched is not stored: anybody may name any server here.
        """
        now = self._clock.now_ms()
        names = [server for server in islice(wanted, MAX_PER_CALL) if server != self._own.server_name]
        known = await self._known(names)
        lacking = {
            server: Wanted(wanted[server] or now)
            for server in names
            if _is_stale(known.get(server), now, wanted[server] or now)
            and self._fetches_for_strangers.may_try(server)
            and may_fetch()
        }
        if lacking:
            known.update(await self._fetched(lacking, for_strangers=True))
        lists: list[Mapping[str, Any]] = []
        for server in islice(wanted, MAX_PER_CALL):
            if server == self._own.server_name:
                lists.append(self._own.published())
            elif server in known:
                lists.append(parse_exactly(known[server].published))
        return lists

    # -- what is known -----------------------------------------------------------------------------------------------

    async def _known(self, servers: Iterable[str]) -> dict[str, KnownKeys]:
        """Return what is known of them, from memory and from the database."""
        known: dict[str, KnownKeys] = {}
        unread: list[str] = []
        for server in servers:
            cached = self._cache.get(server)
            if cached is None:
                unread.append(server)
            else:
                self._cache.move_to_end(server)
                known[server] = cached
        if unread:
            stored = await self._database.read(partial(find_server_keys, server_names=unread))
            for server in unread:
                # Meanwhile a fetch may have brought something newer, or the first list of all.
                found = self._cache.get(server) or stored.get(server)
                if found is not None:
                    known[server] = found
                    self._remember(found)
        return known

    def _remember(self, known: KnownKeys) -> None:
        self._cache[known.keys.server_name] = known
        self._cache.move_to_end(known.keys.server_name)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)

    def _take(self, published: Published) -> KnownKeys:
        """Merge a list into what is known."""
        newer = published.keys
        server = str(newer.server_name)
        before = self._cache.get(server)
        keys = newer if before is None else before.keys.merged(newer)
        if before is not None and newer.valid_until_ts < before.keys.valid_until_ts:
            # A notary's is older than what the server has said itself.
            known = KnownKeys(keys, before.published)
        else:
            signatures = {server: published.wire["signatures"][server]}
            list_of_server = {key: value for key, value in published.wire.items() if key != "unsigned"}
            known = KnownKeys(keys, dump_exactly({**list_of_server, "signatures": signatures}))
        self._remember(known)
        return known

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def _fetched(self, lacking: Mapping[str, Wanted], *, for_strangers: bool = False) -> dict[str, KnownKeys]:
        """Fetch, or wait for those who do already; return what came, and of the others what is known."""
        fetches = self._fetches_for_strangers if for_strangers else self._fetches
        waiting: dict[str, Deferred[KnownKeys | None]] = {}
        mine: dict[str, _Fetch] = {}
        for server, need in lacking.items():
            fetch = fetches.underway.get(server)
            if fetch is None:
                if len(fetches.underway) >= MAX_UNDERWAY or not fetches.may_try(server):
                    continue
                fetch = fetches.underway[server] = mine[server] = _Fetch(need)
            waiting[server] = Deferred()
            fetch.waiters.append(waiting[server])
        if mine:
            self._tasks.start(f"fetch keys of {len(mine)} servers", self._fetch(mine, for_strangers))
        timer = self._clock.call_later(PATIENCE_S, _give_up, waiting.values())
        found: dict[str, KnownKeys] = {}
        try:
            for server, waiter in waiting.items():
                known = await waiter
                if known is not None:
                    found[server] = known
        finally:
            if timer.active():
                timer.cancel()
        return found

    async def _fetch(self, mine: Mapping[str, _Fetch], for_strangers: bool) -> None:
        fetches = self._fetches_for_strangers if for_strangers else self._fetches
        # Of strangers' servers, those that are known already are kept up to date.
        stored = {server for server in mine if not for_strangers or server in self._cache}
        taken: dict[str, KnownKeys] = {}

        def taken_in(server: str, known: KnownKeys) -> None:
            taken[server] = known
            if mine[server].need.is_met_by(known.keys):
                # Who waits for this one need not wait for the slowest.
                fetches.finish(server, mine[server], known, succeeded=True)

        notaries = () if for_strangers else self._notaries
        try:
            await self._ask_servers(mine, taken_in, DIRECT_PATIENCE_S if notaries else PATIENCE_S)
            lacking = {
                server: fetch.need
                for server, fetch in mine.items()
                if not fetch.need.is_met_by(_keys(taken.get(server)))
            }
            if lacking:
                await self._ask_notaries(notaries, lacking, taken_in)
        finally:
            for server, fetch in mine.items():
                fetches.finish(server, fetch, self._cache.get(server), succeeded=server in taken)
        rows = [known for server, known in taken.items() if server in stored]
        if rows:
            await self._database.write(partial(store_server_keys, found=rows))

    async def _ask_servers(
        self, mine: Collection[str], taken_in: Callable[[str, KnownKeys], None], patience_s: float
    ) -> None:
        """Ask the servers themselves, those that did not have their turn after `patience_s` no more."""
        slots = Slots(ASKED_AT_ONCE, most_waiting=len(mine))
        deadline = self._clock.monotonic() + patience_s

        async def ask(server: str) -> None:
            if self._clock.monotonic() < deadline:
                known = await self._ask_server(server)
                if known is not None:
                    taken_in(server, known)

        work = [Deferred.fromCoroutine(slots.run(partial(ask, server))) for server in mine]
        results: list[Any] = list(await DeferredList(work, consumeErrors=True))
        for succeeded, failure in results:
            if not succeeded:
                failure.raiseException()

    async def _ask_server(self, server: str) -> KnownKeys | None:
        try:
            wire = await self._fetcher.get_json(
                server, "/_matrix/key/v2/server", max_bytes=LIST_BYTES, timeout_s=TIMEOUT_S
            )
            return self._take(Published(parse_server_keys(wire, server, self._clock.now_ms()), wire))
        except (RemoteError, BadServerKeys) as fault:
            logger.info("No keys of %s from itself: %s", server, fault)
            return None

    async def _ask_notaries(
        self, notaries: Sequence[Notary], wanted: Mapping[str, Wanted], taken_in: Callable[[str, KnownKeys], None]
    ) -> None:
        lacking = dict(wanted)
        for notary in notaries:
            if not notary.is_worth_asking:
                continue
            try:
                keys = await self._keys_of_notary(notary)
                servers = list(lacking)
                for start in range(0, len(servers), SERVERS_PER_QUESTION):
                    part = {server: lacking[server] for server in servers[start : start + SERVERS_PER_QUESTION]}
                    for published in await notary.ask(self._fetcher, part, keys):
                        taken_in(published.keys.server_name, self._take(published))
            except (RemoteError, BadServerKeys) as fault:
                logger.info("The notary %s fails: %s", notary.name, fault)
                notary.failed()
            lacking = {
                server: need for server, need in lacking.items() if not need.is_met_by(_keys(self._cache.get(server)))
            }
            if not lacking:
                return

    async def _keys_of_notary(self, notary: Notary) -> Mapping[str, VerifyKey]:
        """Return its keys that are valid now; those that are not pinned come from itself, over TLS."""
        if notary.pinned or not notary.needs_signature:
            return notary.pinned
        now = self._clock.now_ms()
        known = (await self._known([notary.name])).get(notary.name)
        # Past the list of fetches, which this may be a part of.
        if not Wanted(now).is_met_by(_keys(known)):
            known = await self._ask_server(notary.name)
        if known is None:
            raise BadServerKeys("its own keys cannot be had")
        return {key_id: key for key_id in known.keys.keys if (key := known.keys.key(key_id, now)) is not None}


class _Fetches:
    """Which servers are being asked, who waits for that, and when each may be asked again."""

    def __init__(self, clock: Clock) -> None:
        self.underway: dict[str, _Fetch] = {}
        self._clock = clock
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()

    def may_try(self, server: str) -> bool:
        attempt = self._attempts.get(server)
        return attempt is None or self._clock.monotonic() >= attempt.next_at

    def finish(self, server: str, fetch: _Fetch, known: KnownKeys | None, *, succeeded: bool) -> None:
        """Note how a fetch ended, and tell those who wait for it; the second time does nothing."""
        # Another fetch may be under way already.
        if self.underway.get(server) is not fetch:
            return
        del self.underway[server]
        attempt = self._attempts.get(server)
        if attempt is None:
            attempt = self._attempts[server] = _Attempt()
            if len(self._attempts) > MAX_ATTEMPTS:
                self._attempts.popitem(last=False)
        if succeeded:
            attempt.backoff.reset()
        attempt.next_at = self._clock.monotonic() + (REFETCH_S if succeeded else attempt.backoff.next_s())
        for waiter in fetch.waiters:
            if not waiter.called:
                waiter.callback(known)


class _Fetch:
    __slots__ = ("need", "waiters")

    def __init__(self, need: Wanted) -> None:
        self.need = need
        self.waiters: list[Deferred[KnownKeys | None]] = []


class _Attempt:
    __slots__ = ("backoff", "next_at")

    def __init__(self) -> None:
        self.backoff = Backoff(FIRST_WAIT_S, MOST_WAIT_S)
        self.next_at = 0.0


def _keys(known: KnownKeys | None) -> ServerKeys | None:
    return None if known is None else known.keys


def _is_stale(known: KnownKeys | None, now: int, valid_until_ts: int) -> bool:
    if known is None:
        return True
    keys = known.keys
    # Spec: `GET /_matrix/key/v2/server`: notaries "should cache a response for half of its lifetime".
    return valid_until_ts > keys.valid_until_ts or now > (keys.fetched_ts + keys.valid_until_ts) // 2


def _give_up(waiters: Iterable[Deferred[KnownKeys | None]]) -> None:
    for waiter in waiters:
        if not waiter.called:
            waiter.callback(None)
