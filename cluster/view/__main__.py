"""`python -m cluster.view RUN [RUN ...]`: see and hear what runs learn, while they go on and afterwards.

Serves a page on loopback: curves, the groups with their recordings and completions, evaluations, and what the engines
do. Reads the files of the runs alone, so it may be started, stopped and started again at any time; runs that begin
later in a directory that it was given come in by themselves, and those that are deleted go.
"""

from __future__ import annotations

import argparse
import socket
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress

from cluster.errors import UsageError, report_errors
from data.command import command

EXAMPLES = """examples:
  python -m cluster.view runs/tiny                           one run
  python -m cluster.view runs/tiny runs/other                two, one above the other
  python -m cluster.view runs/study                          all runs of a directory
  ssh -L 8600:127.0.0.1:8600 HOST                            from another machine: then open http://127.0.0.1:8600
"""

PORT = 8600
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
EVERYWHERE = ("0.0.0.0", "::")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.view", __doc__, EXAMPLES)
    arguments.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, or one that holds runs")
    arguments.add_argument(
        "--port", type=int, default=PORT, help=f"where it listens (default {PORT}; 0 takes a free one)"
    )
    arguments.add_argument(
        "--host", default="127.0.0.1", help="address that it listens on; whoever reaches it sees everything in the runs"
    )
    arguments.add_argument("--open", action="store_true", help="open the page in a browser")
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    import uvicorn

    from cluster.view.app import create
    from cluster.view.run import Library

    library = Library(options.runs)
    listener = _listening(options.host, options.port)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    found = f"{len(library.runs)} run{'s' * (len(library.runs) != 1)}" if library.runs else "no run yet, shown"
    print(f"{found} at {address} (Ctrl-C ends it)", flush=True)
    if options.open:
        webbrowser.open(address)
    app = create(library, ("*",) if options.host in EVERYWHERE else (*LOOPBACK, host, socket.gethostname()))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    with suppress(KeyboardInterrupt):  # how it is ended
        server.run(sockets=[listener])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"{host}:{port} cannot be listened on ({error.strerror}): give another --port") from error


if __name__ == "__main__":
    sys.exit(main())
