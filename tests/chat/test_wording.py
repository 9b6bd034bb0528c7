from __future__ import annotations

from typing import Any

import pytest

from homeserver.chat.timeline import Message
from homeserver.chat.wording import Kind, Words, seen_line, typing_line, words_of

from .played import ALICE, BOB, CAROL, ROOM, edit, event, joined, member, model_of, reaction, redaction, state

PEOPLE = (member(ALICE, "Alice"), member(BOB, "Bob"), member(CAROL, "Carol"))


def _words(*events: dict[str, Any]) -> list[Words | None]:
    room = model_of(joined(*events, state_events=PEOPLE)).rooms[ROOM]
    return [words_of(room, item) for item in room.timeline.items if isinstance(item, Message)]


def _lines(*events: dict[str, Any]) -> list[str]:
    return ["\n".join(words.lines) for words in _words(*events) if words is not None]


@pytest.mark.parametrize(
    ("content", "kind", "lines"),
    [
        ({"msgtype": "m.text", "body": "a\nb"}, Kind.SAID, ("a", "b")),
        ({"msgtype": "m.emote", "body": "waves"}, Kind.DONE, ("waves",)),
        ({"msgtype": "m.notice", "body": "beep"}, Kind.NOTICE, ("beep",)),
        ({"msgtype": "org.other", "body": "fallback"}, Kind.SAID, ("fallback",)),
        ({"msgtype": {"a": 1}, "body": "x"}, Kind.SAID, ("x",)),
        ({"msgtype": "m.text", "body": ["x"]}, Kind.SAID, ("(a message without text)",)),
        ({}, Kind.SAID, ("(a message without text)",)),
        ({"msgtype": "m.text", "body": "\x1b]0;x\x07"}, Kind.SAID, ("␛]0;x␇",)),
        (
            {"msgtype": "m.image", "body": "cat.png", "url": "mxc://x/1"},
            Kind.DONE,
            ("sends a picture: cat.png <mxc://x/1>",),
        ),
        (
            {"msgtype": "m.file", "filename": "a\nb", "body": "look"},
            Kind.DONE,
            ("sends a file: a b – look",),
        ),
        ({"msgtype": "m.video", "body": 1, "url": {}}, Kind.DONE, ("sends a video",)),
        ({"msgtype": "m.location", "body": "here", "geo_uri": "geo:1,2"}, Kind.DONE, ("shares a place: here",)),
    ],
    ids=range(12),
)
def test_messages_are_told(content: dict[str, Any], kind: Kind, lines: tuple[str, ...]) -> None:
    [words] = _words(event("$1", content=content))
    assert words is not None
    assert (kind, "Bob", lines) == (words.kind, words.sender, words.lines)


def _membership(
    before: dict[str, Any] | None, content: dict[str, Any], sender: str = BOB, whose: str = BOB
) -> dict[str, Any]:
    unsigned = {} if before is None else {"prev_content": before}
    return event("$1", kind="m.room.member", content=content, sender=sender, state_key=whose, unsigned=unsigned)


