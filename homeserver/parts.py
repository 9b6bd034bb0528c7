"""Building all parts of a server, in floor order: the wiring and nothing else.

Every part is a class that takes the few parts it uses; this is where they meet, a stage at a time: storage, users,
rooms and feed, the client API. A cycle is broken by passing a function (`profile_of`, `leave_rooms`) that is asked
later.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.appservices import AppserviceAccess, AppservicePing
from api.auth import Authenticator
from api.client.account import Account
from api.client.account_data import AccountDataApi
from api.client.capabilities import Capabilities
from api.client.chosen_filter import ChosenFilters
from api.client.devices import Devices as DevicesApi
from api.client.directory import DirectoryAPI
from api.client.events import Events
from api.client.filters import FiltersApi
from api.client.login import Login
from api.client.members import Members
from api.client.membership import RoomMembership
from api.client.messages import Messages
from api.client.openid import OpenIDAPI
from api.client.presence import PresenceApi
from api.client.profile import Profile
from api.client.push_rules import PushRulesApi
from api.client.receipts import ReceiptsApi
from api.client.register import Register
from api.client.relations import Relations
from api.client.send import Send
from api.client.state import State
from api.client.summaries import RoomSummaries
from api.client.sync import Seen
from api.client.sync import Sync as SyncApi
from api.client.tags import TagsApi
from api.client.threads import Threads as ThreadsApi
from api.client.typing import TypingApi
from api.client.upgrade import UpgradeApi
from api.client.user_directory import UserDirectoryAPI
from api.client.versions import STREAM_FEATURE, UNSTABLE_FEATURES, Versions, forced_encryption
from api.client.wellknown import WellKnown, client_discovery, support_contact
from api.client.whois import Whois
from api.health import Health
from api.media import MediaApi
from api.ratelimit import ClientRates, Limit, PasswordAttempts
from api.stream.door import StreamDoor
from homeserver.appservices.client import AppserviceClient
from homeserver.appservices.registry import Registry
from homeserver.appservices.sender import AppserviceSender
from homeserver.config import Config
from homeserver.errors import InviteBlocked, NotFound
from homeserver.feed.bundles import Bundles
from homeserver.feed.feed import Feed
from homeserver.feed.response import Streams
from homeserver.feed.streams.account_data import AccountDataStream
from homeserver.feed.streams.presence import PresenceStream
from homeserver.feed.streams.receipts import ReceiptsStream
from homeserver.feed.streams.typing import TypingStream
from homeserver.feed.sync import Sync
from homeserver.feed.timeline import Timeline
from homeserver.feed.unread import Unread
from homeserver.media.remote import RemoteRepository
from homeserver.media.repository import MediaRepository, MediaRules
from homeserver.model.ids import RoomAlias, RoomID, ServerName, UserID
from homeserver.model.presets import Preset, RoomRequest
from homeserver.model.room_versions import ROOM_VERSIONS
from homeserver.model.signing import SigningKey, VerifyKey
from homeserver.parts_encryption import Encryption, build_encryption
from homeserver.parts_federation import Links, build_inlets, build_links
from homeserver.parts_stream import build_stream
from homeserver.ports import NoEdus
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.auto_join import AutoJoin
from homeserver.rooms.creation import RoomCreation
from homeserver.rooms.directory import Directory
from homeserver.rooms.door import Identity, RoomDoor
from homeserver.rooms.encryption_gate import EncryptionGate
from homeserver.rooms.event_stream import EventStream
from homeserver.rooms.guests import Guests
from homeserver.rooms.history import History
from homeserver.rooms.members import StateReads
from homeserver.rooms.membership import InvitePolicy, Membership
from homeserver.rooms.publishing import Publishing
from homeserver.rooms.relation_rules import RelationRules
from homeserver.rooms.relations import RelationReads
from homeserver.rooms.remote_hierarchy import RemoteHierarchy
from homeserver.rooms.remote_rooms import RemoteRooms
from homeserver.rooms.successors import Successors
from homeserver.rooms.summaries import Summaries
from homeserver.rooms.transactions import TransactionIDs
from homeserver.rooms.upgrade import Upgrades
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.names import Names
from homeserver.runtime.outgoing import Outgoing
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Threads
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.devices import Devices
from homeserver.users.directory import UserDirectory
from homeserver.users.filters import Filters
from homeserver.users.interactive_auth import InteractiveAuth
from homeserver.users.openid import OpenID
from homeserver.users.operator import OperatorAccounts
from homeserver.users.presence import Presence
from homeserver.users.profiles import Profiles
from homeserver.users.push_rules import PushRules
from homeserver.users.receipts import Receipts
from homeserver.users.registration import Registration
from homeserver.users.remote_profiles import RemoteProfiles
from homeserver.users.room_settings import RoomSettings
from homeserver.users.sessions import Requester, Sessions
from homeserver.users.typing import Typing, no_servers
from homeserver.web.ratelimit import RateLimits
from homeserver.web.router import Route
from storage.blobs import BlobStore
from storage.presence import share_a_room
from storage.push_rules import load_rules
from storage.store import Store

WORK_THREADS = 4
# Beside the readers: opening, closing and the checks of a start.
FURTHER_DATABASE_THREADS = 2
_TRIM_MEDIA_S = 3600.0

_ENCRYPTION: Mapping[str, Any] = {"algorithm": "m.megolm.v1.aes-sha2"}

Registered = Callable[[UserID], None]


@dataclass(frozen=True, slots=True)
class Base:
    """What everything stands on."""

    config: Config
    server_name: ServerName
    clock: Clock
    tasks: Tasks
    database_threads: Threads
    work_threads: Threads
    store: Store
    feed: Feed
    timeline: Timeline
    door: RoomDoor
    rates: ClientRates
    outgoing: Outgoing
    # None where this server does not federate.
    links: Links | None


@dataclass(frozen=True, slots=True)
class Appservices:
    """The application services, and what is sent to them."""

    registry: Registry
    client: AppserviceClient
    sender: AppserviceSender


@dataclass(frozen=True, slots=True)
class Data:
    """What users attach to rooms and to themselves, with the streams that tell of it."""

    account_data: AccountData
    receipts: Receipts
    typing: Typing
    presence: Presence
    push_rules: PushRules
    streams: Streams
    bundles: Bundles
    encryption: Encryption
    sync: Sync


@dataclass(frozen=True, slots=True)
class Users:
    """Accounts and what belongs to them."""

    sessions: Sessions
    devices: Devices
    credentials: Credentials
    profiles: Profiles
    accounts: Accounts
    registration: Registration
    interactive_auth: InteractiveAuth
    directory: UserDirectory
    operator: OperatorAccounts
    filters: Filters
    membership: Membership
    profile_of: Callable[[UserID], Awaitable[Mapping[str, Any]]]
    may_invite: InvitePolicy


@dataclass(frozen=True, slots=True)
class Rooms:
    """Rooms as clients make, change and read them."""

    directory: Directory
    creation: RoomCreation
    upgrades: Upgrades
    transactions: TransactionIDs
    publishing: Publishing
    history: History
    state: StateReads
    relation_rules: RelationRules
    relations: RelationReads
    summaries: Summaries
    event_stream: EventStream


@dataclass(frozen=True, slots=True)
class Parts:
    """The built server."""

    base: Base
    data: Data
    users: Users
    rooms: Rooms
    media: MediaRepository
    authenticator: Authenticator
    register: Register
    routes: Sequence[Route]
    stream: StreamDoor | None

    def services(self) -> dict[str, Any]:
        """Return what extensions may use."""
        return {
            "config": self.base.config,
            "clock": self.base.clock,
            "register_by_operator": self.register.register_by_operator,
            "registration_limit": Limit.REGISTRATION,
            "accounts": self.users.operator,
        }

    async def stop(self) -> None:
        """Finish what is queued and close the database."""
        self.data.typing.stop()
        await self.data.presence.stop()
        await self.users.sessions.stop()
        if self.base.links is not None:
            await self.base.links.stop()
        await self.base.outgoing.stop()
        await self.base.store.stop()
        await self.base.work_threads.stop()
        await self.base.database_threads.stop()


async def build(
    config: Config,
    keys: Sequence[SigningKey],
    reactor: Any,
    clock: Clock,
    tasks: Tasks,
    *,
    old_keys: Mapping[str, tuple[VerifyKey, int]] | None = None,
    names: Names | None = None,
    registered: Registered = lambda user_id: None,
) -> Parts:
    """Open the database and build everything on it; `registered` is told of new accounts.

    `keys` sign, the first one everything; `names` looks up host names, the system by default.
    """
    registry = Registry.load(config.appservices.files, config.server.name)
    base = await _open(config, keys, old_keys or {}, reactor, clock, tasks, registry, names)
    try:
        appservices = _build_appservices(base, registry)
        data = _build_data(base, appservices)

        def welcome(user_id: UserID) -> None:
            registered(user_id)
            if config.registration.auto_join_rooms:
                tasks.start(f"auto-join {user_id}", auto_join.welcome(user_id))

        users = _build_users(base, data, appservices, welcome)
        rooms = _build_rooms(base, data, users, appservices)
        auto_join = AutoJoin(
            rooms.creation,
            users.membership,
            rooms.directory,
            aliases=config.registration.auto_join_rooms,
            makes_rooms=config.registration.autocreate_auto_join_rooms,
        )
        access = AppserviceAccess(registry, users.accounts, users.sessions, users.devices)
        media = _build_media(base)
        register = Register(
            users.registration,
            users.accounts,
            users.credentials,
            users.sessions,
            users.interactive_auth,
            base.rates,
            appservices=access,
        )
        openid = OpenID(base.store.database, clock)
        filters = ChosenFilters(lambda _, user_nid, text: users.filters.get(user_nid, text), users.filters.parse)

        def seen(requester: Requester, set_presence: str | None, for_s: float) -> None:
            data.presence.seen(requester.user_id, requester.device_id, set_presence, for_s=for_s)

        routes = _routes(base, data, users, rooms, media, register, access, filters, seen)
        routes += data.encryption.routes(users.sessions, users.devices, users.interactive_auth)
        routes += OpenIDAPI(openid, server_name=base.server_name).routes()
        if base.links is not None:
            inlets = build_inlets(base, data, users, rooms, openid, media, base.links, users.may_invite)
            routes += inlets.routes
            routes += data.encryption.inlets(inlets.signed, inlets.edus)
        routes += AppservicePing(registry, appservices.client, appservices.sender).routes()
        # Without services, no token need be looked for among theirs.
        authenticator = Authenticator(users.sessions, appservice_requester=access.requester if len(registry) else None)
        stream = None
        if config.stream.enabled:
            stream, opening = build_stream(base, data, users, authenticator, filters, seen, routes, reactor)
            routes += opening
        await users.accounts.start()
        await users.registration.start()
        users.sessions.start()
        await data.presence.start()
        await data.encryption.start()
        if config.media.enabled:
            await media.start()
            tasks.every("trim media", _TRIM_MEDIA_S, media.trim)
        await appservices.sender.start()
        if base.links is not None:
            await base.links.start()
    except BaseException:
        # Nobody else knows of them yet, and a thread that waits would keep the process.
        await base.store.stop()
        await base.work_threads.stop()
        await base.database_threads.stop()
        raise
    return Parts(base, data, users, rooms, media, authenticator, register, routes, stream)


async def _open(
    config: Config,
    keys: Sequence[SigningKey],
    old_keys: Mapping[str, tuple[VerifyKey, int]],
    reactor: Any,
    clock: Clock,
    tasks: Tasks,
    registry: Registry,
    names: Names | None,
) -> Base:
    readers = config.database.pool_size
    database_threads = Threads(reactor, readers + FURTHER_DATABASE_THREADS, "database")
    store = Store(
        str(config.database.url),
        reactor=reactor,
        threads=database_threads,
        watch=lambda work: tasks.start("reserve numbers", _run(work)),
        # A quarter is the feed's.
        memory_bytes=config.cache.memory_budget_bytes * 3 // 4,
        readers=readers,
    )
    try:
        await store.start()
    except BaseException:
        await database_threads.stop()
        raise
    server_name = ServerName(config.server.name)
    feed = Feed(store, clock, budget_bytes=config.cache.memory_budget_bytes // 4)

    def is_exempt(requester: Requester) -> bool:
        appservice = requester.appservice
        return appservice is not None and not registry.is_rate_limited(appservice, requester.user_id)

    lanes: Lanes[RoomID] = Lanes()
    door = RoomDoor(store, feed, lanes, clock, Identity(server_name, keys[0]))
    work_threads = Threads(reactor, WORK_THREADS, "worker")
    links = None
    if config.federation.enabled:
        links = build_links(
            config,
            keys,
            old_keys,
            reactor=reactor,
            clock=clock,
            tasks=tasks,
            threads=work_threads,
            store=store,
            feed=feed,
            door=door,
            lanes=lanes,
            names=names,
        )
    return Base(
        config=config,
        server_name=server_name,
        clock=clock,
        tasks=tasks,
        database_threads=database_threads,
        work_threads=work_threads,
        store=store,
        feed=feed,
        timeline=Timeline(store, feed),
        door=door,
        rates=ClientRates(RateLimits(clock), config.limits, is_exempt=is_exempt),
        outgoing=Outgoing(reactor),
        links=links,
    )


def _build_media(base: Base) -> MediaRepository:
    config, links = base.config.media, base.links
    rules, blobs = MediaRules.of(config), BlobStore(config.store_path)
    remote = None
    if links is not None:
        remote = RemoteRepository(
            base.store.database,
            blobs,
            links.client,
            threads=base.work_threads,
            clock=base.clock,
            tasks=base.tasks,
            server_name=base.server_name,
            max_file_bytes=rules.max_upload_bytes,
            max_total_bytes=config.max_remote_total_bytes,
            blocked_servers=frozenset(config.blocked_servers),
        )
    return MediaRepository(
        base.store.database,
        blobs,
        threads=base.work_threads,
        clock=base.clock,
        server_name=base.server_name,
        rules=rules,
        remote=remote,
    )


def _build_appservices(base: Base, registry: Registry) -> Appservices:
    client = AppserviceClient(registry, base.outgoing, base.clock)
    return Appservices(
        registry=registry,
        client=client,
        sender=AppserviceSender(base.store, base.feed, base.clock, base.tasks, registry, client),
    )


def _build_data(base: Base, appservices: Appservices) -> Data:
    store, feed, clock = base.store, base.feed, base.clock
    receipts_stream, typing_stream = ReceiptsStream(store), TypingStream()
    data_stream, presence_stream = AccountDataStream(store), PresenceStream(feed, clock)
    unread = Unread(store, feed, base.timeline, load_rules, data_stream.ignored_users)
    sender = appservices.sender
    if sender.wants_ephemeral:
        receipts_stream.listen(sender.on_receipt)
        typing_stream.listen(sender.on_typing)
        presence_stream.listen(sender.on_presence)
    account_data = AccountData(store, feed, stream=data_stream, unread=unread)
    links = base.links
    edus = links.outbox if links is not None else NoEdus()
    servers_of = links.servers_of if links is not None else no_servers
    bundles = Bundles(store, feed, clock, account_data.ignored_users)
    encryption = build_encryption(
        store,
        feed,
        clock,
        base.tasks,
        server_name=base.server_name,
        outbox=edus,
        servers=links.client if links is not None else None,
        tells_names=base.config.federation.device_names_over_federation,
    )
    sender.follow_devices(encryption.to_device_stream, encryption.lists_stream, encryption.key_counts)
    presence = Presence(store, feed, clock, base.tasks, base.config.presence, stream=presence_stream, edus=edus)
    streams = Streams(
        ephemeral=(receipts_stream, typing_stream),
        room_account_data=data_stream,
        account_data=data_stream,
        presence=presence_stream,
        unread=unread,
        bundles=bundles,
        ignored_users=account_data.ignored_users,
        blocks_invites=account_data.blocks_invites,
        devices=encryption.sections,
    )
    return Data(
        account_data=account_data,
        receipts=Receipts(
            store,
            feed,
            clock,
            stream=receipts_stream,
            account_data=account_data,
            unread=unread,
            edus=edus,
            servers_of=servers_of,
        ),
        typing=Typing(store, feed, clock, stream=typing_stream, edus=edus, servers_of=servers_of),
        presence=presence,
        push_rules=PushRules(store, feed, stream=data_stream, unread=unread),
        streams=streams,
        bundles=bundles,
        encryption=encryption,
        sync=Sync(store, feed, base.timeline, clock, streams),
    )


def _build_users(base: Base, data: Data, appservices: Appservices, registered: Registered) -> Users:
    config, store, clock, tasks = base.config, base.store, base.clock, base.tasks
    database, server_name = store.database, base.server_name
    sessions = Sessions(database, store.numbers, clock, tasks, config.sessions)
    devices = Devices(database, sessions, erasers=data.encryption.erasers, observe=data.encryption.observe)
    credentials = Credentials(
        database,
        base.work_threads,
        server_name=server_name,
        policy=config.registration.password_policy,
        bcrypt_rounds=config.registration.bcrypt_rounds,
        attempts=PasswordAttempts(base.rates),
    )

    async def propagate(requester: Requester, fields: Mapping[str, str]) -> None:
        await membership.update_profile(requester.user_id, requester.user_nid)

    profiles = Profiles(
        database,
        tasks,
        server_name=server_name,
        config=config.profiles,
        propagate=propagate,
        remote=RemoteProfiles(base.links.client, clock, tasks) if base.links is not None else None,
    )

    async def profile_of(user_id: UserID) -> Mapping[str, Any]:
        user_nid = await store.interner.user(user_id)
        return (await profiles.member_fields([user_nid])).get(user_nid, {})

    async def may_invite(inviter: UserID, invitee: UserID) -> None:
        if invitee.server_name != server_name:
            return
        account = await accounts.find(invitee)
        if account is None and await appservices.client.query_user(invitee):
            account = await accounts.find(invitee)
        if account is None or account.is_deactivated:
            raise NotFound(f"There is no user {invitee}")
        # Spec: "Invite permission".
        if await data.account_data.blocks_invites(account.user_nid):
            raise InviteBlocked(f"{invitee} takes no invites")

    async def leave_rooms(user_id: UserID) -> None:
        await membership.leave_all(user_id, await store.interner.user(user_id))

    membership = Membership(
        store,
        base.door,
        base.feed,
        server_name=server_name,
        profile_of=profile_of,
        may_invite=may_invite,
        others=base.links.others if base.links is not None else None,
    )
    accounts = Accounts(
        database,
        store.interner,
        clock,
        tasks,
        sessions,
        devices,
        leave_rooms=leave_rooms,
        erasers=data.encryption.account_erasers,
        registered=registered,
    )
    registration = Registration(
        database,
        clock,
        accounts,
        server_name=server_name,
        config=config.registration,
        is_exclusive=appservices.registry.is_exclusive_user,
    )
    return Users(
        sessions=sessions,
        devices=devices,
        credentials=credentials,
        profiles=profiles,
        accounts=accounts,
        registration=registration,
        interactive_auth=InteractiveAuth(
            clock,
            credentials,
            check_registration_token=registration.is_token_valid,
            proof_life_ms=config.sessions.ui_auth_timeout_ms,
        ),
        directory=UserDirectory(database, store.interner, server_name=server_name, config=config.user_directory),
        operator=OperatorAccounts(accounts, credentials, registration, devices, server_name=server_name),
        filters=Filters(database, max_limit=config.limits.timeline_limit),
        membership=membership,
        profile_of=profile_of,
        may_invite=may_invite,
    )


def _build_rooms(base: Base, data: Data, users: Users, appservices: Appservices) -> Rooms:
    store, feed, door, clock = base.store, base.feed, base.door, base.clock
    ignored_users = data.account_data.ignored_users

    async def made_by_service(alias: RoomAlias) -> tuple[RoomID, tuple[ServerName, ...]] | None:
        if alias.server_name != base.server_name:
            return None if base.links is None else await base.links.find_alias(alias)
        if not await appservices.client.query_alias(alias):
            return None
        room_id = await directory.find(alias)
        return None if room_id is None else (room_id, ())

    directory = Directory(store, clock, remote=made_by_service)
    access = RoomAccess(store, feed, door, base.timeline)
    backfill = base.links.backfill if base.links is not None else None
    by_time = base.links.by_time if base.links is not None else None
    history = History(store, access, data.bundles, clock, ignored_users, backfill=backfill, by_time=by_time)
    whole = base.links.whole if base.links is not None else None
    state = StateReads(store, feed, access, clock, whole=whole)
    Guests(store, door, feed, base.tasks)
    carry_over = RoomSettings(store.interner, data.account_data, data.push_rules).carry_over
    if not base.config.rooms.allow_encryption:
        door.add_gate(EncryptionGate())
    Successors(store, door, feed, base.tasks, carry_over=carry_over)
    return Rooms(
        directory=directory,
        creation=RoomCreation(
            door,
            directory,
            default_version=base.config.rooms.default_version,
            profile_of=users.profile_of,
            may_invite=users.membership.check_invitee,
            opaque_id=_opaque_id,
            encryption_for=_encryption_for(base.config.rooms.encrypt_by_default),
            invite_remote=users.membership.invite_remote if base.links is not None else None,
        ),
        upgrades=Upgrades(
            store,
            door,
            directory,
            profile_of=users.profile_of,
            opaque_id=_opaque_id,
            carry_over=carry_over,
        ),
        transactions=TransactionIDs(store, clock),
        publishing=Publishing(door, directory, server_name=base.server_name, config=base.config.rooms),
        history=history,
        state=state,
        relation_rules=RelationRules(store, door),
        relations=RelationReads(store, door, access, data.bundles, clock, ignored_users),
        summaries=Summaries(store, feed, door, directory, server_name=base.server_name, remote=_remote_hierarchy(base)),
        event_stream=EventStream(
            store,
            feed,
            access,
            history,
            state,
            directory,
            clock,
            ignored_users=ignored_users,
            blocks_invites=data.account_data.blocks_invites,
        ),
    )


def _remote_hierarchy(base: Base) -> RemoteHierarchy | None:
    if base.links is None:
        return None
    return RemoteHierarchy(base.links.client, base.clock, base.tasks, base.server_name)


def _routes(
    base: Base,
    data: Data,
    users: Users,
    rooms: Rooms,
    media: MediaRepository,
    register: Register,
    appservices: AppserviceAccess,
    filters: ChosenFilters,
    seen: Seen,
) -> list[Route]:
    config, server_name = base.config, base.server_name
    has_passwords = config.registration.passwords
    discovery = client_discovery(config.server, allow_encryption=config.rooms.allow_encryption)

    async def shares_room(requester: Requester, user_id: UserID) -> bool:
        return await base.store.database.read(lambda tx: share_a_room(tx, requester.user_id, user_id))

    features = {**UNSTABLE_FEATURES, **forced_encryption(config.rooms.encrypt_by_default)}
    if config.stream.enabled:
        features.update(STREAM_FEATURE)
    apis: list[Any] = [
        Health(),
        Versions(unstable_features=features),
        WellKnown(client=discovery, support=support_contact(config.server)),
        Capabilities(
            default_room_version=config.rooms.default_version,
            room_versions={version.identifier: version.is_stable for version in ROOM_VERSIONS.values()},
            has_passwords=has_passwords,
            profiles=config.profiles,
        ),
        Login(
            users.credentials,
            users.sessions,
            users.devices,
            base.rates,
            has_passwords=has_passwords,
            well_known=discovery,
            appservices=appservices,
        ),
        register,
        Account(users.accounts, users.credentials, users.interactive_auth, has_passwords=has_passwords),
        DevicesApi(users.devices, users.interactive_auth),
        Whois(users.accounts, users.devices),
        Profile(users.profiles, config.profiles, base.rates, server_name=server_name, shares_room=shares_room),
        FiltersApi(users.filters),
        AccountDataApi(data.account_data),
        TagsApi(data.account_data),
        ReceiptsApi(data.receipts),
        TypingApi(data.typing),
        PresenceApi(data.presence),
        PushRulesApi(data.push_rules),
        RoomMembership(
            rooms.creation,
            users.membership,
            rooms.directory,
            base.rates,
            check_namespace=appservices.check_alias,
        ),
        UpgradeApi(rooms.upgrades),
        Send(
            base.door,
            users.membership,
            rooms.transactions,
            rooms.relation_rules,
            base.rates,
            check_alias=rooms.publishing.check_new_canonical_alias,
        ),
        SyncApi(data.sync, filters, seen),
        Events(rooms.history, rooms.event_stream),
        Messages(rooms.history),
        State(rooms.state),
        Members(rooms.state),
        Relations(rooms.relations),
        ThreadsApi(rooms.relations),
        RoomSummaries(rooms.summaries, base.rates),
        DirectoryAPI(
            rooms.directory,
            rooms.publishing,
            config.rooms,
            server_name=server_name,
            rates=base.rates,
            remote=RemoteRooms(base.links.client, base.clock, base.tasks) if base.links is not None else None,
            check_namespace=appservices.check_alias,
        ),
    ]
    if config.user_directory.enabled:
        apis.append(UserDirectoryAPI(users.directory))
    if config.media.enabled:
        apis.append(MediaApi(media, base.rates))
    return [route for each in apis for route in each.routes()]


def _encryption_for(kind: str) -> Callable[[RoomRequest], Mapping[str, Any] | None]:
    """Return which new rooms are encrypted: `all`, those by `invite` only, or none (`off`)."""

    def decide(request: RoomRequest) -> Mapping[str, Any] | None:
        # Nobody talks in a space.
        if request.creation_content.get("type") == "m.space":
            return None
        if kind == "all" or (kind == "invite" and request.preset is not Preset.PUBLIC_CHAT):
            return _ENCRYPTION
        return None

    return decide


def _opaque_id() -> str:
    return "".join(secrets.choice(string.ascii_letters) for _ in range(18))


async def _run(work: Awaitable[None]) -> None:
    await work
