"""Building what talks to other servers, in floor order: the wiring and nothing else.

`Links` are the ways out and the one gate in: they come before users and rooms, which are handed them.
`Inlets` are what other servers may ask of us: they come last. See `homeserver.parts`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from api.ratelimit import Limit
from federation.client import FederationClient
from federation.destinations import Destinations
from federation.discovery import Discovery
from federation.keyring import KeyRing
from federation.outbox import Outbox
from federation.own_keys import OwnKeys
from federation.remote_media import RemoteFiles
from federation.server.auth import Signed
from federation.server.backfill import BackfillAPI
from federation.server.directory import DirectoryAPI
from federation.server.edus import EduInlet
from federation.server.events import EventsAPI
from federation.server.hierarchy import HierarchyAPI
from federation.server.invites import Invites
from federation.server.joins import Joins
from federation.server.keys import KeysApi, ServerWellKnown
from federation.server.knocks import Knocks
from federation.server.leaves import Leaves
from federation.server.limits import OriginLimits
from federation.server.media import MediaAPI
from federation.server.openid import OpenIDAPI
from federation.server.query import QueryAPI
from federation.server.third_party import ThirdParty
from federation.server.transactions import TransactionsApi
from federation.server.version import VersionApi
from federation.transport import FederationTransport, certificate_rule
from homeserver.config import Config
from homeserver.errors import NotFound, RemoteRefused
from homeserver.media.repository import MediaRepository
from homeserver.model.canonical_json import parse_exactly
from homeserver.model.ids import RoomAlias, RoomID, ServerName
from homeserver.model.signing import SigningKey, VerifyKey
from homeserver.rooms.backfill import Backfill
from homeserver.rooms.door import Identity, RoomDoor
from homeserver.rooms.elsewhere_by_time import ElsewhereByTime
from homeserver.rooms.fetching import Fetching
from homeserver.rooms.gaps import Gaps
from homeserver.rooms.handshakes import Handshakes
from homeserver.rooms.held import Held
from homeserver.rooms.inbound import Inbound
from homeserver.rooms.joined_state import JoinAnswers
from homeserver.rooms.joining import Joining
from homeserver.rooms.member_completion import MemberCompletion
from homeserver.rooms.membership import InvitePolicy, OtherServers
from homeserver.rooms.outside import OutsideRooms
from homeserver.rooms.policy import PolicyServers
from homeserver.rooms.receipt import Receipt
from homeserver.rooms.remote_invites import RemoteInvites
from homeserver.rooms.remote_membership import RemoteMembership
from homeserver.rooms.remote_state import RemoteState
from homeserver.rooms.server_guard import ServerGuard
from homeserver.rooms.server_hierarchy import ServerHierarchy
from homeserver.rooms.server_reads import ServerReads
from homeserver.rooms.templates import Templates
from homeserver.rooms.third_party_invites import ThirdPartyInvites
from homeserver.rooms.vouching import Vouching
from homeserver.runtime.addresses import AddressRules
from homeserver.runtime.client_tls import ClientTLS
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.names import Names, SystemNames
from homeserver.runtime.outgoing import Outgoing
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Threads
from homeserver.users.openid import OpenID
from homeserver.web.router import Route
from storage.store import Store

if TYPE_CHECKING:
    from homeserver.feed.feed import Feed
    from homeserver.parts import Base, Data, Rooms, Users

MAX_KEY_ANSWER_BYTES = 65_536
KEY_ANSWER_S = 10.0
# How long a client who asks for all members of a room waits for them.
MEMBERS_S = 60.0


@dataclass(frozen=True, slots=True)
class Links:
    """The ways to other servers, and what stands between them and the rooms."""

    identity: Identity
    door: RoomDoor
    outgoing: Outgoing
    destinations: Destinations
    transport: FederationTransport
    client: FederationClient
    own_keys: OwnKeys
    keyring: KeyRing
    outbox: Outbox
    inbound: Inbound
    guard: ServerGuard
    vouching: Vouching
    templates: Templates
    policy: PolicyServers
    held: Held
    receipt: Receipt
    backfill: Backfill
    by_time: ElsewhereByTime
    others: OtherServers

    async def start(self) -> None:
        """Go on with what the last stop interrupted."""
        await self.destinations.start()
        await self.outbox.start()
        self.held.start(self.receipt.try_to_take_in)
        await self.others.joining.resume()

    async def stop(self) -> None:
        """Send nothing more; note what is to be known at the next start."""
        self.outbox.stop()
        await self.destinations.stop()
        await self.outgoing.stop()

    async def servers_of(self, room_id: RoomID) -> tuple[str, ...]:
        """Return the other servers in a room, none for a room that is not here."""
        try:
            tip = await self.door.tip(room_id)
        except NotFound:
            return ()
        return tip.servers.without(self.own_keys.server_name)

    async def whole(self, room_id: RoomID) -> None:
        """Wait a while for the members of a room that was joined a moment ago, if it was."""
        try:
            await self.others.joining.completed(room_id, MEMBERS_S)
        except NotFound:
            return

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, tuple[ServerName, ...]] | None:
        """Ask another server where its alias leads; None where it leads nowhere. Raises RemoteError."""
        try:
            found = await self.client.query_directory(alias.server_name, alias)
        except RemoteRefused as refused:
            # What does not know the endpoint says nothing of the alias.
            if refused.status == 404 and refused.errcode != "M_UNRECOGNIZED":
                return None
            raise
        return found.room_id, tuple(ServerName(server) for server in found.servers)


def build_links(
    config: Config,
    keys: Sequence[SigningKey],
    old_keys: Mapping[str, tuple[VerifyKey, int]],
    *,
    reactor: Any,
    clock: Clock,
    tasks: Tasks,
    threads: Threads,
    store: Store,
    feed: Feed,
    door: RoomDoor,
    lanes: Lanes[RoomID],
    names: Names | None = None,
) -> Links:
    """Build the ways to other servers; `lanes` are the door's."""
    server_name, settings = str(config.server.name), config.federation
    identity = Identity(server_name, keys[0])
    names = names or SystemNames(reactor)
    chance = secrets.SystemRandom().random
    outgoing = Outgoing(
        reactor,
        rules=AddressRules(settings.ip_range_denylist, settings.ip_range_allowlist),
        names=names,
        tls=ClientTLS(reactor, settings.ca_files),
    )
    destinations = Destinations(
        store.database,
        clock,
        tasks,
        chance,
        first_wait_ms=settings.first_wait_ms,
        longest_wait_ms=settings.longest_wait_ms,
    )
    discovery = Discovery(outgoing, names, clock, chance, verify=certificate_rule(settings))
    transport = FederationTransport(
        server_name, keys[0], settings, clock, outgoing=outgoing, finder=discovery, destinations=destinations
    )
    client = FederationClient(transport, RemoteFiles(transport, outgoing, clock))
    own_keys = OwnKeys(
        server_name, keys, old_keys, clock=clock, refresh_interval_ms=config.server.key_refresh_interval_ms
    )
    keyring = KeyRing(
        store.database, own_keys, transport, clock=clock, tasks=tasks, notaries=settings.trusted_key_servers
    )
    outbox = Outbox(
        store,
        feed,
        clock,
        tasks,
        transport=transport,
        destinations=destinations,
        server_name=server_name,
    )
    inbound = Inbound(keyring, threads, identity)
    outside = OutsideRooms(store, feed, lanes, clock, server_name)
    guard = ServerGuard(store, door, server_name)
    vouching = Vouching(store, door, server_name=server_name)
    templates = Templates(store, door, guard, vouching, clock, server_name=server_name)
    policy = PolicyServers(door, inbound, client, clock, server_name)
    door.set_policy(policy)
    fetching = Fetching(store, inbound, client, clock, identity)
    remote_state = RemoteState(fetching, door)
    gaps = Gaps(fetching, remote_state, door, policy)
    backfill = Backfill(store, fetching, remote_state, door, clock, tasks)
    held = Held(store, door, inbound, tasks, clock)
    receipt = Receipt(door, inbound, gaps, policy, held, outside, clock, server_name)
    completion = MemberCompletion(
        store,
        door,
        inbound,
        threads,
        client,
        clock,
        tasks,
        server_name=server_name,
        on_complete=held.release_soon,
    )
    joining = Joining(
        door,
        outside,
        JoinAnswers(inbound, threads, server_name),
        completion,
        client,
        identity,
        clock,
        tasks,
        pass_gates=door.pass_gates,
        take_in=receipt.receive,
    )
    remote = RemoteMembership(
        door, outside, templates, inbound, client, identity, clock, pass_gates=door.pass_gates, policy=policy
    )
    return Links(
        identity=identity,
        door=door,
        outgoing=outgoing,
        destinations=destinations,
        transport=transport,
        client=client,
        own_keys=own_keys,
        keyring=keyring,
        outbox=outbox,
        inbound=inbound,
        guard=guard,
        vouching=vouching,
        templates=templates,
        policy=policy,
        held=held,
        receipt=receipt,
        backfill=backfill,
        by_time=ElsewhereByTime(door, fetching, backfill),
        others=OtherServers(outside, joining, remote),
    )


