"""Read Debian packages, and the containers of sound inside them, without unpacking to disk and without root.

A package is an `ar` archive with a compressed tar file in it. Inside some packages sounds lie in containers of their
own: Qt resource files (`.rcc`), SoundFonts with Ogg samples (`.sf3`) and OpenTTD's sound catalogue (`.cat`).
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60
RCC_COMPRESSED_ZLIB = 1
RCC_DIRECTORY = 2
RCC_COMPRESSED_ZSTD = 4
SOUNDFONT_RECORD_BYTES = 46


class ArchiveError(ValueError):
    """A file that is not what its name says."""


class _Section:
    """A read-only window of a file, so that a member of the archive is decompressed as it is read."""

    def __init__(self, handle: IO[bytes], size_bytes: int) -> None:
        self.handle, self.left_bytes = handle, size_bytes

    def read(self, size: int = -1) -> bytes:
        wanted = self.left_bytes if size < 0 else min(size, self.left_bytes)
        block = self.handle.read(wanted)
        self.left_bytes -= len(block)
        return block


def read_deb(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name without leading `./`, content) of the regular files of the package that `wanted` accepts."""
    with path.open("rb") as handle:
        name, section = _data_member(path, handle)
        with _open_tar(path, name, section) as archive:
            for member in archive:
                relative = member.name.removeprefix("./")
                if member.isreg() and wanted(relative):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield relative, content.read()


def _data_member(path: Path, handle: IO[bytes]) -> tuple[str, _Section]:
    if handle.read(len(AR_MAGIC)) != AR_MAGIC:
        raise ArchiveError(f"{path} is no Debian package: it does not begin with {AR_MAGIC!r}")
    while len(header := handle.read(AR_HEADER_BYTES)) == AR_HEADER_BYTES:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        size_bytes = int(header[48:58])
        if name.startswith("data.tar"):
            return name, _Section(handle, size_bytes)
        handle.seek(size_bytes + size_bytes % 2, 1)
    raise ArchiveError(f"{path} holds no data.tar member; download it again")


def _open_tar(path: Path, name: str, section: _Section) -> tarfile.TarFile:
    suffix = name.removeprefix("data.tar").lstrip(".")
    if suffix == "zst":
        plain = pa.CompressedInputStream(pa.py_buffer(section.read()), "zstd")
        return tarfile.open(fileobj=plain, mode="r|")
    if suffix in ("", "gz", "bz2", "xz"):
        return tarfile.open(fileobj=cast(IO[bytes], section), mode="r|*")  # which of them, its first bytes tell
    raise ArchiveError(f"{path}: {name} is compressed as {suffix!r}; known are none, gz, bz2, xz and zst")


def read_rcc(content: bytes) -> dict[str, bytes]:
    """Files of a Qt resource file, by path. Layout: qtbase, src/corelib/io/qresource.cpp.

    Big-endian. A header names the offsets of a tree of fixed-size nodes, of the data and of the names.
    """
    if content[:4] != b"qres":
        raise ArchiveError(f"not a Qt resource file: it begins with {content[:4]!r} instead of b'qres'")
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node_bytes = 14 if version < 2 else 22
    files: dict[str, bytes] = {}

    def walk(index: int, prefix: str) -> None:
        offset = tree + index * node_bytes
        name_offset, flags = struct.unpack_from(">IH", content, offset)
        path = prefix
        if index > 0:
            (length,) = struct.unpack_from(">H", content, names + name_offset)
            start = names + name_offset + 6
            path = f"{prefix}/{content[start : start + 2 * length].decode('utf-16-be')}".lstrip("/")
        if flags & RCC_DIRECTORY:
            count, first = struct.unpack_from(">II", content, offset + 6)
            for child in range(first, first + count):
                walk(child, path)
            return
        (data_offset,) = struct.unpack_from(">I", content, offset + 10)
        (size,) = struct.unpack_from(">I", content, data + data_offset)
        start = data + data_offset + 4
        block = content[start : start + size]
        if flags & RCC_COMPRESSED_ZLIB:
            block = zlib.decompress(block[4:])
        elif flags & RCC_COMPRESSED_ZSTD:
            block = pa.CompressedInputStream(pa.py_buffer(block), "zstd").read()
        files[path] = block

    walk(0, "")
    return files


def read_sf3(content: bytes) -> dict[str, bytes]:
    """Ogg samples of a SoundFont 3, by sample name (a second sample of one name gets `#2`).

    A RIFF file; the list `pdta` has the chunk `shdr` of 46-byte records (name, then first and last byte in `smpl`).
    """
    if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
        raise ArchiveError("not a SoundFont: it does not begin with RIFF and sfbk")
    lists = {content[at + 8 : at + 12]: (at + 12, size) for at, size in _chunks(content, 12, len(content))}
    if b"sdta" not in lists or b"pdta" not in lists:
        raise ArchiveError("the SoundFont has no sdta or no pdta list; it is cut short")
    samples_at = lists[b"sdta"][0] + 8
    start, size = lists[b"pdta"]
    samples: dict[str, bytes] = {}
    for at, chunk_bytes in _chunks(content, start, start + size - 4):
        if content[at : at + 4] != b"shdr":
            continue
        for record in range(at + 8, at + 8 + chunk_bytes - SOUNDFONT_RECORD_BYTES, SOUNDFONT_RECORD_BYTES):
            name = content[record : record + 20].split(b"\0")[0].decode("latin-1").strip()
            first, last = struct.unpack_from("<II", content, record + 20)
            block = content[samples_at + first : samples_at + last]
            if block[:4] == b"OggS":
                samples[_unused(name, samples)] = block
    return samples


def _chunks(content: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the chunks of a RIFF list. SoundFont 3 files do not pad chunks to even lengths."""
    while start + 8 <= end:
        (size,) = struct.unpack_from("<I", content, start + 4)
        yield start, size
        start += 8 + size


def _unused(name: str, taken: dict[str, Any]) -> str:
    count = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name}#{count}"
        count += 1
    return candidate


def read_cat(content: bytes) -> dict[str, bytes]:
    """WAV files of OpenTTD's sound catalogue, by `<number> <title>`.

    A table of (offset, size) pairs, the top bit of the offsets a flag; at the offset a title with its length in one
    byte, then the WAV file.
    """
    table_bytes = struct.unpack_from("<I", content)[0] & 0x7FFFFFFF if len(content) >= 8 else 0
    if table_bytes == 0 or table_bytes % 8 or table_bytes >= len(content):
        raise ArchiveError("not a sound catalogue: the table of offsets at its beginning makes no sense")
    sounds: dict[str, bytes] = {}
    for index in range(table_bytes // 8):
        offset, size = struct.unpack_from("<II", content, 8 * index)
        start = (offset & 0x7FFFFFFF) + 1
        title_bytes = content[start - 1]
        text = content[start : start + title_bytes].split(b"\0")[0].decode("utf-8", "replace")
        title = text.split('"')[1] if text.count('"') >= 2 else text
        block = content[start + title_bytes : start + title_bytes + size]
        if block[:4] == b"RIFF":
            sounds[f"{index:02d} {title}"] = block
    return sounds
