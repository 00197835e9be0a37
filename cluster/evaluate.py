"""`python -m cluster.evaluate`: how well a model answers the questions of a file.

Asks every question greedily and, with --samples, by sampling at temperature 1; prints accuracy by task with 95%
intervals that resample clips, and writes figures and predictions as JSON. Reads Parquet, JSONL (id, audio, question,
choices, answer), AVQA, MMAU and what save_to_disk of `datasets` wrote.

Accuracy is over all rows of the file: a row that is no question and a clip that cannot be used count as wrong. Beside
it stands the accuracy over the questions that were answered. Questions without a gold answer, as in MMAU's test split,
are asked and their predictions written, and count in no accuracy.

With --score nothing is asked: the predictions of a file in MMAU's format are scored by MMAU's rule, as they stand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from cluster import bad_rows
from cluster.arguments import PROMPT_HELP, count, replacing
from cluster.environment import check_rooms
from cluster.errors import UsageError, report_errors
from cluster.placement import plan_asking
from cluster.predictions import KEYS, score_rows
from cluster.progress import Reporter, evaluation_rows, prediction_rows
from cluster.scoring import score
from configs.load import load_prompt
from configs.schema import Algorithm, Cluster, Config, Data, Model, Prompt, Rollout
from data.formats import Format, load_examples
from data.prompts import Name
from data.rows import read_json_rows
from data.types import Example

EXAMPLES = """examples:
  python -m cluster.evaluate --model runs/tiny/checkpoints/step_450 --data questions.jsonl --out evaluation.json
  python -m cluster.evaluate --model Qwen/Qwen2-Audio-7B-Instruct --data mmau.json --audio-dir MMAU --out mmau_7b.json
  python -m cluster.evaluate --score predictions.json --out scores.json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m cluster.evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--model", metavar="DIR", help="checkpoint, model directory or hub id")
    arguments.add_argument("--data", metavar="FILE", help="questions")
    arguments.add_argument(
        "--score",
        metavar="FILE",
        help="in place of --model and --data: a file of predictions, in `model_output` or else `model_prediction`",
    )
    arguments.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
    arguments.add_argument("--audio-dir", metavar="DIR", help="where relative clip paths start (default: beside FILE)")
    arguments.add_argument("--format", default="auto", choices=get_args(Format))
    arguments.add_argument("--prompt", default="answer", metavar="PROMPT", help=PROMPT_HELP)
    arguments.add_argument(
        "--samples", type=count(0), default=0, metavar="N", help="completions at temperature 1 a question"
    )
    arguments.add_argument("--silent", action="store_true", help="control: replace every clip by silence")
    arguments.add_argument(
        "--max-tokens", type=count(1), default=256, metavar="N", help="longest completion (default 256)"
    )
    arguments.add_argument("--limit", type=count(1), metavar="N", help="only the first N rows of FILE, bad ones too")
    arguments.add_argument("--engines", type=count(1), metavar="N", help="vLLM engines (default one a node)")
    arguments.add_argument("--nodes", type=count(1), metavar="N", help="Ray nodes, joined or started")
    arguments.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments.add_argument("--seed", type=count(0), default=0)
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    reporter = Reporter()
    if options.score is not None:
        if options.model is not None or options.data is not None:
            arguments.error("--score asks no model: leave --model and --data out")
        return score_file(options.score, Path(options.out), reporter)
    if options.model is None or options.data is None:
        arguments.error("the following arguments are required: --model and --data, or --score")
    check_rooms()
    prompt = load_prompt(options.prompt)
    loaded = load_examples(options.data, options.audio_dir, options.format, unanswered=True)
    if options.limit is not None:
        loaded = loaded.first(options.limit)
    left_out = bad_rows.report(options.data, loaded.bad, reporter)
    if not loaded.examples:
        raise UsageError(f"--limit {options.limit}: none of the first rows of {options.data} is a question; raise it")
    config = inference_config(
        options.model,
        prompt=prompt,
        engines=options.engines,
        nodes=options.nodes,
        dtype=options.dtype,
        seed=options.seed,
        max_tokens=options.max_tokens,
    )
    with replacing(Path(options.out), "--out") as partial:
        result = evaluate(config, loaded.examples, reporter, options.samples, options.silent, len(left_out))
        result |= {"model": options.model, "data": options.data, "silent": options.silent, "left_out": left_out}
        partial.write_text(json.dumps(result, indent=1) + "\n")
    show(result, reporter)
    reporter.say(f"figures and predictions: {options.out}")
    return 0


