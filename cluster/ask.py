"""`python -m cluster.ask`: put one question about one clip to a model, the first thing to try."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cluster.environment import check_rooms
from cluster.errors import UsageError, report_errors
from cluster.inference import add_options, ask, inference_config
from cluster.progress import Reporter
from data.arguments import count
from data.audio import read_clip
from data.command import command
from data.types import ClipSource, Example
from rewards.answers import extract_answer

EXAMPLES = """examples:
  python -m cluster.ask --model runs/tiny/checkpoints/step_450 dog.wav "What is heard?" --choice dog --choice cat
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.ask", __doc__, EXAMPLES)
    arguments.add_argument("--model", required=True, metavar="DIR", help="checkpoint, model directory or hub id")
    arguments.add_argument("clip", help="audio file")
    arguments.add_argument("question")
    arguments.add_argument(
        "--choice", action="append", default=[], metavar="TEXT", help="a choice; repeat for more, leave out for none"
    )
    arguments.add_argument("--samples", type=count(0), default=0, metavar="G", help="also sample G completions")
    add_options(arguments)
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    reporter = Reporter()
    check_rooms()
    example = Example(
        "question", ClipSource(str(Path(options.clip).absolute())), options.question, tuple(options.choice), ""
    )
    config = inference_config(options, engines=1)
    data = config.data
    read_clip(example.clip, data.max_seconds, data.min_seconds, data.channels)  # refused before anything is started
    [answered] = ask(config, [example], reporter, options.samples)
    if answered.greedy is None:
        raise UsageError(f"{options.clip}: {answered.problem}: the question cannot be asked")
    reporter.say(f"answer      {extract_answer(answered.greedy)}")
    reporter.say(f"completion  {answered.greedy}")
    for text, times in Counter(answered.sampled).most_common():
        reporter.say(f"sampled {times}x  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
