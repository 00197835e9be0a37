"""Limits of engines that are not configured, apart from what imports vLLM."""

from __future__ import annotations

BATCHED_TOKENS = 8192
"""Tokens that an engine computes in one step at most, unless a single prompt is longer."""

GATHER_SECONDS = 0.01
"""How long an engine that was idle waits for others after a first request: what is asked together then starts together,
instead of after the first prompt's step."""
