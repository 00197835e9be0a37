"""A run with everything that a page or a report asks of it."""

from __future__ import annotations

from typing import Any

from cluster.view.clips import Clips
from cluster.view.groups import Groups
from cluster.view.run import ViewedRun
from cluster.view.tokens import Tokens
from rewards.logged import LogError, form_of

SECTIONS = ("run", "algorithm")
"""Of a run's configuration, which are shown beside `data`, without which `form_of` refuses it."""


class Shown:
    """What a run's directory tells, its groups, its recordings, and its tokens as text.

    Raises:
        LogError: its configuration is none of a run.
    """

    def __init__(self, run: ViewedRun) -> None:
        self.run = run
        self.groups = Groups(run.path, form_of(run.path))
        config = run.config
        if missing := [section for section in SECTIONS if section not in config]:
            raise LogError(f"{run.path / 'config.yaml'} is no configuration of a run: it has no section `{missing[0]}`")
        self.clips = Clips(run.path, config["data"])
        self.tokens = Tokens(run.tokenizer_file)

    def about(self) -> dict[str, Any]:
        """What the list of runs tells, and whether anything is new."""
        run, groups, config = self.run, self.groups, self.run.config
        lines = run.lines()
        last = lines[-1] if lines else {}
        return {
            "name": run.name,
            "path": str(run.path),
            "step": last.get("step", 0),
            "max_steps": config["run"]["max_steps"],
            "written": run.is_written,
            "finished": run.summary is not None,
            "indexed": groups.indexed,
            "shards": groups.found,
            "broken": groups.broken,
            "revisions": run.revisions() | {"groups": repr((groups.indexed, groups.found))},
            "last": {key: last.get(key) for key in ("reward_mean", "accuracy", "kl", "step_seconds")},
        }
