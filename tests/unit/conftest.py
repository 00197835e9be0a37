"""What the unit tests share: a small model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 2 layers x 64, with fewer key-value heads than heads; a test that changes it copies it."""
    from tests.tiny_models import model_directory  # no other test is to wait for torch

    return model_directory(tmp_path_factory.mktemp("model"))
