"""The benchmark of the control loop, with few engines and short steps, for as long as it takes until advice is due."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import control
from cluster.advice import AFTER_STEPS
from cluster.progress import Reporter

PROMPTS = 4
GROUPS = PROMPTS * (AFTER_STEPS + 5)


@pytest.mark.heavy
async def test_every_group_of_simulated_engines_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PROMPTS_PER_STEP", PROMPTS)
    monkeypatch.setattr(control, "SAMPLE_SECONDS", (0.0, 0.01))
    figures = await control.measure(tmp_path, 3, GROUPS, Reporter())
    assert figures["groups"] == GROUPS
