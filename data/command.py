"""How every command describes itself. Imports nothing else, since commands start with it."""

from __future__ import annotations

import argparse


def command(module: str, description: str | None, examples: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, whose help begins with the module's text and ends with any examples."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
