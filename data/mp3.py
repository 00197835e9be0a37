"""MP3s that do not tell their length.

A stream of constant bit rate may be guessed from its size. Of one of variable bit rate libsndfile takes the rate of the
first frame for that of all, and decodes no more than it has guessed: of a clip that begins loud, a quarter. Such a
stream gets a first frame that counts the others, as encoders write it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

_TELLERS = (b"Xing", b"Info")
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Of layer III, whether it is MPEG 1; 2.5 is as 2."""
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Hertz by the two bits of the version; 3 is MPEG 1."""
_SIDE_BYTES = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}
"""Between the header of a frame and its data, whether it is MPEG 1 and whether it is mono."""
_MIDDLE_RATE = 9
"""Of the tables; a frame of that has room for a count."""
_HEADER_BYTES = 4
_READ_BYTES = 2**14
"""Behind the tags: two frames, of which the longest takes 1,440 bytes."""


def lacks_count(file: io.BufferedIOBase) -> bool:
    """Whether it begins as an MP3 does, and its first frame does not tell how many there are."""
    file.seek(_behind_tags(file))
    data = file.read(_READ_BYTES).lstrip(b"\0")
    (start, length), (next_start, _) = [*itertools.islice(_frames(data), 2), (0, 0), (0, 0)][:2]
    if not length or start or next_start != length:
        return False  # something else, in which a header of a frame stands by chance
    frame = data[:length]
    places = (frame.find(name) for name in _TELLERS)
    return not any(0 <= place <= length - 8 and frame[place + 7] & 1 for place in places)


def counted(data: bytes) -> bytes:
    """The stream behind a first frame that counts its frames, without what stood before them."""
    starts = [start for start, _ in _frames(data)]
    if not starts:
        return data
    header = bytearray(data[starts[0] : starts[0] + _HEADER_BYTES])
    header[1] |= 1  # no checksum
    header[2] = header[2] & 0x0C | _MIDDLE_RATE << 4
    side = _SIDE_BYTES[header[1] >> 3 & 3 == 3, header[3] >> 6 == 3]
    flags, count = (1).to_bytes(4, "big"), len(starts).to_bytes(4, "big")
    first = bytes(header) + bytes(side) + _TELLERS[0] + flags + count
    return first.ljust(_length(bytes(header)), b"\0") + data[starts[0] :]


def _behind_tags(file: io.BufferedIOBase) -> int:
    file.seek(0)
    tag = file.read(10)
    if not tag.startswith(b"ID3") or len(tag) < 10:
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if tag[5] & 0x10 else 0)


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and bytes of each whole frame; what is none is passed over."""
    at = data.find(b"\xff")
    while 0 <= at <= len(data) - _HEADER_BYTES:
        length = _length(data[at : at + _HEADER_BYTES])
        if length and at + length <= len(data):
            yield at, length
            at += length
        else:
            at = data.find(b"\xff", at + 1)


def _length(header: bytes) -> int:
    """Bytes of the frame behind a header of layer III; 0 where it is none."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate, bits = header[2] >> 2 & 3, header[2] >> 4
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or version == 1 or layer != 1 or rate == 3 or bits in (0, 15):
        return 0
    samples = 1152 if version == 3 else 576
    return samples // 8 * _KILOBITS[version == 3][bits] * 1000 // _RATES[version][rate] + (header[2] >> 1 & 1)
