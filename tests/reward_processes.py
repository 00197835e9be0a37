"""Reward functions that do what a completion says, in processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from data.types import ClipSource, Example
from rewards.process import RewardProcess
from rewards.terms import Term
from rewards.values import Dropped, Outcome

EXAMPLE = Example("row 7", ClipSource("a.wav"), "Which animal?", ("Dog", "Cat"), "Dog")
LIMIT_SECONDS = 0.2
START_SECONDS = 30.0

CALLED = '''
"""Does what each completion says, and gives the id of its process."""
import itertools, json, os, signal, stat, subprocess, time


def is_socket(descriptor):
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def do(completions, example):
    for text in completions:
        match text:
            case "sleep": time.sleep(60)
            case "loop":
                while True: pass
            case "catch every Exception":
                while True:
                    try: time.sleep(60)
                    except Exception: pass
            case "catch everything":
                while True:
                    try: time.sleep(60)
                    except BaseException: pass
            case "loop in C": sum(itertools.repeat(0))
            case "mathematics":
                from math_verify import parse, verify
                verify(parse("$9^{9^{9^9}}$"), parse("3"), timeout_seconds=1)
            case "raise": raise KeyError("x")
            case "exit": os._exit(3)
            case "crash": os.kill(os.getpid(), signal.SIGSEGV)
            case "text": return ["much"]
            case "nothing": return None
            case "by name": return {text: 1.0 for text in completions}
            case "lead away": json.loads("{")
            case "raise at length": raise KeyError("x" * 10_000)
            case "fork and exit":
                if os.fork() == 0:
                    time.sleep(15)
                os._exit(3)
            case "hand on and exit":
                sockets = [one for one in range(3, 20) if is_socket(one)]
                subprocess.Popen(["sleep", "15"], pass_fds=sockets, start_new_session=True)
                os._exit(3)
            case "start another": return [float(subprocess.Popen(["sleep", "60"]).pid)]
            case "ignored signals":
                status = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True).stdout
                return [float(int(status.split()[1], 16) & (1 << signal.SIGINT - 1 | 1 << signal.SIGUSR1 - 1))]
    completions.append("the list is mine")
    return [float(os.getpid()) for _ in completions[:-1]]
'''

AWAITED = '''
"""Does what the one completion says, and gives how many were done at once."""
import asyncio, time

running = most = 0


async def do(completions, example):
    global running, most
    [text] = completions
    running += 1
    most = max(most, running)
    try:
        match text:
            case "wait": await asyncio.sleep(60)
            case "block": time.sleep(60)
            case "linger": await asyncio.sleep(0.4)
            case "raise": raise TimeoutError("of its own")
            case "cancel": raise asyncio.CancelledError("of its own")
            case "stay":
                while True:
                    try: await asyncio.sleep(60)
                    except BaseException: pass
            case _: await asyncio.sleep(0.05)
        return [float(most)]
    finally:
        running -= 1
'''


OWNER = """
import asyncio, sys
from rewards.process import RewardProcess
from rewards.terms import Term
from tests.reward_processes import EXAMPLE

async def main():
    use, first, last = sys.argv[1:]
    process = RewardProcess(Term("do", use), 30.0)
    outcome = await process.score([first], EXAMPLE)
    print(int(outcome.values[0]), flush=True)
    await process.score([last], EXAMPLE)

asyncio.run(main())
"""


def owned(use: str, first: str, last: str) -> subprocess.Popen[str]:
    """A process of Python that has a function score two groups, and prints the value of the first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OWNER, use, first, last]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@asynccontextmanager
async def running(use: str, limit: float = LIMIT_SECONDS, **keys: Any) -> AsyncIterator[RewardProcess]:
    found = RewardProcess(Term(use, use, timeout_seconds=limit, **keys), START_SECONDS)
    try:
        yield found
    finally:
        await found.end()


async def in_turn(use: str, *groups: str, limit: float = LIMIT_SECONDS) -> list[Outcome]:
    """What a process makes of groups, one after the other; a group is written with commas."""
    async with running(use, limit) as found:
        return [await found.score(texts.split(", "), EXAMPLE) for texts in groups]


async def at_once(use: str, *texts: str, **keys: Any) -> list[Outcome]:
    """What a process makes of groups of one completion that come at the same time."""
    async with running(use, **keys) as found:
        return await asyncio.gather(*(found.score([text], EXAMPLE) for text in texts))


def faults(outcome: Outcome) -> list[str]:
    return [value.reason for value in outcome.values if isinstance(value, Dropped)]
