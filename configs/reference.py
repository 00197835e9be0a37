"""Write docs/configuration.md from the schema: `python -m configs.reference`; `--check` fails when it is stale."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.algorithms import ALGORITHMS, GRPO, SOURCES
from configs.keys import Key, sections

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

_HEAD = """# Configuration

Every key of a run, generated from `configs/schema.py` by `python -m configs.reference`.

A configuration is a YAML file or the name of a preset; any key is changed on the command line as `key=value`, where
the value is YAML: `learner.learning_rate=1e-6`, `rewards=[{use: accuracy}]`. An unknown key is an error.
"""


def render() -> str:
    """The page, as Markdown."""
    parts = [_HEAD]
    for section in sections():
        title = section.name or "At the top"
        table = [
            "| key | type | default | meaning |",
            "|---|---|---|---|",
            *(_row(key) for key in section.keys),
        ]
        parts.append("\n".join([f"## {title}", "", section.doc, "", *table, ""]))
        if section.name == "algorithm":
            parts.append("\n".join([*_algorithms(), ""]))
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return write_files("configs.reference", __doc__, {PAGE: render()}, argv)


def write_files(module: str, description: str | None, texts: Mapping[Path, str], argv: Sequence[str] | None) -> int:
    """Run `python -m MODULE`, which writes files, or with `--check` tells by its exit status whether one is stale."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is stale")
    check = parser.parse_args(argv).check
    for file, text in texts.items():
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            print(f"{file} is stale; run `python -m {module}`", file=sys.stderr)
            return 1
    return 0


def _algorithms() -> list[str]:
    """What each `algorithm.name` stands for, as a table."""
    return [
        "What `algorithm.name` stands for ([algorithms.md](algorithms.md) has the formulas):",
        "",
        f"| name | {' | '.join(f'`{key}`' for key in GRPO)} | source |",
        "|---" * (len(GRPO) + 2) + "|",
        *(
            f"| `{name}` | {' | '.join(f'`{json.dumps(values[key])}`' for key in GRPO)} | {SOURCES[name]} |"
            for name, values in ALGORITHMS.items()
        ),
    ]


def _row(key: Key) -> str:
    default = "required" if key.required else f"`{json.dumps(key.default)}`"
    cells = (f"`{key.name}`", key.type, default, key.doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
