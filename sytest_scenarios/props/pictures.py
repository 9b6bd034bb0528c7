"""Pictures for stories: made of nothing, and measured, without a library for pictures.

    png(640, 480)            a PNG with a pattern in it
    gif(64, 48, frames=3)    a GIF that moves
    measure(content)         what a PNG, JPEG, GIF or WebP says of itself

Whoever judges a server needs no more of a picture than its kind, its size, and whether it moves.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from ..expect import Failed, shown

PNG: Final = b"\x89PNG\r\n\x1a\n"
# So often a decoder of GIF is told to begin anew, so that its codes stay 9 bits long.
_GIF_PIXELS_BETWEEN_CLEARS: Final = 200


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture is."""

    kind: str
    """png, jpeg, gif or webp."""
    width: int
    height: int
    moves: bool = False


def png(width: int, height: int) -> bytes:
    """Return a PNG of this size with a pattern in it."""
    row = bytes(value for x in range(width) for value in (x * 255 // width, 128, 255 - x * 255 // width))
    rows = b"".join(b"\0" + row for _ in range(height))
    return png_of(width, height, zlib.compress(rows))


def png_of(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG that says it has this size, with compressed RGB rows that may or may not fit."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def gif(width: int, height: int, *, frames: int) -> bytes:
    """Return a GIF with so many frames, each of another gray."""
    palette = bytes(value for gray in range(256) for value in (gray, gray, gray))
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0xF7, 0, 0), palette]
    parts.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
    for number in range(frames):
        parts.append(b"\x21\xf9\x04\x04\x0a\x00\x00\x00")
        parts.append(struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0))
        parts.append(_gif_pixels(bytes([number * 40 % 256]) * (width * height)))
    return b"".join((*parts, b"\x3b"))


def measure(content: bytes) -> Picture:
    """Return what a picture is; Failed if it is none."""
    try:
        if content.startswith(PNG):
            width, height = struct.unpack(">II", content[16:24])
            return Picture("png", width, height, moves=b"acTL" in content[:200])
        if content.startswith((b"GIF87a", b"GIF89a")):
            return _measure_gif(content)
        if content.startswith(b"\xff\xd8"):
            return _measure_jpeg(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _measure_webp(content)
    except (struct.error, IndexError):
        pass
    raise Failed("a picture (PNG, JPEG, GIF or WebP)", f"{len(content)} bytes that begin with {shown(content[:16])}")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _gif_pixels(pixels: bytes) -> bytes:
    clear, end = 256, 257
    codes: list[int] = []
    for start in range(0, len(pixels), _GIF_PIXELS_BETWEEN_CLEARS):
        codes += [clear, *pixels[start : start + _GIF_PIXELS_BETWEEN_CLEARS]]
    bits = 0
    for place, code in enumerate((*codes, end)):
        bits |= code << (9 * place)
    packed = bits.to_bytes((9 * (len(codes) + 1) + 7) // 8, "little")
    blocks = (packed[start : start + 255] for start in range(0, len(packed), 255))
    return b"\x08" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def _measure_gif(content: bytes) -> Picture:
    width, height, flags = struct.unpack("<HHB", content[6:11])
    place, frames = 13 + _gif_palette_bytes(flags), 0
    while content[place] != 0x3B:
        if content[place] == 0x2C:
            frames += 1
            place += 11 + _gif_palette_bytes(content[place + 9])
        else:
            place += 2
        while content[place]:
            place += 1 + content[place]
        place += 1
    return Picture("gif", width, height, moves=frames > 1)


def _gif_palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _measure_jpeg(content: bytes) -> Picture:
    place = 2
    while True:
        marker, length = content[place + 1], int(struct.unpack(">H", content[place + 2 : place + 4])[0])
        # The frame headers, without those of tables and scans.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return Picture("jpeg", width, height)
        place += 2 + length


def _measure_webp(content: bytes) -> Picture:
    kind = content[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(content[24:27], "little")
        height = 1 + int.from_bytes(content[27:30], "little")
        return Picture("webp", width, height, moves=bool(content[20] & 2))
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return Picture("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    width, height = struct.unpack("<HH", content[26:30])
    return Picture("webp", width & 0x3FFF, height & 0x3FFF)
