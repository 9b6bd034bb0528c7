"""TLS on the port of the client API: for everything, verified, and none of its old versions."""

import secrets
import struct
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from sytest_scenarios.authority import Authority
from sytest_scenarios.expect import Failed, check, check_equal
from sytest_scenarios.props.wire import Place, Wire
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, setting, story, users

TLS = setting("TLS")
HANDSHAKE, ALERT = 22, 21


@story(
    "Alice and Bob talk over TLS, from the login to a picture",
    shows="client-server API, 'API Standards': HTTPS is recommended",
    needs=users(2) + TLS,
)
async def all_of_it(scene: Scene) -> None:
    alice, bob = scene.users
    check(scene.server.url.startswith("https://"), "an https: URL", came=scene.server.url)
    phone = await bob.log_in("Bob at his phone")
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "Nobody listens in")
    event = await phone.sees(room, said)
    check_equal("Nobody listens in", event["content"]["body"], "what Bob reads")
    picture = secrets.token_bytes(100_000)
    found = await bob.download(await alice.upload(picture, "application/octet-stream"))
    check_equal(True, found.body == picture, "whether the file is the same")


@story(
    "The stream runs over TLS",
    shows="docs/stream.md: wss: with TLS",
    needs=users(2) + TLS + STREAM,
)
async def stream(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with bob.stream() as bobs:
        said = await alice.say(room, "Nobody listens in")
        await bobs.until("Alice's message", lambda view: view.room(room).event(said))
        content = {"msgtype": "m.text", "body": "Good"}
        sent = await bobs.request("send", room_id=room.id, event_type="m.room.message", content=content)
    check_equal("Good", (await alice.sees(room, sent["event_id"]))["content"]["body"], "what Alice reads")


@story(
    "Who speaks plain HTTP to the port of TLS gets no answer of the API, and others are not hindered",
    shows="RFC 8446, 'Alert Protocol'; client-server API, 'API Standards'",
    needs=users(1) + TLS,
)
async def plain(scene: Scene) -> None:
    (alice,) = scene.users
    at = Wire(scene.server).place
    async with Wire(scene.server, Place(at.host, at.port)) as wire:
        token = alice.token.encode()
        wire.send(
            b"GET /_matrix/client/v3/account/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + b"\r\n\r\n"
        )
        came = await wire.ended()
    check(alice.user_id.encode() not in came and b" 200 " not in came, "no answer in plain text", came=came.hex())
    check_equal(alice.user_id, (await alice.get("/account/whoami"))["user_id"], "who Alice is over TLS")


@story(
    "The certificate is one for the server's address, of the right authority, and who trusts another one finds out",
    shows="RFC 5280, 'Certification Path Validation'; RFC 6125",
    needs=users(1) + TLS,
)
async def verified(scene: Scene) -> None:
    at = Wire(scene.server).place
    async with Wire(scene.server) as wire:
        wire.send(b"GET /_matrix/client/versions HTTP/1.0\r\nHost: x\r\n\r\n")
        answer = await wire.answer()
        check_equal(200, answer.status, "the answer to who trusts the authority of the run")
        subject = dict(wire.transport.getPeerCertificate().get_subject().get_components())
        check_equal(at.host.encode(), subject.get(b"CN"), "the name in the certificate")
    with TemporaryDirectory() as folder:
        other = Certificate.loadPEM(Authority(Path(folder)).ca_file.read_bytes())
    ours = scene.server.host.web.trust_root
    for what, options in (
        ("who trusts another authority", optionsForClientTLS(at.host, trustRootFromCertificates([other]))),
        ("who expects another name", optionsForClientTLS("matrix.example.org", ours)),
    ):
        wire = Wire(scene.server, options=options)
        await wire.open()
        wire.send(b"GET /_matrix/client/versions HTTP/1.0\r\nHost: x\r\n\r\n")
        try:
            answer = await wire.answer()
        except Failed:
            continue
        finally:
            wire.close()
        check(False, f"no connection for {what}", came=answer.status)


@story(
    "TLS 1.0 and 1.1 are refused, TLS 1.2 is not",
    shows="RFC 8996, 'Do Not Use TLS 1.0', 'Do Not Use TLS 1.1'",
    needs=users(1) + TLS,
)
async def old_versions(scene: Scene) -> None:
    at = Wire(scene.server).place
    for version, name, expected in (
        (0x0301, "TLS 1.0", ALERT),
        (0x0302, "TLS 1.1", ALERT),
        (0x0303, "TLS 1.2", HANDSHAKE),
    ):
        async with Wire(scene.server, Place(at.host, at.port)) as wire:
            scene.step(f"A client that knows no more than {name}")
            wire.send(hello(version))
            kind = await wire.until("a record of TLS", partial(wire.take, 1))
            check_equal(expected, kind[0], f"the kind of the first record ({name})")


def hello(version: int) -> bytes:
    """Return the ClientHello of a client that knows this version of TLS at most, and what is needed for it."""
    suites = struct.pack(">7H", 0xC02B, 0xC02F, 0xC009, 0xC00A, 0xC013, 0xC014, 0x002F)
    groups = struct.pack(">HHHHH", 10, 6, 4, 0x0017, 0x0018)
    points = struct.pack(">HHBB", 11, 2, 1, 0)
    schemes = (0x0403, 0x0503, 0x0804, 0x0401, 0x0203, 0x0201)
    signatures = struct.pack(">HHH", 13, 2 + 2 * len(schemes), 2 * len(schemes)) + struct.pack(
        f">{len(schemes)}H", *schemes
    )
    extensions = groups + points + signatures
    body = struct.pack(">H", version) + secrets.token_bytes(32) + b"\0"
    body += struct.pack(">H", len(suites)) + suites + b"\x01\x00"
    body += struct.pack(">H", len(extensions)) + extensions
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return struct.pack(">BHH", HANDSHAKE, 0x0301, len(message)) + message
