"""`python -m bench.sync`: how fast new weights reach the engines, beside a copy of memory and one call a parameter.

The model has the layers of Qwen2-Audio-7B in small: 500 MB in float32. The learner sends it to one engine and to three:
as Auricle does, and as one remote call a parameter, which every engine loads as vLLM does before the next is sent. Both
are timed with loading and without. Beside them stand such calls that are waited for at the end only, and the bare load:
every engine loads, at the same time as the others, what is in its process already. The ways take turns. A run of the
demo then tells the share of its steps that the weights' way takes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import models, runs, sync_calls
from bench.command import finish, parser
from bench.machine import PAUSE_SECONDS, machine
from cluster.nodes import connected
from cluster.placement import Node, plan
from cluster.progress import Reporter
from cluster.rollout_pool import RolloutPool
from cluster.session import workers
from cluster.workers import LearnerGroup
from configs.schema import Config
from learner.demo.tiny_model import LanguageSizes

ENGINES = 3
REPETITIONS = 5
DEMO_STEPS = 30
VOCABULARY = 12_000
ENCODER = models.whisper(d_model=256, layers=12, heads=4, ffn_dim=1024)
LANGUAGE = LanguageSizes(
    hidden_size=768,
    num_hidden_layers=14,
    num_attention_heads=12,
    num_key_value_heads=12,
    intermediate_size=2048,
    vocabulary_tokens=models.LANGUAGE.vocabulary_tokens,
)
"""Of the 8.4 G parameters of Qwen2-Audio-7B 15% are embeddings and `lm_head` and 8% the tower; so they are of these."""

BUCKET_BYTES = 64_000_000
"""An eighth of the model; of a 7B model the default is a 64th."""
LEAST_SPEEDUP, MOST_OVER_BARE, MOST_SHARE = 4.0, 2.0, 0.10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser("sync", __doc__)
    arguments.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"turns of each way ({REPETITIONS})")
    arguments.add_argument("--no-demo", action="store_true", help="leave the run of the demo out")
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys")
    options = arguments.parse_intermixed_args(argv)
    reporter = Reporter()
    with tempfile.TemporaryDirectory(prefix="auricle-bench-") as temporary:
        figures = measure(Path(temporary), options, reporter)
        if not options.no_demo:
            figures["sync_share"] = share_of_demo(Path(temporary), reporter)
    return finish(figures, show(figures, reporter), options, reporter)


def measure(directory: Path, options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The figures of the weights' ways, as one flat object."""
    model = models.build(directory / "model", VOCABULARY, encoder=ENCODER, language=LANGUAGE)
    config = configured(directory, model, options.overrides)
    with connected(config.cluster, reporter.say) as nodes:
        return asyncio.run(compare(config, nodes, options.repetitions, reporter))


def configured(directory: Path, model: Path, overrides: Sequence[str]) -> Config:
    """A learner that trains everything, and engines that load everything into vLLM."""
    settings = {
        "model": {"path": str(model)},
        "data": {"train": str(directory / "none.jsonl")},
        "rollout": {"engines": ENGINES, "audio": "waveform", "max_model_tokens": 512, "max_running": 8},
        "learner": {"threads": 1, "bucket_bytes": BUCKET_BYTES},
        "algorithm": {"beta": 0.0},
        "cluster": {"cpus_per_node": 8},
    }
    return runs.configured(directory, settings, overrides)


async def compare(config: Config, nodes: list[Node], repetitions: int, reporter: Reporter) -> dict[str, Any]:
    """Every way in turn, and what they come to."""
    roles = [role for role in plan(config, nodes) if role.name in ("learner", "engine", "audio")]

    reporter.say(f"starting a learner and {ENGINES} engines")
    async with workers(config, nodes, roles, config.model.path, meanwhile=runs.join) as (started, _, _):
        await _everywhere(started.rollout.actors.values(), sync_calls.keep_own)
        layout = (await started.learner.weights.begin(0, {})).layout
        size, tensors = sum(layout.sizes_bytes), sum(map(len, layout.buckets))
        reporter.say(f"{tensors} tensors, {size / 1e6:.0f} MB in {len(layout.buckets)} buckets")
        ways: dict[str, Callable[[], Awaitable[float]]] = {"copy": Copy(size)}
        for count in (1, ENGINES):
            some = dict(list(started.rollout.actors.items())[:count])
            ways |= {f"{name}_{count}": way for name, way in Ways(started.learner, some, config).all.items()}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(repetitions + 1):
            for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
                await asyncio.sleep(PAUSE_SECONDS)
                seconds = await way()
                if turn:  # the first one warms up
                    spent[name].append(seconds)
    median = {name: statistics.median(times) for name, times in spent.items()}
    return {
        "tensors": tensors,
        "bytes": size,
        "buckets": len(layout.buckets),
        "repetitions": repetitions,
        **{f"seconds_{name}": value for name, value in median.items()},
        "bytes_per_second_1": size / median["update_1"],
        "bytes_per_second_3": size / median["update_3"],
        "copy_ratio": median["copy"] / median["update_1"],
        "copy_ratio_3": median["copy"] / median["update_3"],
        "transport_speedup_1": median["naive_transport_1"] / median["transport_1"],
        "transport_speedup": median["naive_transport_3"] / median["transport_3"],
        "transport_speedup_unwaited": median["unwaited_transport_3"] / median["transport_3"],
        "update_speedup": median["naive_3"] / median["update_3"],
        "update_over_bare_1": median["update_1"] / (median["bare_1"] + median["copy"]),
        "update_over_bare": median["update_3"] / (median["bare_3"] + median["copy"]),
        **machine(),
    }


