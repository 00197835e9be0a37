"""Copied into a clone and started there: tells which files the rooms are, in this process and in real actors."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

import ray

from cluster.nodes import connected
from cluster.placement import plan
from cluster.session import workers
from configs.schema import Config

ROOMS = ("configs", "data", "rewards", "learner", "actors", "cluster")


def files(*_: Any) -> dict[str, str | None]:
    """File of every room."""
    return {room: importlib.import_module(room).__file__ for room in ROOMS}


async def _ask(config: Config, nodes: Any, roles: Any) -> dict[str, Any]:
    async with workers(config, nodes, roles, config.model.path) as (started, _, _):
        [engine] = started.rollout.actors.values()
        [reward] = started.rollout.rewards
        function = ray.remote(files).remote()
        answers = await asyncio.gather(engine.__ray_call__.remote(files), reward.__ray_call__.remote(files), function)
        return dict(zip(("rollout actor", "reward actor", "function"), answers, strict=True))


def main(model: str) -> None:
    """Print the files as JSON on the last line."""
    config = Config.model_validate(
        {
            "model": {"path": model, "audio_tower": "frozen", "projector": "frozen"},
            "data": {"train": "unused"},
            "rewards": [{"use": "my_plugin:reward"}],
        }
    )
    with connected(config.cluster, print) as nodes:
        roles = [role for role in plan(config, nodes) if role.name in ("engine", "reward")]
        print(json.dumps({"driver": files(), **asyncio.run(_ask(config, nodes, roles))}))


if __name__ == "__main__":
    main(sys.argv[1])
