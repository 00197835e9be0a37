"""The readers of packages and of the containers of sound in them, on small files made here."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from data.demo.archives import ArchiveError, read_cat, read_deb, read_rcc, read_sf3


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def make_deb(path: Path, files: dict[str, bytes], suffix: str, compress: Callable[[bytes], bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = {
        "debian-binary": b"2.0\n",
        "control.tar": b"odd",
        f"data.tar{suffix}": compress(buffer.getvalue()),
    }
    with path.open("wb") as handle:
        handle.write(b"!<arch>\n")
        for name, content in members.items():
            handle.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            handle.write(content + b"\n" * (len(content) % 2))
    return path


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstd)],
    ids=["plain", "gz", "xz", "zst"],
)
def test_a_package_is_read_without_dpkg(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    files = {"usr/share/a.wav": b"a" * 70_000, "usr/share/b.txt": b"b"}
    path = make_deb(tmp_path / "a.deb", files, suffix, compress)
    assert dict(read_deb(path, lambda name: name.endswith(".wav"))) == {"usr/share/a.wav": b"a" * 70_000}


def test_a_file_that_is_no_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "page.deb"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ArchiveError, match=r"page\.deb is no Debian package"):
        list(read_deb(path, lambda name: True))


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    path = make_deb(tmp_path / "a.deb", {"a": b"a"}, ".lz4", bytes)
    with pytest.raises(ArchiveError, match="'lz4'"):
        list(read_deb(path, lambda name: True))


def make_rcc(files: dict[str, bytes], flags: int, pack: Callable[[bytes], bytes]) -> bytes:
    """A resource file of version 3 with one folder, `sounds`."""
    names = [b""]
    name_offsets = []
    for name in ("sounds", *files):
        name_offsets.append(sum(map(len, names)))
        names.append(struct.pack(">HI", len(name), 0) + name.encode("utf-16-be"))
    blocks = [pack(content) for content in files.values()]
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0) + struct.pack(">IHIIQ", name_offsets[0], 2, len(files), 2, 0)
    data = b""
    for offset, block in zip(name_offsets[1:], blocks, strict=True):
        tree += struct.pack(">IHHHIQ", offset, flags, 0, 0, len(data), 0)
        data += struct.pack(">I", len(block)) + block
    header_bytes = 24
    offsets = (header_bytes, header_bytes + len(tree), header_bytes + len(tree) + len(data))
    return b"qres" + struct.pack(">5I", 3, *offsets, 0) + tree + data + b"".join(names)


@pytest.mark.parametrize(
    ("flags", "pack"),
    [(0, bytes), (1, lambda content: struct.pack(">I", len(content)) + zlib.compress(content)), (4, zstd)],
    ids=["plain", "zlib", "zstd"],
)
def test_a_resource_file_gives_its_files_by_path(flags: int, pack: Callable[[bytes], bytes]) -> None:
    files = {"cow.ogg": b"moo" * 100, "hen.ogg": b"cluck"}
    assert read_rcc(make_rcc(files, flags, pack)) == {f"sounds/{name}": content for name, content in files.items()}


def test_a_soundfont_gives_its_ogg_samples_by_name_and_skips_the_others() -> None:
    blocks = {b"Flute C5": b"OggS-one", b"Saw": b"plain", b"Harp A1": b"OggS-three!"}
    samples, records, at = b"", b"", 0
    for name, block in blocks.items():
        records += struct.pack("<20s5IBbHH", name, at, at + len(block), 0, 0, 44100, 60, 0, 0, 1)
        samples, at = samples + block, at + len(block)
    records += struct.pack("<20s5IBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content

    body = b"sfbk" + chunk(b"LIST", b"sdta" + chunk(b"smpl", samples))
    body += chunk(b"LIST", b"pdta" + chunk(b"phdr", b"xx") + chunk(b"shdr", records))
    assert read_sf3(chunk(b"RIFF", body)) == {"Flute C5": b"OggS-one", "Harp A1": b"OggS-three!"}


def test_a_sound_catalogue_gives_its_files_by_number_and_title() -> None:
    title, block = b'"Sheep". Original "baa.wav".\0', b"RIFF....WAVE"
    content = struct.pack("<II", 8 | 0x80000000, len(block)) + bytes([len(title)]) + title + block
    assert read_cat(content) == {"00 Sheep": block}


@pytest.mark.parametrize("read", [read_rcc, read_sf3, read_cat])
def test_a_container_of_another_kind_is_refused(read: Callable[[bytes], dict[str, bytes]]) -> None:
    with pytest.raises(ArchiveError, match="not a"):
        read(b"something else altogether")
