"""Engines and audio actors for the length of a block: what a run, an evaluation and a single question share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cluster.asking import Asker
from cluster.placement import Role
from cluster.workers import Workers
from configs.schema import Config
from data.prompts import PromptEncoder
from data.types import ClipSource, Example
from learner.hf_files import load_processor

WARM_UP = Example("warm-up", ClipSource("warm-up"), "What is heard?", ("a", "b"), "a")


@asynccontextmanager
async def workers(
    config: Config, roles: Sequence[Role], model_path: str, version: int = 0
) -> AsyncIterator[tuple[Workers, Asker, list[dict[str, Any]]]]:
    """Start the actors of `roles`, wait for the engines, and end them all afterwards.

    Yields the workers, what makes prompts for them, and where each engine lives.
    """
    processor = load_processor(model_path)
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, config.data.prompt)
    path = os.path.abspath(model_path) if os.path.exists(model_path) else model_path
    started = Workers(config, roles, path, version, processor.stop_token_ids)
    try:
        places = await started.ready(encoder.encode(WARM_UP))
        yield started, Asker(config, encoder, started.audio), places
    finally:
        started.stop()
