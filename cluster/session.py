"""Engines and audio actors for the length of a block: what a run, an evaluation and a single question share."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cluster.asking import Asker
from cluster.checkpoints import BrokenCheckpoint
from cluster.errors import tasks
from cluster.nodes import existing_address
from cluster.placement import Node, Role
from cluster.storage import prove
from cluster.targets import Targets
from cluster.workers import Workers
from configs.schema import Config, Metrics
from data.checksums import changed_part
from data.prompts import PromptEncoder
from data.remote import discard, is_url, written
from data.types import ClipSource, Example
from learner.hf_files import load_processor, model_directory
from learner.released import check_model, for_engines

WARM_UP = Example("warm-up", ClipSource("warm-up"), "What is heard?", ("a", "b"), "a")


@asynccontextmanager
async def workers(
    config: Config,
    nodes: Sequence[Node],
    roles: Sequence[Role],
    model_path: str,
    version: int = 0,
    export: str | None = None,
    meanwhile: Callable[[Workers], Awaitable[None]] | None = None,
    say: Callable[[str], None] = print,
    targets: Targets | None = None,
) -> AsyncIterator[tuple[Workers, Asker, list[dict[str, Any]]]]:
    """Start the actors of `roles`, wait for the engines, and end them all afterwards.

    Yields the workers, what makes prompts for them, and where each engine lives.

    Args:
        config: the run, or a session that only asks.
        nodes: what `roles` were planned on; those that join later are put to use.
        roles: actors to start.
        model_path: model directory or hub id.
        version: policy version of these weights.
        export: path or URL where `engine_model` may write, on storage that every node reads; default: a temporary
            directory of this machine.
        meanwhile: what else is to be started while the engines compile.
        say: tells the user of an engine that was lost.
        targets: told of every actor that serves metrics; without it none does.
    """
    config = from_anywhere(config)
    if targets is None:
        config = config.model_copy(update={"metrics": Metrics()})
    processor = load_processor(model_path)
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, config.data.prompt)
    with tempfile.TemporaryDirectory(prefix="auricle-") as temporary:
        path = engine_model(model_path, export or f"{temporary}/engine_model")
        planned_on = {node.name for node in nodes}
        started = Workers(config, roles, path, version, processor.stop_token_ids, planned_on, say, targets)
        try:
            if export is None and existing_address() is not None and os.path.isdir(path):
                prove(None, [path])  # a run, which gives `export`, has had its storage proven
            await started.place()
            others = [meanwhile(started)] if meanwhile else []
            places, *_ = await asyncio.gather(started.ready(encoder.encode(WARM_UP)), *others)
            async with tasks() as group:
                watching = group.create_task(started.watch())
                yield started, Asker(config, encoder, started.audio), places
                watching.cancel()
        finally:
            started.stop()


def usable_model(path: str) -> str:
    """`model_directory` of a checkpoint, directory or hub id, which is refused here when it is no model of ours.

    Raises:
        BrokenCheckpoint: it is a checkpoint's, and not as it was written.
        ModelError: it is no model of ours.
    """
    found = model_directory(path)
    if changed := changed_part(Path(found)):
        raise BrokenCheckpoint(f"{path} is broken: {', '.join(changed[:3])}; take another checkpoint, or a copy of it")
    load_processor(found)
    check_model(found)
    return found


def from_anywhere(config: Config) -> Config:
    """The configuration with `data.feature_cache` absolute: actors of a joined cluster start in other directories."""
    if config.data.feature_cache is None:
        return config
    place = str(Path(config.data.feature_cache).expanduser().absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"feature_cache": place})})


def engine_model(model_path: str, export: str) -> str:
    """The model that the actors load: `model_path` where vLLM takes it as it is, else an export of it at `export`.

    A directory is given as an absolute path, a hub id or URL as it is, for every node to fetch. What an interrupted run
    left at `export` is removed.
    """
    discard(export)
    with written(export) as folder:
        if for_engines(model_path, folder) == folder:
            return export if is_url(export) else os.path.abspath(export)
    return os.path.abspath(model_path) if os.path.exists(model_path) else model_path
