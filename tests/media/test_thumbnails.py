from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from homeserver.errors import BadRequest, TooLarge
from homeserver.media.thumbnails import (
    DEFAULT_SIZES,
    MAX_FRAMES,
    Made,
    Method,
    ThumbnailPlan,
    ThumbnailSize,
    ThumbnailSizes,
    fit,
    make_thumbnail,
    sniff,
)

from .pictures import animation, encoded, picture, png_header

MOST_PIXELS = 1_000_000


def make(content: bytes, plan: ThumbnailPlan, folder: Path, most_pixels: int = MOST_PIXELS) -> Made:
    path = folder / "picture"
    path.write_bytes(content)
    return make_thumbnail(path, plan, most_pixels=most_pixels)


def still(width: int, height: int, method: Method = "scale") -> ThumbnailPlan:
    return ThumbnailPlan(ThumbnailSize(width, height, method), False)


def moving(width: int, height: int, method: Method = "scale") -> ThumbnailPlan:
    return ThumbnailPlan(ThumbnailSize(width, height, method), True)


def opened(made: Made) -> Image.Image:
    assert made.content is not None
    image = Image.open(io.BytesIO(made.content))
    assert Image.MIME[image.format or ""] == made.content_type
    return image


DAMAGED_FOLDER = tempfile.TemporaryDirectory()
DAMAGED = {
    "PNG": picture("PNG", 60, 60),
    "JPEG": picture("JPEG", 60, 60),
    "GIF": animation("GIF", 60, 60, 3),
    "WEBP": animation("WEBP", 60, 60, 3),
    "APNG": animation("PNG", 60, 60, 3),
}


# -- choosing a size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((32, 32, "crop"), (32, 32, "crop")),
        ((33, 20, "crop"), (320, 240, "scale")),
        ((64, 64, "crop"), (96, 96, "crop")),
        ((100, 100, "crop"), (320, 240, "scale")),
        ((1, 1, "scale"), (320, 240, "scale")),
        ((321, 10, "scale"), (640, 480, "scale")),
        ((800, 600, "scale"), (800, 600, "scale")),
        ((801, 600, "scale"), None),
        ((800, 800, "crop"), None),
    ],
)
def test_the_smallest_configured_size_that_is_enough_is_chosen(
    wanted: tuple[int, int, Method], expected: tuple[int, int, Method] | None
) -> None:
    plan = DEFAULT_SIZES.choose(ThumbnailSize(*wanted))
    assert (None if expected is None else ThumbnailSize(*expected)) == plan.size


@pytest.mark.parametrize("method", ["crop", "scale"])
def test_dynamic_sizes_are_made_as_asked_for(method: Method) -> None:
    wanted = ThumbnailSize(1000, 700, method)
    assert wanted == ThumbnailSizes(is_dynamic=True).choose(wanted).size


@given(st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(["crop", "scale"]))
def test_a_chosen_size_is_never_smaller_than_asked_for(width: int, height: int, method: Method) -> None:
    size = DEFAULT_SIZES.choose(ThumbnailSize(width, height, method)).size
    assert size is None or (size.width >= width and size.height >= height)


# -- fitting ----------------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 20_000)


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "scale"]))
def test_a_thumbnail_is_at_least_the_size_asked_for_and_never_larger_than_the_picture(
    width: int, height: int, wanted_width: int, wanted_height: int, method: Method
) -> None:
    (made_width, made_height), part = fit(width, height, ThumbnailSize(wanted_width, wanted_height, method))
    assert 1 <= made_width <= width
    assert 1 <= made_height <= height
    if width >= wanted_width and height >= wanted_height:
        assert made_width >= wanted_width
        assert made_height >= wanted_height
    assert 0 <= part[0] < part[2] <= width + 1e-6
    assert 0 <= part[1] < part[3] <= height + 1e-6


