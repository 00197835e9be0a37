"""How a command ends that is sent SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = """
import asyncio, signal, sys
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
from cluster.errors import report_errors

async def work():
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        print("ending", flush=True)
        await asyncio.sleep(0.2)
        print("ended", flush=True)

@report_errors
def main(argv):
    try:
        asyncio.run(work())
    finally:
        print("cluster is down", flush=True)

sys.exit(main(None))
"""


@pytest.mark.parametrize("kind", ["heeds Ctrl-C", "deaf"])
@pytest.mark.parametrize("times", [1, 2])
def test_every_finally_is_run_once_also_in_the_background_and_where_the_signal_is_repeated(
    kind: str, times: int
) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", COMMAND, kind], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout.readline() == "working\n"
    started.send_signal(signal.SIGTERM)
    assert started.stdout.readline() == "ending\n"
    for _ in range(times - 1):
        started.send_signal(signal.SIGTERM)
    output, errors = started.communicate(timeout=30)
    assert output == "ended\ncluster is down\n"
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert started.returncode == 130
