"""A name for what a module makes: a hash of its source and of every one of our modules that it imports.

Read off the import statements, so that a module that is new, split or moved counts without being listed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
ROOMS = ("configs", "data", "rewards", "learner", "actors", "cluster")


def fingerprint(*modules: str, home: Path = HOME) -> str:
    """12 hexadecimal digits that change with any line of the modules or of what they import of ours."""
    digest = hashlib.sha256()
    for file in sorted(sources(modules, home)):
        digest.update(file.relative_to(home).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def sources(modules: Iterable[str], home: Path = HOME) -> set[Path]:
    """The files of the modules, and of all modules in our rooms that these import, directly or not."""
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _file(name, home)
        if file is None or file in found:
            continue
        found.add(file)
        waiting += [name.rpartition(".")[0], *_imported(file)]
    return found


def _imported(file: Path) -> Iterator[str]:
    """Names that may be modules: `from a import b` imports `a`, and `a.b` where that is one."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(name: str, home: Path) -> Path | None:
    if name.partition(".")[0] not in ROOMS:
        return None
    path = home / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
