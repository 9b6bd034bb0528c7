"""Pictures for tests, some of them hostile."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image


def picture(kind: str, width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture whose left half is red and whose right half is blue."""
    image = Image.new(mode, (width, height), "blue" if mode != "L" else 50)
    image.paste("red" if mode != "L" else 200, (0, 0, width // 2, height))
    return encoded(image, kind, **options)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def animation(kind: str, width: int, height: int, frames: int) -> bytes:
    """Return a picture of so many frames, each of another gray."""
    images = [Image.new("RGB", (width, height), (shade % 256,) * 3) for shade in range(0, 7 * frames, 7)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], duration=50, loop=0)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that says it is this large and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
