"""`python -m cluster.study`: train several ways on as many questions each, and compare them on held-out questions.

Every arm starts, seed by seed, from the model that the others start from. A run that is finished is taken as it is and
one that was broken off goes on, so that the command may be given again at any time. It writes study.md, study.json and
figures into --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster import demo, study_report
from cluster.arguments import command, replacing, write_json
from cluster.environment import check_rooms, describe
from cluster.errors import report_errors
from cluster.evaluate import evaluate, inference_config
from cluster.launch import train
from cluster.progress import Reporter
from cluster.run_directory import RunDirectory
from cluster.runs import load
from cluster.study_results import Findings, Trained, family
from configs.load import ConfigError
from configs.schema import Config
from configs.study import Study, load_study
from data.formats import load_examples

EXAMPLES = """examples:
  python -m cluster.study --config configs/study.yaml --dry-run
  python -m cluster.study --config configs/study.yaml
  python -m cluster.study --config configs/study.yaml --full --out runs/study_full
"""


UNTESTABLE = "not testable here, since the model before training never gives the form that the prompt asks for"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.study", __doc__, EXAMPLES)
    arguments.add_argument("--config", required=True, metavar="FILE", help="the study: arms, seeds, steps, comparisons")
    arguments.add_argument("--full", action="store_true", help="take full_steps instead of steps")
    arguments.add_argument("--out", type=Path, metavar="DIR", help="of runs and results (runs/study, runs/study_full)")
    arguments.add_argument("--arms", nargs="+", metavar="ARM", help="only these")
    arguments.add_argument("--seeds", nargs="+", type=int, metavar="N", help="in place of the study's")
    arguments.add_argument("--dry-run", action="store_true", help="print the runs; start nothing")
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    check_rooms()
    reporter = Reporter()
    study = _chosen(load_study(options.config), options)
    out: Path = options.out or Path("runs/study_full" if options.full else "runs/study")
    planned = list(study.runs(options.full, out))
    show_plan(study, planned, out, reporter)
    if options.dry_run:
        return 0
    findings = Findings({name: arm.title for name, arm in study.arms.items()}, study.compare)
    for number, (name, planned_config) in enumerate(planned, start=1):
        config = demo.resolved(planned_config, reporter.say)
        seed, origin = config.run.seed, family(planned_config)
        before = base(config, origin, out, reporter)
        findings.before[origin, seed] = before
        if study.arms[name].needs_format and not before["format_rate"]:
            findings.untestable[name] = UNTESTABLE
            reporter.say(f"{name}, seed {seed}: {UNTESTABLE}")
            continue
        reporter.say(f"run {number} of {len(planned)}: {name}, seed {seed}, {config.run.max_steps} steps")
        train(config, reporter, resume=RunDirectory.of(config).path.exists())
        findings.trained[name, seed] = finished(config, origin)
    write(findings, study, options.full, out, reporter)
    return 0


def finished(config: Config, origin: str) -> Trained:
    """What a run that has ended came to."""
    run = load(RunDirectory.of(config).path)
    held_out = json.loads((run.path / "eval" / "trained.json").read_text())
    seen = config.algorithm.prompts_per_step
    steps = run.metrics[["step", "validation_accuracy"]].dropna()
    validations = [(int(step) * seen, float(accuracy)) for step, accuracy in steps.itertuples(index=False)]
    return Trained(origin, held_out["rows"], run.summary or {}, validations)


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
    study_report.plot_learning(found, out / "learning.png")
    study_report.plot_tasks(found, out / "tasks.png")
    page = study_report.markdown(found)
    (out / "study.md").write_text(page)
    reporter.say(page)
    reporter.say(f"{out}/study.md, study.json, learning.png, tasks.png")


def _chosen(study: Study, options: argparse.Namespace) -> Study:
    """The study with the arms and seeds of the command line."""
    unknown = sorted(set(options.arms or []) - set(study.arms))
    if unknown:
        raise ConfigError(
            options.config, [f"--arms: {', '.join(unknown)} is no arm; there are {', '.join(study.arms)}"]
        )
    arms = {name: arm for name, arm in study.arms.items() if name in (options.arms or study.arms)}
    if options.seeds:
        arms = {name: arm.model_copy(update={"seeds": tuple(options.seeds)}) for name, arm in arms.items()}
    compare = tuple(pair for pair in study.compare if set(pair) <= {"base", *arms})
    return study.model_copy(update={"arms": arms, "compare": compare})


def show_plan(study: Study, planned: Sequence[tuple[str, Config]], out: Path, reporter: Reporter) -> None:
    """The runs as a table."""
    rows = []
    for name, config in planned:
        run, steps = RunDirectory.of(config), config.run.max_steps
        state = "finished" if run.finished(steps) is not None else "there" if run.path.exists() else ""
        questions = steps * config.algorithm.prompts_per_step
        rows.append((config.run.name, study.arms[name].title, str(steps), str(questions), state))
    reporter.table(f"the study's runs in {out}", rows, ("run", "arm", "steps", "questions", ""))


def base(config: Config, origin: str, out: Path, reporter: Reporter) -> dict[str, Any]:
    """The evaluation of the model that a run starts from, kept for all runs that start from it."""
    kept = out / "base" / f"{origin}-seed{config.run.seed}.json"
    asked = {"model": config.model.path, "data": config.data.test, "samples": config.evaluate.samples}
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        if found["asked"] == asked:
            return found
        reporter.say(f"{kept} is about another model or other questions: asked again")
    model = config.run.init_from or config.model.path
    reporter.say(f"before training: {model}")
    settings = inference_config(
        model,
        prompt=config.data.prompt,
        engines=config.rollout.engines,
        seed=config.run.seed,
        max_tokens=config.rollout.max_completion_tokens,
    )
    data = settings.data.model_copy(update={"feature_cache": config.data.feature_cache})
    questions = load_examples(str(config.data.test), config.data.audio_dir, config.data.format).examples
    found = evaluate(settings.model_copy(update={"data": data}), questions, reporter, config.evaluate.samples)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept, "--out") as partial:
        write_json(partial, {"asked": asked, **found})
    return found


if __name__ == "__main__":
    sys.exit(main())
