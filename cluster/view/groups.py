"""The groups of a run's rollout log: what of each is needed to find it, held in memory, and the shards for the rest.

A shard is read once, when it is new; what was found is kept on disk for the next time that the run is opened.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.outputs import finite
from configs.schema import Form
from data.cache import cache_directory
from data.step_files import shard_name, shards
from data.whole_file import whole_file
from rewards.answers import is_correct
from rewards.format import format_reward

Kind = Literal["all", "trained", "all_right", "all_wrong", "mixed", "truncated", "format_broken", "dropped"]
Order = Literal["step", "advantage", "mismatch", "tokens", "reward", "staleness"]

INDEX = pa.schema(
    [
        ("step", pa.int64()),
        ("row", pa.int32()),
        ("group_id", pa.string()),
        ("example_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("task", pa.string()),
        ("engine", pa.string()),
        ("completions", pa.int32()),
        ("right", pa.int32()),
        ("truncated", pa.int32()),
        ("format_broken", pa.int32()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("mismatch", pa.float64()),
        ("tokens", pa.float64()),
        ("staleness", pa.int64()),
        ("drop", pa.string()),
    ]
)
"""`reward` and `tokens` are means over completions, `advantage` and `mismatch` the largest without their signs;
`staleness` is that of the oldest token; `drop` is the reason without its detail."""

COPIED = ("group_id", "step", "example_id", "question", "answer", "task", "engine")
"""Columns of the log that are columns of the index."""
READ = (
    *COPIED, "completions", "logprobs", "learner_logprobs", "versions", "total", "advantages", "finish_reasons",
    "drop_reason",
)  # fmt: skip
KEPT_EVERY, KEPT_AT_LEAST = 2_000, 200
"""New shards after which the index is kept while many are read, and after which it is at all: fewer are soon read."""
MOST_KEPT = 50
"""Runs whose index is kept."""
VERSION = "1"
"""Of what is kept on disk."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The index of one shard."""

    changed: int
    """When its file was written, in nanoseconds."""
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Query:
    """Which groups are wanted."""

    kind: Kind = "all"
    search: str = ""
    """In question, answer, and ids, whatever the case."""
    task: str = ""
    drop: str = ""
    order: Order = "step"
    descending: bool = True
    offset: int = 0
    count: int = 50


