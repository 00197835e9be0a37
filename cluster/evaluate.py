"""`python -m cluster.evaluate`: how well a model answers the questions of a file.

Asks every question greedily and, with --samples, by sampling at temperature 1; prints accuracy by task, difficulty and
sub-category with 95% intervals that resample recordings, pass@k and majority@k, and whether the model leans to a
position of the choices; writes figures and answers as JSON. Reads Parquet, JSONL (id, audio, question, choices,
answer), AVQA, MMAU and what save_to_disk of `datasets` wrote.

Accuracy is over all rows of the file: a row that is no question and a clip that cannot be used count as wrong. Beside
it stands the accuracy over the questions that were answered. Questions without a gold answer, as in MMAU's test split,
are asked and their predictions written, and count in no accuracy. docs/evaluation.md defines every figure.

With --score nothing is asked: the predictions of a file in MMAU's format are scored by MMAU's rule, as they stand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cluster import bad_rows
from cluster.environment import check_rooms
from cluster.errors import UsageError, report_errors
from cluster.evaluation import prediction_file
from cluster.evaluation.predictions import score_rows
from cluster.evaluation.scoring import score
from cluster.inference import add_options, ask, inference_config
from cluster.outputs import replacing, write_json
from cluster.progress import Reporter
from cluster.tables import prediction_rows, share, show_evaluation
from data.arguments import FORMAT_HELP, count
from data.command import command
from data.formats import Loaded, find_questions, load_examples
from data.order import hash_seed, shuffle_choices
from data.types import Example

EXAMPLES = """examples:
  python -m cluster.evaluate --model runs/tiny/checkpoints/step_450 --data questions.jsonl --out evaluation.json
  python -m cluster.evaluate --model Qwen/Qwen2-Audio-7B-Instruct --data mmau.json --audio-dir MMAU --out mmau_7b.json
      --predictions predictions.json         what MMAU's own script reads
      --samples 8                            pass@1, 2, 4, 8 and majority@1, 2, 4, 8
      --engines 4                            four engines share the questions
      --silent, or --shuffled                controls: silence, or the clip of another question
      --shuffle-choices                      control: the choices in another order
  python -m cluster.evaluate --score predictions.json --out scores.json
  python -m cluster.compare before.json after.json          two files that --out has written
