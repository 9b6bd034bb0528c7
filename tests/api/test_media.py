from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor

from api.media import MediaApi
from api.ratelimit import ClientRates
from homeserver.config import Limits
from homeserver.media.repository import MediaRepository, MediaRules
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.threads import Threads
from homeserver.web.json_resource import JsonResource
from homeserver.web.ratelimit import RateLimits
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import Response, TakenOver
from homeserver.web.router import Route, Router
from storage.blobs import BlobStore
from storage.database import Database
from storage.schema import migrate
from tests.media.pictures import animation, picture

SERVER = "example.org"
UPLOAD = "/_matrix/media/v3/upload"
DOWNLOAD = "/_matrix/client/v1/media/download"
THUMBNAIL = "/_matrix/client/v1/media/thumbnail"


@dataclass
class Who:
    user_nid: int


@dataclass
class Told:
    """An answer with its body read."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def errcode(self) -> str:
        return str(orjson.loads(self.body)["errcode"])


class Client:
    """Asks the endpoints as user 1, or as `user_nid`."""

    def __init__(self, repository: MediaRepository) -> None:
        api = MediaApi(repository, ClientRates(RateLimits(ManualClock()), Limits()))
        self.door = JsonResource(Router(api.routes()), authenticate=self._authenticate)
        self.user_nid = 1

    def _authenticate(self, request: WebRequest, route: Route) -> Who:
        return Who(self.user_nid)

    async def ask(
        self, method: str, uri: str, body: bytes = b"", headers: dict[str, str] | None = None, length: int | None = None
    ) -> Told:
        path, _, query = uri.partition("?")
        source = body if length is None else BytesIO(body)
        request = WebRequest(method, path, query.encode(), Headers.of(headers or {}), source, length)
        answer = await self.door.respond(request)
        assert not isinstance(answer, TakenOver)
        told = {"Content-Type": answer.content_type, **answer.headers}
        if isinstance(answer, Response):
            return Told(answer.status, told, answer.body)
        with answer.file:
            content = answer.file.read(answer.length)
        assert answer.length == len(content)
        return Told(answer.status, told, content)

    async def upload(self, content: bytes, content_type: str | None = None, query: str = "") -> str:
        headers = {} if content_type is None else {"Content-Type": content_type}
        told = await self.ask("POST", UPLOAD + query, content, headers)
        assert told.status == 200, told
        uri = str(orjson.loads(told.body)["content_uri"])
        assert uri.startswith("mxc://")
        return uri.removeprefix("mxc://")


async def open_repository(database_url: str, folder: Path, rules: MediaRules) -> AsyncIterator[MediaRepository]:
    threads = Threads(reactor, 4)  # type: ignore[arg-type]
    database = Database(database_url, reactor=reactor, threads=threads)
    await database.start(migrate)
    repository = MediaRepository(
        database, BlobStore(folder), threads=threads, clock=ManualClock(), server_name=SERVER, rules=rules
    )
    await repository.start()
    yield repository
    await database.stop()
    await threads.stop()


@pytest_twisted.async_yield_fixture
async def client(database_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    async for repository in open_repository(database_url, tmp_path / "store", MediaRules(max_upload_bytes=50_000)):
        yield Client(repository)


@pytest_twisted.async_yield_fixture
async def open_client(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    """A server that has not frozen the endpoints without a login."""
    async for repository in open_repository(sqlite_url, tmp_path / "store", MediaRules(need_login=False)):
        yield Client(repository)


@pytest_twisted.ensureDeferred
async def test_an_upload_is_downloaded_with_its_type_and_name(client: Client) -> None:
    name = await client.upload(b"hello", "image/png", "?filename=" + quote("Käse & Brot.png"))
    told = await client.ask("GET", f"{DOWNLOAD}/{name}")
    assert (200, b"hello", "image/png") == (told.status, told.body, told.headers["Content-Type"])
    assert told.headers["Content-Disposition"] == "inline; filename*=utf-8''K%C3%A4se%20%26%20Brot.png"
    assert told.headers["Content-Security-Policy"].startswith("sandbox;")
    assert told.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert told.headers["X-Content-Type-Options"] == "nosniff"
    assert told.headers["Cache-Control"].startswith("private")


@pytest_twisted.ensureDeferred
async def test_the_name_in_the_path_replaces_the_uploaded_one(client: Client) -> None:
    name = await client.upload(b"hello", "image/png", "?filename=a.png")
    told = await client.ask("GET", f"{DOWNLOAD}/{name}/b.png")
    assert told.headers["Content-Disposition"] == 'inline; filename="b.png"'


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("content_type", "served"),
    [
        (None, "application/octet-stream"),
        ("text/html;charset=x", "text/html;charset=x"),
        ("IMAGE/svg+XML", "IMAGE/svg+XML"),
        ("application/javascript", "application/javascript"),
        ("multipart/form-data; boundary=x", "multipart/form-data; boundary=x"),
        ("nonsense", "application/octet-stream"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_may_run_is_offered_as_a_file(client: Client, content_type: str | None, served: str) -> None:
    name = await client.upload(b"<script>alert(1)</script>", content_type)
    told = await client.ask("GET", f"{DOWNLOAD}/{name}")
    assert (served, "attachment") == (told.headers["Content-Type"], told.headers["Content-Disposition"])
    assert b"<script>alert(1)</script>" == told.body


@pytest.mark.parametrize("prefix", ["/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1"])
@pytest_twisted.ensureDeferred
async def test_older_prefixes_are_frozen(client: Client, prefix: str) -> None:
    told = await client.ask("POST", f"{prefix}/upload", picture("PNG", 10, 10))
    name = orjson.loads(told.body)["content_uri"].removeprefix("mxc://")
    assert b'{"m.upload.size":50000}' == (await client.ask("GET", f"{prefix}/config")).body
    for uri in (f"download/{name}", f"download/{name}/x.png", f"thumbnail/{name}?width=5&height=5"):
        told = await client.ask("GET", f"{prefix}/{uri}")
        assert (404, "M_NOT_FOUND") == (told.status, told.errcode)


@pytest.mark.parametrize("prefix", ["/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1"])
@pytest_twisted.ensureDeferred
async def test_without_the_freeze_older_prefixes_serve(open_client: Client, prefix: str) -> None:
    name = await open_client.upload(picture("PNG", 10, 10), "image/png")
    for uri in (f"download/{name}", f"download/{name}/x.png", f"thumbnail/{name}?width=5&height=5"):
        told = await open_client.ask("GET", f"{prefix}/{uri}")
        assert 200 == told.status
        assert told.headers["Cache-Control"].startswith("public")


@pytest_twisted.ensureDeferred
async def test_only_older_downloads_need_no_login(open_client: Client) -> None:
    paths = [route.path_template for route in open_client.door.router.routes if route.auth is None]
    assert 9 == len(paths)
    assert all(path.startswith("/_matrix/media/") for path in paths)
    assert all(path.split("/")[4] in ("download", "thumbnail") for path in paths)


@pytest_twisted.ensureDeferred
async def test_config(client: Client) -> None:
    told = await client.ask("GET", "/_matrix/client/v1/media/config")
    assert {"m.upload.size": 50_000} == orjson.loads(told.body)


@pytest.mark.parametrize("length", [None, 5, 0], ids=["true length", "said to be less", "said to be none"])
@pytest_twisted.ensureDeferred
async def test_too_large_an_upload_is_refused(client: Client, length: int | None) -> None:
    told = await client.ask("POST", UPLOAD, bytes(50_001), length=length)
    assert (413, "M_TOO_LARGE") == (told.status, told.errcode)


@pytest_twisted.ensureDeferred
async def test_a_compressed_upload_is_refused(client: Client) -> None:
    told = await client.ask("POST", UPLOAD, b"x", {"Content-Encoding": "gzip"})
    assert 415 == told.status


@pytest_twisted.ensureDeferred
async def test_an_announced_upload(client: Client) -> None:
    told = orjson.loads((await client.ask("POST", "/_matrix/media/v1/create")).body)
    assert told["unused_expires_at"] > ManualClock().now_ms()
    name = told["content_uri"].removeprefix("mxc://")
    early = await client.ask("GET", f"{DOWNLOAD}/{name}?timeout_ms=0")
    assert (504, "M_NOT_YET_UPLOADED") == (early.status, early.errcode)
    client.user_nid = 2
    theirs = await client.ask("PUT", f"{UPLOAD}/{name}", b"hello")
    assert (403, "M_FORBIDDEN") == (theirs.status, theirs.errcode)
    client.user_nid = 1
    ours = await client.ask("PUT", f"{UPLOAD}/{name}?filename=a.txt", b"hello", {"Content-Type": "text/plain"})
    assert (200, b"{}") == (ours.status, ours.body)
    again = await client.ask("PUT", f"{UPLOAD}/{name}", b"hello")
    assert (409, "M_CANNOT_OVERWRITE_MEDIA") == (again.status, again.errcode)
    unknown = await client.ask("PUT", f"{UPLOAD}/{SERVER}/unknown", b"hello")
    assert (404, "M_NOT_FOUND") == (unknown.status, unknown.errcode)
    assert b"hello" == (await client.ask("GET", f"{DOWNLOAD}/{name}")).body


@pytest_twisted.ensureDeferred
async def test_too_many_announced_uploads_are_refused(client: Client) -> None:
    for _ in range(5):
        assert 200 == (await client.ask("POST", "/_matrix/media/v1/create")).status
    told = await client.ask("POST", "/_matrix/media/v1/create")
    assert (429, "M_LIMIT_EXCEEDED") == (told.status, told.errcode)


HOSTILE = [
    "..",
    ".",
    "%2e%2e%2f%2e%2e",
    "..%2F..%2Fetc%2Fpasswd",
    "a%00b",
    "a%5Cb",
    "CON",
    "a:b",
    "a" * 1000,
    "%F0%9F%98%80",
]


@pytest.mark.parametrize("media_id", HOSTILE)
@pytest.mark.parametrize("server_name", [SERVER, "other.example", "..", "%00", "localhost:99999999", "[::1]", "a%2Fb"])
@pytest_twisted.ensureDeferred
async def test_hostile_names_are_unknown(open_client: Client, server_name: str, media_id: str) -> None:
    for uri in (
        f"{DOWNLOAD}/{server_name}/{media_id}",
        f"{THUMBNAIL}/{server_name}/{media_id}?width=1&height=1",
        f"/_matrix/media/r0/download/{server_name}/{media_id}",
        f"/_matrix/media/v3/thumbnail/{server_name}/{media_id}?width=1&height=1",
    ):
        told = await open_client.ask("GET", uri)
        assert (404, "M_NOT_FOUND") == (told.status, told.errcode)
    told = await open_client.ask("PUT", f"{UPLOAD}/{server_name}/{media_id}", b"x")
    assert (404, "M_NOT_FOUND") == (told.status, told.errcode)


# -- parts and conditions ---------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=0-1", 206, b"he", "bytes 0-1/5"),
        ("bytes=3-", 206, b"lo", "bytes 3-4/5"),
        ("bytes=-2", 206, b"lo", "bytes 3-4/5"),
        ("bytes=-20", 206, b"hello", "bytes 0-4/5"),
        ("bytes=1-99", 206, b"ello", "bytes 1-4/5"),
        ("bytes=5-", 416, b"", "bytes */5"),
        ("bytes=-0", 416, b"", "bytes */5"),
        ("bytes=3-1", 200, b"hello", None),
        ("bytes=0-1,3-4", 200, b"hello", None),
        ("bytes=-", 200, b"hello", None),
        ("lines=0-1", 200, b"hello", None),
        ("bytes=" + "9" * 100 + "-", 200, b"hello", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_ranges(client: Client, wanted: str, status: int, body: bytes, content_range: str | None) -> None:
    name = await client.upload(b"hello")
    told = await client.ask("GET", f"{DOWNLOAD}/{name}", headers={"Range": wanted})
    assert (status, body, content_range) == (told.status, told.body, told.headers.get("Content-Range"))


@pytest_twisted.ensureDeferred
async def test_what_a_client_has_is_not_sent_again(client: Client) -> None:
    name = await client.upload(b"hello")
    etag = (await client.ask("GET", f"{DOWNLOAD}/{name}")).headers["ETag"]
    told = await client.ask("GET", f"{DOWNLOAD}/{name}", headers={"If-None-Match": f'"x", W/{etag}'})
    assert (304, b"") == (told.status, told.body)
    told = await client.ask("GET", f"{DOWNLOAD}/{name}", headers={"If-None-Match": '"x"'})
    assert (200, b"hello") == (told.status, told.body)
    told = await client.ask("GET", f"{DOWNLOAD}/{name}", headers={"If-Range": '"x"', "Range": "bytes=0-1"})
    assert (200, b"hello") == (told.status, told.body)


# -- thumbnails -------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_thumbnail_is_shown_inline(client: Client) -> None:
    name = await client.upload(picture("PNG", 400, 400), "text/html")
    told = await client.ask("GET", f"{THUMBNAIL}/{name}?width=32&height=32&method=crop")
    assert (200, "image/jpeg") == (told.status, told.headers["Content-Type"])
    assert told.headers["Content-Disposition"] == 'inline; filename="thumbnail.jpeg"'
    assert told.headers["Content-Security-Policy"].startswith("sandbox;")


@pytest.mark.parametrize(("query", "content_type"), [("&animated=true", "image/webp"), ("", "image/jpeg")])
@pytest_twisted.ensureDeferred
async def test_an_animation_moves_if_asked_for(client: Client, query: str, content_type: str) -> None:
    name = await client.upload(animation("GIF", 100, 100, 3), "image/gif")
    told = await client.ask("GET", f"{THUMBNAIL}/{name}?width=32&height=32&method=crop{query}")
    assert content_type == told.headers["Content-Type"]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "query",
    [
        "",
        "width=1",
        "height=1",
        "width=a&height=1",
        "width=-1&height=1",
        "width=0&height=0",
        "width=1.5&height=1",
        "width=1&height=1&method=stretch",
        "width=1&height=1&animated=perhaps",
        "width=1&height=%ff",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_thumbnail_request_that_makes_no_sense_is_refused(client: Client, query: str) -> None:
    name = await client.upload(picture("PNG", 100, 100))
    assert 400 == (await client.ask("GET", f"{THUMBNAIL}/{name}?{query}")).status


@pytest_twisted.ensureDeferred
async def test_absurd_sizes_are_answered_with_the_picture(client: Client) -> None:
    content = picture("PNG", 100, 100)
    name = await client.upload(content)
    told = await client.ask("GET", f"{THUMBNAIL}/{name}?width=9999999999&height=9999999999&method=crop")
    assert (200, content) == (told.status, told.body)


@pytest_twisted.ensureDeferred
async def test_what_is_no_picture_has_no_thumbnail(client: Client) -> None:
    name = await client.upload(b"%PDF-1.4", "image/png")
    assert 400 == (await client.ask("GET", f"{THUMBNAIL}/{name}?width=1&height=1")).status