class Copy:
    """A copy of so many bytes of memory."""

    def __init__(self, size: int) -> None:
        self.source, self.target = np.ones(size, np.uint8), np.ones(size, np.uint8)

    async def __call__(self) -> float:
        """Seconds."""
        begun = time.perf_counter()
        np.copyto(self.target, self.source)
        return time.perf_counter() - begun


class Ways:
    """The ways of the weights from a learner into some engines; each gives its seconds."""

    versions = itertools.count(1)

    def __init__(self, learner: LearnerGroup, engines: dict[str, Any], config: Config) -> None:
        self.learner = learner
        self.engines = list(engines.values())
        self.pool = RolloutPool(engines, [], config)

    @property
    def all(self) -> dict[str, Callable[[], Awaitable[float]]]:
        """Each by its name."""
        return {
            "update": self.update,
            "transport": self.transport,
            "naive": self.call_each,
            "naive_transport": lambda: self.call_each(loading=False),
            "unwaited_transport": lambda: self.call_each(loading=False, waiting=False),
            "bare": self.bare,
        }

    async def update(self) -> float:
        """Auricle's."""
        begun = time.perf_counter()
        update = await self.learner.weights.begin(next(self.versions), self.pool.actors)
        await asyncio.gather(self.pool.update(update), self.learner.weights.publish(update))
        return time.perf_counter() - begun

    async def transport(self) -> float:
        """Auricle's, where engines leave the buckets as they are when they have them."""
        await _everywhere(self.engines, sync_calls.leave_buckets, True)
        seconds = await self.update()
        await _everywhere(self.engines, sync_calls.leave_buckets, False)
        return seconds

    async def call_each(self, loading: bool = True, waiting: bool = True) -> float:
        """One remote call a parameter."""
        begun = time.perf_counter()
        if loading:
            await _everywhere(self.engines, sync_calls.in_vllm, "start_weight_update")
        await self.learner.actors[0].__ray_call__.remote(sync_calls.send_each, self.engines, loading, waiting)
        if loading:
            await _everywhere(self.engines, sync_calls.in_vllm, "finish_weight_update")
        return time.perf_counter() - begun

    async def bare(self) -> float:
        """Every engine loads what is in its process."""
        begun = time.perf_counter()
        await _everywhere(self.engines, sync_calls.load_own)
        return time.perf_counter() - begun


async def _everywhere(actors: Iterable[Any], function: Callable[..., Any], *arguments: Any) -> None:
    await asyncio.gather(*(actor.__ray_call__.remote(function, *arguments) for actor in actors))


def share_of_demo(directory: Path, reporter: Reporter) -> float:
    """The share of the demo's steps in which the learner waits for the weights' way; the first step warms up."""
    keys = [f"run.dir={directory}", f"run.max_steps={DEMO_STEPS}", "data.test=null", "data.validation=null"]
    steps = runs.run_of_demo([*keys, "evaluate.silent=false"], reporter).metrics.iloc[1:]
    return float(steps["seconds.sync"].sum() / steps["step_seconds"].sum())


def show(figures: dict[str, Any], reporter: Reporter) -> dict[str, bool]:
    """Print the figures; gives what is promised, and whether they bear it out."""
    names = {
        "update": "Auricle",
        "naive": "one call a parameter",
        "bare": "bare load",
        "transport": "Auricle, without loading",
        "naive_transport": "one call a parameter, without loading",
        "unwaited_transport": "the same, waited for at the end only",
    }
    size = figures["bytes"]
    rows = [
        (label, *(cell for count in (1, ENGINES) for cell in (
            f"{figures[f'seconds_{name}_{count}']:.3f}", f"{size / figures[f'seconds_{name}_{count}'] / 1e9:.2f}")))
        for name, label in names.items()
    ]  # fmt: skip
    rows.append(("a copy of memory", f"{figures['seconds_copy']:.3f}", f"{size / figures['seconds_copy'] / 1e9:.2f}"))
    title = f"{figures['tensors']} tensors, {size / 1e6:.0f} MB, median of {figures['repetitions']}"
    reporter.table(title, rows, ("", "1 engine: s", "GB/s", f"{ENGINES} engines: s", "GB/s"))
    promised = {
        f"transport at least {LEAST_SPEEDUP:g} times as fast": figures["transport_speedup"] >= LEAST_SPEEDUP,
        f"an update at most {MOST_OVER_BARE:g} times a bare load and a copy": (
            figures["update_over_bare"] <= MOST_OVER_BARE
        ),
    }
    reporter.say(
        f"for {ENGINES} engines, transport {figures['transport_speedup']:.1f} times as fast as one call a parameter "
        f"({figures['transport_speedup_unwaited']:.1f} times where that waits at the end only); an update "
        f"{figures['update_over_bare']:.2f} times a bare load and a copy"
    )
    if "sync_share" in figures:
        promised[f"at most {MOST_SHARE:.0%} of the demo's steps"] = figures["sync_share"] < MOST_SHARE
        reporter.say(f"{figures['sync_share']:.1%} of the demo's steps go into the weights' way")
    return promised


if __name__ == "__main__":
    sys.exit(main())
