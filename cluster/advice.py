"""What is amiss with a run while it goes on, and the mend: told once, from the lines of its last steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from configs.schema import Config

AFTER_STEPS = 20
"""Steps of this launch that a piece of advice looks back on."""
MOST_ALIKE, LEAST_FORMAT, MOST_TRUNCATED = 0.8, 0.5, 0.5
"""Shares of groups without variance, of completions with the format, and of truncated completions."""
FEW_EFFECTIVE, OFTEN = 0.9, 3
"""Effective sample size, as a share of the tokens, and in how many of these steps one is to be lower."""
NEARLY_ALL = 0.9
"""Of a mean accuracy: above it the questions count as too easy, below the rest of one as too hard."""

Line = Mapping[str, Any]


class Adviser:
    """Looks at each step and says what is amiss in the last ones, each thing once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lines: deque[Line] = deque(maxlen=AFTER_STEPS)
        self._waiting: list[Callable[[Config, Sequence[Line]], str | None]] = [
            alike,
            without_format,
            truncated,
            drifting,
        ]
        """What has not been said yet."""

    def look(self, line: Line) -> list[str]:
        """What to tell after this line of `metrics.jsonl`."""
        self._lines.append(line)
        if len(self._lines) < AFTER_STEPS or "reward_mean" not in line:
            return []
        found = {kind: kind(self._config, list(self._lines)) for kind in self._waiting}
        self._waiting = [kind for kind, text in found.items() if text is None]
        return [text for text in found.values() if text is not None]


def alike(config: Config, lines: Sequence[Line]) -> str | None:
    """Groups whose completions score alike teach nothing."""
    dynamic = config.algorithm.dynamic_sampling
    prompts = config.algorithm.prompts_per_step
    share = _dropped_alike(lines) if dynamic else fmean(line["zero_variance_groups"] for line in lines) / prompts
    if share <= MOST_ALIKE:
        return None
    known = [line["accuracy"] for line in lines if line["accuracy"] is not None]
    accuracy = fmean(known) if known else None
    if accuracy is not None and accuracy > NEARLY_ALL:
        mend = f"nearly all completions are right ({accuracy:.0%}): train on harder questions"
    elif accuracy is not None and accuracy < 1 - NEARLY_ALL:
        mend = f"hardly a completion is right ({accuracy:.0%}): train on easier questions, or fine-tune first with "
        mend += "algorithm.name=sft and go on from there with run.init_from"
    else:
        mend = "raise rollout.temperature or algorithm.group_size"
    by_kl = config.algorithm.kl_in == "reward" and config.algorithm.beta > 0
    costs = "are sampled in vain" if dynamic else "teach by their KL alone" if by_kl else "teach nothing"
    mend += "" if dynamic else "; algorithm.dynamic_sampling=true samples others in place"
    return _told(f"{share:.0%} of the groups score alike and {costs}", mend)


def without_format(config: Config, lines: Sequence[Line]) -> str | None:
    """Completions without the form that the prompt asks for; known where a reward tells of it."""
    name = next((term.name or term.use for term in config.rewards if term.use in ("format", "think_format")), None)
    if name is None:
        return None
    rate = fmean(line["rewards"][name] for line in lines)
    if rate >= LEAST_FORMAT:
        return None
    mend = (
        "fine-tune first with algorithm.name=sft and go on with run.init_from, raise the weight of that reward, or "
        "choose another data.prompt"
    )
    return _told(f"only {rate:.0%} of the completions have the form that the reward {name!r} asks for", mend)


def truncated(config: Config, lines: Sequence[Line]) -> str | None:
    """Completions that are cut at their longest."""
    asked = config.algorithm.prompts_per_step * config.algorithm.group_size
    share = fmean(line["truncated"] for line in lines) / asked
    longest = config.rollout.max_completion_tokens
    if share <= MOST_TRUNCATED or config.rollout.ignore_stop:
        return None
    mend = f"raise rollout.max_completion_tokens ({longest}), or have long ones lose reward with "
    return _told(f"{share:.0%} of the completions are cut off", mend + "algorithm.overlong_share")


def drifting(config: Config, lines: Sequence[Line]) -> str | None:
    """A policy that moves on faster than those who sample for it can follow, and may lose what it knows."""
    few = sum(line["off_policy"]["effective_sample_size"] < FEW_EFFECTIVE for line in lines)
    if few < OFTEN or config.algorithm.max_staleness == 0:
        return None
    what = f"the stale tokens of {few} were worth less than {FEW_EFFECTIVE:.0%} of their number"
    return _told(what, "lower learner.learning_rate or algorithm.max_staleness")


def _dropped_alike(lines: Sequence[Line]) -> float:
    """Of the groups of these steps, those that dynamic sampling has dropped."""
    (first, trained_first), (last, trained_last) = (
        (line["dropped_by_reason"].get("zero_variance", 0), line["trained"]) for line in (lines[0], lines[-1])
    )
    dropped, trained = last - first, trained_last - trained_first
    return float(dropped / (dropped + trained))


def _told(what: str, mend: str) -> str:
    return f"advice: in the last {AFTER_STEPS} steps {what}; {mend}"
