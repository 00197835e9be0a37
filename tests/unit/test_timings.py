"""Timings as a file, and from runs whose steps were made to take what is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from actors.limits import GATHER_SECONDS
from actors.log import SCHEMA
from bench.calibration import MEASURED, CalibrationError, timings_of
from bench.timings_file import TimingsError, read_timings, write_timings
from cluster.forecast.timings import Timings

STEP, SEQUENCE, REQUEST, PROMPT, SCORE = 0.004, 0.0003, 0.006, 0.011, 0.0008
TOKEN, UPDATE, LOAD, PUBLISH, WAIT, CONTROL = 7e-5, 0.012, 0.03, 0.01, 0.013, 0.002
PROMPT_TOKENS, GROUP_SIZE, PROMPTS = 50, 4, 6


def clips_are_missing(step: int) -> dict[str, int]:
    return {"clip_missing": step}


def write_run(
    path: Path,
    lengths: Callable[[Random], int],
    steps: int = 20,
    dropped: Callable[[int], dict[str, int]] = clips_are_missing,
    **changes: Any,
) -> Path:
    """A synchronous run of one engine, by the figures above, as its directory would tell of it."""
    random = Random(3)
    config: dict[str, Any] = {
        "run": {"name": path.name},
        "rollout": {"verify_every": 7},
        "learner": {"ranks": 1},
        "algorithm": {"name": "grpo", "max_staleness": 0, "group_size": GROUP_SIZE, **changes},
        "checkpoint": {"every_steps": 0},
        "evaluate": {"every_steps": 0},
    }
    (path / "rollouts").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines, now = [], 1e9
    for step in range(1, steps + 1):
        groups = [[lengths(random) for _ in range(GROUP_SIZE)] for _ in range(PROMPTS)]
        decoded = sum(sum(group) - GROUP_SIZE for group in groups)
        computing = STEP * (max(map(max, groups)) - 1) + SEQUENCE * decoded + PROMPT * PROMPTS
        sampling = CONTROL + GATHER_SECONDS + computing + REQUEST * PROMPTS - CONTROL * PROMPTS
        if step in (1, 2, 8, 15):
            sampling = 9.0  # it warms up, or its groups were sampled while engines were checked
        now += 5.0 if step in (7, 14) else CONTROL * PROMPTS  # engines are checked, or groups are asked for
        packed = PROMPTS * PROMPT_TOKENS + decoded
        seconds = {"encode": 0.0, "sample": sampling, "score": SCORE, "forward": TOKEN * packed / 3, "wait": WAIT}
        seconds |= {"backward": TOKEN * packed * 2 / 3, "pack": UPDATE / 2, "optimizer": UPDATE / 2, "sync": 0.05}
        whole = sum(seconds.values())
        now += whole
        lines.append(
            {
                "step": step, "time": now, "seconds": seconds, "step_seconds": whole, "engines": 1,
                "packed_tokens": packed, "publish_seconds": PUBLISH, "sync_seconds": PUBLISH + LOAD, "sync_bytes": 3e6,
                "trained": PROMPTS * step, "dropped_by_reason": dropped(step),
                "rollout_busy": (computing + LOAD) / whole,
            }
        )  # fmt: skip
        rows = [{"token_ids": [[1] * length for length in group], "drop_reason": None} for group in groups]
        rows.append({"token_ids": None, "drop_reason": "clip_missing"})
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path / "rollouts" / f"step_{step:06d}.parquet")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def short(random: Random) -> int:
    return random.choice((2, 3, 3, 4, 9))


def long(random: Random) -> int:
    return 24


def test_two_runs_of_different_lengths_tell_all_that_their_steps_were_made_of(tmp_path: Path) -> None:
    found = timings_of([write_run(tmp_path / "short", short), write_run(tmp_path / "long", long)])
    told = {
        "step_seconds": STEP, "sequence_seconds": SEQUENCE, "request_seconds": REQUEST, "prompt_seconds": PROMPT,
        "load_seconds": LOAD, "token_seconds": TOKEN, "update_seconds": UPDATE, "publish_seconds": PUBLISH,
        "control_seconds": CONTROL, "score_seconds": SCORE, "wait_seconds": WAIT, "weights_bytes": 3e6,
        "prompt_tokens": PROMPT_TOKENS, "dropped_share": 0.0,
    }  # fmt: skip
    assert {name: getattr(found, name) for name in told} == pytest.approx(told, rel=1e-6)
    assert found.known["sequence_seconds"] == MEASURED
    assert {length for group in found.groups for length in group} == {2, 3, 4, 9}


def test_one_run_does_not_tell_a_token_from_a_prompt_and_says_so(tmp_path: Path) -> None:
    found = timings_of([write_run(tmp_path / "short", short)])
    assert found.known["prompt_seconds"].startswith("assumed: a token costs the same")
    assert found.request_seconds == pytest.approx(REQUEST)
    assert found.prompt_seconds + found.request_seconds == pytest.approx(PROMPT_TOKENS * found.sequence_seconds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_staleness": 1}, "ran with algorithm.max_staleness 1: its phases overlap"),
        ({"name": "sft"}, "supervised fine-tuning, which samples nothing"),
        ({"steps": 9}, "has 5 usable steps of 9"),
        ({"dropped": lambda step: {"zero_variance": step}}, "has dropped .* of the groups that it sampled"),
    ],
)
def test_a_run_that_tells_too_little_is_refused_with_its_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = write_run(tmp_path / "run", short, **changes)
    with pytest.raises(CalibrationError, match=rf"{run} .*{message}"):
        timings_of([run])


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"is no run directory: No such file.*config\.yaml"):
        timings_of([tmp_path])


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    of = Timings(name="some", known={"groups": MEASURED}, step_seconds=0.1, prompt_tokens=3, groups=((1, 2), (3, 4)))
    write_timings(of, tmp_path / "timings.json")
    assert read_timings(tmp_path / "timings.json") == of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no timings: .*invalid json"),
        ('{"name": "a", "prompt_tokens": 1, "groups": [[1]], "decode_seconds": 1}', "decode_seconds extra inputs"),
        ('{"name": "a", "prompt_tokens": 1, "groups": [[1], [1, 2]]}', r"groups have \[1, 2\] completions"),
        ('{"name": "a", "prompt_tokens": 1, "groups": []}', "give one or more"),
        ('{"name": "a", "prompt_tokens": 1, "groups": [[0]]}', r"groups\.0\.0 input should be greater than 0"),
    ],
)
def test_a_file_that_holds_no_timings_is_refused_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "timings.json"
    file.write_text(text)
    with pytest.raises(TimingsError, match=rf"{file} .*{message}"):
        read_timings(file)


def test_a_decoding_step_reads_the_weights_or_computes_whichever_takes_longer() -> None:
    of = Timings(
        name="", step_seconds=1, read_seconds=10, cache_seconds=1, sequence_seconds=3, prompt_tokens=1, groups=((1,),)
    )
    assert [of.decoding_seconds(running) for running in (1, 5, 10)] == [12, 16, 31]