"""

SETTINGS = (
    "model", "data", "prompt", "samples", "max_tokens", "dtype", "channels", "seed", "silent", "shuffled",
    "shuffle_choices",
)  # fmt: skip
"""Options that are kept with the figures that they made."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.evaluate", __doc__, EXAMPLES)
    arguments.add_argument("--model", metavar="DIR", help="checkpoint, model directory or hub id")
    arguments.add_argument("--data", metavar="FILE", help="questions")
    arguments.add_argument(
        "--score",
        metavar="FILE",
        help="in place of --model and --data: a file of predictions, in `model_output` or else `model_prediction`",
    )
    arguments.add_argument("--out", required=True, metavar="FILE", help="JSON file to write: figures and answers")
    arguments.add_argument(
        "--predictions",
        metavar="FILE",
        help="another JSON file to write: the rows of --data with predictions, as MMAU's script reads them",
    )
    arguments.add_argument("--audio-dir", metavar="DIR", help="where relative clip paths start (default: beside FILE)")
    arguments.add_argument("--format", default="auto", metavar="FORMAT", help=FORMAT_HELP)
    add_options(arguments)
    arguments.add_argument(
        "--samples", type=count(0), default=0, metavar="N", help="completions at temperature 1 a question"
    )
    clips = arguments.add_mutually_exclusive_group()
    clips.add_argument("--silent", action="store_true", help="control: replace every clip by silence")
    clips.add_argument(
        "--shuffled", action="store_true", help="control: ask each question about another one's recording"
    )
    arguments.add_argument(
        "--shuffle-choices", action="store_true", help="control: ask with the choices in an order drawn by --seed"
    )
    arguments.add_argument("--limit", type=count(1), metavar="N", help="only the first N rows of FILE, bad ones too")
    arguments.add_argument(
        "--engines", type=count(1), metavar="N", help="vLLM engines, which share the questions (default one a node)"
    )
    arguments.add_argument("--nodes", type=count(1), metavar="N", help="Ray nodes, joined or started")
    arguments.add_argument("--seed", type=count(0), default=0, help="draws samples and the controls' order (default 0)")
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    reporter = Reporter()
    if options.score is not None:
        given = [name for name in vars(options) if getattr(options, name) != arguments.get_default(name)]
        if others := [f"--{name.replace('_', '-')}" for name in given if name not in ("score", "out")]:
            arguments.error(f"--score asks no model and scores every row: leave {', '.join(others)} out")
        return score_file(options.score, Path(options.out), reporter)
    if options.model is None or options.data is None:
        arguments.error("the following arguments are required: --model and --data, or --score")
    if options.predictions is not None and Path(options.predictions).absolute() == Path(options.out).absolute():
        arguments.error("--predictions and --out name one file: give each its own")
    check_rooms()
    config = inference_config(options, options.engines, options.nodes, options.seed)
    loaded = load_examples(options.data, options.audio_dir, options.format, unanswered=True)
    if options.limit is not None:
        loaded = loaded.first(options.limit)
    left_out = bad_rows.report(options.data, loaded.bad, reporter)
    if not loaded.examples:
        raise UsageError(f"--limit {options.limit}: none of the first rows of {options.data} is a question; raise it")
    with replacing(Path(options.predictions), "--predictions") if options.predictions else nullcontext() as predictions:
        with replacing(Path(options.out), "--out") as out:
            answers = ask(config, _asked(loaded, options), reporter, options.samples, options.silent, options.shuffled)
            result = score(answers, config.data.prompt.form, len(left_out))
            write_json(out, result | {key: getattr(options, key) for key in SETTINGS} | {"left_out": left_out})
        if predictions is not None:
            questions = find_questions(options.data, options.audio_dir, options.format)
            write_json(predictions, prediction_file.written(questions, options.limit, loaded.bad, answers))
    show({"model": options.model, **result}, reporter)
    reporter.say(f"figures and answers: {options.out}")
    if options.predictions:
        reporter.say(f"predictions for MMAU's script: {options.predictions}")
    return 0


def _asked(loaded: Loaded, options: argparse.Namespace) -> Sequence[Example]:
    """The questions in the order of their file, each with its choices as they are to be asked."""
    if not options.shuffle_choices:
        return loaded.examples
    return [shuffle_choices(one, hash_seed(options.seed, "choices", one.id)) for one in loaded.examples]


def score_file(path: str, out: Path, reporter: Reporter) -> int:
    """Score the predictions of a file; returns the exit status."""
    with replacing(out, "--out") as partial:
        try:
            result = score_rows(prediction_file.read(path))
        except OSError as error:
            raise UsageError(f"--score {path} cannot be read: {error.strerror}") from error
        problems = [row["problem"] for row in result["rows"] if row.get("problem")]
        if not result["predicted"]:
            keys, first = " or ".join(prediction_file.KEYS), "".join(f"; the first: {one}" for one in problems[:1])
            raise UsageError(f"--score {path}: no row has an answer, choices and a prediction in {keys}{first}")
        write_json(partial, result)
    header = ("", "rows", "with a prediction", "accuracy", "of those with a prediction")
    reporter.table(f"{path} by MMAU's rule (95% interval)", prediction_rows(result), header)
    for problem in problems[: bad_rows.TOLD]:
        reporter.say(f"counted as wrong: {problem}")
    if result["problems"]:
        reporter.say(f"rows that could not be scored, counted as wrong: {result['problems']}")
    if result["repeated_ids"]:
        reporter.say(f"rows whose id stands above already, counted again: {result['repeated_ids']}")
    reporter.say(f"figures and rows: {out}")
    return 0


def show(result: Mapping[str, Any], reporter: Reporter) -> None:
    """Print the figures."""
    show_evaluation(result, reporter)
    if result["bad_rows"]:
        reporter.say(f"bad rows, counted as wrong: {result['bad_rows']}")
    if result["unusable"]:
        reporter.say(f"questions that could not be asked, counted as wrong: {result['unusable']}")
    if result["without_answer"]:
        reporter.say(f"questions without an answer, in no accuracy: {result['without_answer']}")
    reporter.say(
        f"format rate {share(result['format_rate'])}, predictions among the choices {share(result['in_choices'])}, "
        f"chance {share(result['chance'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
