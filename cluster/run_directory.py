"""What a run writes, and where: configuration, environment, metrics, evaluations, summary, checkpoints.

runs/NAME/  config.yaml  environment.json  metrics.jsonl  summary.json
            rollouts/step_000001.parquet  eval/NAME.json  checkpoints/step_N/{hf,trainer}/ and adapter/ with LoRA
            clips/HASH (the recordings that were trained on, each once)
            engine_model/ (where vLLM cannot load the model as it is stored)
            tensorboard/  wandb/ (where `logging` says so)
            dropped.jsonl (of supervised fine-tuning: questions that could not be used)
            environment_resume_N.json (a resume from step N in another environment)  .lock (held while it goes on)
runs/NAME.targets.json  whom Prometheus is to scrape, while it goes on (`cluster.targets`)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cluster.checkpoints import FOLDER, Checkpoints
from cluster.run_storage import storage_of
from configs.load import dump_config, flat, merged
from configs.schema import Config, Reward
from data.remote import is_url
from data.step_files import shard_step
from data.whole_file import whole_file, writing

RESUMABLE_SECTIONS = ("checkpoint.", "logging.", "metrics.", "cluster.")
RESUMABLE_KEYS = (
    "run.max_steps",
    "run.dir",
    "rollout.engines",
    "rollout.engines_per_node",
    "rollout.threads",
    "rollout.tensor_parallel",
    "rollout.weight_transfer",
    "rollout.verify_every",
    "learner.bucket_bytes",
    "rollout.gpu_memory_utilization",
    "learner.ranks",
    "learner.threads",
    "learner.offload",
    "learner.max_skipped_steps",
    "data.encoders",
    "evaluate.every_steps",
    "evaluate.before",
    "evaluate.silent",
)
RESUMABLE_ENDINGS = ("timeout_seconds", ".concurrency")
"""What may differ between a run and its resume: how far it goes, what is kept and told of it, and what runs where."""

DEFAULTS = Config.model_validate({"model": {"path": ""}, "data": {"train": ""}}).model_dump(mode="json")
REWARD_DEFAULTS = Reward(use="").model_dump(mode="json")
"""What a key counts as that is newer than a run."""

RESULTS = ("summary.json", "eval/trained.json", "eval/silent.json")
"""What tells of a run's end."""


class RunError(ValueError):
    """The run directory is taken, missing or broken, or was made with another configuration."""


