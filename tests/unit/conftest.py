"""What the unit tests share: a small model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.modules["triton"] = None  # type: ignore[assignment]
"""Nothing of it is used on CPUs. What imports vLLM would load it, and at the end of each process it prints that it has
leaked what `tests.conftest` keeps from being looked for."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 2 layers x 64, with fewer key-value heads than heads; a test that changes it copies it."""
    from tests.tiny_models import model_directory  # no other test is to wait for torch

    return model_directory(tmp_path_factory.mktemp("model"))
