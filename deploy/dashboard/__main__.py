"""Prometheus on the runs of a directory, and a page that shows them: `make dashboard`.

Starts Prometheus with deploy/prometheus/prometheus.yml on loopback, prints the address of the page, and ends it on
Ctrl-C. What it has collected stays in the directory of `--data` for the next time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import yaml

PROMETHEUS = Path(__file__).resolve().parent.parent / "prometheus"
CONFIG, CONSOLES = PROMETHEUS / "prometheus.yml", PROMETHEUS / "consoles"

VARIABLE = "AURICLE_PROMETHEUS"
"""Names the program where it is not on the path."""

START_SECONDS = 30.0
END_SECONDS = 30.0


class DashboardError(RuntimeError):
    """Prometheus is not there, or does not start."""


def program() -> str:
    """Prometheus's path."""
    wanted = os.environ.get(VARIABLE, "prometheus")
    found = shutil.which(wanted)
    if found is None:
        raise DashboardError(
            f"{wanted} is no program here: install Prometheus (Debian: apt-get install prometheus; or a release of "
            f"prometheus.io), or set {VARIABLE} to its path"
        )
    return found


def configuration(runs: Path) -> str:
    """The shipped configuration with absolute paths, for the runs of this directory."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        for discovery in job["file_sd_configs"]:
            discovery["files"] = [
                str(runs.absolute() / Path(name).name) if name.startswith("../../runs/") else name
                for name in discovery["files"]
            ]
    return yaml.safe_dump(config, sort_keys=False)


def command(config: Path, data: Path, port: int) -> list[str]:
    """How Prometheus is started."""
    return [
        program(),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--web.console.templates={CONSOLES}",
        f"--web.console.libraries={CONSOLES}",
        "--log.level=warn",
    ]


def wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    """Until it answers; raises DashboardError where it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DashboardError(f"Prometheus ended with status {process.returncode}; it has told why above")
        try:
            with urllib.request.urlopen(f"{address}/-/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise DashboardError(f"Prometheus does not answer at {address} within {START_SECONDS:g} s")


def check_free(port: int) -> None:
    """Raise DashboardError where something listens on the port already, such as a Prometheus of the system's."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise DashboardError(f"something listens on port {port} already: --port takes another")


def end(process: subprocess.Popen[bytes]) -> None:
    """Have it write what it holds, and wait for that."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def show(runs: Path, data: Path, port: int, browse: bool) -> None:
    """Serve the page until Ctrl-C."""
    check_free(port)
    data.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="auricle-") as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(configuration(runs), encoding="utf-8")
        process = subprocess.Popen(command(config, data, port), start_new_session=True)
        try:
            wait_until_ready(process, address)
            print(f"runs under {runs} at {address}/consoles/auricle.html; Ctrl-C ends it", flush=True)
            if browse:
                webbrowser.open(f"{address}/consoles/auricle.html")
            process.wait()
            raise DashboardError(f"Prometheus ended with status {process.returncode}; it has told why above")
        finally:
            end(process)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dashboard", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run.dir of the runs (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9090, help="of the page, on loopback (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="what is collected (default: .prometheus in the runs' directory)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        show(options.runs, options.data or options.runs / ".prometheus", options.port, options.open)
    except DashboardError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