class Groups:
    """The groups of one run; its methods may be called by several threads, `refresh` by one at a time.

    Args:
        run: the run's directory.
        form: `data.prompt.form` of the run: the format that its completions should have.
        kept: where the index is kept, by default in the user's cache.
    """

    def __init__(self, run: Path, form: Form, kept: Path | None = None) -> None:
        self.folder = run / "rollouts"
        self.form = form
        name = hashlib.sha256(f"{VERSION} {form} {run.resolve()}".encode()).hexdigest()[:24]
        self._kept = kept or cache_directory() / "view" / f"{name}.parquet"
        self._shards: dict[str, Shard] = {}
        """By name."""
        self._changes = 0
        """Of `_shards`, counted after each, so that a table is never taken for newer than it is."""
        self._table = (0, INDEX.empty_table())
        """How many changes there had been, and the index of all shards after them."""
        self._not_kept = 0
        """New shards since the index was kept."""
        self.found = 0
        """Shards that are there."""
        self._unread: dict[str, tuple[int, str]] = {}
        """When each shard that cannot be read was written, and why it cannot."""

    @property
    def broken(self) -> dict[str, str]:
        """Shards that cannot be read, and why."""
        return {name: why for name, (_, why) in self._unread.items()}

    @property
    def indexed(self) -> int:
        """Shards that are in the index, or cannot be."""
        return len(self._shards) + len(self._unread)

    def refresh(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Bring the index up to date.

        Args:
            stop: asked between two shards whether to leave the rest for the next time.
        """
        if not self._shards and self._kept.exists():
            self._restore()
        there = _written(self.folder)
        self.found = len(there)
        self._unread = {name: unread for name, unread in self._unread.items() if there.get(name) == unread[0]}
        for name in [name for name, shard in self._shards.items() if there.get(name) != shard.changed]:
            del self._shards[name]
            self._changes += 1
        for name in sorted(there.keys() - self._shards.keys() - self._unread.keys()):
            if stop():
                break
            try:
                table = pq.read_table(self.folder / name, columns=_columns(self.folder / name))
                self._shards[name] = Shard(there[name], summarise(table, self.form))
                self._changes += 1
                self._not_kept += 1
            except FileNotFoundError:  # a resume or the limit of the log has removed it meanwhile
                continue
            except (pa.ArrowException, OSError, KeyError) as error:
                self._unread = self._unread | {name: (there[name], str(error))}
            if self._not_kept >= KEPT_EVERY:
                self._keep()
        if self._not_kept >= KEPT_AT_LEAST or stop():
            self._keep()

    def table(self) -> pa.Table:
        """The index, a row a group, in the order of the steps."""
        changes, (made_after, table) = self._changes, self._table
        if made_after != changes:
            tables = [shard.table for _, shard in sorted(dict(self._shards).items())]
            table = pa.concat_tables(tables).combine_chunks() if tables else INDEX.empty_table()
            self._table = changes, table
        return table

    def query(self, query: Query) -> dict[str, Any]:
        """How many groups there are as wanted, and a page of them."""
        table = self.table()
        chosen = table.filter(_wanted(table, query)) if table.num_rows else table
        keys: list[tuple[str, str]] = [(query.order, "descending" if query.descending else "ascending")]
        if query.order != "step":
            keys.append(("step", "descending"))
        order = pc.sort_indices(chosen, sort_keys=[*keys, ("row", "ascending")])
        page = chosen.take(order[query.offset : query.offset + query.count])
        return {"total": chosen.num_rows, "all": table.num_rows, "rows": finite(page.to_pylist())}

    def places(self, kind: Kind, count: int) -> list[tuple[int, int]]:
        """Step and row of so many groups of a kind, or of as many as there are, spread evenly over the steps."""
        table = self.table()
        chosen = table.filter(_wanted(table, Query(kind))) if table.num_rows else table
        wanted = min(count, chosen.num_rows)
        spread = pa.array([place * chosen.num_rows // wanted for place in range(wanted)], pa.int64())
        taken = chosen.select(["step", "row"]).take(spread)
        return [(row["step"], row["row"]) for row in taken.to_pylist()]

    def choices(self) -> dict[str, Any]:
        """What there is to choose among, with how often: tasks and reasons of drops."""
        table = self.table()
        return {name: _counted(table[name]) for name in ("task", "drop")}

    def by_engine(self) -> list[dict[str, Any]]:
        """What each engine has sampled: groups, completions, and its first and last step."""
        table = self.table()
        table = table.filter(pc.fill_null(pc.not_equal(table["engine"], ""), False))
        totals = table.group_by("engine").aggregate(
            [("engine", "count"), ("completions", "sum"), ("step", "min"), ("step", "max"), ("staleness", "mean")]
        )
        return sorted(finite(totals.to_pylist()), key=lambda row: str(row["engine"]))

    def read(self, step: int, row: int) -> dict[str, Any]:
        """All that the log holds of one group; raises KeyError where there is none."""
        file = self.folder / shard_name(step)
        try:
            table = pq.read_table(file)
        except FileNotFoundError:
            raise KeyError(f"step {step} is not in the log") from None
        except (pa.ArrowException, OSError) as error:
            raise KeyError(f"{file.name} cannot be read ({error})") from error
        if not 0 <= row < table.num_rows:
            raise KeyError(f"step {step} has no row {row}")
        [found] = table.slice(row, 1).to_pylist()
        return found  # type: ignore[no-any-return]

    def _restore(self) -> None:
        """Take what an earlier process kept."""
        try:
            kept = pq.read_table(self._kept)
            names, changed = kept["shard"].to_numpy(), kept["changed"].to_numpy()
            table = kept.select(INDEX.names)
        except (pa.ArrowException, OSError, KeyError):
            self._kept.unlink(missing_ok=True)  # it is made again
            return
        starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)] if len(names) else [0]
        self._shards = {
            str(names[start]): Shard(int(changed[start]), table.slice(start, end - start))
            for start, end in itertools.pairwise(starts)
        }
        self._changes += 1

    def _keep(self) -> None:
        """Spare the next process the reading; where there is no room for that it has to read again."""
        self._not_kept = 0
        parts = [
            shard.table.append_column("shard", pa.array([name] * shard.table.num_rows, pa.string())).append_column(
                "changed", pa.array([shard.changed] * shard.table.num_rows, pa.int64())
            )
            for name, shard in sorted(self._shards.items())
        ]
        if not parts:
            return
        with suppress(OSError):
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._kept) as partial:
                pq.write_table(pa.concat_tables(parts), partial, compression="zstd")
            _remove_oldest(self._kept.parent)


def summarise(shard: pa.Table, form: Form) -> pa.Table:
    """The rows of INDEX of a shard, whose columns are those of the rollout log, or of the first that there were."""
    rows = shard.num_rows
    columns: dict[str, Any] = {
        name: shard[name] if name in shard.column_names else pa.nulls(rows, INDEX.field(name).type) for name in COPIED
    }
    texts, answers = shard["completions"].to_pylist(), shard["answer"].to_pylist()
    finished, steps = shard["finish_reasons"].to_pylist(), shard["step"].to_pylist()
    advantages = shard["advantages"].to_pylist()
    totals = shard["total"].to_pylist() if "total" in shard.column_names else [None] * rows
    lengths, oldest = _lengths_and_oldest(shard)
    columns |= {
        "row": list(range(rows)),
        "completions": [_of(one, len) for one in texts],
        "right": [_of(of, functools.partial(_right, answer)) for of, answer in zip(texts, answers, strict=True)],
        "truncated": [_of(one, lambda some: some.count("length")) for one in finished],
        "format_broken": [_of(one, lambda some: _broken(some, form)) for one in texts],
        "reward": [_of(one, _mean) for one in totals],
        "advantage": [_of(one, _largest) for one in advantages],
        "mismatch": _mismatch(shard),
        "tokens": lengths,
        "staleness": [None if old is None else step - 1 - old for step, old in zip(steps, oldest, strict=True)],
        "drop": [_of(one, lambda reason: reason.partition(":")[0]) for one in shard["drop_reason"].to_pylist()],
    }
    return pa.table([pa.array(columns[field.name], field.type) if isinstance(columns[field.name], list) else
                     pc.cast(columns[field.name], field.type) for field in INDEX], schema=INDEX)  # fmt: skip


def _columns(shard: Path) -> list[str]:
    there = pq.read_schema(shard).names
    return [name for name in READ if name in there]


def _of(value: Any, call: Callable[[Any], Any]) -> Any:
    return None if value is None else call(value)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((abs(value) for value in values if value is not None), default=None)


def _broken(texts: list[str], form: Form) -> int:
    return sum(value == 0.0 for value in format_reward(texts, None, form=form))  # type: ignore[arg-type]


def _lengths_and_oldest(shard: pa.Table) -> tuple[list[float | None], list[int | None]]:
    """Mean length of each group's completions, and the lowest version of its tokens."""
    versions = shard["versions"].combine_chunks()
    completions = versions.flatten()
    owners = pc.list_parent_indices(versions).to_numpy()
    lengths = pc.list_value_length(completions).to_numpy(zero_copy_only=False)
    counts = np.bincount(owners, minlength=shard.num_rows)
    sums = np.bincount(owners, weights=lengths, minlength=shard.num_rows)
    oldest = np.full(shard.num_rows, np.iinfo(np.int64).max)
    np.minimum.at(oldest, np.repeat(owners, lengths), completions.flatten().to_numpy())
    there = counts > 0
    return (
        [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)],
        [
            int(old) if found and old < np.iinfo(np.int64).max else None
            for old, found in zip(oldest, there, strict=True)
        ],
    )


