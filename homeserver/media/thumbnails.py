"""Thumbnails: which size answers a request, and making it.

`ThumbnailSizes.choose` is pure: a request is answered by the smallest configured size that is large enough, so that few
files are made of a picture; where none is, by the picture itself, or, if the operator wants so, by a size of its own.

`make_thumbnail` blocks and belongs in a worker thread. Pictures are hostile input to a large decoder in C, therefore:
only PNG, JPEG, GIF and WebP, told by their first bytes and never by what the uploader says, each given to the decoder
of that format alone; the header is read first, and a picture over the pixel limit is refused before a pixel of it is
decoded; frames of animations and their bytes are counted; the number of pictures at work is bounded by the caller.
Pillow is imported with the first picture, because it is large.

LIMIT: a picture at work takes up to about 16 bytes for each of its pixels (WebP; 3 to 9 for the others).

Spec: client-server API, "Content repository", "Thumbnails".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from homeserver.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from PIL.Image import Image

Method = Literal["crop", "scale"]

SNIFF_BYTES: Final = 16
CANNOT: Final = "Cannot generate thumbnails for the requested content"
TOO_LARGE: Final = "Content is too large to thumbnail"
# A picture has a dozen; a thousand would let a small file keep a processor busy for minutes.
MAX_JPEG_SCANS: Final = 100
# From here on a picture takes so much memory that only one is worked on at a time.
LARGE_PIXELS: Final = 4 * 1024**2
MAX_FRAMES: Final = 200
# Width x height x frames of an animated thumbnail.
MAX_ANIMATION_PIXELS: Final = 16 * 1024**2
MAX_PROFILE_BYTES: Final = 64 * 1024
JPEG_QUALITY: Final = 82
WEBP_QUALITY: Final = 75

_DECODERS: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP"}
_ORIENTATION: Final = 0x0112
# Exif's orientations as Pillow's transpositions: flip, half turn, flip upside down, over the diagonal, and so on.
_TURNS: Final = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


@dataclass(frozen=True, slots=True)
class ThumbnailSize:
    """A size that thumbnails are made in."""

    width: int
    height: int
    method: Method


# Spec: client-server API, "Thumbnails": servers SHOULD produce these.
STANDARD_SIZES: Final = (
    ThumbnailSize(32, 32, "crop"),
    ThumbnailSize(96, 96, "crop"),
    ThumbnailSize(320, 240, "scale"),
    ThumbnailSize(640, 480, "scale"),
    ThumbnailSize(800, 600, "scale"),
)


@dataclass(frozen=True, slots=True)
class ThumbnailPlan:
    """What to make of a picture: a size, or None for the whole picture; with its motion or without."""

    size: ThumbnailSize | None
    is_animated: bool

    @property
    def name(self) -> str:
        """The name of the file among those derived from a blob."""
        motion = "animated" if self.is_animated else "still"
        if self.size is None:
            return f"whole-{motion}"
        return f"{self.size.method}-{self.size.width}-{self.size.height}-{motion}"


@dataclass(frozen=True, slots=True)
class ThumbnailSizes:
    """The sizes that thumbnails are made in; with `is_dynamic` also any other that is asked for."""

    sizes: Sequence[ThumbnailSize] = STANDARD_SIZES
    is_dynamic: bool = False

    def choose(self, wanted: ThumbnailSize, *, is_animated: bool = False) -> ThumbnailPlan:
        """Return what answers a request for `wanted`.

        Spec: client-server API, "Thumbnails": never smaller than asked for; crop has the aspect asked for.
        """
        enough = sorted(
            (size for size in self.sizes if size.width >= wanted.width and size.height >= wanted.height),
            key=lambda size: size.width * size.height,
        )
        for size in enough:
            if size.method == wanted.method and (
                wanted.method == "scale" or size.width * wanted.height == size.height * wanted.width
            ):
                return ThumbnailPlan(size, is_animated)
        if self.is_dynamic:
            return ThumbnailPlan(wanted, is_animated)
        for size in enough:
            # A client that asked for a crop can cut it out of this one.
            if size.method == "scale":
                return ThumbnailPlan(size, is_animated)
        return ThumbnailPlan(None, is_animated)


DEFAULT_SIZES: Final = ThumbnailSizes()


@dataclass(frozen=True, slots=True)
class Made:
    """A thumbnail; `content` is None if the picture itself is the answer."""

    content: bytes | None
    content_type: str


def sniff(head: bytes) -> str | None:
    """Return the content type of a picture by its first `SNIFF_BYTES` bytes; None for all we do not thumbnail."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def make_thumbnail(
    path: Path, plan: ThumbnailPlan, *, most_pixels: int, large_turn: AbstractContextManager[object] | None = None
) -> Made:
    """Make the thumbnail of the picture at `path`. Blocks, and enters `large_turn` around the work on a large one.

    Raises BadRequest if it is no picture that we know or is broken, TooLarge if it has more than `most_pixels`.
    """
    with path.open("rb") as source:
        content_type = sniff(source.read(SNIFF_BYTES))
        if content_type is None:
            raise BadRequest(CANNOT)
        if content_type == "image/jpeg" and _count_scans(source) > MAX_JPEG_SCANS:
            raise TooLarge(TOO_LARGE)
        source.seek(0)
        from PIL import Image

        try:
            with Image.open(source, formats=[_DECODERS[content_type]]) as image:
                _check_pixels(image, most_pixels)
                is_large = image.width * image.height > LARGE_PIXELS
                with large_turn if is_large and large_turn is not None else nullcontext():
                    return _make(image, content_type, plan, most_pixels)
        except (BadRequest, MemoryError):
            raise
        except Image.DecompressionBombError as fault:
            # LIMIT: Pillow's own, about 179 megapixels, for the whole process.
            raise TooLarge(TOO_LARGE) from fault
        except Exception as fault:  # the decoders have no common error for broken pictures
            raise BadRequest(CANNOT, detail=f"{type(fault).__name__}: {fault}") from fault


