"""Which GPUs Ray lets the processes of an embedded cluster see. CUDA is asked nothing: any numbers do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import ray

from cluster import nodes
from cluster.nodes import connected
from cluster.placement import Role
from cluster.places import Places
from cluster.workers import only_its_gpus
from configs.schema import Cluster
from tests.integration.commands import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MEMORY_BYTES = 80_000_000
WITH, WITHOUT = Role("engine", 4, 1.0, 1.0, "SPREAD", ""), Role("learner", 1, 0.5, 0.0, "SPREAD", "")
TOGETHER_SECONDS = 2.0
"""For which each holds its GPU, so that no two get the same in turn."""


def seen() -> dict[str, list[str | None]]:
    """What processes see that reserve a GPU, and one that does not, on two nodes of a machine with four."""
    nodes.gpu_count = lambda: 4  # type: ignore[assignment]

    @ray.remote
    def visible() -> str | None:
        time.sleep(TOGETHER_SECONDS)
        return os.environ.get(nodes.VISIBLE_GPUS)

    async def of(role: Role) -> list[str | None]:
        options = {"runtime_env": {"env_vars": only_its_gpus(role)}}
        calls = [visible.options(**place, **options).remote() for place in await places.reserve(role)]
        return await asyncio.gather(*calls)

    with connected(Cluster(nodes=2, cpus_per_node=4, object_store_bytes=MEMORY_BYTES), print):
        places = Places(60)
        return {role.name: asyncio.run(of(role)) for role in (WITH, WITHOUT)}


def test_every_gpu_of_the_machine_is_one_processs_and_who_reserved_none_sees_none() -> None:
    script = "import json; from tests.integration.test_gpus import seen; print(json.dumps(seen()))"
    env = {key: value for key, value in os.environ.items() if key != nodes.VISIBLE_GPUS}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT, env=env)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    assert sorted(found["engine"]) == ["0", "1", "2", "3"]
    assert found["learner"] == [""]
