"""A whole run by the command line, and what it leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.runs import load
from tests.integration.commands import Command, command, samples, scrape
from tests.integration.recordings import Questions, write_flawed

START_SECONDS = 200.0
RUN_SECONDS = 280.0
SAME = ("reward_mean", "loss", "grad_norm", "kl", "entropy", "completion_tokens_mean", "admitted", "dropped")
"""What a step that is taken again comes to again."""


@dataclass(frozen=True)
class Finished:
    """A run that ended well."""

    path: Path
    folder: Path
    output: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Samples of the control loop's `/metrics` while it went on."""
    processes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Samples of every process that it told Prometheus of then, by its role and its name within the role."""
    open_ports: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """`Command.open_ports` while it went on."""

    def lines(self) -> list[dict[str, Any]]:
        """`metrics.jsonl`."""
        return metrics_lines(self.path)


def metrics_lines(run: Path) -> list[dict[str, Any]]:
    """Whole lines of `metrics.jsonl`, none before the first."""
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def missing_groups(run: Path) -> list[str]:
    """Turns of questions that the rollout log has not exactly once, in the epochs that are over; asks no ledger."""
    found = Counter(load(run).rollouts["group_id"])
    turns = [tuple(map(int, name.split("-"))) for name in found]
    questions, last = {index for _, index in turns}, max(epoch for epoch, _ in turns)
    whole = {f"{epoch}-{index}" for epoch in range(last) for index in questions}
    return sorted({*(name for name in whole if found[name] != 1), *(name for name in found if found[name] > 1)})


def write_config(path: Path, model: Path, train: Path, /, **sections: Any) -> Path:
    """A configuration of small steps that a reward of the tests' own makes worth taking."""
    config: dict[str, Any] = {
        "run": {"max_steps": 4, "dir": str(path.parent / "runs")},
        "model": {"path": str(model), "audio_tower": "frozen", "projector": "trained"},
        "data": {"train": str(train)},
        "rollout": {"max_completion_tokens": 8, "max_model_tokens": 1024, "verify_every": 1},
        "rewards": [
            {"use": "accuracy"},
            {"use": "format"},
            {"use": "tests.integration.plug_ins:vowels", "weight": 2.0, "args": {"per_letter": 0.05}},
        ],
        "learner": {"learning_rate": 1e-3, "micro_batch_tokens": 1024, "threads": 1},
        "algorithm": {"beta": 0.04, "group_size": 4, "prompts_per_step": 4},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, Mapping) else section
    path.write_text(yaml.safe_dump(config))
    return path


def finished(config: Path, *arguments: str) -> Finished:
    """Launch the configuration's run where it lies, and wait for its good end."""
    with command("cluster.launch", "--config", config.name, *arguments, cwd=config.parent) as started:
        assert started.wait(RUN_SECONDS) == 0, started.output
        return Finished(config.parent / "runs" / config.stem, config.parent, started.output)


def run_on_flawed_data(folder: Path, model: Path, questions: Questions) -> Finished:
    """Train, validate and test on recordings, with bad rows and clips among them; scrapes `/metrics` meanwhile."""
    config = write_config(
        folder / "recorded.yaml",
        model,
        write_flawed(questions),
        data={"validation": str(questions.validation), "test": str(questions.test)},
        checkpoint={"every_steps": 2},
        evaluate={"every_steps": 2, "questions": 3, "samples": 2},
        metrics={"port": 0},
    )
    with command("cluster.launch", "--config", config.name, "--profile", cwd=folder) as started:
        served = watch_metrics(started)
        processes, ports = scrape_processes(folder / "runs" / "recorded.targets.json"), started.open_ports()
        assert started.wait(RUN_SECONDS) == 0, started.output
        return Finished(folder / "runs" / "recorded", folder, started.output, served, processes, ports)


def watch_metrics(started: Command) -> dict[str, float]:
    """`/metrics` as it is after the first step."""
    served: dict[str, float] = {}

    def stepped() -> bool:
        served.update(scrape(started.lines))
        return any(name.startswith("auricle_step{") and value >= 1 for name, value in served.items())

    started.wait_for(stepped, "a step on /metrics", START_SECONDS)
    return served


def scrape_processes(targets: Path) -> dict[str, dict[str, float]]:
    """What the processes serve that a run lists, by role and name."""
    found = {}
    for entry in json.loads(targets.read_text()):
        labels, [address] = entry["labels"], entry["targets"]
        name = next((labels[label] for label in ("engine", "rank") if label in labels), "")
        found[f"{labels['role']} {name}".strip()] = samples(f"http://{address}/metrics")
    return found