@pytest.mark.parametrize(
    ("picture_size", "wanted", "expected"),
    [
        pytest.param((1000, 500), (100, 100, "scale"), (200, 100), id="scale covers the box"),
        pytest.param((1000, 500), (100, 100, "crop"), (100, 100), id="crop has the aspect"),
        pytest.param((50, 500), (96, 96, "crop"), (50, 50), id="crop of a narrow picture keeps the aspect"),
        pytest.param((50, 40), (96, 96, "crop"), (50, 40), id="a small picture stays as it is"),
        pytest.param((10_000, 10), (32, 32, "scale"), (10_000, 10), id="never scaled up"),
    ],
)
def test_fit(picture_size: tuple[int, int], wanted: tuple[int, int, Method], expected: tuple[int, int]) -> None:
    assert expected == fit(*picture_size, ThumbnailSize(*wanted))[0]


# -- making -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_pictures_are_scaled(kind: str, mode: str, tmp_path: Path) -> None:
    if mode == "P" and kind in ("JPEG", "WEBP"):
        pytest.skip("there is no such thing")
    content = picture(kind, 400, 200, mode if mode != "P" else "RGB")
    if mode == "P":
        content = encoded(Image.open(io.BytesIO(content)).convert("P"), kind)
    image = opened(make(content, still(100, 50), tmp_path))
    assert (100, 50) == image.size
    assert image.format == "JPEG"


def test_a_crop_is_from_the_middle(tmp_path: Path) -> None:
    image = opened(make(picture("PNG", 400, 100), still(50, 50, "crop"), tmp_path)).convert("RGB")
    assert (50, 50) == image.size
    left, right = image.getpixel((5, 25)), image.getpixel((45, 25))
    assert isinstance(left, tuple) and isinstance(right, tuple)
    assert left[0] > 200 and right[2] > 200


def test_transparency_is_kept(tmp_path: Path) -> None:
    content = encoded(Image.new("RGBA", (200, 200), (255, 0, 0, 0)), "PNG")
    image = opened(make(content, still(50, 50), tmp_path))
    assert ("PNG", "RGBA") == (image.format, image.mode)


def test_sixteen_bits_of_gray_are_not_cut_off(tmp_path: Path) -> None:
    content = encoded(Image.new("I;16", (200, 200), 0x8000), "PNG")
    value = opened(make(content, still(50, 50), tmp_path)).convert("L").getpixel((10, 10))
    assert isinstance(value, int | float)
    assert 120 <= value <= 136


def test_a_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    content = encoded(Image.new("CMYK", (200, 200), (0, 255, 255, 0)), "JPEG")
    assert opened(make(content, still(50, 50), tmp_path)).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = picture("JPEG", 400, 200, exif=exif, quality=95)
    image = opened(make(content, still(40, 40), tmp_path)).convert("RGB")
    expected = (40, 80) if orientation >= 5 else (80, 40)
    assert expected == image.size
    # Where the red half of the picture belongs.
    red_at = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    points = {"left": (10, 20), "right": (70, 20), "top": (20, 10), "bottom": (20, 70)}
    color = image.getpixel(points[red_at])
    assert isinstance(color, tuple)
    assert color[0] > 150 and color[2] < 100


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_picture_that_is_small_enough_is_its_own_thumbnail(kind: str, tmp_path: Path) -> None:
    assert Made(None, f"image/{kind.lower()}") == make(picture(kind, 30, 20), still(32, 32, "crop"), tmp_path)


def test_the_whole_picture_is_its_own_thumbnail(tmp_path: Path) -> None:
    assert Made(None, "image/png") == make(picture("PNG", 300, 200), ThumbnailPlan(None, False), tmp_path)


# -- animations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_move_if_asked_for(kind: str, tmp_path: Path) -> None:
    image = opened(make(animation(kind, 200, 100, 5), moving(50, 25), tmp_path))
    assert ("WEBP", (50, 25), 5) == (image.format, image.size, getattr(image, "n_frames", 1))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(50, 25), (500, 500)], ids=["smaller", "larger"])
