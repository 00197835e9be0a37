"""The tiers of tests: the folder gives a test its marker and its time limit."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.plug_in_files import PlugIns

TIMEOUT_SECONDS = {"unit": 60, "integration": 300, "faults": 300}
"""Longest time of one test by tier, unless the test carries a `timeout` marker of its own."""

TESTS = Path(__file__).resolve().parent

os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
    VLLM_NO_USAGE_STATS="1",
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background; what the tests start is to hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("auricle", deadline=None, derandomize=True)
settings.register_profile("light", settings.get_profile("auricle"), max_examples=20)
settings.load_profile("auricle")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage in what collection imports, then or later: that is a sixth of the unit tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Undo the freeze where triton is loaded: when a process ends, it reports as leaked what was never looked at."""
    if sys.modules.get("triton") is not None:
        gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier not in TIMEOUT_SECONDS:
            continue
        item.add_marker(getattr(pytest.mark, tier))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS[tier]))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What runs the tests that are coroutines."""
    return "asyncio"


@pytest.fixture
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> PlugIns:
    """Where a test puts plug-ins of its own."""
    return PlugIns(tmp_path, monkeypatch, f"plug_in_{abs(hash(request.node.nodeid))}")
