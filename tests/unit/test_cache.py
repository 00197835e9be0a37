"""One directory for everything that is kept between checkouts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data.cache import cache_directory
from data.demo.packages import cache_dir

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "deploy" / "setup"))

import wheelhouse  # noqa: E402


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("AURICLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_it_lies_in_the_users_cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == home / ".cache" / "auricle"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "auricle"


@pytest.mark.parametrize(("given", "place"), [("~/kept", "home/kept"), ("kept", "kept")])
def test_auricle_cache_moves_it_and_is_absolute_from_the_start(
    given: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURICLE_CACHE", given)
    assert cache_directory() == tmp_path / place


@pytest.mark.parametrize(
    "variables", [{}, {"AURICLE_CACHE": "~/kept"}, {"AURICLE_CACHE": "k"}, {"XDG_CACHE_HOME": "x"}]
)
def test_packages_and_setup_use_the_same_one(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == cache_directory() / "packages"
    assert wheelhouse.cache_folder() == cache_directory()
