"""`python -m bench.view`: how fast the viewer's pages are on a run of 100,000 groups.

Writes a rollout log of that many groups, 8 completions each, in shards as a run writes them, and the lines of as many
steps; starts the viewer on it as a user does, and asks for what each page asks. Told are the seconds until the log is
read, at the first time and when the viewer is started again, and of each page the median and the slowest of its turns,
over the connection and with its JSON parsed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml

from actors.log import SCHEMA
from bench.command import finish, parser
from cluster.evaluation.scoring import Answered, score
from cluster.progress import Reporter
from data.audio import SAMPLE_RATE
from data.step_files import shard_name
from data.types import ClipSource, Example

GROUP_SIZE, TOKENS = 8, 24
PAGE_SECONDS = 1.0
"""What a page may take."""
TASKS = ("sound", "music", "speech")
CHOICES = ("dog", "cat", "rain", "engine")
START_SECONDS, READ_SECONDS = 120.0, 1_200.0

CLIP_SECONDS = 10
QUESTIONS = 1_000
"""Of each evaluation, as in MMAU's test-mini."""

Parameters = Mapping[str, str | Sequence[str]]
PAGES: Mapping[str, tuple[str, Parameters]] = {
    "curves": ("curves", {"key": ["reward_mean", "accuracy", "kl", "seconds.", "rewards."]}),
    "groups_newest": ("groups", {}),
    "groups_mixed_of_a_task": ("groups", {"kind": "mixed", "task": "music"}),
    "groups_search": ("groups", {"search": "question 7 of"}),
    "groups_largest_mismatch": ("groups", {"order": "mismatch"}),
    "groups_last_page": ("groups", {"offset": "90000", "order": "advantage"}),
    "group": ("group", {"step": "1", "row": "7"}),
    "recording": ("clip/peaks", {}),
    "evaluation": ("evaluation", {"name": "trained"}),
    "compare": ("compare", {"first_run": "run", "first": "base", "second_run": "run", "second": "trained"}),
    "cluster": ("cluster", {}),
    "runs": ("runs", {}),
}
"""What each page asks for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser("view", __doc__)
    arguments.add_argument("--groups", type=int, default=100_000, help="groups of the run (100,000)")
    arguments.add_argument("--groups-a-step", type=int, default=32, help="groups of a shard (32)")
    arguments.add_argument("--turns", type=int, default=20, help="how often each page is asked for (20)")
    options = arguments.parse_args(argv)
    reporter = Reporter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        size = write_run(run, options.groups, options.groups_a_step)
        reporter.say(f"{options.groups:,} groups in {size / 1e6:,.0f} MB")
        figures: dict[str, Any] = {"groups": options.groups, "group_size": GROUP_SIZE, "megabytes": size / 1e6}
        env = os.environ | {"AURICLE_CACHE": str(Path(folder) / "cache")}
        with viewer(run, env) as address:
            figures["first_read_seconds"] = read_seconds(address)
            figures |= page_figures(address, options.turns)
        with viewer(run, env) as address:
            figures["second_read_seconds"] = read_seconds(address)
    for name, value in figures.items():
        reporter.say(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
    slowest = max(value for name, value in figures.items() if name.endswith("_slowest_seconds"))
    promised = {f"every page within {PAGE_SECONDS:g} s (the slowest: {slowest:.3f} s)": slowest < PAGE_SECONDS}
    return finish(figures, promised, options, reporter)


def write_run(run: Path, groups: int, groups_a_step: int) -> int:
    """A run's directory with that many groups; gives the bytes of its log."""
    (run / "rollouts").mkdir(parents=True)
    (run / "clips").mkdir()
    config = {
        "run": {"name": "run", "max_steps": -(-groups // groups_a_step)},
        "model": {"path": "none"},
        "algorithm": {"name": "grpo"},
        "data": {"train": "none", "audio_dir": None, "format": "auto", "prompt": "answer", "max_seconds": 30.0,
                 "min_seconds": 0.05, "channels": "mean"},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "eval").mkdir()
    (run / "clips" / sha256_of(clip())).write_bytes(clip())
    for name, one_in in (("base", 3), ("trained", 2)):
        figures = score([_answer(number, right=number % one_in == 0) for number in range(QUESTIONS)], "answer", 0)
        (run / "eval" / f"{name}.json").write_text(json.dumps({"step": 0, **figures}))
    generator, size = random.Random(0), 0
    with (run / "metrics.jsonl").open("w") as metrics:
        for step in range(1, -(-groups // groups_a_step) + 1):
            first = (step - 1) * groups_a_step
            rows = [_row(generator, step, number) for number in range(first, min(first + groups_a_step, groups))]
            shard = run / "rollouts" / shard_name(step)
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), shard, compression="zstd")
            size += shard.stat().st_size
            metrics.write(json.dumps(_line(generator, step)) + "\n")
    return size


def clip() -> bytes:
    """A recording as it is kept."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(CLIP_SECONDS * SAMPLE_RATE) / 6.0), SAMPLE_RATE, format="WAV")
    return buffer.getvalue()


def sha256_of(content: bytes) -> str:
    """The name of a recording."""
    return hashlib.sha256(content).hexdigest()


def _answer(number: int, right: bool) -> Answered:
    example = Example(f"q{number}", ClipSource(""), "What is heard?", CHOICES, "dog", task=TASKS[number % len(TASKS)])
    return Answered(example, f"{number // 2:064x}", f"<answer>{'dog' if right else 'cat'}</answer>", ())


def _row(generator: random.Random, step: int, number: int) -> dict[str, Any]:
    right = [generator.random() < 0.4 for _ in range(GROUP_SIZE)]
    token_ids = [[generator.randrange(1_000) for _ in range(TOKENS)] for _ in range(GROUP_SIZE)]
    logprobs = [[-generator.random() for _ in range(TOKENS)] for _ in range(GROUP_SIZE)]
    dropped = generator.random() < 0.02
    return {
        "group_id": f"0-{number}",
        "step": step,
        "example_id": f"example-{number}",
        "audio_sha256": f"{number:064x}",
        "audio_seconds": 4.0,
        "question": f"Benchmark question {number % 1_000} of many: what is heard?",
        "choices": list(CHOICES),
        "answer": "dog",
        "task": TASKS[number % len(TASKS)],
        "engine": f"engine-{number % 4}",
        "context_version": step - 1,
        "prompt_token_ids": list(range(80)),
        "completions": [f"<answer>{'dog' if one else 'cat'}</answer>" for one in right],
        "token_ids": token_ids,
        "logprobs": logprobs,
        "learner_logprobs": [[value + 1e-6 * generator.random() for value in of] for of in logprobs],
        "versions": [[step - 1] * TOKENS] * GROUP_SIZE,
        "rewards": [("accuracy", [float(one) for one in right]), ("format", [1.0] * GROUP_SIZE)],
        "total": [1.0 + one for one in right],
        "advantages": [generator.gauss(0, 1) for _ in right],
        "finish_reasons": ["stop"] * GROUP_SIZE,
        "drop_reason": "zero_variance: its completions have the same reward" if dropped else None,
    }


def _line(generator: random.Random, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "time": 1.7e9 + 10.0 * step,
        "step_seconds": 10.0,
        **{key: generator.random() for key in ("reward_mean", "accuracy", "kl", "entropy", "loss", "grad_norm")},
        "rewards": {"accuracy": generator.random(), "format": generator.random()},
        "seconds": {phase: generator.random() for phase in ("sample", "forward", "backward", "sync")},
        "admitted": 32 * step,
        "trained": 32 * step,
        "dropped": 0,
        "in_flight": 0,
        "dropped_by_reason": {},
    }


@contextmanager
def viewer(run: Path, env: Mapping[str, str]) -> Iterator[str]:
    """The command on a free port; gives its address."""
    command = [sys.executable, "-m", "cluster.view", str(run), "--port", "0"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    too_late = threading.Timer(START_SECONDS, process.terminate)
    too_late.start()
    try:
        assert process.stdout is not None
        told = re.search(r"http://\S+", process.stdout.readline())
        too_late.cancel()
        if told is None:
            raise RuntimeError("the viewer has not started: its error stands above")
        yield told[0]
    finally:
        too_late.cancel()
        process.terminate()
        process.wait(30)


def asked(address: str, name: str, parameters: Parameters) -> Any:
    """The parsed answer of the server."""
    query = urllib.parse.urlencode(parameters, doseq=True)
    with urllib.request.urlopen(f"{address}/api/{name}?{query}", timeout=READ_SECONDS) as answer:
        return json.load(answer)


def read_seconds(address: str) -> float:
    """Until the whole log is in the index."""
    started = time.perf_counter()
    while True:
        [run] = asked(address, "runs", {})
        if run["shards"] and run["indexed"] == run["shards"]:
            return time.perf_counter() - started
        if time.perf_counter() - started > READ_SECONDS:
            raise RuntimeError(f"{run['indexed']} of {run['shards']} shards after {READ_SECONDS:g} s")
        time.sleep(0.1)


def page_figures(address: str, turns: int) -> dict[str, float]:
    """The median and the slowest turn of each page."""
    figures = {}
    for page, (name, parameters) in PAGES.items():
        given = {"run": "run", "sha256": sha256_of(clip()), **parameters}
        times = [_seconds(address, name, given) for _ in range(turns)]
        figures[f"{page}_seconds"] = statistics.median(times)
        figures[f"{page}_slowest_seconds"] = max(times)
    return figures


def _seconds(address: str, name: str, parameters: Parameters) -> float:
    started = time.perf_counter()
    asked(address, name, parameters)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
