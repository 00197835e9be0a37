"""`Timings` from what synchronous runs left: `metrics.jsonl`, the rollout log and the configuration.

Only where `algorithm.max_staleness` is 0 do sampling and training not overlap, so that the phases of a step tell what
each takes alone. Left out are the first steps, which warm up, and each step around a checkpoint, an evaluation or a
check of the engines, whose groups were sampled meanwhile.

The engines are asked for a step's groups between two steps, as soon as they have the weights: what the times of the
lines are further apart than the phases add up to is the control loop's. Sampling is fitted, over steps, by non-negative
least squares: seconds from there to the last reward = decoding steps of the longest completion x `step_seconds` +
decoded tokens x `sequence_seconds` + prompts x (`request_seconds` + `prompt_seconds`), all of one engine. Steps of one
configuration have about as many tokens as prompts, so that one run cannot tell these apart; one more with other lengths
(`rollout.ignore_stop=true`) can. Without it a token is taken to cost the same in a prompt and in a completion, and
`known` says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from scipy.optimize import nnls

from actors.limits import GATHER_SECONDS
from cluster.forecast.timings import Timings
from data.step_files import shard_name

MEASURED = "measured"
WARM_UP_STEPS = 2
LEAST_STEPS = 10
MOST_GROUPS = 1000
"""Whose lengths are kept."""
MOST_DROPPED = 0.02
"""Of the groups that a run sampled; the time that they took counts as that of the others."""
UNASKED = ("clip_", "prompt_")
"""How reasons of drops begin that come before sampling."""
LEAST_APART = 1.5
"""Decoded tokens a prompt of one run over those of another, from which on they are told from prompts."""
PASSES = ("reference", "forward", "backward")
BESIDE = ("pack", "optimizer")


class CalibrationError(ValueError):
    """A run that tells too little; the message names it, and the mend."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of a synchronous run."""

    line: Mapping[str, Any]
    """Of `metrics.jsonl`."""
    groups: tuple[tuple[int, ...], ...]
    """Tokens of each completion of its groups, in the order of their start."""
    between_seconds: float
    """Between its line and the one before it, less its phases."""

    @property
    def sampling_seconds(self) -> float:
        """From the first prompt to the last reward."""
        return sum(float(self.line["seconds"][phase]) for phase in ("encode", "sample", "score"))

    @property
    def load_seconds(self) -> float:
        """In which engines went on loading when the learner had published."""
        return max(float(self.line["sync_seconds"]) - float(self.line["publish_seconds"]), 0.0)

    @property
    def prompt_tokens(self) -> float:
        """Packed positions of its prompts."""
        return float(self.line["packed_tokens"]) - sum(sum(group) - len(group) for group in self.groups)

    @property
    def slowest(self) -> tuple[tuple[int, ...], ...]:
        """Groups of the engine that decodes longest, where they are dealt in turn."""
        engines = int(self.line["engines"])
        return max((self.groups[number::engines] for number in range(engines)), key=lambda part: max(map(max, part)))

    @property
    def busy_seconds(self) -> float:
        """Of an engine in the mean, as it reports it, without loading."""
        return float(self.line["rollout_busy"]) * float(self.line["step_seconds"]) - self.load_seconds


def records(path: Path) -> tuple[Mapping[str, Any], list[StepRecord]]:
    """Configuration and usable steps of a run directory.

    Raises:
        CalibrationError: it is none, or of no synchronous run, or too short.
    """
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    except OSError as error:
        raise CalibrationError(f"{path} is no run directory: {error.strerror}: {error.filename}") from error
    if config["algorithm"]["name"] == "sft":
        raise CalibrationError(f"{path} is a run of supervised fine-tuning, which samples nothing")
    if config["algorithm"]["max_staleness"]:
        raise CalibrationError(
            f"{path} ran with algorithm.max_staleness {config['algorithm']['max_staleness']}: its phases overlap, and "
            "do not tell what each takes; calibrate with a run of 0"
        )
    found = list(_usable(path, config, lines))
    if len(found) < LEAST_STEPS:
        raise CalibrationError(f"{path} has {len(found)} usable steps of {len(lines)}: give a run of 40 or more")
    if (share := _dropped_share(lines[-1])) > MOST_DROPPED:
        raise CalibrationError(
            f"{path} has dropped {share:.0%} of the groups that it sampled, and does not tell what they took: "
            "calibrate with a run of algorithm.dynamic_sampling: false, whose rewards do not fail"
        )
    return config, found