def test_animations_stand_still_if_not_asked_for(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Spec: GET /thumbnail: when `animated` is false, the server MUST NOT return an animated thumbnail."""
    image = opened(make(animation(kind, 200, 100, 5), still(*size), tmp_path))
    assert not getattr(image, "is_animated", False)


def test_a_small_animation_is_its_own_moving_thumbnail(tmp_path: Path) -> None:
    assert Made(None, "image/gif") == make(animation("GIF", 20, 10, 3), moving(50, 50), tmp_path)


def test_a_still_picture_has_a_still_thumbnail_even_if_asked_to_move(tmp_path: Path) -> None:
    assert opened(make(picture("PNG", 200, 200), moving(50, 50), tmp_path)).format == "JPEG"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_of_too_many_frames_stands_still(kind: str, tmp_path: Path) -> None:
    content = animation(kind, 40, 40, MAX_FRAMES + 1)
    image = opened(make(content, moving(20, 20), tmp_path))
    assert not getattr(image, "is_animated", False)


# -- hostile pictures -------------------------------------------------------------------------------------------------


def test_a_picture_over_the_pixel_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        make(png_header(60_000, 60_000), still(32, 32), tmp_path)


def gif_with_larger_frame(side: int) -> bytes:
    content = animation("GIF", 40, 40, 3)
    # The width and height in the second image descriptor.
    at = content.index(b"\x2c", content.index(b"\x2c") + 1)
    return content[: at + 5] + struct.pack("<HH", side, side) + content[at + 9 :]


def test_a_frame_that_enlarges_a_gif_ends_the_animation(tmp_path: Path) -> None:
    made = make(gif_with_larger_frame(3000), moving(20, 20), tmp_path)
    assert made.content_type == "image/jpeg"


def test_a_frame_that_enlarges_a_gif_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        make(gif_with_larger_frame(50_000), moving(20, 20), tmp_path)


def test_a_jpeg_of_too_many_scans_is_refused(tmp_path: Path) -> None:
    content = picture("JPEG", 100, 100)
    with pytest.raises(TooLarge):
        make(content[:-2] + b"\xff\xda\x00\x08" * 200 + b"\xff\xd9", still(32, 32), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"%PDF-1.4 and so on", id="pdf"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", id="eps"),
        pytest.param(b"8BPS\x00\x01", id="psd"),
        pytest.param(b"\x00\x00\x01\x00\x01\x00", id="ico"),
        pytest.param(b"BLP2\x01\x00\x00\x00", id="blp"),
        pytest.param(b"II*\x00\x08\x00\x00\x00", id="tiff"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="svg"),
        pytest.param(b"BM" + bytes(60), id="bmp"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="png signature only"),
        pytest.param(b"\xff\xd8\xff\xe0", id="jpeg start only"),
        pytest.param(b"GIF89a\x05\x00\x05\x00\x00\x00\x00", id="gif without frames"),
        pytest.param(b"RIFF\x04\x00\x00\x00WEBP", id="empty webp"),
        pytest.param(png_header(500, 500), id="png with too few pixels"),
    ],
)
def test_what_is_no_picture_has_no_thumbnail(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        make(content, still(32, 32), tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_truncated_picture_is_refused_or_shown(kind: str, tmp_path: Path) -> None:
    content = picture(kind, 200, 200)
    for length in range(0, len(content), max(1, len(content) // 60)):
        try:
            make(content[:length], still(50, 50), tmp_path)
        except BadRequest:
            continue


@given(st.data())
def test_a_damaged_picture_is_refused_or_shown(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(DAMAGED)))
    content = bytearray(DAMAGED[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = Path(DAMAGED_FOLDER.name) / "picture"
    path.write_bytes(content)
    for plan in (still(20, 20), moving(20, 20)):
        try:
            make_thumbnail(path, plan, most_pixels=MOST_PIXELS)
        except BadRequest:
            pass


@pytest.mark.parametrize("head", [b"", b"\x89PNG", b"GIF90a", b"RIFF\x00\x00\x00\x00WAVE", b"\xff\xd8"])
def test_other_first_bytes_are_no_picture(head: bytes) -> None:
    assert sniff(head) is None
