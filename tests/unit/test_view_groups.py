"""The index of a run's groups: what is found, in what order, and that it follows the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.log import SCHEMA
from cluster.view import groups as module
from cluster.view.groups import Groups, Kind, Query
from tests.view_runs import group, write_shard

RIGHT, WRONG = "<answer>dog</answer>", "<answer>cat</answer>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A group of every kind."""
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    write_shard(
        tmp_path / "run",
        1,
        [
            group(0, 1, (RIGHT, RIGHT)),
            group(1, 1, (WRONG, WRONG), task="music", question="Which INSTRUMENT?"),
            group(2, 1, (RIGHT, WRONG), finish_reasons=["stop", "length"], advantages=[3.0, -4.0]),
        ],
    )
    write_shard(
        tmp_path / "run",
        2,
        [
            group(3, 2, (RIGHT, "dog"), versions=[[0, 1], [1, 1]]),
            group(4, 2, (WRONG, WRONG), drop_reason="zero_variance: alike", learner_logprobs=None),
            {"group_id": "0-5", "step": 2, "example_id": "e5", "question": "Lost?", "choices": ["a"], "answer": "a",
             "drop_reason": "clip_missing: it is gone"},
        ],
    )  # fmt: skip
    return tmp_path / "run"


def index(run: Path) -> Groups:
    groups = Groups(run, "answer", run / "kept.parquet")
    groups.refresh()
    return groups


def ids(groups: Groups, **query: Any) -> list[str]:
    return [row["example_id"] for row in groups.query(Query(descending=False, **query))["rows"]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("all", ["e0", "e1", "e2", "e3", "e4", "e5"]),
        ("trained", ["e0", "e1", "e2", "e3"]),
        ("all_right", ["e0", "e3"]),
        ("all_wrong", ["e1", "e4"]),
        ("mixed", ["e2"]),
        ("truncated", ["e2"]),
        ("format_broken", ["e3"]),
        ("dropped", ["e4", "e5"]),
    ],
)
def test_every_kind_finds_its_groups(run: Path, kind: Kind, expected: list[str]) -> None:
    assert ids(index(run), kind=kind) == expected


def test_groups_are_searched_by_words_ids_task_and_reason_whatever_the_case(run: Path) -> None:
    groups = index(run)
    assert ids(groups, search="instrument") == ["e1"]
    assert ids(groups, search="0-4") == ["e4"]
    assert ids(groups, search="E2") == ["e2"]
    assert ids(groups, search="(") == []
    assert ids(groups, task="music") == ["e1"]
    assert ids(groups, drop="clip_missing") == ["e5"]
    assert groups.choices() == {
        "task": [{"name": "sound", "groups": 4}, {"name": "music", "groups": 1}],
        "drop": [{"name": "clip_missing", "groups": 1}, {"name": "zero_variance", "groups": 1}],
    }


def test_the_order_puts_what_is_unknown_last_and_pages_go_on_where_the_last_ended(run: Path) -> None:
    groups = index(run)
    by_advantage = groups.query(Query(order="advantage"))["rows"]
    assert by_advantage[0]["example_id"] == "e2"
    assert by_advantage[0]["advantage"] == 4.0
    assert by_advantage[-1]["advantage"] is None
    pages = [groups.query(Query(descending=False, offset=offset, count=4)) for offset in (0, 4, 8)]
    assert [row["example_id"] for page in pages for row in page["rows"]] == ["e0", "e1", "e2", "e3", "e4", "e5"]
    assert {page["total"] for page in pages} == {6}


def test_a_group_is_told_of_by_its_figures(run: Path) -> None:
    stale = next(row for row in index(run).query(Query())["rows"] if row["example_id"] == "e3")
    assert stale["mismatch"] == pytest.approx(0.1, abs=1e-6)
    assert (stale["staleness"], stale["tokens"], stale["completions"], stale["reward"]) == (1, 2.0, 2, 1.0)


def test_log_probs_of_completions_that_are_not_trained_are_not_compared(run: Path) -> None:
    write_shard(run, 3, [group(6, 3, logprobs=[[-1.0, -9.0], [-1.0, -2.0]], learner_logprobs=[[], [-1.0, -2.5]])])
    [row] = index(run).query(Query(search="0-6"))["rows"]
    assert row["mismatch"] == pytest.approx(0.5)


