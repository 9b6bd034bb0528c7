"""What the server refuses before there is an event, on each road by which a client may ask for it.

Spec: client-server API, "Invite permission", "Avoiding duplicate annotations", "Validation of `m.thread`
relationships", "Guest Access", "Ignoring Users".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.client import PREFIX, Actor, Reply
from tests.support.server import RunningServer, run_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("sending")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def alice(server: RunningServer) -> Actor:
    return Actor(server.url, "alice").register()


@pytest.fixture
def bob(server: RunningServer) -> Actor:
    return Actor(server.url, "bob").register()


def ask(actor: Actor, method: str, path: str, body: Any = None) -> Reply:
    return actor.send(method, PREFIX + path, None if body is None else json.dumps(body).encode())


def make_room(owner: Actor, *members: Actor, **wanted: Any) -> str:
    room_id = owner.call("POST", "/createRoom", {"preset": "public_chat", **wanted})["room_id"]
    room = quote(room_id, safe="")
    for member in members:
        member.call("POST", f"/rooms/{room}/join", {})
    return room


def set_state(actor: Actor, room: str, kind: str, content: Any, state_key: str = "") -> Reply:
    return ask(actor, "PUT", f"/rooms/{room}/state/{kind}/{quote(state_key, safe='')}", content)


_counter = iter(range(1_000_000))


def send(actor: Actor, room: str, kind: str, content: Any) -> Reply:
    return ask(actor, "PUT", f"/rooms/{room}/send/{kind}/{next(_counter)}", content)


def say(actor: Actor, room: str, **more: Any) -> Reply:
    return send(actor, room, "m.room.message", {"msgtype": "m.text", "body": "hello", **more})


def react(actor: Actor, room: str, event_id: str, key: str) -> Reply:
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
    return send(actor, room, "m.reaction", {"m.relates_to": relation})


def set_own_data(actor: Actor, kind: str, content: Any) -> None:
    actor.call("PUT", f"/user/{quote(actor.user_id, safe='')}/account_data/{kind}", content)


def at_once(act: Callable[[], None], times: int) -> None:
    threads = [threading.Thread(target=act) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestInvitePermission:
    def block(self, actor: Actor) -> None:
        set_own_data(actor, "m.invite_permission_config", {"default_action": "block"})

    def test_a_blocked_invite_by_the_state_endpoint_is_refused(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice)
        self.block(bob)
        reply = set_state(alice, room, "m.room.member", {"membership": "invite"}, bob.user_id)
        assert (403, "M_INVITE_BLOCKED") == (reply.status, reply.errcode)

    def test_a_blocked_invite_in_initial_state_is_refused(self, alice: Actor, bob: Actor) -> None:
        self.block(bob)
        invite = {"type": "m.room.member", "state_key": bob.user_id, "content": {"membership": "invite"}}
        reply = ask(alice, "POST", "/createRoom", {"initial_state": [invite]})
        assert (403, "M_INVITE_BLOCKED") == (reply.status, reply.errcode)

    def test_an_invite_of_before_is_not_told_while_invites_are_blocked(self, alice: Actor, bob: Actor) -> None:
        make_room(alice, invite=[bob.user_id])
        assert 1 == len(bob.call("GET", "/sync")["rooms"]["invite"])
        self.block(bob)
        assert "invite" not in bob.call("GET", "/sync").get("rooms", {})

    def test_nobody_unknown_is_invited_by_the_state_endpoint(self, alice: Actor) -> None:
        room = make_room(alice)
        reply = set_state(alice, room, "m.room.member", {"membership": "invite"}, "@nobody.here:test.example")
        assert 404 == reply.status

    def test_an_invite_by_the_state_endpoint_is_sent(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice)
        assert 200 == set_state(alice, room, "m.room.member", {"membership": "invite"}, bob.user_id).status
        assert 1 == len(bob.call("GET", "/sync")["rooms"]["invite"])

    @pytest.mark.parametrize("road", ["invite", "state", "createRoom"])
    def test_users_of_other_servers_are_not_invited(self, alice: Actor, road: str) -> None:
        stranger = "@stranger:elsewhere.example"
        room = make_room(alice)
        if road == "invite":
            reply = ask(alice, "POST", f"/rooms/{room}/invite", {"user_id": stranger})
        elif road == "state":
            reply = set_state(alice, room, "m.room.member", {"membership": "invite"}, stranger)
        else:
            reply = ask(alice, "POST", "/createRoom", {"invite": [stranger]})
        assert (403, "M_FORBIDDEN") == (reply.status, reply.errcode)


class TestAnnotations:
    def test_the_same_annotation_again_is_refused(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice, bob)
        event_id = say(alice, room).json["event_id"]
        assert 200 == react(bob, room, event_id, "+").status
        reply = react(bob, room, event_id, "+")
        assert (400, "M_DUPLICATE_ANNOTATION") == (reply.status, reply.errcode)

    def test_another_key_or_another_user_is_another_annotation(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice, bob)
        event_id = say(alice, room).json["event_id"]
        replies = [react(bob, room, event_id, "+"), react(bob, room, event_id, "-"), react(alice, room, event_id, "+")]
        assert [200, 200, 200] == [reply.status for reply in replies]

    def test_an_annotation_that_was_redacted_may_come_again(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice, bob)
        event_id = say(alice, room).json["event_id"]
        first = react(bob, room, event_id, "+").json["event_id"]
        bob.call("PUT", f"/rooms/{room}/redact/{quote(first, safe='')}/again", {})
        assert 200 == react(bob, room, event_id, "+").status

    def test_the_same_transaction_again_is_answered_as_before(self, alice: Actor) -> None:
        room = make_room(alice)
        event_id = say(alice, room).json["event_id"]
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "+"}}
        replies = [ask(alice, "PUT", f"/rooms/{room}/send/m.reaction/same", content) for _ in range(2)]
        assert replies[0].json == replies[1].json
        assert 200 == replies[1].status

    def test_of_the_same_annotation_at_once_one_is_taken(self, server: RunningServer, alice: Actor) -> None:
        room = make_room(alice)
        event_id = say(alice, room).json["event_id"]
        statuses: list[int] = []

        def again() -> None:
            other = Actor(server.url, "alice", token=alice.token, user_id=alice.user_id)
            statuses.append(react(other, room, event_id, "+").status)

        at_once(again, 6)
        assert [200] + [400] * 5 == sorted(statuses)


class TestThreads:
    def test_a_thread_does_not_start_inside_a_thread(self, alice: Actor) -> None:
        room = make_room(alice)
        root = say(alice, room).json["event_id"]
        reply = say(alice, room, **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        assert 200 == reply.status
        nested = say(alice, room, **{"m.relates_to": {"rel_type": "m.thread", "event_id": reply.json["event_id"]}})
        assert (400, "M_UNKNOWN") == (nested.status, nested.errcode)

    def test_who_is_not_in_the_room_is_not_told_what_an_event_relates_to(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice)
        root = say(alice, room).json["event_id"]
        reply = say(alice, room, **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        nested = say(bob, room, **{"m.relates_to": {"rel_type": "m.thread", "event_id": reply.json["event_id"]}})
        assert (403, "M_FORBIDDEN") == (nested.status, nested.errcode)


class TestState:
    def test_who_has_left_does_not_set_the_same_state_again(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice, bob, power_level_content_override={"state_default": 0})
        assert 200 == set_state(bob, room, "m.room.topic", {"topic": "one"}).status
        bob.call("POST", f"/rooms/{room}/leave", {})
        assert 403 == set_state(bob, room, "m.room.topic", {"topic": "one"}).status

    def test_the_same_state_again_is_the_same_event(self, alice: Actor) -> None:
        room = make_room(alice)
        replies = [set_state(alice, room, "m.room.topic", {"topic": "one"}) for _ in range(2)]
        assert replies[0].json == replies[1].json


class TestCreation:
    def test_of_rooms_made_at_once_under_one_alias_there_is_one(self, server: RunningServer, alice: Actor) -> None:
        answers: list[tuple[int, str | None]] = []

        def make() -> None:
            other = Actor(server.url, "alice", token=alice.token, user_id=alice.user_id)
            reply = ask(other, "POST", "/createRoom", {"room_alias_name": "contested"})
            answers.append((reply.status, reply.errcode))

        at_once(make, 6)
        assert [(200, None)] + [(400, "M_ROOM_IN_USE")] * 5 == sorted(answers, key=lambda answer: answer[0])
        assert 1 == len(alice.call("GET", "/joined_rooms")["joined_rooms"])


class TestGuests:
    @pytest.fixture
    def guest(self, server: RunningServer) -> Actor:
        actor = Actor(server.url, "guest")
        answer = actor.send("POST", f"{PREFIX}/register?kind=guest", b"{}").json
        actor.token, actor.user_id = answer["access_token"], answer["user_id"]
        return actor

    @pytest.mark.parametrize("access", ["forbidden", "anything", None])
    def test_guests_leave_when_they_may_no_longer_be_there(
        self, alice: Actor, guest: Actor, access: str | None
    ) -> None:
        bob = Actor(alice.url, "bob").register()
        room = make_room(
            alice, bob, initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
        )
        guest.call("POST", f"/rooms/{room}/join", {})
        content = {} if access is None else {"guest_access": access}
        assert 200 == set_state(alice, room, "m.room.guest_access", content).status
        # They leave in the background.
        joined: set[str] = {guest.user_id}
        since = ""
        for _ in range(5):
            joined = set(alice.call("GET", f"/rooms/{room}/joined_members")["joined"])
            if guest.user_id not in joined:
                break
            since = alice.call("GET", f"/sync?timeout=1000{since}")["next_batch"]
            since = f"&since={since}"
        assert {alice.user_id, bob.user_id} == joined

    def test_guests_stay_where_they_may(self, alice: Actor, guest: Actor) -> None:
        room = make_room(
            alice, initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
        )
        guest.call("POST", f"/rooms/{room}/join", {})
        assert 200 == set_state(alice, room, "m.room.guest_access", {"guest_access": "can_join", "more": 1}).status
        assert guest.user_id in alice.call("GET", f"/rooms/{room}/joined_members")["joined"]


class TestIgnoredUsers:
    def counts(self, actor: Actor, since: str = "") -> int:
        body = actor.call("GET", "/sync" + (f"?since={since}" if since else ""))
        (room,) = body["rooms"]["join"].values()
        count: int = room["unread_notifications"]["notification_count"]
        return count

    def test_what_an_ignored_user_says_is_not_unread(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice, bob)
        since = bob.call("GET", "/sync")["next_batch"]
        set_own_data(bob, "m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
        say(alice, room)
        assert 0 == self.counts(bob)
        body = bob.call("GET", f"/sync?since={since}")
        told = body.get("rooms", {}).get("join", {}).values()
        assert all(0 == each.get("unread_notifications", {}).get("notification_count", 0) for each in told)

    def test_what_was_unread_no_longer_counts_once_its_sender_is_ignored(self, alice: Actor, bob: Actor) -> None:
        room = make_room(alice, bob)
        say(alice, room)
        assert 1 == self.counts(bob)
        set_own_data(bob, "m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
        assert 0 == self.counts(bob)
        set_own_data(bob, "m.ignored_user_list", {"ignored_users": {}})
        assert 1 == self.counts(bob)


class TestDelays:
    @pytest.mark.parametrize("path", ["send/m.room.message/1", "state/com.example.note"])
    def test_what_is_to_be_sent_later_is_not_sent_at_once(self, alice: Actor, path: str) -> None:
        room = make_room(alice)
        delayed = f"/rooms/{room}/{path}?org.matrix.msc4140.delay=60000"
        reply = ask(alice, "PUT", delayed, {"msgtype": "m.text", "body": "I hang up"})
        assert (400, "M_INVALID_PARAM") == (reply.status, reply.json["errcode"])
        events = alice.call("GET", f"/rooms/{room}/messages?dir=b")["chunk"]
        assert not {"m.room.message", "com.example.note"} & {each["type"] for each in events}


class TestStrangers:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "send/m.room.message/{txn}"),
            ("PUT", "state/m.room.name"),
            ("PUT", "state/m.room.member/{user}"),
            ("PUT", "redact/$event/{txn}"),
        ],
    )
    def test_a_stranger_cannot_tell_a_room_from_none(self, alice: Actor, bob: Actor, method: str, path: str) -> None:
        room = make_room(alice, preset="private_chat")
        told = []
        for name in (room, quote("!" + "a" * 43, safe="")):
            where = path.format(txn=next(_counter), user=quote(alice.user_id, safe=""))
            body = {"membership": "leave"} if "member" in path else {"body": "x", "msgtype": "m.text"}
            reply = ask(bob, method, f"/rooms/{name}/{where}", {} if "redact" in path else body)
            told.append((reply.status, reply.json))
        assert told[0] == told[1]
        assert 403 == told[0][0]
