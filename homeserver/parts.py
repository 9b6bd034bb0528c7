"""Building all parts of a server, in floor order: the wiring and nothing else.

Every part is a class that takes the few parts it uses; this is where they meet. A cycle is broken by passing a
function (`profile_of`, `leave_rooms`) that is asked later.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.auth import Authenticator
from api.client.account import Account
from api.client.account_data import AccountDataApi
from api.client.capabilities import Capabilities
from api.client.devices import Devices as DevicesAPI
from api.client.filters import FiltersApi
from api.client.login import Login
from api.client.membership import RoomMembership
from api.client.presence import PresenceApi
from api.client.profile import Profile
from api.client.push_rules import PushRulesApi
from api.client.receipts import ReceiptsApi
from api.client.register import Register
from api.client.send import Send
from api.client.sync import Sync as SyncAPI
from api.client.tags import TagsApi
from api.client.typing import TypingApi
from api.client.versions import Versions
from api.client.wellknown import WellKnown, client_discovery, support_contact
from api.media import MediaApi
from api.ratelimit import ClientRates, Limit, PasswordAttempts
from homeserver.config import Config
from homeserver.errors import InviteBlocked, NotFound
from homeserver.feed.feed import Feed
from homeserver.feed.streams.account_data import AccountDataStream
from homeserver.feed.streams.presence import PresenceStream
from homeserver.feed.streams.receipts import ReceiptsStream
from homeserver.feed.streams.typing import TypingStream
from homeserver.feed.sync import Streams, Sync
from homeserver.feed.timeline import Timeline
from homeserver.feed.unread import Unread
from homeserver.media.repository import MediaRepository, MediaRules
from homeserver.model.ids import RoomID, ServerName, UserID
from homeserver.model.room_versions import ROOM_VERSIONS
from homeserver.model.signing import SigningKey
from homeserver.rooms.creation import RoomCreation
from homeserver.rooms.directory import Directory
from homeserver.rooms.door import Identity, RoomDoor
from homeserver.rooms.membership import Membership
from homeserver.rooms.transactions import TransactionIDs
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Threads
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.devices import Devices
from homeserver.users.filters import Filters
from homeserver.users.interactive_auth import InteractiveAuth
from homeserver.users.operator import OperatorAccounts
from homeserver.users.presence import Presence
from homeserver.users.profiles import Profiles
from homeserver.users.push_rules import PushRules
from homeserver.users.receipts import Receipts
from homeserver.users.registration import Registration
from homeserver.users.sessions import Requester, Sessions
from homeserver.users.typing import Typing
from homeserver.web.ratelimit import RateLimits
from homeserver.web.router import Route
from storage.blobs import BlobStore
from storage.push_rules import load_rules
from storage.store import Store

DATABASE_THREADS = 6
WORK_THREADS = 4


class _Nothing:
    async def of(self, *_: Any) -> Mapping[int, bytes]:
        return {}


@dataclass(slots=True)
class Parts:
    """The built parts that others ask for by name."""

    config: Config
    clock: Clock
    store: Store
    database_threads: Threads
    work_threads: Threads
    feed: Feed
    door: RoomDoor
    creation: RoomCreation
    membership: Membership
    transactions: TransactionIDs
    accounts: Accounts
    operator: OperatorAccounts
    authenticator: Authenticator
    rates: ClientRates
    register: Register
    presence: Presence
    typing: Typing
    routes: list[Route]

    def services(self) -> dict[str, Any]:
        """Return what extensions may use."""
        return {
            "config": self.config,
            "clock": self.clock,
            "register_by_operator": self.register.register_by_operator,
            "registration_limit": Limit.REGISTRATION,
            "accounts": self.operator,
        }

    async def stop(self) -> None:
        """Finish what is queued and close the database."""
        self.typing.stop()
        await self.presence.stop()
        await self.store.stop()
        await self.work_threads.stop()
        await self.database_threads.stop()


async def build(config: Config, key: SigningKey, reactor: Any, clock: Clock, tasks: Tasks) -> Parts:
    """Open the database and build everything on it."""
    server_name = ServerName(config.server.name)
    database_threads = Threads(reactor, DATABASE_THREADS, "database")
    work_threads = Threads(reactor, WORK_THREADS, "worker")
    store = Store(
        str(config.database.url),
        reactor=reactor,
        threads=database_threads,
        watch=lambda work: tasks.start("reserve numbers", _run(work)),
        memory_bytes=config.cache.memory_budget_bytes,
    )
    await store.start()
    feed = Feed(store, clock)
    timeline = Timeline(store, feed)
    door = RoomDoor(store, feed, Lanes(), clock, Identity(server_name, key))
    rates = ClientRates(RateLimits(clock), config.limits)

    # -- users ------------------------------------------------------------------------------------------------------
    sessions = Sessions(store.database, store.numbers, clock, tasks, config.sessions)
    devices = Devices(store.database, sessions)
    credentials = Credentials(
        store.database,
        work_threads,
        server_name=server_name,
        policy=config.registration.password_policy,
        bcrypt_rounds=config.registration.bcrypt_rounds,
        attempts=PasswordAttempts(rates),
    )

    async def propagate(requester: Requester, fields: Mapping[str, str]) -> None:
        await membership.update_profile(requester.user_id, requester.user_nid)

    profiles = Profiles(store.database, tasks, server_name=server_name, config=config.profiles, propagate=propagate)

    async def profile_of(user_id: UserID) -> Mapping[str, Any]:
        user_nid = await store.interner.user(user_id)
        return (await profiles.member_fields([user_nid])).get(user_nid, {})

    async def may_invite(inviter: UserID, invitee: UserID) -> None:
        if invitee.server_name != server_name:
            return
        account = await accounts.find(invitee)
        if account is None:
            raise NotFound(f"There is no user {invitee}")
        # Spec: "Invite permission".
        wanted = await account_data.find_global(account.user_nid, "m.invite_permission_config")
        if wanted.get("default_action") == "block":
            raise InviteBlocked(f"{invitee} takes no invites")

    async def leave_rooms(user_id: UserID) -> None:
        await membership.leave_all(user_id, await store.interner.user(user_id))

    membership = Membership(store, door, feed, server_name=server_name, profile_of=profile_of, may_invite=may_invite)
    accounts = Accounts(store.database, store.interner, clock, tasks, sessions, devices, leave_rooms=leave_rooms)
    registration = Registration(store.database, clock, accounts, server_name=server_name, config=config.registration)
    interactive_auth = InteractiveAuth(
        clock,
        credentials,
        check_registration_token=registration.is_token_valid,
        proof_life_ms=config.sessions.ui_auth_timeout_ms,
    )
    filters = Filters(store.database, max_limit=config.limits.timeline_limit)

    # -- rooms ------------------------------------------------------------------------------------------------------
    directory = Directory(store, clock)
    creation = RoomCreation(
        door,
        directory,
        default_version=config.rooms.default_version,
        profile_of=profile_of,
        may_invite=may_invite,
        opaque_id=opaque_id,
    )
    transactions = TransactionIDs(store, clock)

    # -- the feed ---------------------------------------------------------------------------------------------------
    unread = Unread(store, feed, timeline, load_rules)
    receipts_stream, typing_stream = ReceiptsStream(store), TypingStream()
    data_stream, presence_stream = AccountDataStream(store), PresenceStream(feed, clock)
    account_data = AccountData(store, feed, stream=data_stream)
    receipts = Receipts(store, feed, clock, stream=receipts_stream, account_data=account_data, unread=unread)
    typing = Typing(store, feed, clock, stream=typing_stream)
    presence = Presence(store, feed, clock, tasks, config.presence, stream=presence_stream)
    push_rules = PushRules(store, feed, stream=data_stream, unread=unread)
    streams = Streams(
        ephemeral=(receipts_stream, typing_stream),
        room_account_data=data_stream,
        account_data=data_stream,
        presence=presence_stream,
        unread=unread,
        bundles=_Nothing(),
        ignored_users=account_data.ignored_users,
    )
    sync = Sync(store, feed, timeline, clock, streams)
    repository = MediaRepository(
        store.database,
        BlobStore(config.media.store_path),
        threads=work_threads,
        clock=clock,
        server_name=server_name,
        rules=MediaRules.of(config.media),
    )

    # -- the client API ---------------------------------------------------------------------------------------------
    async def check_alias(room_id: RoomID, content: Mapping[str, Any]) -> None:
        return None

    async def shares_room(requester: Requester, user_id: UserID) -> bool:
        other_nid = (await store.interner.find_users([user_id])).get(user_id)
        if other_nid is None:
            return False
        mine = await feed.user(requester.user_id, requester.user_nid)
        theirs = await feed.user(user_id, other_nid)
        shared = {place.room_id for place in mine.joined()} & {place.room_id for place in theirs.joined()}
        return bool(shared)

    def seen(requester: Requester, set_presence: str | None) -> None:
        presence.seen(requester.user_id, requester.device_id, set_presence)

    register = Register(registration, accounts, credentials, sessions, interactive_auth, rates)
    has_passwords = config.registration.passwords
    apis: list[Any] = [
        Versions(),
        WellKnown(client=client_discovery(config.server), support=support_contact(config.server)),
        Capabilities(
            default_room_version=config.rooms.default_version,
            room_versions=dict.fromkeys(ROOM_VERSIONS, True),
            has_passwords=has_passwords,
            profiles=config.profiles,
        ),
        Login(
            credentials,
            sessions,
            devices,
            rates,
            has_passwords=has_passwords,
            well_known=client_discovery(config.server),
        ),
        register,
        Account(accounts, credentials, interactive_auth, has_passwords=has_passwords),
        DevicesAPI(devices, interactive_auth),
        Profile(profiles, config.profiles, shares_room=shares_room),
        RoomMembership(creation, membership, directory, rates),
        Send(door, membership, transactions, check_alias),
        SyncAPI(sync, lambda user_id, user_nid, text: filters.get(user_nid, text), seen),
        AccountDataApi(account_data),
        TagsApi(account_data),
        ReceiptsApi(receipts),
        TypingApi(typing),
        PresenceApi(presence),
        PushRulesApi(push_rules),
        FiltersApi(filters),
        MediaApi(repository),
    ]
    await accounts.start()
    await repository.start()
    await presence.start()
    await registration.start()
    sessions.start()
    return Parts(
        config=config,
        clock=clock,
        store=store,
        database_threads=database_threads,
        work_threads=work_threads,
        feed=feed,
        door=door,
        creation=creation,
        membership=membership,
        transactions=transactions,
        accounts=accounts,
        operator=OperatorAccounts(accounts, credentials, registration, server_name=server_name),
        authenticator=Authenticator(sessions),
        rates=rates,
        register=register,
        presence=presence,
        typing=typing,
        routes=[route for each in apis for route in each.routes()],
    )


def opaque_id() -> str:
    """Return the random part of a room ID."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(18))


async def _run(work: Any) -> None:
    await work