def score_file(path: str, out: Path, reporter: Reporter) -> int:
    """Score the predictions of a file; returns the exit status."""
    with replacing(out, "--out") as partial:
        try:
            result = score_rows(read_json_rows(path))
        except OSError as error:
            raise UsageError(f"--score {path} cannot be read: {error.strerror}") from error
        if not result["predicted"]:
            raise UsageError(f"--score {path}: no row has an answer, choices and a prediction in {' or '.join(KEYS)}")
        partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    header = ("", "rows", "with a prediction", "accuracy", "of those with a prediction")
    reporter.table(f"{path} by MMAU's rule (95% interval)", prediction_rows(result), header)
    for problem in [row["problem"] for row in result["rows"] if "problem" in row][: bad_rows.TOLD]:
        reporter.say(f"counted as wrong: {problem}")
    if result["problems"]:
        reporter.say(f"rows that could not be scored, counted as wrong: {result['problems']}")
    reporter.say(f"figures and rows: {out}")
    return 0


def show(result: Mapping[str, Any], reporter: Reporter) -> None:
    """Print the figures."""
    sampled = ("sampled",) if "accuracy_sampled" in result else ()
    header = ("", "questions", "bad rows", "answered", "greedy", "greedy of answered", *sampled)
    if result["questions"]:
        reporter.table(f"accuracy of {result['model']} (95% interval)", evaluation_rows(result), header)
    if result["bad_rows"]:
        reporter.say(f"bad rows, counted as wrong: {result['bad_rows']}")
    if result["without_answer"]:
        reporter.say(f"questions without a gold answer, asked and not scored: {result['without_answer']}")
    if result["unusable"]:
        reporter.say(f"questions that could not be asked, counted as wrong: {result['unusable']}")
    mmau = ""
    if result["questions"]:
        mmau = f", MMAU's rule {result['accuracy_mmau']:.1%} ({result['accuracy_mmau_answered']:.1%} of the answered)"
    reporter.say(f"format rate {result['format_rate']:.1%}{mmau}")


def inference_config(
    model: str,
    prompt: Prompt | Name = "answer",
    engines: int | None = None,
    nodes: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    max_tokens: int = 256,
) -> Config:
    """The configuration of a session that only asks."""
    return Config.model_validate(
        {
            "run": {"seed": seed},
            "model": Model(path=model, audio_tower="frozen", projector="frozen", dtype=dtype).model_dump(),  # type: ignore[arg-type]
            "data": Data(train="", prompt=prompt).model_dump(),  # type: ignore[arg-type]
            "rollout": Rollout(
                engines=engines, max_completion_tokens=max_tokens, max_model_tokens=1500 + max_tokens, max_running=128
            ).model_dump(),
            "algorithm": Algorithm(beta=0.0).model_dump(),
            "cluster": Cluster(nodes=nodes).model_dump(),
        }
    )


def evaluate(
    config: Config,
    examples: Sequence[Example],
    reporter: Reporter,
    samples: int = 0,
    silent: bool = False,
    bad: int = 0,
) -> dict[str, Any]:
    """Figures and rows of `model.path` on the examples, and on `bad` rows that are none; starts and ends a session."""
    from cluster.nodes import connected
    from cluster.session import usable_model, workers

    model_path = usable_model(config.model.path)

    async def ask() -> dict[str, Any]:
        from cluster.evaluation import ask_all

        async with workers(config, roles, model_path) as (started, asker, _):
            with reporter.questions("questions", len(examples)) as advance:
                answers = await ask_all(
                    asker,
                    started.rollout,
                    examples,
                    samples,
                    config.rollout.max_completion_tokens,
                    silent=silent,
                    advance=advance,
                )
        return score(answers, config.data.prompt.form, bad)

    with connected(config.cluster, reporter.say) as nodes:
        roles = plan_asking(config, nodes)
        return asyncio.run(ask())


if __name__ == "__main__":
    sys.exit(main())
