"""The pages: keys that they name exist, and so do the files that they link to."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from configs.keys import keys_by_name, sections

HOME = Path(__file__).resolve().parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md"))]
KNOWN = {*keys_by_name(), *(section.name for section in sections())}
FILES = {"metrics.jsonl"}
"""Names of files that look like keys."""
TOP = sorted({name.partition(".")[0] for name in keys_by_name() if "." in name})
NAMED = re.compile(rf"`((?:{'|'.join(map(re.escape, TOP))})(?:\.[a-z_]+)+)[`=:]")
CODE = re.compile(r"\[`([\w.]+)`\]\(([^)#:]+\.py)\)")
"""A name of code that links to a file of it."""
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@cache
def defined(path: Path) -> set[str]:
    """Names of the functions and classes of a file, and of the methods of its classes as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return found


def is_module(name: str) -> bool:
    """Whether a dotted name is one of ours, or of something in it."""
    module, attribute = HOME / name.replace(".", "/"), HOME / name.rpartition(".")[0].replace(".", "/")
    return any(path.with_suffix(".py").exists() for path in (module, attribute)) or module.is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_keys_that_exist_and_links_to_files_that_are_there(page: Path) -> None:
    text = page.read_text()
    assert [name for name in NAMED.findall(text) if name not in KNOWN | FILES and not is_module(name)] == []
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_name_that_links_to_a_file_of_code_is_defined_there(page: Path) -> None:
    missing = [
        f"{name} in {link}" for name, link in CODE.findall(page.read_text()) if name not in defined(page.parent / link)
    ]
    assert missing == []


def test_names_of_code_are_looked_for_at_all() -> None:
    assert len([name for page in PAGES for name in CODE.findall(page.read_text())]) > 40


def test_keys_are_looked_for_at_all() -> None:
    named = {name for page in PAGES for name in NAMED.findall(page.read_text())}
    assert len(named & KNOWN) > 80
