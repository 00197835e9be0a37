"""The Debian packages that the demo set is made of: pinned, downloaded once, verified.

A package is known by its SHA-256, so a mirror need not be trusted. Files are looked for in the directory named by
`AURICLE_DEBS` (or `--packages`), then in the cache
(`AURICLE_CACHE` moves it), then downloaded into the cache.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cache import cache_directory
from data.whole_file import whole_file

DIRECTORY_VARIABLE = "AURICLE_DEBS"
MIRROR_VARIABLE = "AURICLE_DEBIAN_MIRROR"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


class PackageError(ValueError):
    """A package that cannot be had, or that is not the pinned one."""


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned version of a Debian package."""

    name: str
    version: str
    size_bytes: int
    sha256: str
    pool_path: str
    """Path below the root of a Debian mirror."""
    licence: str
    """Licence of the sounds in it."""
    credit: str
    """Who made the sounds."""

    @property
    def file_name(self) -> str:
        return self.pool_path.rsplit("/", 1)[1]

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names that a file given by hand may have: the mirror's, and apt's with the epoch of the version."""
        return self.file_name, f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"


def _asterisk(language: str, size_bytes: int, sha256: str, licence: str, credit: str) -> Package:
    name = f"asterisk-core-sounds-{language}-gsm"
    path = f"pool/main/a/asterisk-core-sounds/{name}_1.6.1-1_all.deb"
    return Package(name, "1.6.1-1", size_bytes, sha256, path, licence, credit)


PACKAGES = (
    _asterisk(
        "en",
        2_417_168,
        "ddc33205a56aebf54c73a0fb95c3a0d8131087878d74857a4e54bcab2b0d72ae",
        "CC-BY-SA-3.0",
        "Allison Smith",
    ),
    _asterisk(
        "es",
        3_004_752,
        "533b4c29e232cae99f89a6933b5fc0af5341514e513924df401c683e222614b7",
        "CC-BY-SA-3.0",
        "Allison Smith",
    ),
    _asterisk(
        "fr",
        2_466_860,
        "97bd8bebb7ef775046802a5a466d8f89916f54f437e158a1ec537cef814d44fd",
        "CC-BY-SA-3.0",
        "June Wallack",
    ),
    _asterisk(
        "it",
        2_311_332,
        "fb6d6ce94502894714f00240c372a291bcaa4cd3e05fdf278780a4dd9edfabab",
        "CC-BY-SA-3.0",
        "Carlo Flora, segreterietelefoniche.it",
    ),
    _asterisk(
        "ru",
        2_415_624,
        "19770f5c211e8c3a1dc8eefd703382570da7edf00c52db069ebc2a64d5dda4bd",
        "CC-BY-3.0",
        "Maxim Topal, ivrvoice.ru",
    ),
    Package(
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        160_880_444,
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        "pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        "GPL-2+",
        "the Tux Paint stamps project and its speakers",
    ),
    Package(
        "wesnoth-1.16-data",
        "1:1.16.9-1",
        146_229_044,
        "1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26",
        "pool/main/w/wesnoth-1.16/wesnoth-1.16-data_1.16.9-1_all.deb",
        "GPL-2+",
        "the Battle for Wesnoth project",
    ),
    Package(
        "gcompris-qt-data",
        "3.1-2",
        44_196_292,
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        "pool/main/g/gcompris-qt/gcompris-qt-data_3.1-2_all.deb",
        "GPL-3+ and Creative Commons, by file",
        "the GCompris project",
    ),
    Package(
        "scratch",
        "1.4.0.6~dfsg1-6.1",
        25_654_320,
        "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10",
        "pool/main/s/scratch/scratch_1.4.0.6~dfsg1-6.1_all.deb",
        "CC-BY-SA-3.0",
        "the Lifelong Kindergarten Group at the MIT Media Lab",
    ),
    Package(
        "sonic-pi-samples",
        "3.2.2~repack-8",
        21_882_696,
        "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
        "pool/main/s/sonic-pi/sonic-pi-samples_3.2.2~repack-8_all.deb",
        "CC0-1.0",
        "freesound.org contributors, collected by Sonic Pi",
    ),
    Package(
        "fluidr3mono-gm-soundfont",
        "2.315-7",
        18_726_092,
        "4098301bf29f4253c2f5799a844f42dd4aa733d91a210071ad16d7757dea51d6",
        "pool/main/f/fluidr3mono-gm-soundfont/fluidr3mono-gm-soundfont_2.315-7_all.deb",
        "MIT",
        "Frank Wen, Michael Cowgill, Ethan Winer and Michael Schorsch",
    ),
    Package(
        "openttd-opensfx",
        "1.0.3-2",
        9_895_076,
        "2898b4677a3caccc4abc08fb4cf83319047b5a04729291deb5c77a8cd713c006",
        "pool/main/o/openttd-opensfx/openttd-opensfx_1.0.3-2_all.deb",
        "CC-BY-SA-3.0",
        "the OpenSFX project",
    ),
    Package(
        "lmms-common",
        "1.2.2+dfsg1-6",
        8_263_276,
        "7d9aa55dd05f11edc57104203ee1c350e3e41f8936ab3741da2bb1158fd46c37",
        "pool/main/l/lmms/lmms-common_1.2.2+dfsg1-6_all.deb",
        "GPL-2+",
        "the LMMS project and its sample authors",
    ),
)
"""Sizes add up to 449 MB. The files under a licence of their own are named in each package's copyright file."""


