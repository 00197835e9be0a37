"""How long an MP3 is, without decoding it: whether its first frame tells, and what its frames add up to.

A stream of constant bit rate may be guessed from its size. One of variable bit rate that does not tell the number of
its frames cannot: libsndfile guesses from the rate of the first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

_TELLERS = (b"Xing", b"Info")
_KILOBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Of layer III, by MPEG version; 2.5 is as 2."""
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two bits of the version."""
_HEADER_BYTES = 4
_SEARCHED_BYTES = 2**16
"""For the first frame behind the tags."""


def tells_frames(file: io.BufferedIOBase) -> bool:
    """Whether the first frame tells how many there are, as Xing and LAME write it."""
    file.seek(_behind_tags(file))
    data = file.read(_SEARCHED_BYTES)
    start, length, _ = next(_frames(data), (0, 0, 0.0))
    frame = data[start : start + length]
    places = (frame.find(name) for name in _TELLERS)
    return any(place >= 0 and bool(frame[place + 7] & 1) for place in places if place + 8 <= len(frame))


def seconds_of_frames(file: io.BufferedIOBase) -> float:
    """What the frames add up to."""
    file.seek(_behind_tags(file))
    return sum(seconds for _, _, seconds in _frames(file.read()))


def _behind_tags(file: io.BufferedIOBase) -> int:
    file.seek(0)
    tag = file.read(10)
    if not tag.startswith(b"ID3") or len(tag) < 10:
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if tag[5] & 0x10 else 0)


def _frames(data: bytes) -> Iterator[tuple[int, int, float]]:
    """Start, bytes and seconds of each whole frame; what is none is passed over."""
    at = data.find(b"\xff")
    while 0 <= at <= len(data) - _HEADER_BYTES:
        length, seconds = _frame(data[at : at + _HEADER_BYTES])
        if length and at + length <= len(data):
            yield at, length, seconds
            at += length
        else:
            at = data.find(b"\xff", at + 1)


def _frame(header: bytes) -> tuple[int, float]:
    """Bytes and seconds of the frame behind a header of layer III; nothing of both where it is none."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate, bits = header[2] >> 2 & 3, header[2] >> 4
    if header[1] & 0xE0 != 0xE0 or version == 1 or layer != 1 or rate == 3 or bits in (0, 15):
        return 0, 0.0
    hertz, first = _RATES[version][rate], version == 3
    samples = 1152 if first else 576
    size = samples // 8 * _KILOBITS[1 if first else 2][bits] * 1000 // hertz + (header[2] >> 1 & 1)
    return size, samples / hertz