def _mismatch(shard: pa.Table) -> list[float | None]:
    """Largest difference of a token's log-prob between engine and learner, one a group; None where it is unknown."""
    if "learner_logprobs" not in shard.column_names:
        return [None] * shard.num_rows
    sampled, learned = (shard[name].combine_chunks() for name in ("logprobs", "learner_logprobs"))
    known = pc.and_(sampled.is_valid(), learned.is_valid())
    rows = np.flatnonzero(known.to_numpy(zero_copy_only=False))
    sampled, learned = sampled.filter(known), learned.filter(known)
    owners = rows[pc.list_parent_indices(sampled).to_numpy()]
    of_engine, of_learner = sampled.flatten(), learned.flatten()
    alike = pc.equal(pc.list_value_length(of_engine), pc.list_value_length(of_learner))  # empty where it is not trained
    lengths = pc.list_value_length(of_engine).filter(alike).to_numpy(zero_copy_only=False)
    owners = np.repeat(owners[alike.to_numpy(zero_copy_only=False)], lengths)
    differences: NDArray[np.float32] = np.abs(
        of_engine.filter(alike).flatten().to_numpy() - of_learner.filter(alike).flatten().to_numpy()
    )
    largest = np.full(shard.num_rows, -1.0)
    np.maximum.at(largest, owners, differences)
    return [float(value) if value >= 0 else None for value in largest]


