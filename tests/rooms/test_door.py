"""The write door: what it stores, what it refuses, and what is left of a commit that failed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
import pytest_twisted
from sqlalchemy import func, select
from twisted.internet.defer import Deferred, DeferredList

from homeserver.errors import AuthRuleBroken, BadRequest, MatrixError, NotAllowed, NotFound
from homeserver.feed.client_event import client_dict
from homeserver.model.event import EventTemplate
from homeserver.model.event_format import check_event_format
from homeserver.model.hashing import event_id_of, reference_hash
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import ROOM_VERSIONS, get_room_version
from homeserver.rooms import gather as gather_module
from homeserver.rooms import transactions as transactions_module
from homeserver.rooms.membership import Membership
from homeserver.rooms.transactions import TransactionIDs
from storage.tables import rooms as tables
from tests.storage.core import Faults
from tests.support.rooms import SERVER, Person, RoomServer


async def count(server: RoomServer, table: Any) -> int:
    found = await server.store.database.read(lambda tx: tx.scalar(select(func.count()).select_from(table)))
    return int(found)


async def outcomes(coroutines: list[Any]) -> list[Any]:
    results = await DeferredList([Deferred.fromCoroutine(each) for each in coroutines], consumeErrors=True)
    return [value if is_well else value.value for is_well, value in results]


async def timeline(server: RoomServer, room: RoomID) -> list[Any]:
    room_nid = (await server.door.tip(room)).room_nid
    return await server.timeline.page(room_nid, start=0, limit=10_000, backwards=False)


async def check_graph(server: RoomServer, room: RoomID) -> None:
    events = await timeline(server, room)
    for before, after in pairwise(events):
        assert (before.event_id,) == after.event.prev_event_ids
        assert before.event.depth + 1 == after.event.depth
    tip = await server.door.tip(room)
    assert [(events[-1].nid, events[-1].event_id)] == [(end.nid, end.event_id) for end in tip.extremities]
    assert server.store.positions._open == type(server.store.positions._open)()
    assert not server.door._tips.in_flight
    assert not server.door._tips._pending
    edges = await server.store.database.read(
        lambda tx: tx.all(select(tables.event_edges.c.event_nid, tables.event_edges.c.prev_nid))
    )
    assert {(after.nid, before.nid) for before, after in pairwise(events)} <= {tuple(row) for row in edges}


@pytest_twisted.ensureDeferred
async def test_a_refused_event_leaves_nothing(rooms: RoomServer) -> None:
    alice, mallory = await rooms.users("alice", "mallory")
    room = await rooms.room(alice)
    before = [await count(rooms, table) for table in (tables.events, tables.state_groups, tables.event_edges)]
    with pytest.raises(AuthRuleBroken):
        await rooms.say(room, mallory)
    with pytest.raises(MatrixError):
        await rooms.send(room, alice, "m.room.message", {"body": "x" * 70_000})
    with pytest.raises(MatrixError):
        await rooms.send(room, alice, "m.room.message", {"body": "\ud800"})
    with pytest.raises(MatrixError):
        await rooms.send(room, alice, "m.room.member", {"membership": "join"}, state_key="nobody")
    with pytest.raises(NotFound):
        await rooms.say(RoomID("!none:example.org"), alice)
    assert before == [await count(rooms, table) for table in (tables.events, tables.state_groups, tables.event_edges)]
    await rooms.say(room, alice)
    await check_graph(rooms, room)


@pytest_twisted.ensureDeferred
async def test_concurrent_sends_make_a_line(rooms: RoomServer) -> None:
    people = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(people[0], members=people[1:])
    await outcomes(
        [rooms.say(room, people[number % 3], str(number)) for number in range(100)]
        + [rooms.send(room, people[0], "m.room.topic", {"topic": str(number)}, "") for number in range(20)]
        + [rooms.leave(room, people[2]), rooms.join(room, people[2])]
    )
    await check_graph(rooms, room)


@pytest_twisted.ensureDeferred
async def test_concurrent_sends_without_any_tip_in_memory_make_a_line(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_module, "MAX_TIPS", 1)
    rooms.store.events._budget = rooms.store.states._budget = 3_000
    alice = await rooms.user("alice")
    several = [await rooms.room(alice) for _ in range(4)]
    found = await outcomes(
        [
            rooms.send(several[number % 4], alice, "m.room.topic", {"topic": str(number)}, "")
            if number % 3
            else rooms.say(several[number % 4], alice)
            for number in range(120)
        ]
    )
    assert not [each for each in found if isinstance(each, BaseException)]
    for room in several:
        await check_graph(rooms, room)


@pytest.mark.parametrize("is_many", [False, True], ids=["alone", "with others behind it"])
@pytest_twisted.ensureDeferred
async def test_after_a_failed_commit_everything_goes_on(rooms: RoomServer, is_many: bool) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room, other = await rooms.room(alice, members=[bob]), await rooms.room(alice)
    await rooms.user_feed(bob)
    Faults(rooms.store.database).refuse_commits(1 + is_many)
    sends = [rooms.set_visibility(room, alice, "joined")]
    if is_many:
        sends += [rooms.say(room, alice, "behind"), rooms.leave(room, bob), rooms.say(other, alice)]
    found = await outcomes(sends)
    # The batch failed, then its first append alone; what was built on that fails with it, what was not does not.
    assert [True, True, True, False][: len(sends)] == [isinstance(each, BaseException) for each in found]
    await check_graph(rooms, room)
    stored = await rooms.say(room, bob, "still here")
    assert stored.position == rooms.feed.watermark
    visibility = await rooms.door.state_event(room, "m.room.history_visibility")
    assert visibility is not None
    assert {"history_visibility": "shared"} == visibility.event.content
    await check_graph(rooms, room)
    await check_graph(rooms, other)
    window, _ = await rooms.timeline.window(room, stored.room_nid, upto=rooms.feed.watermark, limit=100)
    assert [each.nid for each in await timeline(rooms, room)] == [each.nid for each in window]


@pytest_twisted.ensureDeferred
async def test_a_commit_whose_answer_was_lost_is_no_failure(mariadb_url: str) -> None:
    rooms = await RoomServer.start(mariadb_url)
    try:
        alice = await rooms.user("alice")
        room = await rooms.room(alice)
        faults = Faults(rooms.store.database)
        faults.lose_commit_answer()
        first, second = await outcomes([rooms.say(room, alice, "1"), rooms.say(room, alice, "2")])
        assert 1 == faults.commits
        faults.lose_commit_answer()
        new = await rooms.user("somebody new")
        assert {new.user_id: new.user_nid} == await rooms.store.interner.find_users([new.user_id])
        assert [first.nid, second.nid] == [each.nid for each in (await timeline(rooms, room))[-2:]]
        await check_graph(rooms, room)
    finally:
        await rooms.stop()


@pytest_twisted.ensureDeferred
async def test_an_append_behind_a_failed_one_is_not_stored_even_in_a_later_batch(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    Faults(rooms.store.database).refuse_commits(1)
    waiting = [Deferred.fromCoroutine(rooms.say(room, alice, "lost"))]
    # Composed while the first is with the writer.
    while rooms.store.database.queued or not rooms.door._tips.in_flight:
        await _turn()
    waiting += [Deferred.fromCoroutine(rooms.say(room, alice, str(number))) for number in range(5)]
    found = await DeferredList(waiting, consumeErrors=True)
    lost = [value for is_well, value in found if not is_well]
    assert lost
    await rooms.say(room, alice, "later")
    await check_graph(rooms, room)


async def _turn() -> None:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0)  # type: ignore[arg-type]


def creation(alice: Person, *more: EventTemplate) -> list[EventTemplate]:
    return [EventTemplate("m.room.member", {"membership": "join"}, alice.user_id, str(alice.user_id)), *more]


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ROOM_VERSIONS)
@pytest_twisted.ensureDeferred
async def test_rooms_of_every_version_live(rooms: RoomServer, version: str) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob], version=version)
    secret = await rooms.say(room, bob, "secret")
    levels = {"users": {} if ROOM_VERSIONS[version].privileged_creators else {str(alice.user_id): 100}}
    levels["users"][str(bob.user_id)] = 50
    await rooms.send(room, alice, "m.room.power_levels", levels, "")
    rooms.forget_memory()
    await rooms.send(room, bob, "m.room.topic", {"topic": "x"}, "")
    with pytest.raises(AuthRuleBroken):
        await rooms.send(room, bob, "m.room.power_levels", {**levels, "ban": 100}, "")
    await rooms.redact(room, alice, secret)
    rooms.forget_memory()
    await rooms.kick(room, alice, bob)
    with pytest.raises(AuthRuleBroken):
        await rooms.say(room, bob)
    await check_graph(rooms, room)
    events = {stored.event_id: stored.event for stored in await timeline(rooms, room)}
    assert {} == events[secret.event_id].content
    for event in events.values():
        check_event_format(ROOM_VERSIONS[version], dict(event.wire))
        assert event.event_id == event_id_of(ROOM_VERSIONS[version], event.wire)
        for event_id, sha256 in _hashes_in(event.wire):
            assert sha256 == reference_hash(ROOM_VERSIONS[version], events[event_id].wire)


def _hashes_in(wire: Any) -> list[tuple[EventID, str]]:
    references = [*wire["prev_events"], *wire["auth_events"]]
    return [(reference[0], reference[1]["sha256"]) for reference in references if not isinstance(reference, str)]


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "3", "6", "10", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_a_room_of_which_an_event_is_refused_is_not_there(rooms: RoomServer, version: str) -> None:
    alice = await rooms.user("alice")
    room_version = get_room_version(version)
    room_id = None if room_version.room_id_is_create_hash else RoomID(f"!r:{SERVER}")
    content = {"room_version": version, **({"creator": alice.user_id} if room_version.creator_in_content else {})}
    create = EventTemplate("m.room.create", content, alice.user_id, "")
    mallory = UserID(f"@mallory:{SERVER}")
    bad = EventTemplate("m.room.topic", {"topic": "x"}, mallory, "")
    with pytest.raises(AuthRuleBroken):
        await rooms.door.create(room_version, create, room_id, creation(alice, bad))
    assert [0, 0, 0] == [await count(rooms, table) for table in (tables.rooms, tables.events, tables.room_stats)]
    # What comes later is visible: no position is held up.
    room = await rooms.room(alice, version=version)
    await check_graph(rooms, room)


@pytest_twisted.ensureDeferred
async def test_a_room_that_cannot_be_stored_is_not_there_in_part(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    await rooms.room(alice)
    before = [await count(rooms, table) for table in (tables.rooms, tables.events)]
    Faults(rooms.store.database).refuse_commits(1)
    found = await outcomes([rooms.room(alice)])
    assert isinstance(found[0], BaseException)
    assert before == [await count(rooms, table) for table in (tables.rooms, tables.events)]
    await check_graph(rooms, await rooms.room(alice))


@pytest_twisted.ensureDeferred
async def test_two_rooms_of_one_user_in_one_millisecond_are_two(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    version = get_room_version("12")
    create = EventTemplate("m.room.create", {"room_version": "12"}, alice.user_id, "")
    found = await outcomes([rooms.door.create(version, create, None, creation(alice)) for _ in range(5)])
    assert 5 == len(set(found))


# -- redaction -------------------------------------------------------------------------------------------------------


def shown(stored: Any) -> str:
    return orjson.dumps(client_dict(stored, 0)).decode()


@pytest.mark.parametrize("is_cold", [False, True], ids=["warm", "cold"])
@pytest_twisted.ensureDeferred
async def test_the_content_of_a_redacted_event_is_told_nowhere(rooms: RoomServer, is_cold: bool) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    await rooms.user_feed(alice)
    secret = await rooms.send(room, alice, "m.room.topic", {"topic": "secret"}, "")
    await rooms.send(room, alice, "m.room.topic", {"topic": "public"}, "")
    said = await rooms.say(room, alice, "secret")
    if is_cold:
        rooms.store.events._events.clear()
        rooms.store.events._nids.clear()
    await outcomes(
        [
            rooms.redact(room, alice, said),
            rooms.redact(room, alice, secret),
            rooms.redact(room, alice, secret),
        ]
    )
    for _ in range(2):
        window, _ = await rooms.timeline.window(room, said.room_nid, upto=rooms.feed.watermark, limit=100)
        assert not [each for each in window if "secret" in shown(each)]
        by_nid = {each.nid: each for each in window}
        first, second = (each.nid for each in window if each.event.redacts == secret.event_id)
        assert first == by_nid[secret.nid].redacted_by
        assert second
        rooms.forget_memory()


@pytest_twisted.ensureDeferred
async def test_what_replaces_an_event_while_it_is_redacted_does_not_tell_its_content(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    await rooms.user_feed(alice)
    secret = await rooms.send(room, alice, "m.room.topic", {"topic": "secret"}, "")
    await outcomes(
        [rooms.redact(room, alice, secret), rooms.send(room, alice, "m.room.topic", {"topic": "public"}, "")]
    )
    window, _ = await rooms.timeline.window(room, secret.room_nid, upto=rooms.feed.watermark, limit=100)
    assert not [each for each in window if "secret" in shown(each)]
    cached = await rooms.store.events.get([each.nid for each in window])
    assert not [each for each in cached.values() if "secret" in shown(each)]


@pytest_twisted.ensureDeferred
async def test_who_may_redact_what(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob, carol])
    other = await rooms.room(bob)
    foreign = await rooms.say(other, bob)
    own, theirs = await rooms.say(room, bob), await rooms.say(room, carol)
    with pytest.raises(NotAllowed):
        await rooms.redact(room, bob, theirs)
    create = await rooms.door.state_event(room, "m.room.create")
    assert create is not None
    with pytest.raises(NotAllowed):
        await rooms.redact(room, alice, create)
    await rooms.redact(room, bob, own)
    await rooms.redact(room, alice, theirs)
    await rooms.redact(room, alice, foreign)
    found = await rooms.store.events.get([own.nid, theirs.nid, foreign.nid])
    assert [True, True, False] == [found[each.nid].redacted_by is not None for each in (own, theirs, foreign)]


# -- memberships -----------------------------------------------------------------------------------------------------


def membership_of(server: RoomServer) -> Membership:
    async def profile_of(_: UserID) -> dict[str, Any]:
        # It takes a moment to look up.
        await count(server, tables.memberships)
        return {}

    async def may_invite(_: UserID, __: UserID) -> None:
        return None

    return Membership(
        server.store, server.door, server.feed, server_name=SERVER, profile_of=profile_of, may_invite=may_invite
    )


# (membership before, action) -> membership after, None where it is refused. The actor has power, the target none.
_TABLE = {
    ("none", "join"): "join", ("none", "leave"): None, ("none", "invite"): "invite", ("none", "kick"): None,
    ("none", "ban"): "ban", ("none", "unban"): None, ("none", "forget"): None,
    ("join", "join"): "join", ("join", "leave"): "leave", ("join", "invite"): None, ("join", "kick"): "leave",
    ("join", "ban"): "ban", ("join", "unban"): None, ("join", "forget"): None,
    ("invite", "join"): "join", ("invite", "leave"): "leave", ("invite", "invite"): "invite",
    ("invite", "kick"): "leave", ("invite", "ban"): "ban", ("invite", "unban"): None, ("invite", "forget"): None,
    ("leave", "join"): "join", ("leave", "leave"): "leave", ("leave", "invite"): "invite", ("leave", "kick"): None,
    ("leave", "ban"): "ban", ("leave", "unban"): None, ("leave", "forget"): "leave",
    ("ban", "join"): None, ("ban", "leave"): None, ("ban", "invite"): None, ("ban", "kick"): None,
    ("ban", "ban"): "ban", ("ban", "unban"): "leave", ("ban", "forget"): "ban",
}  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_what_becomes_of_a_membership(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    membership = membership_of(rooms)
    found = {}
    for before, action in _TABLE:
        room = await rooms.room(alice)
        if before == "invite":
            await rooms.invite(room, alice, bob)
        elif before != "none":
            await rooms.join(room, bob)
            if before in ("leave", "ban"):
                await rooms.member(room, alice, bob, before)
        try:
            if action in ("join", "leave", "forget"):
                await getattr(membership, action)(room, bob.user_id)
            else:
                await getattr(membership, action)(room, alice.user_id, bob.user_id)
            current = await membership.current(room, bob.user_id)
            assert current is not None
            found[before, action] = current.event.membership
        except (NotAllowed, BadRequest, NotFound):
            found[before, action] = None
    assert found == _TABLE


@pytest_twisted.ensureDeferred
async def test_who_comes_or_goes_twice_at_once_does_so_once(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    membership = membership_of(rooms)
    room = await rooms.room(alice)
    await rooms.invite(room, alice, bob)
    for act in (membership.join, membership.leave):
        assert [None, None] == await outcomes([act(room, bob.user_id), act(room, bob.user_id)])
    changes = [each.event.membership for each in await timeline(rooms, room) if each.event.state_key == bob.user_id]
    assert ["invite", "join", "leave"] == changes


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("rule", "is_in_allowed", "is_invited", "may_join", "may_knock"),
    [
        ("public", False, False, True, False),
        ("invite", False, False, False, False),
        ("invite", False, True, True, False),
        ("knock", False, False, False, True),
        ("restricted", False, False, False, False),
        ("restricted", True, False, True, False),
        ("restricted", False, True, True, False),
        ("knock_restricted", False, False, False, True),
        ("knock_restricted", True, False, True, True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_who_may_join_and_knock(
    rooms: RoomServer, rule: str, is_in_allowed: bool, is_invited: bool, may_join: bool, may_knock: bool
) -> None:
    alice, bob = await rooms.users("alice", "bob")
    membership = membership_of(rooms)
    allowed = await rooms.room(alice, members=[bob] if is_in_allowed else ())
    found = []
    for action in ("join", "knock"):
        room = await rooms.room(alice)
        content = {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": str(allowed)}]}
        await rooms.send(room, alice, "m.room.join_rules", content, "")
        if is_invited and action == "join":
            await rooms.invite(room, alice, bob)
        try:
            await getattr(membership, action)(room, bob.user_id)
            found.append(True)
        except MatrixError:
            found.append(False)
    assert [may_join, may_knock] == found


@pytest_twisted.ensureDeferred
async def test_a_forgotten_room_is_remembered_by_joining_it_again(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    membership = membership_of(rooms)
    await rooms.leave(room, bob)
    await rooms.user_feed(bob)
    # At once: the room is joined again whichever is first, and then not forgotten.
    await outcomes([membership.forget(room, bob.user_id), membership.join(room, bob.user_id)])
    for _ in range(2):
        place = (await rooms.user_feed(bob)).rooms[room]
        assert ("join", False) == (place.membership, place.is_forgotten)
        rooms.forget_memory()
    await rooms.leave(room, bob)
    await membership.forget(room, bob.user_id)
    for _ in range(2):
        place = (await rooms.user_feed(bob)).rooms[room]
        assert ("leave", True) == (place.membership, place.is_forgotten)
        rooms.forget_memory()


@pytest_twisted.ensureDeferred
async def test_the_directory_forgets_a_name_that_was_redacted(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    name = await rooms.door.send(room, EventTemplate("m.room.name", {"name": "Secret"}, alice.user_id, ""))
    later = await rooms.door.send(room, EventTemplate("m.room.topic", {"topic": "Kept"}, alice.user_id, ""))
    await rooms.door.send(room, EventTemplate("m.room.redaction", {}, alice.user_id, redacts=name.event_id))
    row = await rooms.store.database.read(
        lambda tx: tx.first(
            select(tables.room_stats.c.name, tables.room_stats.c.topic).where(
                tables.room_stats.c.room_nid == later.room_nid
            )
        )
    )
    assert (None, "Kept") == tuple(row)


# -- transaction IDs -------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_transaction_is_sent_once_for_each_device(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    transactions = TransactionIDs(rooms.store, rooms.clock)

    async def send(transaction: Any) -> EventID:
        template = EventTemplate("m.room.message", {"body": "once"}, alice.user_id)
        return (await rooms.door.send(room, template, transaction=transaction)).event_id

    async def once(device_nid: int, txn_id: str, endpoint: str = "e") -> EventID:
        return await transactions.once(device_nid, endpoint, txn_id, send)

    first = await once(1, "t")
    assert first == await once(1, "t")
    assert 1 == len(set(await outcomes([once(1, "u") for _ in range(10)])))
    others = await outcomes([once(2, "t"), once(1, "t", "other"), once(1, "T"), once(1, "t ")])
    assert 5 == len({first, *others})
    rooms.forget_memory()
    transactions = TransactionIDs(rooms.store, rooms.clock)
    again = await outcomes([once(1, "t"), once(2, "t"), once(1, "t", "other"), once(1, "T"), once(1, "t ")])
    assert [first, *others] == again
    stored = await rooms.store.events.get_by_id((await rooms.door.tip(room)).room_nid, first)
    assert stored is not None
    assert "t" == client_dict(stored, 0, device_nid=1)["unsigned"]["transaction_id"]
    assert "transaction_id" not in client_dict(stored, 0, device_nid=2)["unsigned"]


@pytest_twisted.ensureDeferred
async def test_older_transactions_are_known_too(rooms: RoomServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that got no answers repeats all of them, in the same order."""
    monkeypatch.setattr(transactions_module, "MAX_KEPT", 10)
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    transactions = TransactionIDs(rooms.store, rooms.clock)

    async def send(transaction: Any) -> EventID:
        template = EventTemplate("m.room.message", {"body": "once"}, alice.user_id)
        return (await rooms.door.send(room, template, transaction=transaction)).event_id

    first = [await transactions.once(1, "e", f"t{number}", send) for number in range(35)]
    assert first == [await transactions.once(1, "e", f"t{number}", send) for number in range(35)]
    assert 1 == len(set(await outcomes([transactions.once(1, "e", "t3", send) for _ in range(10)])))
    for most in (20_000, 20):
        monkeypatch.setattr(transactions_module, "MAX_OLDER", most)
        transactions = TransactionIDs(rooms.store, rooms.clock)
        assert first == [await transactions.once(1, "e", f"t{number}", send) for number in range(35)]
    assert await transactions.once(1, "e", "new", send) not in first


@pytest_twisted.ensureDeferred
async def test_a_transaction_that_failed_may_be_sent_again(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    transactions = TransactionIDs(rooms.store, rooms.clock)
    attempts: list[int] = []

    async def send(_: Any) -> EventID:
        attempts.append(1)
        if len(attempts) == 1:
            await _turn()
            raise NotAllowed("no")
        return EventID("$done")

    await transactions._load(alice.user_nid)
    found = await outcomes([transactions.once(alice.user_nid, "e", "t", send) for _ in range(3)])
    assert [NotAllowed] * 3 == [type(each) for each in found]
    assert "$done" == await transactions.once(alice.user_nid, "e", "t", send)
