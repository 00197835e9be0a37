"""`python -m cluster.study`: train several ways from one start, and compare them on held-out questions.

Every arm starts, seed by seed, from the model that the others of its preset start from. A run that is finished is taken
as it is and one that was broken off goes on, so that the command may be given again at any time, for all arms or for
some. It writes study.md, study.json and figures into --out, of all runs that are there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import demo, study_report
from cluster.environment import check_rooms, describe
from cluster.errors import report_errors
from cluster.evaluation.scoring import score
from cluster.inference import ask
from cluster.launch import train
from cluster.outputs import replacing, write_json
from cluster.progress import Reporter
from cluster.questions import digest
from cluster.run_directory import RunDirectory, RunError, resumable
from cluster.runs import load
from cluster.study_results import Evaluation, Findings, Trained
from configs.load import ConfigError, flat
from configs.schema import Config
from configs.study import Study, load_study
from data.command import command
from data.formats import load_examples
from data.order import spaced
from learner.hf_files import model_directory

EXAMPLES = """examples:
  python -m cluster.study --config study --dry-run
  python -m cluster.study --config study
  python -m cluster.study --config study --full --out runs/study_full
  python -m cluster.study --config mine.yaml --arms sft grpo --seeds 0
"""

DECIDING = (
    "model.path",
    "model.dtype",
    "data.test",
    "data.audio_dir",
    "data.format",
    "data.min_seconds",
    "data.max_seconds",
    "data.channels",
    "data.prompt",
    "rollout.max_completion_tokens",
    "rollout.max_model_tokens",
    "rollout.audio",
    "evaluate.samples",
    "evaluate.held_out",
)
"""Keys that decide what a model answers."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.study", __doc__, EXAMPLES)
    arguments.add_argument(
        "--config", required=True, metavar="FILE", help="arms, seeds, steps, comparisons; `study` is Auricle's own"
    )
    arguments.add_argument("--full", action="store_true", help="take full_steps instead of steps")
    arguments.add_argument("--out", type=Path, metavar="DIR", help="of runs and results (runs/study, runs/study_full)")
    arguments.add_argument("--arms", nargs="+", metavar="ARM", help="train only these")
    arguments.add_argument("--seeds", nargs="+", type=int, metavar="N", help="train only with these")
    arguments.add_argument(
        "--fresh", action="store_true", help="train again what is of another configuration or commit; it is moved aside"
    )
    arguments.add_argument("--dry-run", action="store_true", help="print the runs; start nothing")
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    check_rooms()
    reporter = Reporter()
    study = load_study(options.config)
    out: Path = options.out or Path("runs/study_full" if options.full else "runs/study")
    planned = list(study.runs(options.full, out))
    chosen = _chosen(study, planned, options)
    show_plan(study, chosen, out, reporter)
    if options.dry_run:
        return 0
    origins = named(planned)
    for number, (name, config) in enumerate(chosen, start=1):
        resolved = demo.resolved(config, reporter.say)
        before = base(resolved, origins[config.run.name], out, reporter)
        if study.arms[name].needs_format and not before["format_rate"]:
            reporter.say(f"{name}, seed {config.run.seed}: {study_report.UNTESTABLE}")
            continue
        reporter.say(f"run {number} of {len(chosen)}: {config.run.name}, {config.run.max_steps} steps")
        trained(resolved, options.fresh, reporter)
    write(collected(study, planned, out), study, options.full, out, reporter)
    return 0


def trained(config: Config, fresh: bool, reporter: Reporter) -> None:
    """Train to the end, from where the run was broken off.

    Args:
        config: of the run.
        fresh: begin anew where the run that is there has another configuration, or began with other code.
        reporter: tells of it.

    Raises:
        RunError: the run that is there has another configuration, and it is not to begin anew.
    """
    run = RunDirectory.of(config)
    begun = run.is_there()
    others = differing(run, config) if begun else []
    if fresh and begun and (others or load(run.path).commit != describe()["git"]):
        begun = False
    elif others:
        raise RunError(
            f"{run.path} was trained with another {' and '.join(others)}: its arm would not be what the study says. "
            "--fresh trains it again, and another --out leaves it alone"
        )
    train(config, reporter, resume=begun, fresh=not begun)


def differing(run: RunDirectory, config: Config) -> list[str]:
    """The keys in which the run that is there differs from what is to be learned, the number of steps among them."""
    return [key for key in run.changed(config) if key == "run.max_steps" or not resumable(key)]


def collected(study: Study, planned: Sequence[tuple[str, Config]], out: Path) -> Findings:
    """What is there of all the study's runs."""
    findings = Findings({name: arm.title for name, arm in study.arms.items()}, study.compare)
    origins = named(planned)
    for name, planned_config in planned:
        config = demo.resolved(planned_config, lambda line: None, build=False)
        seed, origin = config.run.seed, origins[config.run.name]
        kept, run = _kept(out, origin, seed), RunDirectory.of(config)
        before = _read(kept)
        if before is None:
            continue
        findings.before[origin, seed] = before
        if study.arms[name].needs_format and not before["format_rate"]:
            findings.untestable.append((name, seed))
        elif (run.path / "summary.json").exists() and not differing(run, config):
            findings.trained[name, seed] = finished(config, origin)
    return findings


