"""`python -m cluster.ask`: put one question about one clip to a model, the first thing to try.

python -m cluster.ask --model runs/tiny/checkpoints/step_450 dog.wav "Which animal is heard?" --choice dog --choice cat
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cluster.arguments import CHANNELS_HELP, PROMPT_HELP, count
from cluster.environment import check_rooms
from cluster.errors import UsageError, report_errors
from cluster.inference import ask, inference_config
from cluster.progress import Reporter
from configs.load import load_prompt
from configs.schema import Channels
from data.audio import read_clip
from data.types import ClipSource, Example
from rewards.answers import extract_answer


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m cluster.ask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--model", required=True, metavar="DIR", help="checkpoint, model directory or hub id")
    arguments.add_argument("clip", help="audio file")
    arguments.add_argument("question")
    arguments.add_argument(
        "--choice", action="append", default=[], metavar="TEXT", help="a choice; repeat for more, leave out for none"
    )
    arguments.add_argument("--samples", type=count(0), default=0, metavar="G", help="also sample G completions")
    arguments.add_argument("--channels", default="mean", choices=get_args(Channels), help=CHANNELS_HELP)
    arguments.add_argument("--prompt", default="answer", metavar="PROMPT", help=PROMPT_HELP)
    arguments.add_argument(
        "--max-tokens", type=count(1), default=256, metavar="N", help="longest completion (default 256)"
    )
    arguments.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
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
    config = inference_config(
        options.model,
        load_prompt(options.prompt),
        engines=1,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        channels=options.channels,
    )
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