class RunDirectory:
    """One run's files: those that this process writes, under `path`, and those of all nodes, by their `place`.

    Args:
        place: path or URL of the directory.
    """

    def __init__(self, place: str) -> None:
        self.storage = storage_of(place)
        self.path = path = self.storage.path
        self.metrics = path / "metrics.jsonl"
        self.dropped = path / "dropped.jsonl"
        self.evaluations = path / "eval"
        self.checkpoints = Checkpoints(self.storage)

    def __str__(self) -> str:
        return str(self.storage)

    def place(self, name: str) -> str:
        """Where any node writes and reads that file or directory: an absolute path or a URL."""
        return self.storage.place(name)

    def publish(self) -> None:
        """Let others have what has been written under `path`; raises RemoteError."""
        self.storage.publish()

    @classmethod
    def of(cls, config: Config) -> RunDirectory:
        """The directory that the configuration names, there or not."""
        return cls(f"{config.run.dir.rstrip('/')}/{config.run.name}")

    def is_there(self) -> bool:
        """Whether it holds a run, finished or not."""
        return self.storage.exists("config.yaml")

    def check_empty(self) -> None:
        """Raise RunError where a run or anything else is there."""
        if self.is_there():
            raise RunError(
                f"{self} holds a run already. --resume goes on with it, --fresh moves it aside, run.name=OTHER writes "
                f"elsewhere."
            )
        if names := self.storage.names(""):
            raise RunError(f"{self} holds {names[0]!r} and no run: --fresh moves it aside, run.name=OTHER elsewhere")

    @classmethod
    def check(cls, config: Config, resume: bool, fresh: bool) -> None:
        """Raise what `create` or `resume` would; changes nothing."""
        run = cls.of(config)
        if resume:
            run._resumed(config)
        elif not fresh:
            run.check_empty()
        run.storage.check_free()

    @classmethod
    def create(cls, config: Config, fresh: bool) -> RunDirectory:
        """A new run, locked; an existing one is refused, or with `fresh` moved aside."""
        run = cls.of(config)
        if fresh and run.storage.names(""):
            run.storage.check_free()
            run.storage.move_aside(datetime.now(UTC).strftime(".%Y%m%d-%H%M%S"))
        run.check_empty()
        return run._claimed(config)

    @classmethod
    def resume(cls, config: Config) -> tuple[RunDirectory, dict[str, tuple[Any, Any]]]:
        """An existing run, locked, and the keys that differ from it as (before, now).

        Raises:
            RunError: there is no such run, or a key differs that a resume may not change.
            RunInUse: another process is at work on it.
        """
        run = cls.of(config)
        changed = run._resumed(config)
        return run._claimed(config), changed

    def _claimed(self, config: Config) -> RunDirectory:
        """Itself, taken, with this configuration in it."""
        self.storage.claim()
        try:
            for directory in ("rollouts", self.evaluations.name, FOLDER):
                (self.path / directory).mkdir(exist_ok=True)
            self.write_text("config.yaml", dump_config(config))
            self.publish()
        except BaseException:
            self.storage.release()
            raise
        return self

    def changed(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """The keys in which the run that is there differs, as (before, now); raises RunError where there is none."""
        text = self.storage.read("config.yaml")
        if text is None:
            raise RunError(f"{self} holds no run to resume: start it without --resume")
        stored = yaml.safe_load(text)
        terms = [REWARD_DEFAULTS | term for term in stored.pop("rewards", DEFAULTS["rewards"])]
        before = flat(merged(DEFAULTS | {"rewards": terms}, stored))
        now = flat(config.model_dump(mode="json"))
        return {
            key: (before.get(key), now.get(key)) for key in sorted({*before, *now}) if before.get(key) != now.get(key)
        }

    def _resumed(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """`changed`, unless a resume may not change it."""
        changed = self.changed(config)
        refused = [key for key in changed if not resumable(key)]
        if refused:
            lines = [f"  {key}: {changed[key][0]!r} in the run, {changed[key][1]!r} now" for key in refused]
            raise RunError(
                "a resume cannot change these keys; start a new run with run.init_from:\n" + "\n".join(lines)
            )
        return changed

    def close(self) -> None:
        """Let another process have the run, with all that was written."""
        try:
            self.publish()
        finally:
            self.storage.release()

    def finished(self, max_steps: int) -> dict[str, Any] | None:
        """`summary.json` of a run that has taken so many steps, or None where it has not come to its end."""
        summary = self._read_json("summary.json")
        return summary if summary is not None and summary["steps"] >= max_steps else None

    def write_environment(self, environment: Mapping[str, Any], step: int) -> None:
        """Keep where the run was started; a resume from `step` is told of beside it where it differs."""
        first = self._read_json("environment.json")
        if first is None:
            self.write_json("environment.json", environment)
        elif first != environment:
            self.write_json(f"environment_resume_{step}.json", environment)

    def write_text(self, name: str, text: str) -> None:
        """Write a file, of which readers never see half."""
        with whole_file(self.path / name) as partial:
            partial.write_text(text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """`write_text` of JSON."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_evaluation(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep an evaluation as `eval/NAME.json`."""
        self.write_text(f"{self.evaluations.name}/{name}.json", json.dumps(value) + "\n")

    def read_evaluation(self, name: str) -> dict[str, Any] | None:
        """An evaluation that was kept, or None; raises RunError where the file is broken."""
        return self._read_json(f"{self.evaluations.name}/{name}.json")

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """One line a step."""
        text = json.dumps(line) + "\n"
        with writing(self.metrics, len(text)), self.metrics.open("a") as file:
            file.write(text)

    def append_dropped(self, step: int, questions: Sequence[tuple[str, str]]) -> None:
        """Keep which questions a step without a rollout log has dropped, by id, and why."""
        if questions:
            with self.dropped.open("a") as file:
                file.writelines(
                    json.dumps({"step": step, "id": name, "reason": reason}) + "\n" for name, reason in questions
                )

    def cut_after(self, step: int, max_steps: int) -> None:
        """Drop what was written after `step`, so that every step stands once when a resume writes it again.

        Where the run goes on, what told of its end goes too.
        """
        for name in RESULTS if step < max_steps else ():
            (self.path / name).unlink(missing_ok=True)
        for file in (self.metrics, self.dropped):
            if file.exists():
                self.write_text(file.name, "".join(_lines_up_to(step, file)))
        for shard in self.storage.names("rollouts"):
            if (shard_step(shard) or 0) > step:
                self.storage.remove(f"rollouts/{shard}")
        for evaluation in self.evaluations.glob("validation_step_*.json"):
            if int(evaluation.stem.rsplit("_", 1)[1]) > step:
                evaluation.unlink()

    def check_questions(self, digests: Mapping[str, str]) -> None:
        """Raise RunError where the newest checkpoint was written with other questions than these."""
        _, state = self.checkpoints.newest()
        changed = [
            f"data.{split}" for split, digest in digests.items() if state and state["questions"][split] != digest
        ]
        if changed:
            raise RunError(
                f"{' and '.join(changed)} of {self} held other questions when its last checkpoint was written: "
                f"their order and the accuracy before training would be of others. Put the files back, or start a new "
                f"run with run.init_from"
            )

    def validated(self) -> dict[int, float]:
        """Accuracy on the validation questions, by the steps that have one."""
        lines = map(json.loads, self.metrics.read_text().splitlines()) if self.metrics.exists() else ()
        found = ((line["step"], line.get("validation_accuracy")) for line in lines)
        return {step: accuracy for step, accuracy in found if accuracy is not None}

    def disk(self) -> Any:
        """`shutil.disk_usage` of where the run lies, None where that is no disk."""
        return None if is_url(str(self)) else shutil.disk_usage(self.path)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        text = self.storage.read(name)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except ValueError as error:
            raise RunError(f"{self.place(name)} is broken ({error}); remove it, and it is made again") from error
        if not isinstance(found, dict):
            raise RunError(f"{self.place(name)} is broken (no object); remove it, and it is made again")
        return found


def _lines_up_to(step: int, file: Path) -> list[str]:
    """The lines of steps up to this one."""
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break  # the last line of a killed run may be cut
    return kept


def resumable(key: str) -> bool:
    """Whether a key may differ between a run and its resume: it is no matter of what is learned."""
    return key.startswith(RESUMABLE_SECTIONS) or key in RESUMABLE_KEYS or key.endswith(RESUMABLE_ENDINGS)
