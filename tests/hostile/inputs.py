"""Bad inputs, by what is wrong with them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from typing import Any

from tests.hostile.client import Actor
from tests.support.routes import RouteInfo

DEEP = 10_000
TOO_LARGE = b'{"a":"' + b"x" * 1_400_000 + b'"}'

# Refused by whatever reads a JSON body.
NOT_BODIES: dict[str, bytes] = {
    "text": b"hello",
    "unfinished": b'{"a":',
    "trailing": b"{} {}",
    "comment": b"{} // x",
    "single quotes": b"{'a':1}",
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "list": b"[]",
    "string": b'"x"',
    "null": b"null",
    "number": b"17",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "invalid UTF-8": b'{"a":"\xff\xfe"}',
    "overlong": b'{"a":"\xc0\x80"}',
    "surrogates in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "NUL": b'{"a":"\x00"}',
    "only NUL": b"\x00" * 100,
    "deep lists": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep and unfinished": b"[" * DEEP,
    "whitespace": b" " * 1000,
}

# JSON objects; they may be taken or refused, but for what is in them.
ODD_BODIES: dict[str, bytes] = {
    "duplicate keys": b'{"a":1,"a":2,"type":"m.room.member","type":"x"}',
    "huge integer": b'{"a":' + b"9" * 400 + b"}",
    "2^53": b'{"a":9007199254740992}',
    "2^63": b'{"a":9223372036854775808}',
    "float": b'{"a":1.0,"b":1e0,"c":-0.0}',
    "1e400": b'{"a":1e400}',
    "escaped surrogate": b'{"a":"\\ud800"}',
    "escaped NUL": b'{"a":"\\u0000","\\u0000":"a"}',
    "many keys": json.dumps({f"k{n}": n for n in range(50_000)}).encode(),
    "long key": b'{"' + b"k" * 100_000 + b'":1}',
    "prototype": b'{"__proto__":{"a":1},"constructor":1}',
}

WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**53,
    2**63,
    10**30,
    "",
    "\x00",
    "x" * 70_000,
    "\U0001f98a" * 300,
    "' OR 1=1 --",
    "../../etc/passwd",
    [],
    [None],
    [[[]]],
    {},
    {"": None},
    {"a": {"b": {"c": []}}},
)

BAD_SEGMENTS: tuple[str, ...] = (
    "%00",
    "%0d%0a",
    "%2F",
    "%252F",
    "%2e%2e",
    "..",
    "%ff",
    "%c0%80",
    "%ed%a0%80",
    "%",
    "%zz",
    "%20",
    "+",
    ";a=b",
    "%F0%9F%A6%8A" * 30,
    "x" * 1_000,
    "%27%20OR%201=1%20--",
    "%5C",
    "!x",
    "@x",
    "%23x:",
    "$x",
    "!x:y:z%00",
    "@%00:test.example",
    "-1",
    "9" * 30,
)

BAD_QUERIES: tuple[str, ...] = (
    "",
    "-1",
    "0",
    "1e9",
    "999999999999",
    "9" * 400,
    "%D9%A1",
    "true",
    "null",
    "%00",
    "%ff",
    "%ED%A0%80",
    "s-1",
    "s1_2",
    "s99999999999999",
    "p" + "9" * 40,
    "{}",
    "[]",
    "{",
    "%7B%22room%22:1%7D",
    "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:-1%7D%7D%7D",
    "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:1e9%7D%7D%7D",
    "%5B" * 3_000,
    "*" + "a*" * 500,
    "x" * 5_000,
)

QUERY_NAMES: tuple[str, ...] = (
    "since",
    "from",
    "to",
    "dir",
    "limit",
    "filter",
    "timeout",
    "full_state",
    "set_presence",
    "ts",
    "membership",
    "not_membership",
    "at",
    "username",
    "token",
    "room_id",
    "user_id",
    "server",
    "width",
    "height",
    "method",
    "timeout_ms",
    "max_depth",
    "suggested_only",
    "recurse",
    "include",
    "via",
    "format",
    "kind",
    "access_token",
)

# What the endpoints know of, by route; values are of the right shape.
FIELDS: dict[str, dict[str, Any]] = {
    "POST /login": {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "x"},
        "password": "x",
        "user": "x",
        "device_id": "D",
        "initial_device_display_name": "x",
        "refresh_token": False,
        "token": "x",
    },
    "POST /refresh": {"refresh_token": "x"},
    "POST /register": {
        "username": "x",
        "password": "correct horse",
        "device_id": "D",
        "initial_device_display_name": "x",
        "inhibit_login": False,
        "refresh_token": False,
        "auth": {"type": "m.login.dummy", "session": "x"},
    },
    "POST /account/password": {"new_password": "x", "logout_devices": False, "auth": {"type": "m.login.password"}},
    "POST /account/deactivate": {"erase": False, "id_server": "x", "auth": {"type": "m.login.password"}},
    "PUT /devices/{deviceId}": {"display_name": "x"},
    "DELETE /devices/{deviceId}": {"auth": {"type": "m.login.password", "session": "x"}},
    "POST /delete_devices": {"devices": ["D"], "auth": {"type": "m.login.password"}},
    "PUT /profile/{userId}/{keyName}": {"displayname": "x", "avatar_url": "mxc://a/b"},
    "POST /user/{userId}/filter": {
        "room": {"timeline": {"limit": 1}},
        "event_fields": ["a"],
        "presence": {"types": []},
        "account_data": {"not_types": []},
        "event_format": "client",
    },
    "POST /rooms/{roomId}/receipt/{receiptType}/{eventId}": {"thread_id": "main"},
    "POST /rooms/{roomId}/read_markers": {"m.fully_read": "$a", "m.read": "$a", "m.read.private": "$a"},
    "PUT /rooms/{roomId}/typing/{userId}": {"typing": True, "timeout": 1000},
    "PUT /presence/{userId}/status": {"presence": "online", "status_msg": "x"},
    "PUT /pushrules/global/{kind}/{ruleId}": {"actions": ["notify"], "conditions": [], "pattern": "x"},
    "PUT /pushrules/global/{kind}/{ruleId}/enabled": {"enabled": True},
    "PUT /pushrules/global/{kind}/{ruleId}/actions": {"actions": []},
    "POST /rooms/{roomId}/upgrade": {"new_version": "12", "additional_creators": ["@a:b"]},
    "POST /createRoom": {
        "name": "x",
        "topic": "x",
        "visibility": "private",
        "preset": "private_chat",
        "room_alias_name": "x",
        "room_version": "12",
        "invite": [],
        "invite_3pid": [],
        "is_direct": False,
        "creation_content": {},
        "initial_state": [{"type": "a", "state_key": "", "content": {}}],
        "power_level_content_override": {"users": {}},
    },
    "POST /join/{roomIdOrAlias}": {"reason": "x", "third_party_signed": {}},
    "POST /knock/{roomIdOrAlias}": {"reason": "x"},
    "POST /rooms/{roomId}/join": {"reason": "x", "third_party_signed": {}},
    "POST /rooms/{roomId}/invite": {"user_id": "@a:test.example", "reason": "x"},
    "POST /rooms/{roomId}/kick": {"user_id": "@a:test.example", "reason": "x"},
    "POST /rooms/{roomId}/ban": {"user_id": "@a:test.example", "reason": "x"},
    "POST /rooms/{roomId}/unban": {"user_id": "@a:test.example", "reason": "x"},
    "POST /rooms/{roomId}/leave": {"reason": "x"},
    "PUT /rooms/{roomId}/redact/{eventId}/{txnId}": {"reason": "x"},
    "PUT /rooms/{roomId}/send/{eventType}/{txnId}": {
        "body": "x",
        "m.relates_to": {"rel_type": "m.thread", "event_id": "$a", "m.in_reply_to": {"event_id": "$a"}},
        "m.mentions": {"user_ids": [], "room": True},
        "m.new_content": {},
    },
    "PUT /directory/room/{roomAlias}": {"room_id": "!a:b"},
    "PUT /directory/list/room/{roomId}": {"visibility": "public"},
    "POST /publicRooms": {
        "limit": 1,
        "since": "n1.1",
        "filter": {"generic_search_term": "x", "room_types": [None]},
        "include_all_networks": False,
        "third_party_instance_id": "x",
    },
    "POST /user_directory/search": {"search_term": "x", "limit": 1},
    "PUT /user/{userId}/rooms/{roomId}/tags/{tag}": {"order": 0.5},
    "PUT /user/{userId}/account_data/{type}": {"ignored_users": {}},
}

# State events that the server itself reads.
STATE_FIELDS: dict[str, dict[str, Any]] = {
    "m.room.name": {"name": "x"},
    "m.room.topic": {"topic": "x", "m.topic": {"m.text": []}},
    "m.room.avatar": {"url": "x", "info": {}},
    "m.room.canonical_alias": {"alias": "#a:b", "alt_aliases": []},
    "m.room.join_rules": {"join_rule": "public", "allow": []},
    "m.room.history_visibility": {"history_visibility": "shared"},
    "m.room.guest_access": {"guest_access": "can_join"},
    "m.room.encryption": {"algorithm": "x", "rotation_period_ms": 1},
    "m.room.server_acl": {"allow": ["*"], "deny": [], "allow_ip_literals": True},
    "m.room.pinned_events": {"pinned": []},
    "m.room.tombstone": {"body": "x", "replacement_room": "!a:b"},
    "m.room.third_party_invite": {"display_name": "x", "key_validity_url": "x", "public_key": "x", "public_keys": []},
    "m.space.child": {"via": [], "order": "x", "suggested": True},
    "m.room.create": {"room_version": "12", "predecessor": {}},
    "m.room.power_levels": {
        "users": {},
        "events": {},
        "users_default": 0,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "notifications": {"room": 50},
    },
}


def fill(route: RouteInfo, actor: Actor, room_id: str, event_id: str, **instead: str) -> str:
    """Return the path of a route with parameters that exist; `instead` are encoded segments by name."""
    values = {
        "roomId": room_id,
        "roomIdOrAlias": room_id,
        "roomAlias": f"#a{random.randrange(10**9)}:test.example",
        "eventId": event_id,
        "eventType": "m.room.message" if "/send/" in route.template else "org.example.state",
        "stateKey": "k",
        "txnId": f"t{random.randrange(10**12)}",
        "userId": actor.user_id,
        "deviceId": "OTHER",
        "keyName": "displayname",
        "filterId": "0",
        "type": "org.example.type",
        "tag": "u.x",
        "receiptType": "m.read",
        "kind": "override",
        "ruleId": "org.example.rule",
        "relType": "m.thread",
        "serverName": "test.example",
        "mediaId": "abc",
        "fileName": "x.png",
    }
    return "/".join(
        instead.get(part[1:-1], values.get(part[1:-1], "x")).replace("#", "%23") if part.startswith("{") else part
        for part in route.template.split("/")
    )


def short(route: RouteInfo) -> str:
    """Return the name of a route in `FIELDS`."""
    return str(route).replace("/_matrix/client/v3", "").replace("/_matrix/client/v1", "")


def wrong_bodies(fields: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield bodies in which one field has a wrong value, at any depth, or is missing."""
    for name, sound in fields.items():
        for value in WRONG_VALUES:
            yield f"{name}={_abridged(value)}", json.dumps({**fields, name: value}).encode()
        yield f"no {name}", json.dumps({key: value for key, value in fields.items() if key != name}).encode()
        if isinstance(sound, dict):
            for inner in sound:
                for value in WRONG_VALUES:
                    body = {**fields, name: {**sound, inner: value}}
                    yield f"{name}.{inner}={_abridged(value)}", json.dumps(body).encode()
        if isinstance(sound, list):
            for value in WRONG_VALUES:
                yield f"{name}=[{_abridged(value)}]", json.dumps({**fields, name: [value]}).encode()


def _abridged(value: Any) -> str:
    return repr(value)[:30]


def compressed() -> bytes:
    """Return a small body that stands for a large one."""
    return gzip.compress(b'{"a":"' + b"x" * 50_000_000 + b'"}', 9)
