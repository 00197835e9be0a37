"""Ray's token authentication: its ports are open to all, and an embedded cluster answers nobody without the token."""

from __future__ import annotations

import os
import secrets

from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""What Ray reads; without either of the last two it looks for `~/.ray/auth_token`."""

REFUSED = "InvalidAuthToken"
"""Stands in what Ray says to a client without the token."""

MEND = f"give the cluster's token in {TOKEN}, or its file in {TOKEN_FILE} or ~/.ray/auth_token"


def require_token() -> None:
    """Have clusters that this process starts ask for a token: the user's, else one that this process makes up.

    It stands in this process's environment and in that of what it starts. A mode that the user has set is left alone.
    """
    if os.environ.get(MODE):
        return
    os.environ[MODE] = "token"
    loader = AuthenticationTokenLoader.instance()
    if not loader.has_token(ignore_auth_mode=True):
        os.environ[TOKEN] = secrets.token_hex(32)
        loader.reset_cache()
    RayConfig.initialize("")  # read when ray was imported; so does Ray itself where it sets the mode


def refused(error: BaseException) -> bool:
    """Whether a cluster has refused this process for its token."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return any(REFUSED in str(link) for link in chain)