@pytest.mark.parametrize(
    ("happened", "line"),
    [
        (_membership(None, {"membership": "join", "displayname": "Bob"}), "Bob is here now"),
        (_membership({"membership": "join"}, {"membership": "leave"}), "Bob has left"),
        (_membership({"membership": "join"}, {"membership": "leave", "reason": "bye\n!"}), "Bob has left: bye !"),
        (_membership({"membership": "invite"}, {"membership": "leave"}), "Bob declines the invite"),
        (_membership(None, {"membership": "invite", "displayname": "Bob"}, CAROL), "Carol invites Bob"),
        (_membership({"membership": "join"}, {"membership": "leave"}, CAROL), "Carol removes Bob"),
        (_membership({"membership": "invite"}, {"membership": "leave"}, CAROL), "Carol takes back the invite of Bob"),
        (_membership({"membership": "join"}, {"membership": "ban", "reason": "x"}, CAROL), "Carol bans Bob: x"),
        (_membership({"membership": "ban"}, {"membership": "leave"}, CAROL), "Carol lifts the ban of Bob"),
        (_membership(None, {"membership": "knock", "displayname": "Bob"}), "Bob asks to be let in"),
        (
            _membership({"membership": "join", "displayname": "Bo"}, {"membership": "join", "displayname": "Bob"}),
            "Bo is called Bob now",
        ),
        (state("m.room.create"), "Bob has made this room"),
        (state("m.room.name", name="Lobby\x9b"), "Bob calls the room Lobby\ufffd"),
        (state("m.room.name"), "Bob has taken the room's name away"),
        (state("m.room.topic", topic="Tea"), "Bob sets the topic: Tea"),
        (state("m.room.tombstone", replacement_room="!new:x"), "Bob has replaced this room: /join !new:x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_happens_to_a_room_is_told(happened: dict[str, Any], line: str) -> None:
    assert [line] == _lines(happened)


@pytest.mark.parametrize(
    "quiet",
    [
        _membership(
            {"membership": "join", "displayname": "Bob"},
            {"membership": "join", "displayname": "Bob", "avatar_url": "mxc:"},
        ),
        _membership({"membership": 1}, {"membership": []}),
        state("m.room.power_levels"),
        event("$1", kind="m.something", content={"body": "x"}),
        event("$1", kind="org.other", content={"body": 1}),
        reaction("$1", "$0", "👍"),
    ],
    ids=range(6),
)
def test_what_says_nothing_is_not_told(quiet: dict[str, Any]) -> None:
    assert [] == _lines(quiet)


def test_unknown_event_with_a_body_is_told() -> None:
    assert ["vote!"] == _lines(event("$1", kind="org.poll", content={"body": "vote!"}))


def test_encrypted_message_is_told_as_such() -> None:
    [words] = _words(event("$1", kind="m.room.encrypted", content={"ciphertext": "x", "body": "not this"}))
    assert words is not None
    assert (("(encrypted)",), True) == (words.lines, words.is_absent)


@pytest.mark.parametrize(
    ("redaction_event", "line"),
    [
        (redaction("$2", "$1"), "(removed)"),
        (redaction("$2", "$1", sender=CAROL), "(removed by Carol)"),
        (
            event("$2", kind="m.room.redaction", sender=CAROL, content={"redacts": "$1", "reason": "rude\x1b"}),
            "(removed by Carol: rude␛)",
        ),
    ],
    ids=["own", "by another", "with a reason"],
)
def test_removed_message_is_told_as_such(redaction_event: dict[str, Any], line: str) -> None:
    assert [line] == _lines(event("$1", "secret"), redaction_event)


def test_edited_message_is_told_as_such_and_reactions_beside_it() -> None:
    [words] = _words(
        event("$1", "old"),
        edit("$2", "$1", "new"),
        reaction("$3", "$1", "👍"),
        reaction("$4", "$1", "👍", sender=CAROL),
        reaction("$5", "$1", "\x1b[2J" * 10),
        reaction("$6", "$1", "\u200b"),
    )
    assert words is not None
    assert (("new",), "edited", "👍 2") == (words.lines, words.note, words.reactions[0])
    assert all("\x1b" not in each for each in words.reactions)
    assert 2 == len(words.reactions)


def test_reply_quotes_what_it_answers_and_loses_its_fallback() -> None:
    relates = {"m.relates_to": {"m.in_reply_to": {"event_id": "$1"}}}
    content = {"msgtype": "m.text", "body": "> <@bob:x> old\n> words\n\nyes", **relates}
    assert ["question?", "┊ Bob: question?\nyes"] == _lines(event("$1", "question?"), event("$2", content=content))


def test_message_of_a_thread_is_no_reply() -> None:
    relates = {"m.in_reply_to": {"event_id": "$1"}, "is_falling_back": True, "rel_type": "m.thread", "event_id": "$1"}
    content = {"msgtype": "m.text", "body": "yes", "m.relates_to": relates}
    assert ["question?", "yes"] == _lines(event("$1", "question?"), event("$2", content=content))


@pytest.mark.parametrize(
    ("typing", "line"),
    [
        ([], ""),
        ([ALICE], ""),
        ([BOB, ALICE], "Bob is typing…"),
        ([BOB, CAROL], "Bob and Carol are typing…"),
        (["@1:x", "@2:x", "@3:x", "@4:x"], "4 people are typing…"),
    ],
    ids=range(5),
)
def test_who_is_typing_is_told(typing: list[str], line: str) -> None:
    ephemeral = {"events": [{"type": "m.typing", "content": {"user_ids": typing}}]}
    room = model_of(joined(state_events=PEOPLE, ephemeral=ephemeral)).rooms[ROOM]
    assert line == typing_line(room, ALICE)


@pytest.mark.parametrize(("sender", "line"), [(ALICE, "Seen by Bob"), (BOB, "")])
def test_who_has_read_our_last_message_is_told(sender: str, line: str) -> None:
    ephemeral = {"events": [{"type": "m.receipt", "content": {"$1": {"m.read": {BOB: {}}}}}]}
    room = model_of(joined(event("$1", sender=sender), state_events=PEOPLE, ephemeral=ephemeral)).rooms[ROOM]
    assert line == seen_line(room, ALICE)
