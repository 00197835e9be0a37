"""The files that a page shows, as they stand there: blocks whose first line is a comment with a name."""

from __future__ import annotations

import re
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```\w+\n(# ([\w.]+)\n.*?)^```$", re.MULTILINE | re.DOTALL)


def write_files(page: str, folder: Path) -> list[str]:
    """Write those of `docs/PAGE` into a folder; gives their names."""
    found = {name: text for text, name in BLOCK.findall((HOME / "docs" / page).read_text())}
    for name, text in found.items():
        (folder / name).write_text(text)
    return list(found)
