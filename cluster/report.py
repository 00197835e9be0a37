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
from typing import Any

from cluster.arguments import count
from cluster.errors import UsageError, report_errors
from data.command import command
from data.whole_file import whole_file, writing

EXAMPLES = """examples:
  python -m cluster.report runs/tiny                                     writes runs/tiny/report.html
  python -m cluster.report runs/tiny --out tiny.html --plots figures     and PNG files of the curves
  python -m cluster.report runs/tiny --groups 0                          without recordings
"""

GROUPS = 12
KINDS = ("all_right", "mixed", "all_wrong", "format_broken", "dropped")
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
    text = page(run, options.groups)
    with writing(out, len(text)), whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{out}: {len(text) / 1e6:.1f} MB")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name, (_, draw) in plots(run).items():
            write_png(draw, options.plots / f"{name}.png")
        print(f"{options.plots}: {len(plots(run))} pictures")
    return 0


def page(run: Any, groups: int) -> str:
    """The HTML text for a run."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from cluster.view.plots import as_svg, plots

    environment = Environment(
        loader=PackageLoader("cluster.view", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"share": share, "signed": lambda value: "–" if value is None else f"{value:+.2f}"}
    lines = run.lines()
    return environment.get_template("report.html").render(
        run=run,
        step=lines[-1]["step"] if lines else 0,
        evaluations=run.evaluations(),
        tasks=sorted({task for one in run.evaluations().values() for task in one.get("by_task", {}) if task}),
        commit=run.environment.get("git"),
        changed=run.environment.get("git_changes"),
        plots=[(title, Markup(as_svg(draw))) for title, draw in plots(run).values()],  # drawn here from numbers
        groups=sample(run, groups),
        packages=run.environment.get("packages", {}),
        environment={name: value for name, value in run.environment.items() if name != "packages"},
    )


def sample(run: Any, count: int) -> list[Mapping[str, Any]]:
    """Groups of every kind in turn, spread over the steps, each with its recording as a `data:` address or why not."""
    from cluster.view.clips import Clips, NoClip, as_flac
    from cluster.view.group import as_shown
    from cluster.view.groups import Groups
    from cluster.view.tokens import Tokens
    from rewards.logged import form_of

    if count == 0:
        return []
    log, tokens = Groups(run.path, form_of(run.path)), Tokens(run.tokenizer_file)  # type: ignore[arg-type]
    clips = Clips(run.path, run.config["data"])
    log.refresh()
    of_kinds = [place for kind in KINDS for place in log.places(kind, -(-count // len(KINDS)))]
    places = dict.fromkeys([*of_kinds, *log.places("all", count)])
    shown = []
    for step, row in sorted([*places][:count]):
        group = as_shown(log.read(step, row), tokens)
        name = (group["audio_sha256"] or "").removeprefix("silence-")
        try:
            encoded = as_flac(clips.waveform(name, group["example_id"]))
            sound = {"address": f"data:audio/flac;base64,{base64.b64encode(encoded).decode()}", "missing": ""}
        except NoClip as missing:
            sound = {"address": "", "missing": str(missing.args[0])}
        shown.append(group | {"sound": sound, "silent": (group["audio_sha256"] or "").startswith("silence-")})
    return shown


def share(value: float | None, ends: Sequence[float] | None = None) -> str:
    """A share as a percentage, with its interval."""
    if value is None:
        return "–"
    return f"{value:.1%}" + (f" [{ends[0]:.1%}, {ends[1]:.1%}]" if ends else "")


if __name__ == "__main__":
    sys.exit(main())