def test_the_index_follows_the_log_as_it_grows_and_is_cut(run: Path) -> None:
    groups = index(run)
    write_shard(run, 3, [group(6, 3)])
    groups.refresh()
    assert "e6" in ids(groups)
    (run / "rollouts" / "step_000003.parquet").unlink()
    write_shard(run, 2, [group(7, 2)])
    groups.refresh()
    assert ids(groups) == ["e0", "e1", "e2", "e7"]
    assert groups.indexed == groups.found == 2


def test_what_is_kept_on_disk_is_not_read_again_and_says_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_AT_LEAST", 1)
    first = index(run)
    read: list[Any] = []
    monkeypatch.setattr(module, "summarise", lambda *arguments: read.append(arguments))
    second = Groups(run, "answer", run / "kept.parquet")
    second.refresh()
    assert read == []
    assert second.table().equals(first.table())


def test_a_kept_index_that_is_broken_is_made_again(run: Path) -> None:
    (run / "kept.parquet").write_bytes(b"PAR1 cut off")
    assert len(ids(index(run))) == 6


def test_a_shard_that_cannot_be_read_is_told_and_the_others_are_shown(run: Path) -> None:
    (run / "rollouts" / "step_000003.parquet").write_bytes(b"PAR1 cut off")
    groups = index(run)
    assert len(ids(groups)) == 6
    assert [*groups.broken] == ["step_000003.parquet"]
    assert groups.indexed == groups.found == 3
    with pytest.raises(KeyError, match="cannot be read"):
        groups.read(3, 0)
    (run / "rollouts" / "step_000003.parquet").write_bytes((run / "rollouts" / "step_000002.parquet").read_bytes())
    groups.refresh()
    assert groups.broken == {}
    assert groups.indexed == 3
    assert len(ids(groups)) > 6


def test_whoever_looks_while_the_log_is_read_sees_all_that_was_read_by_then(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(run, "answer", run / "kept.parquet")
    seen: list[int] = []
    summarise = module.summarise

    def looked_at(*arguments: Any) -> pa.Table:
        seen.append(groups.table().num_rows)
        return summarise(*arguments)

    monkeypatch.setattr(module, "summarise", looked_at)
    groups.refresh()
    assert seen == [0, 3]
    assert groups.table().num_rows == 6


def test_a_log_prob_that_is_no_number_does_not_keep_a_page_from_being_shown(run: Path) -> None:
    write_shard(run, 3, [group(6, 3, logprobs=[[-1.0, float("-inf")], [-1.0, -2.0]])])
    rows = index(run).query(Query(order="mismatch"))["rows"]
    json.dumps(rows, allow_nan=False)
    assert [row["mismatch"] for row in rows if row["example_id"] == "e6"] == [None]


def test_places_are_spread_over_the_steps(run: Path) -> None:
    groups = index(run)
    assert groups.places("all", 3) == [(1, 0), (1, 2), (2, 1)]
    assert groups.places("mixed", 5) == [(1, 2)]
    assert groups.places("format_broken", 0) == []


def test_logs_of_older_runs_are_read_with_what_they_have(run: Path) -> None:
    names = ["group_id", "step", "example_id", "audio_sha256", "question", "choices", "answer", "completions",
             "token_ids", "logprobs", "versions", "rewards", "advantages", "finish_reasons", "drop_reason"]  # fmt: skip
    old = pa.schema([SCHEMA.field(name) for name in names])
    write_shard(run, 1, [{name: group(0, 1)[name] for name in names}], old)
    [row] = [row for row in index(run).query(Query())["rows"] if row["step"] == 1]
    assert (row["right"], row["mismatch"], row["reward"], row["task"]) == (1, None, None, None)


def test_a_group_is_read_from_its_shard_and_one_that_is_not_there_is_said(run: Path) -> None:
    groups = index(run)
    assert groups.read(1, 2)["example_id"] == "e2"
    for step, row in ((1, 3), (1, -1), (9, 0)):
        with pytest.raises(KeyError):
            groups.read(step, row)


def test_engines_are_told_of_by_what_they_sampled(run: Path) -> None:
    [engine] = index(run).by_engine()
    assert (engine["engine"], engine["engine_count"], engine["step_min"], engine["step_max"]) == ("engine-0", 5, 1, 2)


def test_no_group_is_found_in_a_run_without_a_log(tmp_path: Path) -> None:
    groups = index(tmp_path)
    assert groups.query(Query(order="mismatch"))["rows"] == []
    assert groups.by_engine() == []
