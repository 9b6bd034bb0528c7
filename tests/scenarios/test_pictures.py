"""The pictures of the stories are pictures, and are what they are measured to be."""

from io import BytesIO

import pytest
from PIL import Image

from sytest_scenarios.expect import Failed
from sytest_scenarios.props.pictures import PNG, Picture, gif, measure, png


def saved(kind: str, *, frames: int = 1, **how: bool) -> bytes:
    pictures = [Image.new("RGB", (64, 48), (number * 90, 0, 0)) for number in range(frames)]
    file = BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(file, kind, **how, **more)
    return file.getvalue()


@pytest.mark.parametrize(("content", "kind", "frames"), [(png(64, 48), "PNG", 1), (gif(64, 48, frames=3), "GIF", 3)])
def test_made_pictures_can_be_decoded(content: bytes, kind: str, frames: int) -> None:
    with Image.open(BytesIO(content)) as image:
        found = (image.format, image.size, getattr(image, "n_frames", 1))
        for frame in range(frames):
            image.seek(frame)
            image.load()
    assert (kind, (64, 48), frames) == found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(64, 48), Picture("png", 64, 48)),
        (gif(64, 48, frames=1), Picture("gif", 64, 48)),
        (gif(64, 48, frames=2), Picture("gif", 64, 48, moves=True)),
        (saved("PNG"), Picture("png", 64, 48)),
        (saved("PNG", frames=2), Picture("png", 64, 48, moves=True)),
        (saved("JPEG"), Picture("jpeg", 64, 48)),
        (saved("GIF", frames=2), Picture("gif", 64, 48, moves=True)),
        (saved("WEBP"), Picture("webp", 64, 48)),
        (saved("WEBP", lossless=True), Picture("webp", 64, 48)),
        (saved("WEBP", frames=2), Picture("webp", 64, 48, moves=True)),
    ],
)
def test_pictures_are_measured(content: bytes, expected: Picture) -> None:
    assert expected == measure(content)


@pytest.mark.parametrize("content", [b"", b"hello", PNG, b"GIF89a", b"\xff\xd8\xff", b"RIFF1234WEBP"])
def test_what_is_no_picture_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(Failed, match="a picture"):
        measure(content)
