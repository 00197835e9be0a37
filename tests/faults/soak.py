"""`python -m tests.faults.soak`: half an hour in which something happens to a run about every 50 seconds.

Processes of every kind are killed and frozen, a node goes and another comes, the object store is filled, a reward
hangs. A launch that this ends is started again with --auto-resume. At last the run is brought to its end, and it is
looked at whether any group was lost or trained twice, what is left behind, and whether the weights can be used.
Exits with 1 where the promise was broken.
"""

from __future__ import annotations

import json
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.runs import load
from data.command import command
from data.teller import table
from tests.faults.patient import END_SECONDS, ENGINES, Ended, Patient, patient
from tests.faults.trouble import KINDS, Kind, hanging_file
from tests.integration.commands import command as started
from tests.integration.commands import until
from tests.integration.models import hearing_model
from tests.integration.recordings import write_questions
from tests.integration.runs import START_SECONDS, missing_groups, write_config

STALENESS, PROMPTS, QUESTIONS = 2, 4, 32
STEPS_AFTER = 5
"""Taken after the last fault."""
STEPS_A_MINUTE, FAULTS_A_MINUTE, CHECKPOINTS = 2.0, 35 / 30, 3
"""What a soak has to come to."""
LONGEST = 1.5
"""How much longer than asked for it may take, where a kind has not been had often enough."""
JITTER_SECONDS = 5.0
MOST_GROWTH_BYTES = 100_000_000
"""Of the memory of one process of the control loop."""
EXAMPLES = """examples:
  python -m tests.faults.soak                              half an hour, 4 faults of each kind and more
  python -m tests.faults.soak --minutes 7 --of-each 1      a short one
  python -m tests.faults.soak --kinds engine node          only these happen
"""


