"""Limits of engines that are not configured, apart from what imports vLLM."""

from __future__ import annotations

BATCHED_TOKENS = 8192
"""Tokens that an engine computes in one step at most, unless a single prompt is longer."""
