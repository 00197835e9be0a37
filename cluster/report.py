"""`python -m cluster.report RUN`: a run as one HTML file, to send to a colleague.

Holds the table of results, the curves, a sample of the groups with their recordings and completions, the configuration
and where the run was begun; needs nothing beside it, no network and no server. The curves are written as PNG files too
where --plots names a directory.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UsageError, report_errors
from cluster.tables import share, with_interval
from data.arguments import count
from data.command import command
from data.whole_file import whole_file, writing

if TYPE_CHECKING:
    from cluster.view.groups import Kind

EXAMPLES = """examples:
  python -m cluster.report runs/tiny                                     writes runs/tiny/report.html
  python -m cluster.report runs/tiny --out tiny.html --plots figures     and PNG files of the curves
  python -m cluster.report runs/tiny --groups 0                          without recordings
"""

GROUPS = 12
KINDS: tuple[Kind, ...] = ("all_right", "mixed", "all_wrong", "format_broken", "dropped")
"""Of the groups that a sample is taken from, in turn."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.report", __doc__, EXAMPLES)
    arguments.add_argument("run", metavar="RUN", help="a run's directory")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="HTML file to write (default: RUN/report.html)")
    arguments.add_argument("--plots", type=Path, metavar="DIR", help="directory to write the curves to as PNG files")
    arguments.add_argument(
        "--groups", type=count(0), default=GROUPS, metavar="N", help=f"groups to show (default {GROUPS})"
    )
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    from cluster.view.plots import plots, write_png
    from cluster.view.run import ViewedRun

    run = ViewedRun(Path(options.run))
    out = options.out or run.path / "report.html"
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: {out.parent} is no directory; make it, or name another file")
    drawn = plots(run)
    text = page(run, drawn, options.groups)
    with writing(out, len(text)), whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{out}: {len(text) / 1e6:.1f} MB")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name, (_, draw) in drawn.items():
            write_png(draw, options.plots / f"{name}.png")
        print(f"{options.plots}: {len(drawn)} pictures")
    return 0


def page(run: Any, drawn: Mapping[str, Any], groups: int) -> str:
    """The HTML text for a run, with what `cluster.view.plots` draws of it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from cluster.view.plots import as_svg

    environment = Environment(
        loader=PackageLoader("cluster.view", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "share": share,
        "with_interval": with_interval,
        "signed": lambda value: "-" if value is None else f"{value:+.2f}",
    }
    lines, evaluations = run.lines(), run.evaluations()
    begun = run.environment
    return environment.get_template("report.html").render(
        run=run,
        step=lines[-1]["step"] if lines else 0,
        evaluations=evaluations,
        tasks=sorted({task for one in evaluations.values() for task in one.get("by_task", {}) if task}),
        commit=begun.get("git"),
        changed=begun.get("git_changes"),
        plots=[(title, Markup(as_svg(draw))) for title, draw in drawn.values()],  # drawn here from numbers
        groups=sample(run, groups),
        packages=begun.get("packages", {}),
        environment={name: value for name, value in begun.items() if name != "packages"},
    )


def sample(run: Any, count: int) -> list[Mapping[str, Any]]:
    """Groups of every kind in turn, spread over the steps, each with its recording as a `data:` address or why not."""
    from cluster.view.clips import NoClip, as_flac
    from cluster.view.group import as_shown
    from cluster.view.shown import Shown

    if count == 0:
        return []
    of_run = Shown(run)
    log = of_run.groups
    log.refresh()
    of_kinds = [place for kind in KINDS for place in log.places(kind, -(-count // len(KINDS)))]
    places = dict.fromkeys([*of_kinds, *log.places("all", count)])
    shown: list[Mapping[str, Any]] = []
    for step, row in sorted([*places][:count]):
        group = as_shown(log.read(step, row), of_run.tokens)
        try:
            encoded = as_flac(of_run.clips.waveform(group["audio_sha256"] or "", group["example_id"]))
            sound = {"address": f"data:audio/flac;base64,{base64.b64encode(encoded).decode()}", "missing": ""}
        except NoClip as missing:
            sound = {"address": "", "missing": str(missing.args[0])}
        shown.append(group | {"sound": sound})
    return shown


if __name__ == "__main__":
    sys.exit(main())
