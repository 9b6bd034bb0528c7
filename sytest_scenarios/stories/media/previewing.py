"""Previews of web pages: what a link leads to, without the client going there; and not into the operator's network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from sytest_scenarios.clock import REACTOR
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

PREVIEW = "/_matrix/client/v1/media/preview_url"
PAGE = """<!DOCTYPE html><html><head><title>The title of the page</title>
<meta property="og:title" content="Ein schöner Tag"><meta property="og:description" content="About &lt;days&gt;">
<script>document.title = "owned"</script></head><body><p>Body</p></body></html>"""


class Page(Resource):
    """A web page that counts its readers."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.readers = 0

    def render_GET(self, request: Request) -> bytes:
        """Return the page."""
        self.readers += 1
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return PAGE.encode()


@asynccontextmanager
async def web_page(address: str) -> AsyncIterator[tuple[str, Page]]:
    """Serve a page on loopback for a while; gives its URL, and it."""
    page = Page()
    port = REACTOR.listenTCP(0, Site(page), interface=address)
    try:
        yield f"http://{address}:{port.getHost().port}/day.html", page
    finally:
        await port.stopListening()


@story(
    "Alice posts a link, and Bob sees what the page calls itself",
    shows="client-server API, GET /_matrix/client/v1/media/preview_url",
    needs=users(2) + feature("URL previews"),
    expected_to_fail="URL previews",
)
async def page_of_the_web(scene: Scene) -> None:
    alice, bob = scene.users
    if scene.server.host.process is None:
        scene.skip("a server elsewhere cannot fetch a page from here")
    room = await alice.create_room_with(bob)
    async with web_page("127.0.0.1") as (url, page):
        event = await bob.sees(room, await alice.say(room, f"Look: {url}"))
        link = event["content"]["body"].partition(" ")[2]
        found = await bob.get(PREVIEW, url=link)
        check_equal("Ein schöner Tag", found.get("og:title"), "the title")
        check_equal("About <days>", found.get("og:description"), "the description")
        await alice.get(PREVIEW, url=link)
        check_equal(1, page.readers, "how often the page was fetched for both")


@story(
    "Eve cannot have the server read her its own files, nor talk other protocols for her",
    shows="client-server API, GET /_matrix/client/v1/media/preview_url; requests for users go to web pages only",
    needs=users("Eve") + feature("URL previews"),
    tags=["injection"],
    expected_to_fail="URL previews",
)
async def not_its_own_files(scene: Scene) -> None:
    (eve,) = scene.users
    async with web_page("127.0.0.1") as (url, page):
        rest = url.partition("//")[2]
        for each in (
            "file:///etc/passwd",
            f"gopher://{rest}",
            f"ftp://{rest}",
            "javascript:alert(1)",
            "",
            "http://",
            "x",
        ):
            answer = await eve.request("GET", PREVIEW, query={"url": each})
            told = answer.json if answer.status == 200 else {}
            check(not told, f"no preview of {each}", came=answer.body[:200])
        check_equal(0, page.readers, "how often the page was fetched")
        answer = await scene.server.request("GET", PREVIEW, query={"url": url})
        check_equal((401, "M_MISSING_TOKEN"), (answer.status, answer.errcode), "the answer without an account")
