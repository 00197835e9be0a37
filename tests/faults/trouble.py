"""What happens to a run: a process dies or freezes, a node goes and another comes, the store fills, a reward hangs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.types import Example
from tests.faults.patient import ENGINES, RECOVERY_SECONDS, STORE_BYTES, Patient
from tests.integration.commands import CHECKOUT

FILL = """
import sys, time, numpy, ray, ray._private.internal_api
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
chunk, held = 20_000_000, []
while len(held) * chunk < 1.2 * int(sys.argv[2]):
    held.append(ray.put(numpy.random.bytes(chunk)))
time.sleep(5)
summary = ray._private.internal_api.memory_summary(stats_only=True)
[spilled] = [line for line in summary.splitlines() if line.startswith("Spilled")]
print(spilled)
"""


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: what it is called.
        strike: does it, for the n-th time, and waits until the run has recovered; gives what exactly it did.
    """

    name: str
    strike: Callable[[Patient, random.Random, int], str]


def hanging(completions: list[str], example: Example, when: str) -> list[float | None]:
    """A reward of a user's own, which hangs once for each time that somebody makes the file `when`."""
    try:
        os.unlink(when)
    except FileNotFoundError:
        return [0.1 * sum(letter in "aeiou" for letter in completion) for completion in completions]
    time.sleep(3600)
    return []


def replaced(role: str, actor: str, told: str) -> Kind:
    """The loss of an actor that the run replaces."""

    def strike(patient: Patient, chance: random.Random, count: int) -> str:
        lines = len(patient.driver.lines)
        what = _signal(patient, actor, chance, count)
        patient.wait(lambda: _told_lost(patient, lines, told), f"what tells of the {role}, {what}")
        if role == "engine":
            _all_engines(patient)
        _a_step(patient)
        return what

    return Kind(role, strike)


def fatal(role: str, actor: str) -> Kind:
    """The loss of an actor that ends the launch in a line; another launch goes on."""

    def strike(patient: Patient, chance: random.Random, count: int) -> str:
        what = _signal(patient, actor, chance, count)
        launch = patient.ended()
        if launch.status != 2 or not launch.error:
            raise RuntimeError(f"{role}, {what}: status {launch.status} and no error line:\n{patient.tail()}")
        patient.launch()
        return what

    return Kind(role, strike)


def _driver(patient: Patient, chance: random.Random, count: int) -> str:
    patient.look()
    os.kill(patient.driver.process.pid, signal.SIGKILL)
    patient.ended()
    patient.launch()
    return "killed"


def _node(patient: Patient, chance: random.Random, count: int) -> str:
    lines = len(patient.driver.lines)
    patient.cluster.remove_node(patient.node, allow_graceful=False)
    patient.wait(lambda: _told_lost(patient, lines, "engine-"), "what tells of the engine of a lost node")
    patient.node = patient.add_node()
    _all_engines(patient)
    return "removed, and another added"


def _store(patient: Patient, chance: random.Random, count: int) -> str:
    arguments = [patient.cluster.address, str(STORE_BYTES)]
    filled = subprocess.run(
        [sys.executable, "-c", FILL, *arguments],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=RECOVERY_SECONDS,
    )
    if filled.returncode:
        raise RuntimeError(f"the object store could not be filled:\n{filled.stderr[-2000:]}")
    _a_step(patient)
    return filled.stdout.splitlines()[-1]


def _hang(patient: Patient, chance: random.Random, count: int) -> str:
    def timeouts() -> int:
        return int(patient.steps()[-1]["dropped_by_reason"].get("reward_timeout", 0))

    before = timeouts()
    hanging_file(patient.config).touch()
    patient.wait(lambda: timeouts() > before, "a group that is dropped for its reward")
    _a_step(patient)
    return "a group's"


def hanging_file(config: Path) -> Path:
    """What makes the reward hang."""
    return config.with_name("hang")


KINDS = (
    replaced("engine", "RolloutActor", "engine-"),
    replaced("reward actor", "RewardActor", "reward actor "),
    replaced("rollout log", "RolloutLogActor", "rollout log "),
    replaced("audio actor", "AudioActor", "audio actor "),
    fatal("learner", "LearnerActor"),
    Kind("driver", _driver),
    Kind("node", _node),
    Kind("object store", _store),
    Kind("reward", _hang),
)


def _signal(patient: Patient, actor: str, chance: random.Random, count: int) -> str:
    """Kill or freeze one of the processes of an actor class, in turn."""
    number = (signal.SIGKILL, signal.SIGSTOP)[count % 2]
    patient.wait(lambda: patient.actors(actor), f"a process of {actor}")
    os.kill(chance.choice(patient.actors(actor)).pid, number)
    return "killed" if number is signal.SIGKILL else "frozen"


def _told_lost(patient: Patient, since: int, name: str) -> bool:
    lines = patient.driver.lines[since:]
    return any(line.startswith(name) and "is lost, and another" in line for line in lines)


def _a_step(patient: Patient) -> None:
    now = time.time()
    patient.wait(lambda: patient.stepped(now), "a step")


def _all_engines(patient: Patient) -> None:
    """Wait for a step that all engines were there for."""
    now = time.time()
    patient.wait(lambda: patient.stepped(now) and patient.steps()[-1]["engines"] == ENGINES, "a step with all engines")