@dataclass(frozen=True, slots=True)
class Inlets:
    """What other servers may ask; `edus` is where further kinds of EDUs are registered, `signed` makes routes."""

    signed: Signed
    edus: EduInlet
    routes: Sequence[Route]


def build_inlets(
    base: Base,
    data: Data,
    users: Users,
    rooms: Rooms,
    openid: OpenID,
    media: MediaRepository,
    links: Links,
    may_invite: InvitePolicy,
) -> Inlets:
    """Build the server-server API."""
    config, clock, door, store = base.config, base.clock, base.door, base.store
    server_name = base.server_name
    signed = Signed(
        server_name,
        links.keyring,
        clock,
        config.federation,
        OriginLimits(config.limits.federation, clock),
        max_transaction_bytes=config.limits.max_transaction_bytes,
        woken=links.destinations.woken,
    )
    edus = EduInlet(links.guard, door, typing=data.typing, receipts=data.receipts, presence=data.presence)
    reads = ServerReads(store, links.guard)
    handshakes = Handshakes(
        store, door, links.guard, links.inbound, links.vouching, links.identity, policy=links.policy
    )
    invites = RemoteInvites(
        door,
        links.guard,
        links.inbound,
        links.others.outside,
        links.identity,
        may_invite=may_invite,
    )

    async def fetch_json(url: str) -> object:
        answer = await links.outgoing.request("GET", url, timeout_s=KEY_ANSWER_S, max_bytes=MAX_KEY_ANSWER_BYTES)
        return parse_exactly(bytes(answer.body)) if answer.is_success else None

    third_party = ThirdPartyInvites(
        door,
        links.guard,
        links.templates,
        users.membership,
        links.client,
        links.identity,
        clock,
        may_invite=may_invite,
        fetch_json=fetch_json,
    )
    apis: list[Any] = [
        KeysApi(links.own_keys, links.keyring, clock, whitelist=config.federation.domain_whitelist),
        ServerWellKnown(config.server),
        VersionApi(version_of("sennit")),
        EventsAPI(signed, reads, clock, server_name),
        BackfillAPI(signed, reads, clock, server_name),
        QueryAPI(signed, rooms.directory, door, users.profiles, config.profiles, server_name),
        DirectoryAPI(signed, rooms.directory, config.rooms),
        HierarchyAPI(signed, ServerHierarchy(store, rooms.summaries, links.guard)),
        OpenIDAPI(openid, clock),
    ]
    if config.media.enabled:
        apis.append(MediaAPI(signed, media, server_name))
    signing: list[Any] = [
        TransactionsApi(links.receipt, edus),
        Joins(
            links.templates,
            handshakes,
            limit_join=lambda room_id: base.rates.check_key(Limit.JOINS_PER_ROOM, room_id),
        ),
        Leaves(links.templates, handshakes),
        Knocks(links.templates, handshakes),
        Invites(
            invites,
            limit_invite=lambda room_id, origin: base.rates.check_key(Limit.INVITES_PER_ROOM, (room_id, origin)),
        ),
        ThirdParty(
            third_party,
            limit_address=lambda request: base.rates.check_key(Limit.PROBING, request.client_ip),
        ),
    ]
    routes = [route for each in apis for route in each.routes()]
    routes += [route for each in signing for route in each.routes(signed)]
    return Inlets(signed, edus, routes)