def _wanted(table: pa.Table, query: Query) -> Any:
    trained = pc.is_null(table["drop"])
    scored = pc.greater(pc.fill_null(table["completions"], 0), 0)
    right, count = pc.fill_null(table["right"], 0), pc.fill_null(table["completions"], 0)
    conditions: Mapping[Kind, Callable[[], Any]] = {
        "all": lambda: pc.is_valid(table["group_id"]),
        "trained": lambda: trained,
        "all_right": lambda: pc.and_(scored, pc.equal(right, count)),
        "all_wrong": lambda: pc.and_(scored, pc.equal(right, 0)),
        "mixed": lambda: pc.and_(pc.greater(right, 0), pc.less(right, count)),
        "truncated": lambda: pc.greater(pc.fill_null(table["truncated"], 0), 0),
        "format_broken": lambda: pc.greater(pc.fill_null(table["format_broken"], 0), 0),
        "dropped": lambda: pc.invert(trained),
    }
    found = conditions[query.kind]()
    for name, value in (("task", query.task), ("drop", query.drop)):
        if value:
            found = pc.and_(found, pc.fill_null(pc.equal(table[name], value), False))
    if query.search:
        within = [
            pc.fill_null(pc.match_substring(table[name], query.search, ignore_case=True), False)
            for name in ("question", "answer", "example_id", "group_id")
        ]
        found = pc.and_(found, pc.or_(pc.or_(within[0], within[1]), pc.or_(within[2], within[3])))
    return found


def _counted(column: Any) -> list[dict[str, Any]]:
    counts = pc.value_counts(pc.drop_null(column)).to_pylist()
    found = [{"name": one["values"], "groups": one["counts"]} for one in counts if one["values"]]
    return sorted(found, key=lambda one: (-one["groups"], one["name"]))


def _right(answer: str, completions: Sequence[str]) -> int:
    return sum(is_correct(text, answer) for text in completions)


def _written(folder: Path) -> dict[str, int]:
    """When each shard was written, by its name."""
    found = {}
    for file in shards(folder):
        with suppress(FileNotFoundError):  # removed meanwhile
            found[file.name] = file.stat().st_mtime_ns
    return found


def _remove_oldest(folder: Path) -> None:
    """Forget the runs that were not looked at for longest."""
    files = sorted(folder.glob("*.parquet"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MOST_KEPT]:
        file.unlink(missing_ok=True)