def fit(width: int, height: int, size: ThumbnailSize) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Return the size of the thumbnail of a picture, and the part of the picture it shows (left, upper, right, lower).

    Never larger than the picture; else the smallest that is at least `size` both ways.

    Spec: client-server API, "Thumbnails": MUST NOT upscale, MUST NOT be smaller than requested unless the picture is.
    """
    if width <= size.width and height <= size.height:
        return (width, height), (0, 0, width, height)
    factor = min(1.0, max(size.width / width, size.height / height))
    if size.method == "scale":
        scaled = max(1, round(width * factor)), max(1, round(height * factor))
        return scaled, (0, 0, width, height)
    # The largest part with the aspect asked for, from the middle.
    part = min(width / size.width, height / size.height)
    part_width, part_height = size.width * part, size.height * part
    # Not below zero, where rounding would bring it.
    left, upper = max(0.0, (width - part_width) / 2), max(0.0, (height - part_height) / 2)
    shrink = min(1.0, 1 / part)
    cropped = max(1, round(part_width * shrink)), max(1, round(part_height * shrink))
    return cropped, (left, upper, min(width, left + part_width), min(height, upper + part_height))


def _count_scans(source: Any) -> int:
    # In the data of a scan, a byte FF is always followed by 00: the pair FF DA is the marker "start of scan".
    scans, last = 0, b""
    while piece := source.read(1 << 20):
        scans += (last + piece).count(b"\xff\xda")
        last = piece[-1:] if piece[-1] == 0xFF else b""
    return scans


def _check_pixels(image: Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        # Spec: client-server API, "Content repository", "Security considerations".
        raise TooLarge(TOO_LARGE)


def _make(image: Image, content_type: str, plan: ThumbnailPlan, most_pixels: int) -> Made:
    is_animation = content_type != "image/jpeg" and bool(getattr(image, "is_animated", False))
    turned = _orientation(image) >= 5
    width, height = (image.height, image.width) if turned else image.size
    if plan.size is None:
        target, part = (width, height), (0.0, 0.0, float(width), float(height))
    else:
        target, part = fit(width, height, plan.size)
    if target == (width, height) and (plan.is_animated or not is_animation):
        # Spec: client-server API, "Thumbnails": return the original content rather than thumbnail it.
        return Made(None, content_type)
    if plan.is_animated and is_animation:
        moving = _make_animation(image, target, part, most_pixels)
        if moving is not None:
            return Made(moving, "image/webp")
        image.seek(0)
    if content_type == "image/jpeg":
        # Lets the decoder work at a half, quarter or eighth of the size.
        shown = max(part[2] - part[0], 1), max(part[3] - part[1], 1)
        least = round(target[0] * width / shown[0]), round(target[1] * height / shown[1])
        image.draft(None, (least[1], least[0]) if turned else least)
    return _still(image, target, part, (width, height))


def _orientation(image: Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata are no reason not to show the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _still(
    image: Image, target: tuple[int, int], part: tuple[float, float, float, float], whole: tuple[int, int]
) -> Made:
    from PIL import Image

    profile = image.info.get("icc_profile")
    orientation = _orientation(image)
    shown = _plain(image)
    if shown.mode != image.mode or not isinstance(profile, bytes) or len(profile) > MAX_PROFILE_BYTES:
        profile = None
    if orientation != 1:
        shown = shown.transpose(Image.Transpose(_TURNS[orientation]))
    # A draft is smaller than the header said.
    across, down = shown.width / whole[0], shown.height / whole[1]
    box = (
        part[0] * across,
        part[1] * down,
        min(part[2] * across, shown.width),
        min(part[3] * down, shown.height),
    )
    small = shown.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
    target_file = BytesIO()
    if small.mode == "RGBA":
        small.save(target_file, "PNG", icc_profile=profile, exif=b"")
        return Made(target_file.getvalue(), "image/png")
    small.save(target_file, "JPEG", quality=JPEG_QUALITY, optimize=True, icc_profile=profile)
    return Made(target_file.getvalue(), "image/jpeg")


def _plain(image: Image) -> Image:
    """Return the picture as RGB, or as RGBA if something of it is transparent."""
    if image.mode.startswith("I"):
        # 16 bits of gray; converting would cut off, not scale.
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    # Converting copies, also from a mode to itself.
    return image if image.mode == "RGB" else image.convert("RGB")


def _make_animation(
    image: Image, target: tuple[int, int], part: tuple[float, float, float, float], most_pixels: int
) -> bytes | None:
    """Return the moving thumbnail, or None if that would be too much work: then a still one has to do."""
    from PIL import Image

    most_frames = min(MAX_FRAMES, MAX_ANIMATION_PIXELS // max(1, target[0] * target[1]))
    pixels = 0
    frames: list[Any] = []
    durations: list[int] = []
    whole = image.size
    while True:
        # A frame of a GIF may enlarge the picture.
        pixels += image.width * image.height
        if pixels > 2 * most_pixels or len(frames) == most_frames or image.size != whole:
            return None
        frames.append(_plain(image).resize(target, Image.Resampling.BILINEAR, box=part, reducing_gap=2.0))
        durations.append(_duration_ms(image))
        try:
            image.seek(len(frames))
        except EOFError:
            break
    if len(frames) < 2:
        return None
    loop = image.info.get("loop", 1)
    target_file = BytesIO()
    frames[0].save(
        target_file,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=loop if isinstance(loop, int) and 0 <= loop <= 65535 else 0,
        quality=WEBP_QUALITY,
        method=2,
    )
    return target_file.getvalue()


def _duration_ms(image: Image) -> int:
    duration = image.info.get("duration", 100)
    if not isinstance(duration, int | float) or not 0 <= duration <= 60_000:
        return 100
    return max(20, int(duration))
