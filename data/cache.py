"""Where downloads are kept, and what is made of them: one directory of the user's, shared by every checkout."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`AURICLE_CACHE`, else `auricle` in the user's cache directory; absolute, since other processes start elsewhere.

    `deploy/setup` finds the same directory by itself: it runs before there is an environment to import from.
    """
    if own := os.environ.get("AURICLE_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "auricle"
