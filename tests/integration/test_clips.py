"""The features of clips outlive the audio actor that made them, and its node."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import soundfile
from ray.cluster_utils import Cluster

from actors.audio import AudioActor
from cluster.clips import AudioPool
from cluster.workers import STARTED_AGAIN
from configs.schema import Config
from data.audio import SAMPLE_RATE
from data.types import Clip, ClipSource
from tests.integration.commands import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MEMORY_BYTES = 80_000_000
SECONDS = 10
"""Of a clip: its features are too large to lie anywhere but in the object store of the actor's node."""
ANSWER_SECONDS = 120


def losses(model: str, folder: str) -> dict[str, Any]:
    """Lose an audio actor's process, then its node, on a cluster of this process's own; gives what was there then."""
    settings = {"object_store_memory": MEMORY_BYTES}
    cluster = Cluster(True, True, {"num_cpus": 0, **settings})
    config = Config.model_validate({"model": {"path": model, "audio_tower": "trained"}, "data": {"train": "unused"}})
    try:
        node = cluster.add_node(num_cpus=1, **settings)
        actor = AudioActor.options(num_cpus=1, **STARTED_AGAIN).remote(config, model, 1)  # type: ignore[attr-defined]
        return asyncio.run(lost(AudioPool([actor], config), actor, cluster, node, Path(folder)))
    finally:
        ray.shutdown()
        cluster.shutdown()


async def lost(pool: AudioPool, actor: Any, cluster: Cluster, node: Any, folder: Path) -> dict[str, Any]:
    clips = []
    for number in range(2):
        waveform = 0.1 * np.random.default_rng(number).standard_normal(SECONDS * SAMPLE_RATE)
        soundfile.write(folder / f"{number}.wav", waveform, SAMPLE_RATE)
        clips.append(ClipSource(str(folder / f"{number}.wav")))
    one = await pool.prepare(clips[0])
    assert isinstance(one, Clip)
    process = ray.get(actor.beat.remote())
    os.kill(process, signal.SIGKILL)
    kept = ray.get(one.features, timeout=ANSWER_SECONDS).mel.copy()
    two = await pool.prepare(clips[1])
    again = ray.get(actor.beat.remote())
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
    cluster.remove_node(node, allow_graceful=False)
    remade = ray.get(one.features, timeout=ANSWER_SECONDS).mel
    return {
        "same clip": await pool.prepare(clips[0]) is one,
        "another after the loss": isinstance(two, Clip),
        "another process": again != process,
        "the same features": bool((remade == kept).all()),
        "mel frames": remade.shape[1],
    }


def test_features_are_there_after_the_loss_of_an_audio_actor_and_of_its_node(model: Path, tmp_path: Path) -> None:
    script = (
        "import json, sys; from tests.integration.test_clips import losses; print(json.dumps(losses(*sys.argv[1:])))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(model), str(tmp_path)], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert found.pop("mel frames") >= 100 * SECONDS
    assert all(found.values()), found