@dataclass(frozen=True)
class Fault:
    """Something that happened, and how long it was until the run had recovered."""

    kind: str
    what: str
    at: float
    """Seconds since the soak began."""
    seconds: float
    ended: str = ""
    """Why the launch ended that was to go on, or had to be ended since it did not."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    minutes: float
    steps: int
    checkpoints: int
    """Seen."""
    ledger: dict[str, Any]
    lost: int
    trained_twice: int
    oldest_tokens: int
    """Largest distance of a token's version from the step that trained on it."""
    launches: int
    controller_bytes: tuple[int, int]
    """After the first step, and at the end of the last launch that faults happened to."""
    growth_bytes: int
    """Largest of a launch."""
    left: list[str]
    """Processes, and files of somebody who was interrupted, in the run and in shared memory."""
    weights: str
    """What the weights of the end were used for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = command("tests.faults.soak", __doc__, EXAMPLES)
    arguments.add_argument("--minutes", type=float, default=30.0, help="how long faults happen (default 30)")
    arguments.add_argument(
        "--every",
        type=float,
        default=35.0,
        metavar="SECONDS",
        help="least time between two, where the run has recovered by then (default 35: about 53 on average)",
    )
    arguments.add_argument("--of-each", type=int, default=4, metavar="N", help="least of each kind (default 4)")
    arguments.add_argument("--seed", type=int, default=0, help="of their order, and of whom they befall")
    arguments.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS], help="only these")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="write what came of it as JSON")
    options = arguments.parse_args(argv)
    console = Console(highlight=False)
    kinds = [kind for kind in KINDS if options.kinds is None or kind.name in options.kinds]
    shared = set(Path("/dev/shm").iterdir())
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        config = configure(Path(temporary))
        with patient(config) as run:
            console.print(
                f"a step is taken; now something happens every {options.every:g} s, or as soon as it has recovered"
            )
            began = time.monotonic()
            faults, checkpoints = befall(
                run, kinds, random.Random(options.seed), options.minutes * 60, options.every, options.of_each, console
            )
            minutes = (time.monotonic() - began) / 60
            outcome = brought_to_an_end(run, minutes, checkpoints)
        with suppress(AssertionError):  # told below
            until(lambda: not run.processes(), "the end of every process", END_SECONDS)
        left = [*outcome.left, *run.processes(), *(str(file) for file in set(Path("/dev/shm").iterdir()) - shared)]
    outcome = Outcome(**{**asdict(outcome), "left": left})
    broken = judge(outcome, faults, kinds, options.minutes, options.of_each)
    tell(outcome, faults, broken, console)
    if options.out:
        found = {"faults": [asdict(fault) for fault in faults], "outcome": asdict(outcome), "broken": broken}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if broken else 0


def configure(folder: Path) -> Path:
    """The configuration of the run; asynchronous, of two engines."""
    questions = write_questions(folder / "questions", train=QUESTIONS)
    config = folder / "soak.yaml"
    return write_config(
        config,
        hearing_model(folder / "model"),
        questions.train,
        run={"max_steps": 1_000_000},
        rollout={"engines": ENGINES},
        learner={"schedule": "constant", "learning_rate": 1e-5},
        algorithm={"beta": 0.0, "max_staleness": STALENESS, "prompts_per_step": PROMPTS},
        rewards=[
            {"use": "accuracy"},
            {
                "use": "tests.faults.trouble:hanging",
                "args": {"when": str(hanging_file(config))},
                "timeout_seconds": 5.0,
            },
        ],
        checkpoint={"every_steps": 5},
        cluster={"beat_timeout_seconds": 20.0, "max_losses_per_hour": 1000},
    )


def befall(
    run: Patient,
    kinds: Sequence[Kind],
    chance: random.Random,
    seconds: float,
    every: float,
    of_each: int,
    console: Console,
) -> tuple[list[Fault], set[str]]:
    """Have faults happen until the time is up and each kind was had often enough; gives the checkpoints seen too."""
    faults: list[Fault] = []
    counts: Counter[str] = Counter()
    checkpoints: set[str] = set()
    deck: list[Kind] = []
    began = time.monotonic()

    def over() -> bool:
        passed = time.monotonic() - began
        had = all(counts[kind.name] >= of_each for kind in kinds)
        return (passed >= seconds and had) or passed >= LONGEST * seconds

    while not over():
        deck = deck or chance.sample(list(kinds), len(kinds))
        kind = deck.pop()
        at = time.monotonic()
        ended = what = ""
        try:
            run.check()
            what = kind.strike(run, chance, counts[kind.name])
        except (Ended, TimeoutError, subprocess.TimeoutExpired) as error:
            run.driver.kill()
            ended = f"{error}: {run.ended(END_SECONDS).error or run.tail()}"
            run.launch()
        took = time.monotonic() - at
        counts[kind.name] += 1
        run.look()
        checkpoints |= {path.name for path in (run.path / "checkpoints").glob("step_*")}
        faults.append(Fault(kind.name, what, at - began, took, ended))
        told = f"{kind.name} {what}: recovered in {took:.0f} s" if not ended else f"{kind.name}: {ended}"
        step = run.steps()[-1]["step"]
        console.print(f"[{at - began:5.0f} s] fault {len(faults)}: {told}; step {step}", soft_wrap=True)
        time.sleep(max(at + every - time.monotonic(), 0.0) + chance.uniform(0.0, JITTER_SECONDS))
    return faults, checkpoints


def brought_to_an_end(run: Patient, minutes: float, checkpoints: set[str]) -> Outcome:
    """Take the last steps, end the run, and look at what is there."""
    last = run.steps()[-1]["step"] + STEPS_AFTER
    run.wait(lambda: run.steps()[-1]["step"] >= last, "the steps after the last fault")
    run.look()
    run.driver.process.send_signal(signal.SIGTERM)
    run.ended(END_SECONDS)
    launches = list(run.launches)
    steps = run.steps()[-1]["step"] + 1
    resume = ("cluster.launch", "--config", run.config.name, "--resume", f"run.max_steps={steps}")
    with started(*resume, cwd=run.config.parent, env=run.environment) as last_launch:
        if last_launch.wait(START_SECONDS):
            raise RuntimeError(f"the run could not be brought to its end:\n{last_launch.output[-3000:]}")
    kinds = ("Rollout", "Reward", "RolloutLog", "Audio", "Learner")
    until(lambda: not any(run.actors(f"{kind}Actor") for kind in kinds), "the end of every actor", END_SECONDS)
    lines = run.steps()
    assert [line["step"] for line in lines] == list(range(1, steps + 1)), "a step is missing, or stands twice"
    rollouts = load(run.path).rollouts
    trained = rollouts[rollouts["drop_reason"].isna()]
    ages = [
        step - 1 - version
        for step, versions in zip(trained["step"], trained["versions"], strict=True)
        for of_one in versions
        for version in of_one
    ]
    counts = lines[-1]
    missing = missing_groups(run.path)
    return Outcome(
        minutes=minutes,
        steps=steps,
        checkpoints=len(checkpoints),
        ledger={key: counts[key] for key in ("admitted", "trained", "dropped", "in_flight", "dropped_by_reason")},
        lost=len([name for name in missing if not (rollouts["group_id"] == name).any()])
        + abs(counts["admitted"] - len(rollouts)),
        trained_twice=int(rollouts["group_id"].duplicated().sum()),
        oldest_tokens=int(max(ages)),
        launches=len(launches),
        controller_bytes=(launches[0].began_bytes, launches[-1].ended_bytes),
        growth_bytes=max(launch.ended_bytes - launch.began_bytes for launch in launches),
        left=[str(path.relative_to(run.path)) for path in run.path.rglob("*") if _unfinished(path)],
        weights=used(run, steps),
    )


def _unfinished(path: Path) -> bool:
    """Whether a file or folder is of somebody who was interrupted."""
    return path.name.endswith((".part", ".partial", ".new")) or (
        path.name.startswith(".") and not path.name.startswith(".lock")
    )


def used(run: Patient, step: int) -> str:
    """Load the weights of the end in transformers, and answer questions with them in vLLM."""
    from transformers import Qwen2AudioForConditionalGeneration

    place = run.path / "checkpoints" / f"step_{step}"
    model = Qwen2AudioForConditionalGeneration.from_pretrained(str(place / "hf"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert finite, "the weights of the end are not finite"
    out = run.config.with_name("answers.json")
    data = run.config.parent / "questions" / "test.jsonl"
    evaluate = ("cluster.evaluate", "--model", str(place), "--data", str(data), "--out", str(out))
    with started(*evaluate, cwd=run.config.parent) as asked:
        if asked.wait(START_SECONDS):
            raise RuntimeError(f"the weights of the end cannot be evaluated:\n{asked.output[-3000:]}")
    answered = json.loads(out.read_text())["questions"]
    return f"{parameters:,} parameters in transformers, {answered} questions answered in vLLM"


def judge(outcome: Outcome, faults: Sequence[Fault], kinds: Sequence[Kind], minutes: float, of_each: int) -> list[str]:
    """What was promised and is not so."""
    counts = Counter(fault.kind for fault in faults)
    needed = {
        "faults": (len(faults), math.floor(FAULTS_A_MINUTE * minutes)),
        "steps": (outcome.steps, math.floor(STEPS_A_MINUTE * minutes)),
        "checkpoints": (outcome.checkpoints, CHECKPOINTS),
    } | {f"faults of kind {kind.name}": (counts[kind.name], of_each) for kind in kinds}
    broken = [f"{name}: {found}, and {least} were to be" for name, (found, least) in needed.items() if found < least]
    broken += [f"the launch was to go on: {fault.kind}, {fault.ended}" for fault in faults if fault.ended]
    if outcome.lost:
        broken.append(f"{outcome.lost} groups are lost")
    if outcome.trained_twice:
        broken.append(f"{outcome.trained_twice} groups were trained twice")
    if outcome.oldest_tokens > STALENESS:
        broken.append(f"tokens are {outcome.oldest_tokens} versions old, and algorithm.max_staleness is {STALENESS}")
    if outcome.growth_bytes > MOST_GROWTH_BYTES:
        broken.append(f"the control loop has grown by {outcome.growth_bytes / 1e6:.0f} MB")
    return broken + [f"left behind: {name}" for name in outcome.left]


def tell(outcome: Outcome, faults: Sequence[Fault], broken: Sequence[str], console: Console) -> None:
    """Print what came of it."""
    by_kind = {kind: [fault.seconds for fault in faults if fault.kind == kind] for kind in {f.kind for f in faults}}
    rows = [
        (name, str(len(seconds)), f"{statistics.median(seconds):.0f}", f"{max(seconds):.0f}")
        for name, seconds in [*sorted(by_kind.items()), ("all", [fault.seconds for fault in faults])]
    ]
    console.print(table("recovery times, seconds", rows, ("fault", "count", "median", "worst")))
    ledger, (start, end) = outcome.ledger, outcome.controller_bytes
    console.print(
        f"{len(faults)} faults in {outcome.minutes:.1f} minutes, {outcome.steps} steps, {outcome.checkpoints} "
        f"checkpoints seen, {outcome.launches} launches\n"
        f"groups: {ledger['admitted']} admitted, {ledger['trained']} trained, {ledger['dropped']} dropped "
        f"{ledger['dropped_by_reason']}, {ledger['in_flight']} in flight; {outcome.lost} lost, "
        f"{outcome.trained_twice} trained twice; oldest tokens {outcome.oldest_tokens} versions\n"
        f"memory of the controller: {start / 1e6:.0f} MB at the start, {end / 1e6:.0f} MB at the end; a launch grew by "
        f"at most {outcome.growth_bytes / 1e6:.0f} MB\n"
        f"weights of the end: {outcome.weights}\n"
        f"left behind: {', '.join(outcome.left) or 'nothing'}",
        soft_wrap=True,
    )
    for line in broken:
        console.print(f"BROKEN: {line}", style="red", soft_wrap=True)
    console.print("the promise was broken" if broken else "the promise was kept")


if __name__ == "__main__":
    sys.exit(main())