def finished(config: Config, origin: str) -> Trained:
    """What a run that has ended came to."""
    run = load(RunDirectory.of(config).path)
    evaluations = {name: _read(run.path / "eval" / f"{name}.json") for name in ("trained", "silent")}
    if evaluations["trained"] is None:
        raise RunError(f"{run.path}/eval/trained.json is gone; remove summary.json, and the run is ended again")
    steps = run.metrics[["step", "validation_accuracy"]].dropna()
    seen = config.algorithm.prompts_per_step
    validations = [(int(step) * seen, float(accuracy)) for step, accuracy in steps.itertuples(index=False)]
    return Trained(origin, evaluations["trained"], evaluations["silent"], run.summary or {}, validations, run.commit)


def write(findings: Findings, study: Study, full: bool, out: Path, reporter: Reporter) -> None:
    """Keep the findings as study.json, study.md and figures."""
    out.mkdir(parents=True, exist_ok=True)
    length = "at full length" if full else "in its short form"
    found = {
        "title": f"{study.title}, {length}",
        "study": study.model_dump(mode="json"),
        "full": full,
        "environment": describe(),
        **findings.figures(),
    }
    with replacing(out / "study.json", "--out") as partial:
        write_json(partial, found)
    page = study_report.markdown(found)
    (out / "study.md").write_text(page)
    study_report.plot_learning(found, out / "learning.png")
    study_report.plot_tasks(found, out / "tasks.png")
    reporter.say(page)
    reporter.say(f"{out}/study.md, study.json, learning.png, tasks.png")


def _chosen(
    study: Study, planned: Sequence[tuple[str, Config]], options: argparse.Namespace
) -> list[tuple[str, Config]]:
    """The runs of the arms and seeds of the command line."""
    seeds = sorted({config.run.seed for _, config in planned})
    unknown = sorted(set(options.arms or []) - set(study.arms))
    problems = [f"--arms: {', '.join(unknown)} is no arm; there are {', '.join(study.arms)}"] if unknown else []
    if strange := sorted(set(options.seeds or []) - set(seeds)):
        problems.append(f"--seeds: the study has no {strange[0]}; it has {', '.join(map(str, seeds))}")
    if problems:
        raise ConfigError(options.config, problems)
    return [
        (name, config)
        for name, config in planned
        if name in (options.arms or study.arms) and config.run.seed in (options.seeds or seeds)
    ]


def show_plan(study: Study, chosen: Sequence[tuple[str, Config]], out: Path, reporter: Reporter) -> None:
    """The runs as a table."""
    rows = []
    for name, config in chosen:
        run, steps = RunDirectory.of(config), config.run.max_steps
        state = "finished" if run.finished(steps) is not None else "there" if run.path.exists() else ""
        questions = steps * config.algorithm.prompts_per_step
        rows.append((config.run.name, study.arms[name].title, str(steps), str(questions), state))
    reporter.table(f"the study's runs in {out}", rows, ("run", "arm", "steps", "questions", ""))


def base(config: Config, origin: str, out: Path, reporter: Reporter) -> Evaluation:
    """The evaluation of the model that a run starts from, kept for all runs that start from it.

    It is asked as the run asks after training; a kept one of other weights, questions or settings is asked again.
    """
    kept = _kept(out, origin, config.run.seed)
    settings = before_training(config)
    loaded = load_examples(str(config.data.test), config.data.audio_dir, config.data.format)
    questions = spaced(loaded.examples, settings.evaluate.held_out)
    asked = deciding(settings) | {
        "questions": digest(questions),
        "weights": _weights(settings.model.path),
        "run.seed": config.run.seed,
    }
    found = _read(kept)
    if found is not None and found["asked"] == asked:
        return found
    reporter.say(f"before training: {settings.model.path}" + (", asked again" if found else ""))
    answers = ask(settings, questions, reporter, config.evaluate.samples)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept, "--out") as partial:
        write_json(partial, {"asked": asked, **score(answers, config.data.prompt.form, len(loaded.bad))})
    return json.loads(kept.read_text())  # type: ignore[no-any-return]


def before_training(config: Config) -> Config:
    """The run's configuration, of a session that only asks the model that the run starts from."""
    frozen = {"audio_tower": "frozen", "projector": "frozen", "lora": None}
    model = config.model.model_copy(update={"path": config.run.init_from or config.model.path, **frozen})
    return config.model_copy(update={"model": model, "algorithm": config.algorithm.model_copy(update={"beta": 0.0})})


def deciding(settings: Config) -> dict[str, Any]:
    """What decides how a model answers, by key."""
    keys = flat(settings.model_dump(mode="json"))
    return {key: value for key, value in keys.items() if key.startswith(DECIDING)}


def named(planned: Sequence[tuple[str, Config]]) -> dict[str, str]:
    """Which model a run starts from and how it is asked, in words, by the run's name: seeds share them.

    Where models of one path are asked in one wording and otherwise differently, a number tells them apart.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    names = {}
    for _, config in planned:
        settings = before_training(config)
        prompt = settings.data.prompt.model_dump()
        words = f"{settings.model.path}, {prompt if isinstance(prompt, str) else 'a prompt of its own'}"
        known = found.setdefault(words, [])
        if (asked := deciding(settings)) not in known:
            known.append(asked)
        number = known.index(asked) + 1
        names[config.run.name] = words if number == 1 else f"{words} ({number})"
    return names


def _kept(out: Path, origin: str, seed: int) -> Path:
    name = re.sub(r"\W+", "_", origin).strip("_")
    return out / "base" / f"{name}-{hashlib.sha256(origin.encode()).hexdigest()[:6]}-seed{seed}.json"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _weights(path: str) -> str:
    """What tells a model directory from an earlier one at its place; a hub id is as it is."""
    directory = Path(model_directory(path))
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    return hashlib.sha256(repr([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
