"""What `tools/fuzz.py` feeds of graphs: events as they are received, lists of keys, forks to resolve.

Events are made here without hashes where nothing looks at them: a graph of nonsense is a graph all the same, with
cycles, missing events, wrong rooms and rejected ones.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from fuzz import Chance, Target, Watch, mutate, pick, promise
from fuzz_targets import ALICE, BOB, CAROL, KEY, ROOM, VERSIONS, WIRES

from homeserver.model.canonical_json import check_lax, dump_exactly, encode_lax, parse_exactly
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.graph import auth_chain, auth_chain_difference, forward_extremities, topological_order
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.judgement import judge_outlier, judge_remote
from homeserver.model.receipt_of_events import Dropped, check_received, read_received
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import RoomVersion
from homeserver.model.server_keys import (
    BadServerKeys,
    ServerKey,
    ServerKeys,
    build_server_keys,
    parse_notary_answer,
    parse_server_keys,
)
from homeserver.model.signing import sign_json

EXPECTED = (Dropped, BadServerKeys)

KNOWN = {
    server: ServerKeys(server, MappingProxyType({KEY.key_id: ServerKey(KEY.verify_key, 10**12)}), 10**12, 0)
    for server in ("a.example", "b.example", "c.example")
}
NOTARY = {KEY.key_id: KEY.verify_key}


def receipt(chance: Chance, watch: Watch) -> None:
    """An event of another server: received, checked, judged."""
    version: RoomVersion = pick(chance, VERSIONS)
    wire = mutate(chance, pick(chance, WIRES[version]), chance.randrange(3))
    received = watch(read_received, version, wire)
    checked = None if received is None else watch(check_received, received, KNOWN)
    if checked is None:
        return
    known = [event_from_wire(version, each) for each in WIRES[version][:7]]
    state = {(each.type, each.state_key or ""): each for each in known if chance.randrange(6)}
    cited = [pick(chance, known) for _ in range(len(checked.event.auth_event_ids))]
    rejected = {each.event_id for each in cited if chance.randrange(4) == 0}
    room_create = pick(chance, (known[0], known[0], None))
    watch(judge_outlier, version, checked, auth_events=cited, rejected_ids=rejected, create=room_create)
    judged = watch(
        judge_remote,
        version,
        checked,
        auth_events=cited,
        rejected_ids=rejected,
        state_before=state,
        current_state=pick(chance, (state, {}, None)),
        create=room_create,
    )
    promise(judged is not None, "a remote event gets a verdict and never an error")


def server_keys(chance: Chance, watch: Watch) -> None:
    """Lists of keys and answers of notaries."""
    wire = build_server_keys("a.example", [KEY], {"ed25519:old": (KEY.verify_key, 5)}, 10**12)
    signed = sign_json(wire, "n.example", KEY)
    changed = mutate(chance, signed, chance.randrange(3))
    keys = watch(parse_server_keys, changed, "a.example", 1_000)
    if keys is not None:
        promise(keys.valid_until_ts <= 1_000 + 7 * 24 * 3_600_000, "keys are believed for seven days")
        promise(all(key.key == KEY.verify_key for key in keys.keys.values()), "only keys that stand there are believed")
    watch(parse_notary_answer, mutate(chance, {"server_keys": [signed, changed]}), "n.example", NOTARY, 1_000)


def raw_json(chance: Chance, watch: Watch) -> None:
    """Bytes that may be JSON."""
    value = mutate(chance, pick(chance, WIRES[VERSIONS[-1]]))
    try:
        check_lax(value)
        raw = dump_exactly(value)
    except ValueError:
        return
    except Exception:  # What is refused here is fed to `encode_lax` all the same.
        watch(encode_lax, value)
        return
    promise(encode_lax(parse_exactly(raw)) == encode_lax(value), "JSON is read as it was written")
    place = chance.randrange(len(raw) + 1)
    watch(
        parse_exactly, raw[:place] + pick(chance, (b"", b"\x00", b"\xff", b"NaN", b"1e999", b"[" * 9_000)) + raw[place:]
    )
    watch(parse_exactly, raw[:place])


def graphs(chance: Chance, watch: Watch) -> None:
    """Forks of a graph in which anything may cite anything, resolved in two orders."""
    version: RoomVersion = pick(chance, VERSIONS)
    count = 3 + chance.randrange(14)
    names = [EventID(f"$e{number}") for number in range(count)]
    room_create = _event(version, names[0], ROOM[0], (), (), 0)
    events: dict[EventID, Event] = {names[0]: room_create}
    for number in range(1, count):
        kind, sender, state_key, content = pick(chance, ROOM[1:10])
        if chance.randrange(4) == 0:
            sender = pick(chance, (ALICE, BOB, CAROL))
        if chance.randrange(5) == 0:
            changed = mutate(chance, content)
            content = changed if isinstance(changed, dict) else {}
        # Mostly what came before, sometimes what comes later or does not exist.
        reach = count + 1 if chance.randrange(12) == 0 else number
        auth = tuple(_name(names, chance.randrange(reach)) for _ in range(chance.randrange(5)))
        prev = tuple(_name(names, chance.randrange(reach)) for _ in range(chance.randrange(3)))
        entry = (kind, sender, state_key if chance.randrange(9) else "", content)
        events[names[number]] = _event(version, names[number], entry, prev, auth, chance.randrange(5))
    states: list[dict[StateKey, EventID]] = []
    for _ in range(1 + chance.randrange(4)):
        state: dict[StateKey, EventID] = {("m.room.create", ""): names[0]}
        for event in events.values():
            if event.state_key is not None and chance.randrange(2):
                state[event.type, event.state_key] = event.event_id
        states.append(state)
    rejected = frozenset(name for name in names[1:] if chance.randrange(8) == 0)
    one = watch(resolve_states, version, states, events, create=room_create, rejected=rejected)
    other_events = dict(reversed(events.items()))
    two = watch(resolve_states, version, states[::-1], other_events, create=room_create, rejected=rejected)
    promise(one == two, "the order of the states makes no difference")
    again = watch(resolve_states, version, [one, one], events, create=room_create, rejected=rejected)
    promise(one == again, "what is resolved stays so")
    watch(auth_chain, [pick(chance, names)], events)
    watch(auth_chain_difference, [list(state.values()) for state in states], events)
    watch(forward_extremities, {event.event_id: event.prev_event_ids for event in events.values()})
    watch(_refused_cycle, list(events.values()))


def _refused_cycle(events: list[Event]) -> None:
    # A cycle has no order, and the function says so.
    try:
        topological_order(events)
    except ValueError:
        pass


def _name(names: list[EventID], number: int) -> EventID:
    return names[number] if number < len(names) else EventID("$unknown")


def _event(
    version: RoomVersion,
    event_id: EventID,
    entry: tuple[str, str, str | None, dict[str, Any]],
    prev: tuple[EventID, ...],
    auth: tuple[EventID, ...],
    ts: int,
) -> Event:
    kind, sender, state_key, content = entry
    return Event(
        event_id=event_id,
        room_id=RoomID("!e0" if version.room_id_is_create_hash else "!room:a.example"),
        type=kind,
        sender=UserID(sender),
        content=content,
        state_key=state_key,
        depth=ts,
        origin_server_ts=ts,
        prev_event_ids=prev,
        auth_event_ids=auth,
        wire={},
    )


TARGETS: dict[str, Target] = {"receipt": receipt, "server_keys": server_keys, "raw_json": raw_json, "graphs": graphs}
