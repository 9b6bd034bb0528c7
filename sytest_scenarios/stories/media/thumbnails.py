"""Thumbnails: large enough, never enlarged, in the form asked for, and of pictures only."""

import zlib

from sytest_scenarios.asking import media_parts
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.pictures import PNG, gif, measure, png, png_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "A thumbnail that is scaled keeps the form of the picture, and is no smaller than asked for",
    shows="client-server API, 'Thumbnails': scale",
    needs=users(2),
)
async def scaled(scene: Scene) -> None:
    alice, bob = scene.users
    uri = await alice.upload(png(1200, 600), "image/png", filename="wide.png")
    for width, height in ((320, 240), (640, 480), (100, 50)):
        made = measure((await bob.thumbnail(uri, width, height, method="scale")).body)
        check(abs(made.width / made.height - 2) < 0.05, "the form of the picture, 2 to 1", came=str(made))
        # "scale" may let one side be smaller, where the picture is of another form.
        check(made.width >= width or made.height >= height, f"at least {width} x {height} in one way", came=str(made))
        check(made.width <= 1200, "nothing larger than the picture", came=str(made))


@story(
    "A thumbnail that is cropped has the form that was asked for",
    shows="client-server API, 'Thumbnails': crop",
    needs=users(2),
)
async def cropped(scene: Scene) -> None:
    alice, bob = scene.users
    uri = await alice.upload(png(800, 400), "image/png")
    for size in (32, 96):
        answer = await bob.thumbnail(uri, size, size, method="crop")
        made = measure(answer.body)
        check(made.width == made.height >= size, f"a square of {size} or more", came=str(made))
        check(answer.headers.get("content-type", "").startswith("image/"), "a picture", came=dict(answer.headers))
        disposition = answer.headers.get("content-disposition", "")
        check(disposition.startswith("inline"), "a thumbnail to be shown in place", came=disposition)


@story(
    "A picture that is smaller than the thumbnail asked for comes as it is",
    shows="client-server API, 'Thumbnails': servers MUST NOT upscale; the original where it is smaller",
    needs=users(1),
)
async def not_enlarged(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(png(40, 30), "image/png")
    made = measure((await alice.thumbnail(uri, 640, 480, method="scale")).body)
    check_equal((40, 30), (made.width, made.height), "the size of the thumbnail")


@story(
    "A picture that is smaller than what is to be cut out of it is not blown up for that",
    shows="client-server API, 'Thumbnails': servers MUST NOT upscale",
    needs=users(1),
    unlike={"synapse": "makes 32 x 32 of 40 x 30; the spec, 'Thumbnails': MUST NOT upscale"},
)
async def not_enlarged_to_crop(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(png(40, 30), "image/png")
    for size in (32, 96, 640):
        made = measure((await alice.thumbnail(uri, size, size, method="crop")).body)
        check(made.width <= 40 and made.height <= 30, "nothing larger than the picture", came=str(made))
        check(made.width >= min(size, 40) or made.height >= min(size, 30), "nothing too small", came=str(made))


@story(
    "A picture that moves has a thumbnail that stands still, unless one asks for one that moves",
    shows="client-server API, GET /_matrix/client/v1/media/thumbnail: animated",
    needs=users(1),
)
async def moving(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(gif(200, 150, frames=4), "image/gif")
    for query in ({}, {"animated": "false"}):
        answer = await alice.thumbnail(uri, 96, 96, method="crop", **query)
        check(not measure(answer.body).moves, f"a still picture for {query}", came=answer.headers.get("content-type"))
    answer = await alice.thumbnail(uri, 96, 96, method="crop", animated="true")
    check(measure(answer.body).moves, "a picture that moves", came=answer.headers.get("content-type"))


@story(
    "What is no picture, or only calls itself one, has no thumbnail, but is still there",
    shows="client-server API, GET /_matrix/client/v1/media/thumbnail: 400",
    needs=users(1),
)
async def no_picture(scene: Scene) -> None:
    (alice,) = scene.users
    for content, kind in (
        (b"just a text", "text/plain"),
        (b"not really a PNG", "image/png"),
        (PNG + b"and nothing more of it" * 20, "image/png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "image/svg+xml"),
    ):
        uri = await alice.upload(content, kind)
        with refused(400, 404, what=f"a thumbnail of {content[:20]!r} as {kind}"):
            await alice.thumbnail(uri, 96, 96)
        check_equal(content, (await alice.download(uri)).body, "the file itself")


@story(
    "A thumbnail of no size, or of a size that is no number, is refused",
    shows="client-server API, GET /_matrix/client/v1/media/thumbnail: 400",
    needs=users(1),
)
async def no_size(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(png(64, 64), "image/png")
    path = f"/_matrix/client/v1/media/thumbnail{path_of(*media_parts(uri))}"
    for query in ({"width": -32, "height": 32}, {"width": "wide", "height": 32}, {"width": 32}, {"height": 32}, {}):
        answer = await alice.request("GET", path, query=query)
        check_equal(400, answer.status, f"the status for {query}")
    answer = await alice.request("GET", path, query={"width": 32, "height": 32, "method": "stretch"})
    check(answer.status < 500, "an answer to a method that is none", came=answer.status)


@story(
    "A picture that would fill the memory is not unpacked, and the server lives",
    shows="client-server API, 'Content repository', 'Security considerations': very large images, 413 M_TOO_LARGE",
    needs=users(2),
    unlike={"synapse": "answers 400; the spec, 'Security considerations' of the content repository, says 413"},
)
async def bomb(scene: Scene) -> None:
    alice, bob = scene.users
    # 30000 x 30000 points in some kilobytes.
    huge = png_of(30_000, 30_000, zlib.compress(b"\0" * 2_000_000))
    uri = await alice.upload(huge, "image/png")
    with refused(413, "M_TOO_LARGE", what="a thumbnail of a picture of 900 million points"):
        await bob.thumbnail(uri, 96, 96)
    small = await alice.upload(png(64, 64), "image/png")
    check_equal(
        64, measure((await bob.thumbnail(small, 96, 96)).body).width, "the width of another picture, afterwards"
    )


@story(
    "Who is not logged in sees no thumbnail",
    shows="client-server API, GET /_matrix/client/v1/media/thumbnail needs a token; the frozen endpoint has none",
    needs=users(1),
)
async def not_without_a_token(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(png(64, 64), "image/png")
    await alice.thumbnail(uri, 32, 32)
    rest = f"/thumbnail{path_of(*media_parts(uri))}"
    size = {"width": 32, "height": 32}
    answer = await scene.server.request("GET", f"/_matrix/client/v1/media{rest}", query=size)
    check_equal((401, "M_MISSING_TOKEN"), (answer.status, answer.errcode), "the answer without a token")
    answer = await scene.server.request("GET", f"/_matrix/media/v3{rest}", query=size)
    check_equal((404, "M_NOT_FOUND"), (answer.status, answer.errcode), "the answer of the frozen endpoint")
