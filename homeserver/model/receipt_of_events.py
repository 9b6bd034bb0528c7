"""The first three checks on an event of another server: its format, its signatures, its content hash.

In two steps, because between them keys may have to be fetched:

    received = read_received(version, wire)          # format; tells `signatures_needed`
    ... = servers_to_ask(received, keys)             # whose keys are to be fetched
    checked = check_received(received, keys)         # signatures and hash; gives a `CheckedEvent`

What fails the first or the second check is dropped (`Dropped` is raised, and nothing else); what fails the third is
taken in its redacted form.  A `CheckedEvent` is made here and nowhere else, so that who has one knows that its sender's
server stands behind it.  How many signatures are tried does not depend on how many there are.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3, and "Validating hashes and signatures on
received events"; appendices, "Checking for a Signature"; rooms/v5, "Signing key validity period".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Any, Final

from homeserver.errors import MatrixError

from .auth.needed import MEMBER
from .content.member import authorising_user
from .event import Event
from .event_format import check_event_format, event_from_wire
from .hashing import encode_essential, event_id_of_essential, has_valid_content_hash
from .ids import EventID, server_name_of
from .redaction import redact
from .room_versions import EventIDScheme, RoomVersion
from .server_keys import ServerKeys
from .signing import BadSignature, VerifyKey, is_key_id, signature_in

# LIMIT: signatures of one server that are looked at; servers sign with one key, or two while they change it.
MAX_KEYS_TRIED: Final = 8

_MADE_HERE: Final = object()


class Dropped(ValueError):
    """The event is not taken in; the text says why, for the log."""


@dataclass(frozen=True, slots=True)
class Received:
    """An event of another server that has the right format, and nobody knows yet whose it is.

    `signatures_needed` has the servers that must have signed, each with the IDs of the keys that a signature is
    offered by (none if it has not signed).  `essential` are the bytes under the signatures.
    """

    version: RoomVersion
    wire: Mapping[str, Any]
    event_id: EventID
    essential: bytes
    signatures_needed: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class CheckedEvent:
    """An event that is what its sender's server signed; `check_received` and `trust_own` make them.

    `was_redacted` tells that the content hash did not fit, so that `event` is the redacted form.  `is_vouched_for` is
    False where the event names an authorising user whose server did not sign: the rules reject it.
    """

    event: Event
    was_redacted: bool
    made_here: InitVar[object] = None
    is_vouched_for: bool = True

    def __post_init__(self, made_here: object) -> None:
        if made_here is not _MADE_HERE:
            raise TypeError("a checked event comes from `check_received` or `trust_own`")


def trust_own(event: Event) -> CheckedEvent:
    """Return an event that this server composed, or that it has stored, as checked."""
    return CheckedEvent(event, False, _MADE_HERE)


def read_received(version: RoomVersion, wire: object) -> Received:
    """Return the event if it has the format of the room version, else raise `Dropped`."""
    try:
        check_event_format(version, wire)
        obj: Mapping[str, Any] = wire  # type: ignore[assignment]
        essential = encode_essential(version, obj)
    except MatrixError as fault:
        raise Dropped(fault.message) from fault
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        event_id = EventID(obj["event_id"])
    else:
        event_id = event_id_of_essential(version, essential)
    return Received(version, obj, event_id, essential, signatures_needed(version, obj))


def signatures_needed(version: RoomVersion, wire: Mapping[str, Any]) -> Mapping[str, frozenset[str]]:
    """Return who is to have signed an event that has passed `check_event_format`, and the key IDs on offer by each.

    Of one server no more than eight, the first ones by the alphabet.
    """
    signatures = wire["signatures"]
    needed: dict[str, frozenset[str]] = {}
    for server_name in (*_must_sign(version, wire), *_vouching(version, wire)):
        offered = filter(is_key_id, signatures.get(server_name, ()))
        needed[server_name] = frozenset(sorted(offered)[:MAX_KEYS_TRIED])
    return MappingProxyType(needed)


def servers_to_ask(received: Received, keys: Mapping[str, ServerKeys]) -> frozenset[str]:
    """Return the servers whose keys must be fetched, perhaps again, before `check_received` has a chance.

    Those that have signed, but with no key that is known and was valid at the event's `origin_server_ts`, which is what
    to say as `minimum_valid_until_ts` to a notary.  A server that has not signed is not worth asking.

    Spec: rooms/v5, "Signing key validity period"; `POST /_matrix/key/v2/query`.
    """
    return frozenset(
        server_name
        for server_name, key_ids in received.signatures_needed.items()
        if key_ids and not _usable(received, server_name, keys.get(server_name))
    )


def check_received(received: Received, keys: Mapping[str, ServerKeys]) -> CheckedEvent:
    """Return the event, redacted if its content hash does not fit; raise `Dropped` if a signature is missing or wrong.

    `keys` has what is known of the keys of each server in `signatures_needed`; who is missing has none.
    """
    version, wire = received.version, received.wire
    must_sign = _must_sign(version, wire)
    is_vouched_for = True
    for server_name in received.signatures_needed:
        fault = _fault_of_signatures(received, server_name, keys.get(server_name))
        if fault is not None:
            if server_name in must_sign:
                raise Dropped(fault)
            is_vouched_for = False
    # Spec: "it is assumed that this is because we have only been given a redacted version of the event".
    was_redacted = not has_valid_content_hash(wire, version)
    if was_redacted:
        wire = redact(version, wire)
    return CheckedEvent(event_from_wire(version, wire, received.event_id), was_redacted, _MADE_HERE, is_vouched_for)


def _must_sign(version: RoomVersion, wire: Mapping[str, Any]) -> list[str]:
    """Return the servers without whose signature the event is dropped."""
    servers: list[str] = []
    # Spec: "unless the event is a 3rd party invite": such may be sent by the server that the invited one chose, and
    # the rules compare its sender with the invite.
    if not _is_judged_as_third_party_invite(version, wire):
        servers.append(server_name_of(wire["sender"]))
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        # Spec: "also require that a signature is present from the domain in the `event_id`"; of a third-party invite
        # too, whose sender's server, which may be the same, is not asked for.
        servers.append(server_name_of(wire["event_id"]))
    if wire["content"].get("membership") == "join":
        # COMPAT(synapse): a join that nobody vouches for is dropped, not kept as rejected.
        servers += _vouching(version, wire)
    return servers


def _vouching(version: RoomVersion, wire: Mapping[str, Any]) -> list[str]:
    """Return the server of the authorising user, if there is one.

    Spec: rooms/v8, "Authorisation rules", 4.2.1, which holds for all memberships: "If the event is not validly signed
    by the homeserver of the user ID denoted by the key, reject".
    """
    if not version.restricted_joins or wire["type"] != MEMBER or "state_key" not in wire:
        return []
    user_id = authorising_user(wire["content"])
    return [] if user_id is None else [server_name_of(user_id)]


def _is_judged_as_third_party_invite(version: RoomVersion, wire: Mapping[str, Any]) -> bool:
    """Tell whether the rules will see a third-party invite, also when the content hash does not fit.

    Up to room version 10 a redaction turns one into an ordinary invite, which the rules let pass for its sender alone.
    Unless that sender's server had to sign it, anybody could invite in the name of anybody by a wrong hash.
    """
    if not _is_third_party_invite(wire):
        return False
    return has_valid_content_hash(wire, version) or _is_third_party_invite(redact(version, wire))


def _is_third_party_invite(wire: Mapping[str, Any]) -> bool:
    content = wire["content"]
    return wire["type"] == MEMBER and content.get("membership") == "invite" and "third_party_invite" in content


def _fault_of_signatures(received: Received, server_name: str, known: ServerKeys | None) -> str | None:
    """Return None if a known, unexpired key has signed, and no such key has a signature that is wrong."""
    usable = _usable(received, server_name, known)
    if not usable:
        return "there is no signature by a known key of a server that must have signed"
    for key_id, key in usable.items():
        try:
            key.check(received.essential, signature_in(received.wire, server_name, key_id))
        except BadSignature:
            return "a signature of a server that must have signed is wrong"
    return None


def _usable(received: Received, server_name: str, known: ServerKeys | None) -> dict[str, VerifyKey]:
    """Return those of the keys that a server has signed with that are known and count for this event, by ID.

    Signatures by keys that nobody knows do not push them out: whoever passes an event on can add those.
    """
    if known is None:
        return {}
    find = known.key if received.version.enforces_key_validity else known.unexpired_key
    offered = sorted(key_id for key_id in received.wire["signatures"].get(server_name, ()) if key_id in known.keys)
    found = ((key_id, find(key_id, received.wire["origin_server_ts"])) for key_id in offered)
    return dict([(key_id, key) for key_id, key in found if key is not None][:MAX_KEYS_TRIED])
