"""What a learner rank serves of itself, asked of the actor without Ray."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest

from actors.learner import LearnerActor
from configs.schema import Config
from learner.result import LessonResult

RANK = LearnerActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]


class Taught:
    """A learner that takes every step alike."""

    def teach(self, *_: Any) -> LessonResult:
        return LessonResult(0.5, 1.0, 1e-3, 1, 10, 60, 40, {"forward": 0.5, "backward": 1.5})


@pytest.mark.parametrize("port", [None, 0])
def test_a_rank_serves_its_steps_where_the_run_serves_metrics(port: int | None) -> None:
    config = Config.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "metrics": {"port": port}})
    rank = RANK(config, 0)
    rank._learner = Taught()
    for step in range(3):
        rank.teach([], step)
    endpoint = rank.endpoint()
    if port is None:
        assert endpoint is None
        return
    with urlopen(f"http://{endpoint.address}/metrics", timeout=10) as answer:
        told = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    assert float(told["auricle_rank_steps_total"]) == 3
    assert float(told["auricle_rank_packed_tokens_total"]) == 120
    assert float(told['auricle_rank_phase_seconds_total{phase="backward"}']) == 4.5
    assert float(told["auricle_rank_process_peak_bytes"]) >= float(told["process_resident_memory_bytes"])