def _usable(path: Path, config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Iterator[StepRecord]:
    interruptions = (
        config["rollout"]["verify_every"],
        config["checkpoint"]["every_steps"],
        config["evaluate"]["every_steps"],
    )
    for before, line in pairwise(lines):
        if not _shard(path, line["step"]).exists():  # the log is bounded
            continue
        around = (before["step"], line["step"])
        if before["step"] >= WARM_UP_STEPS and all(step % every for step in around for every in interruptions if every):
            between = line["time"] - before["time"] - line["step_seconds"]
            yield StepRecord(line, _lengths(_shard(path, line["step"])), max(between, 0.0))


def _shard(run: Path, step: int) -> Path:
    return run / "rollouts" / shard_name(step)


def _lengths(shard: Path) -> tuple[tuple[int, ...], ...]:
    """Tokens of the completions of the groups that a step trained."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shard, columns=["token_ids", "drop_reason"])
    return tuple(
        tuple(max(len(tokens), 1) for tokens in row["token_ids"])
        for row in rows.to_pylist()
        if row["drop_reason"] is None
    )


def timings_of(paths: Sequence[Path]) -> Timings:
    """Timings of one or more synchronous runs on the same devices; lengths and learner are those of the first.

    Raises:
        CalibrationError: a run that cannot be used.
    """
    read = [records(path) for path in paths]
    config, first = read[0]
    for path, (other, _) in zip(paths, read, strict=True):
        if other["algorithm"]["group_size"] != config["algorithm"]["group_size"]:
            raise CalibrationError(f"{path} has another algorithm.group_size than {paths[0]}")
    pooled = [record for _, own in read for record in own]
    score = fmean([record.line["seconds"]["score"] for record in pooled])
    between = fmean([record.between_seconds for record in pooled])
    control = between / fmean([len(record.groups) for record in pooled])
    beside = GATHER_SECONDS + score + control - between  # of the phases, what is no engine's
    decoded = [
        fmean([sum(sum(group) - len(group) for group in record.groups) / len(record.groups) for record in own])
        for _, own in read
    ]
    told_apart = max(decoded) > LEAST_APART * min(decoded)
    step_seconds, sequence_seconds, group_seconds = _fit(pooled, beside, told_apart)
    request = _request_seconds(pooled, beside)
    ranks = int(config["learner"]["ranks"])
    tokens = sum(float(record.line["packed_tokens"]) for record in first)
    prompts = sum(len(record.groups) for record in first)
    groups = [group for record in first for group in record.groups]
    apart = MEASURED if told_apart else "assumed: a token costs the same in a prompt and in a completion"
    return Timings(
        name=f"{config['run']['name']} ({len(pooled)} steps of {len(paths)} run{'s' * (len(paths) > 1)})",
        known={
            "step_seconds": MEASURED,
            "sequence_seconds": apart,
            "read_seconds": "not told apart from step_seconds",
            "cache_seconds": "not told apart from sequence_seconds",
            "request_seconds": MEASURED,
            "prompt_seconds": apart,
            "gather_seconds": "as in the code",
            "load_seconds": MEASURED,
            "token_seconds": MEASURED,
            "update_seconds": MEASURED,
            "exchange_seconds": "assumed: one rank exchanges nothing" if ranks == 1 else "in update_seconds",
            "publish_seconds": MEASURED,
            "encode_seconds": "assumed: clips are prepared ahead, as from the second epoch on",
            "control_seconds": MEASURED,
            "score_seconds": MEASURED,
            "wait_seconds": MEASURED,
            "weights_bytes": MEASURED,
            "network_gigabytes_per_second": "assumed",
            "groups": MEASURED,
        },
        step_seconds=step_seconds,
        sequence_seconds=sequence_seconds,
        request_seconds=min(request, group_seconds),
        prompt_seconds=max(group_seconds - request, 0.0),
        gather_seconds=GATHER_SECONDS,
        load_seconds=fmean([record.load_seconds for record in pooled]),
        token_seconds=ranks * sum(_phases(record, PASSES) for record in first) / tokens,
        update_seconds=fmean([_phases(record, BESIDE) for record in first]),
        publish_seconds=fmean([record.line["publish_seconds"] for record in pooled]),
        control_seconds=control,
        score_seconds=score,
        wait_seconds=fmean([record.line["seconds"]["wait"] for record in first]),
        weights_bytes=float(first[0].line["sync_bytes"]),
        prompt_tokens=sum(record.prompt_tokens for record in first) / prompts,
        groups=tuple(groups[:: -(-len(groups) // MOST_GROUPS)]),
        dropped_share=_dropped_share(first[-1].line),
    )


def _fit(pooled: Sequence[StepRecord], beside: float, told_apart: bool) -> tuple[float, float, float]:
    """Seconds of a decoding step, of a token in it and of a prompt, of which the last two may not be told apart."""
    rows, seconds = [], []
    for record in pooled:
        part = record.slowest
        decoded = sum(sum(group) - len(group) for group in part)
        prompt_tokens = record.prompt_tokens * len(part) / len(record.groups)
        rows.append((max(map(max, part)) - 1, decoded, len(part), prompt_tokens))
        seconds.append(record.sampling_seconds - beside)
    steps, decoded, prompts, of_prompts = np.array(rows, dtype=float).T
    if told_apart:
        found, _ = nnls(np.column_stack([steps, decoded, prompts]), np.array(seconds))
        return float(found[0]), float(found[1]), float(found[2])
    found, _ = nnls(np.column_stack([steps, decoded + of_prompts]), np.array(seconds))
    return float(found[0]), float(found[1]), float(found[1] * of_prompts.sum() / prompts.sum())


def _request_seconds(pooled: Sequence[StepRecord], beside: float) -> float:
    """Of an engine for a group beside its steps: what its own count of busy seconds leaves out."""
    apart = [record.sampling_seconds - beside - record.busy_seconds for record in pooled]
    prompts = [len(record.groups) / int(record.line["engines"]) for record in pooled]
    return max(sum(apart) / sum(prompts), 0.0)


def _dropped_share(line: Mapping[str, Any]) -> float:
    """Of the groups that were sampled up to a line; questions that could not be asked are none of them."""
    dropped = sum(count for why, count in line["dropped_by_reason"].items() if not why.startswith(UNASKED))
    return float(dropped / max(dropped + int(line["trained"]), 1))


def _phases(record: StepRecord, names: Sequence[str]) -> float:
    return sum(float(record.line["seconds"].get(name, 0.0)) for name in names)
