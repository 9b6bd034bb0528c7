"""What is compared when a soak has come to rest, and the report of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .client import StreamUser
from .http import call
from .journal import RoomJournal, position
from .judge import Hall


@dataclass(slots=True)
class Report:
    """What was found: `faults` are of who, and what."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, who: str, what: str) -> None:
        self.faults.append((who, what))

    def text(self, *, most: int = 5) -> str:
        """Return the summary, with the first differences."""
        lines = [f"{name:36} {value}" for name, value in self.figures.items()]
        lines += [f"  {name:34} {count}" for name, count in sorted(self.counts.items())]
        lines.append(f"differences: {len(self.faults)}")
        lines += [f"- {who}: {what}" for who, what in self.faults[:most]]
        return "\n".join(lines)


Judge = Callable[..., str | None]


def compare_places(report: Report, who: str, user: StreamUser, halls: Mapping[str, Hall], judge: Judge) -> None:
    """Compare each journal with the history of its room."""
    for fault in user.journal.faults:
        report.add(who, fault)
    for room_id, hall in halls.items():
        told = user.journal.rooms.get(room_id, RoomJournal())
        fault = judge(told, hall, user.user_id, to_the_end=True)
        if fault is not None:
            report.add(who, f"in {room_id}: {fault}")
    for journal in user.archive:
        for room_id, told in journal.rooms.items():
            fault = judge(told, halls[room_id], user.user_id, to_the_end=False)
            if fault is not None:
                report.add(who, f"in {room_id}, before beginning anew: {fault}")


def compare_sent(report: Report, who: str, user: StreamUser, halls: Mapping[str, Hall]) -> None:
    """See that what was answered is there, that nothing is there twice, and all in the order of sending."""
    for room_id, serials in user.sent.by_room.items():
        hall = halls[room_id]
        places: dict[str, list[int]] = {}
        for place, event in enumerate(hall.events):
            if event["sender"] == user.user_id:
                serial = user.sent.redacted.get(event["event_id"]) or serial_of(event)
                if serial is not None:
                    places.setdefault(serial, []).append(place)
        for serial in serials:
            found = places.get(serial, [])
            event_id = user.sent.events.get(serial)
            if len(found) > 1:
                report.add(who, f"{serial} is there {len(found)} times: {[hall.events[at] for at in found]}"[:1500])
            elif event_id is not None and event_id not in [hall.events[at]["event_id"] for at in found]:
                report.add(who, f"{serial} was answered with {event_id}, which is not there; found: {found}")
            elif found and serial in user.sent.refused:
                report.add(who, f"{serial} was refused ({user.sent.refused[serial]}), and is there")
        order = [places[serial][0] for serial in serials if serial in places]
        if order != sorted(order):
            at = next(at for at in range(1, len(order)) if order[at] < order[at - 1])
            there = [serial for serial in serials if serial in places][max(0, at - 3) : at + 3]
            report.add(who, f"out of order in {room_id}: {[(each, places[each]) for each in there]}")


def serial_of(event: Mapping[str, Any]) -> str | None:
    """Return what names an event for its sender, if it has that."""
    content = event["content"]
    if event["type"] == "m.room.redaction":
        return content.get("reason")
    return content.get("serial")


def _openings_before(user: StreamUser, token: str) -> list[str | None]:
    """Return where the last connections began that may have brought an update."""
    stop = next((at for at, each in enumerate(user.openings) if each and position(each) > position(token)), None)
    return user.openings[:stop][-8:]


def compare_messages(report: Report, users: Sequence[StreamUser]) -> None:
    """See that each message to a device came once, and a sender's in their order."""
    for user in users:
        who = f"{user.name} {user.user_id} ({user.kind})"
        times = Counter(received.serial for received in user.journal.to_device)
        for serial, count in times.items():
            if count > 1 and serial not in user.unsure:
                tokens = [received.token for received in user.journal.to_device if received.serial == serial]
                began = _openings_before(user, tokens[-1])
                report.add(who, f"was told {serial} {count} times, in updates {tokens}; came with {began}")
        for sender in users:
            sent = [serial for serial, to in sender.sent.to_device.items() if user.user_id in to]
            for serial in sent:
                if serial in sender.sent.to_device_answered and serial not in times:
                    report.add(who, f"was never told {serial} of {sender.name}")
            first = dict.fromkeys(
                received.serial for received in user.journal.to_device if received.sender == sender.user_id
            )
            if list(first) != [serial for serial in sent if serial in first]:
                report.add(who, f"was told the messages of {sender.name} out of order: {list(first)[:40]}")


async def compare_sides(report: Report, who: str, user: StreamUser) -> None:
    """Compare what has no history with what an initial sync tells: state, receipts, account data, typing, rooms."""
    query = {"filter": '{"room":{"timeline":{"limit":1}},"presence":{"types":[]}}'}
    answer = await call(user.server.plain, user.token, "GET", "/sync", query=query)
    joined = answer.get("rooms", {}).get("join", {})
    told = {room_id for room_id, room in user.journal.rooms.items() if room.section == "join"}
    if told != set(joined):
        report.add(who, f"was told of the rooms {sorted(told)}, and is in {sorted(joined)}")
    fresh = _account_data(answer)
    stale = {name: value for name, value in user.journal.account_data.items() if fresh.get(name) != value}
    if stale or fresh.keys() - user.journal.account_data.keys():
        report.add(who, f"was told other account data: {stale} instead of {fresh}"[:1000])
    for room_id, room in joined.items():
        known = user.journal.rooms.get(room_id)
        if known is not None:
            _compare_room(report, f"{who} in {room_id}", user, known, room)


def _compare_room(report: Report, who: str, user: StreamUser, known: RoomJournal, room: Mapping[str, Any]) -> None:
    state: dict[tuple[str, str], str] = {}
    for event in (*room["state"]["events"], *room["timeline"]["events"]):
        if "state_key" in event:
            state[event["type"], event["state_key"]] = event["event_id"]
    for key, event_id in state.items():
        is_member = key[0] == "m.room.member"
        if known.state.get(key) != event_id and not (is_member and user.was_lazy):
            report.add(who, f"holds for the state {key} {known.state.get(key)} instead of {event_id}")
    receipts: dict[tuple[str, str], str] = {}
    for event in room.get("ephemeral", {}).get("events", ()):
        if event["type"] == "m.receipt":
            for event_id, by_type in event["content"].items():
                for receipt_type, by_user in by_type.items():
                    receipts |= {(receipt_type, reader): event_id for reader in by_user}
    wrong = {
        key: (known.receipts.get(key), value) for key, value in receipts.items() if known.receipts.get(key) != value
    }
    if wrong:
        report.add(who, f"holds other receipts (of whom, told, true): {wrong}"[:1000])
    typing: tuple[str, ...] = ()
    for event in room.get("ephemeral", {}).get("events", ()):
        if event["type"] == "m.typing":
            typing = tuple(event["content"]["user_ids"])
    if set(known.typing) != set(typing) and known.typing_life == user.server.life:
        report.add(who, f"takes {known.typing} for typing instead of {typing}")
    fresh = _account_data(room)
    if any(known.account_data.get(name) != value for name, value in fresh.items()):
        report.add(who, f"was told other account data: {known.account_data} instead of {fresh}"[:1000])


def _account_data(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {event["type"]: event["content"] for event in answer.get("account_data", {}).get("events", ())}
