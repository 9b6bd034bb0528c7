"""A file comes out of a multipart answer as it was put in, wherever the answer is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.multipart import BadMultipart, MediaParts, boundary_of

FILE = b"\x00\r\n--not\r\n--edg\r\nend\r\n"
WIRE = (
    b"--edge\r\nContent-Type: application/json\r\n\r\n{}\r\n--edge\r\nContent-Type: image/png\r\n"
    b'Content-Disposition: inline; filename="a"\r\n\r\n' + FILE + b"\r\n--edge--\r\nmore"
)


def _read(wire: bytes, size: int = 65_536) -> tuple[bytes, MediaParts]:
    written: list[bytes] = []
    parts = MediaParts("edge", written.append)
    for start in range(0, len(wire), size):
        parts.feed(wire[start : start + size])
    parts.finish()
    return b"".join(written), parts


@given(st.integers(1, len(WIRE)))
def test_file_is_the_same_however_it_is_cut(size: int) -> None:
    file, parts = _read(WIRE, size)
    assert FILE == file
    assert {"content-type": "image/png", "content-disposition": 'inline; filename="a"'} == parts.headers


@pytest.mark.parametrize(
    ("wire", "headers", "file"),
    [
        (b"--edge\r\n\r\n{}\r\n--edge\r\n\r\nx\r\n--edge--", {}, b"x"),
        (b"before\r\n--edge \t\r\n\r\n{}\r\n--edge\r\nLocation: https://a/b\r\n\r\n\r\n--edge--",
         {"location": "https://a/b"}, b""),
        (b"--edge\r\n\r\n\r\n--edge\r\n\r\n\r\n--edge\r\n\r\nthird\r\n--edge--", {}, b""),
    ],
    ids=["no headers", "elsewhere", "third part"],
)  # fmt: skip
def test_second_part_counts(wire: bytes, headers: dict[str, str], file: bytes) -> None:
    found, parts = _read(wire)
    assert (file, headers) == (found, parts.headers)


@pytest.mark.parametrize(
    "wire",
    [b"", b"--edge--", b"--edge\r\n\r\n{}\r\n--edge--", WIRE[:-12], b"--edgex\r\n\r\n", b"--edge\r\nno header\r\n\r\n",
     b"x" * 70_000, b"--edge\r\n\r\n" + b"x" * 70_000, b"--edge\r\nA: " + b"b" * 70_000],
    ids=["empty", "no part", "one part", "broken off", "other edge", "header", "preamble", "JSON", "head"],
)  # fmt: skip
def test_what_is_no_download_is_refused(wire: bytes) -> None:
    with pytest.raises(BadMultipart):
        _read(wire)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("multipart/mixed; boundary=a", "a"), ('Multipart/Mixed;x=y;Boundary="a b"', "a b")],
)
def test_boundary_is_read(text: str, expected: str) -> None:
    assert expected == boundary_of(text)


@pytest.mark.parametrize(
    "text", ["", "text/plain", "multipart/mixed", "multipart/mixed; boundary=", "multipart/form-data; boundary=a",
             'multipart/mixed; boundary="a\r\n"', "multipart/mixed; boundary=" + "a" * 71]
)  # fmt: skip
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(BadMultipart):
        boundary_of(text)