def fetch(packages: Sequence[Package] = PACKAGES, directory: Path | None = None) -> dict[str, Path]:
    """Verified file of each package, by name; downloads what is not at hand."""
    if directory is None and (given := os.environ.get(DIRECTORY_VARIABLE)):
        directory = Path(given)
    if directory is not None and not directory.is_dir():
        raise PackageError(
            f"{DIRECTORY_VARIABLE} (or --packages) is {directory}, which is no directory; name one with .deb files"
        )
    return {package.name: _locate(package, directory) for package in packages}


def cache_dir() -> Path:
    return cache_directory() / "packages"


def _locate(package: Package, directory: Path | None) -> Path:
    for place in (directory, cache_dir()):
        for file_name in package.file_names:
            if place is not None and (path := place / file_name).is_file():
                verify(package, path)
                return path
    path = cache_dir() / package.file_name
    _download(package, path)
    return path


def verify(package: Package, path: Path) -> None:
    """Raise unless `path` is the pinned file."""
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != package.sha256:
        raise PackageError(
            f"{path} has SHA-256 {found}, but {package.name} {package.version} is pinned to {package.sha256}; delete "
            f"the file to download it again, or put the right one into {DIRECTORY_VARIABLE}"
        )


def _download(package: Package, path: Path) -> None:
    mirror = os.environ.get(MIRROR_VARIABLE, DEFAULT_MIRROR).rstrip("/")
    address = f"{mirror}/{package.pool_path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as partial:
            with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as reply, partial.open("wb") as handle:
                received_bytes = 0
                while block := reply.read(BLOCK_BYTES):
                    handle.write(block)
                    received_bytes += len(block)
                    _progress(package, received_bytes)
            verify(package, partial)
    except urllib.error.HTTPError as error:
        gone = error.code in (404, 410)
        raise PackageError(_missing(package, address, f"answers {error.code} {error.reason}", gone)) from error
    except OSError as error:
        raise PackageError(_missing(package, address, str(error), gone=False)) from error


def _missing(package: Package, address: str, reason: str, gone: bool) -> str:
    what = "this version has gone from the mirror" if gone else "the mirror was not reached"
    return (
        f"{package.name} {package.version}: {what} ({address}: {reason}). Put the file {package.file_name} "
        f"({package.size_bytes} bytes, SHA-256 {package.sha256}) into a directory and name the directory in "
        f"{DIRECTORY_VARIABLE} (`apt-get download {package.name}={package.version}` may still have it), or set "
        f"{MIRROR_VARIABLE} to a mirror that has it"
    )


def _progress(package: Package, received_bytes: int) -> None:
    end = "\n" if received_bytes >= package.size_bytes else ""
    if sys.stderr.isatty() or end:
        share = f"{received_bytes / 1e6:6.1f} of {package.size_bytes / 1e6:.1f} MB"
        print(f"\r{package.file_name}: {share}", end=end, file=sys.stderr, flush=True)
