"""A run by the command line on a JSONL file of recordings, some rows and clips of which are bad."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise

import pandas as pd
import pytest
import yaml

from cluster.runs import load
from tests.integration.commands import command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, Finished

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

STEPS, PROMPTS, GROUP_SIZE = 4, 4, 4


def test_every_step_has_one_line_of_metrics_in_order_and_its_ledger_balances(recorded: Finished) -> None:
    lines = recorded.lines()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        assert line["admitted"] == line["trained"] + line["dropped"] + line["in_flight"]
        assert line["trained"] == PROMPTS * line["step"]
        assert line["in_flight"] == 0
        assert line["dropped"] == sum(line["dropped_by_reason"].values())
        assert line["completions"] == PROMPTS * GROUP_SIZE
        assert line["staleness_max"] == 0
        assert line["logprob_difference_max"] < 1e-3
        assert line["verified_difference"] < 1e-3
        assert line["grad_norm"] > 0
        assert math.isfinite(line["loss"])
        assert line["sync_bytes"] > 0


def test_every_line_tells_where_the_time_of_its_step_went(recorded: Finished) -> None:
    phases = {
        "encode", "sample", "score", "pack", "reference", "forward", "backward", "optimizer", "sync", "wait"
    }  # fmt: skip
    for line in recorded.lines():
        assert set(line["seconds"]) == phases
        assert min(line["seconds"].values()) >= 0
        assert sum(line["seconds"].values()) == pytest.approx(line["step_seconds"])
        assert line["seconds"]["forward"] > 0
    for before, line in pairwise(recorded.lines()):
        assert line["step_seconds"] < line["time"] - before["time"]  # a line, and what is due, lie between two steps


def test_a_profile_holds_three_steps_of_the_run_and_the_learners_operators(recorded: Finished) -> None:
    events = json.loads((recorded.path / "profile.json").read_text())["traceEvents"]
    steps = [event["name"] for event in events if event.get("tid") == "step"]
    assert steps == [f"step {number}" for number in range(2, STEPS + 1)]
    assert any(event["name"] == "aten::addmm" for event in events)
    spans = [event for event in events if event.get("ph") == "X" and "ts" in event]
    first, last = min(event["ts"] for event in spans), max(event["ts"] + event["dur"] for event in spans)
    assert last - first < 1e6 * sum(line["step_seconds"] for line in recorded.lines()) + 60e6  # one clock for all


def test_a_profiled_steps_phases_lie_where_the_learner_worked_though_a_validation_followed(recorded: Finished) -> None:
    events = json.loads((recorded.path / "profile.json").read_text())["traceEvents"]
    noted = [event["ts"] for event in events if (event.get("tid"), event["name"]) == ("phase", "optimizer")]
    worked = [event["ts"] for event in events if event["name"].startswith("Optimizer.step#")]
    lines = recorded.lines()[1:]
    assert len(noted) == len(worked) == len(lines)
    assert any(line["validation_accuracy"] is not None for line in lines)
    for at, really, line in zip(noted, sorted(worked), lines, strict=True):
        assert abs(at - really) < 1e6 * (line["seconds"]["wait"] + line["seconds"]["optimizer"])


def test_bad_clips_are_dropped_by_reason_and_bad_rows_are_left_out_with_their_line(
    recorded: Finished, questions: Questions
) -> None:
    dropped = recorded.lines()[-1]["dropped_by_reason"]
    assert set(dropped) == {"clip_missing", "clip_empty", "clip_unreadable", "clip_too_short"}
    first_bad = len(questions.rows()) + 5
    for line, reason in enumerate(
        ("invalid_json", "answer_not_a_choice", "duplicate_id", "missing_key"), start=first_bad
    ):
        assert any(f"{line} " in said and f"left out: {reason}" in said for said in recorded.output.splitlines())
    for row_id in ("clip-missing", "clip-empty", "clip-corrupt", "clip-too-short"):
        assert f"dropped {row_id} " in recorded.output


def test_the_rollout_log_holds_every_group_of_every_step_trained_or_dropped(recorded: Finished) -> None:
    rollouts = load(recorded.path).rollouts
    assert list(rollouts.columns) == [
        "group_id", "step", "example_id", "audio_sha256", "audio_seconds", "question", "choices", "answer", "task",
        "sub_category", "difficulty", "source", "engine", "context_version", "prompt_token_ids", "completions",
        "token_ids", "logprobs", "learner_logprobs", "versions", "rewards", "total", "advantages", "finish_reasons",
        "drop_reason",
    ]  # fmt: skip
    trained = rollouts[rollouts.drop_reason.isna()]
    assert trained.groupby("step").size().to_dict() == dict.fromkeys(range(1, STEPS + 1), PROMPTS)
    assert rollouts.group_id.is_unique
    assert len(rollouts) == recorded.lines()[-1]["admitted"]
    for group in trained.itertuples():
        rewards = dict(group.rewards)
        assert set(rewards) == {"accuracy", "format", "tests.integration.plug_ins:vowels"}
        assert all(len(values) == GROUP_SIZE for values in (*rewards.values(), group.completions, group.advantages))
        for token_ids, logprobs, versions in zip(group.token_ids, group.logprobs, group.versions, strict=True):
            assert len(token_ids) == len(logprobs) == len(versions) > 0
            assert set(versions) == {group.step - 1}
            assert all(logprob <= 0 for logprob in logprobs)
        assert set(group.finish_reasons) <= {"stop", "length"}
    dropped = rollouts[rollouts.drop_reason.notna()]
    assert {row.drop_reason.partition(":")[0] for row in dropped.itertuples()} == {
        "clip_missing", "clip_empty", "clip_unreadable", "clip_too_short"
    }  # fmt: skip


def test_the_log_holds_what_the_learner_gave_each_token_beside_what_the_engine_gave_it(recorded: Finished) -> None:
    trained = load(recorded.path).rollouts.query("drop_reason.isna()")
    for line in recorded.lines():
        pairs = [
            (sampled, learned)
            for group in trained[trained.step == line["step"]].itertuples()
            for completion in zip(group.logprobs, group.learner_logprobs, strict=True)
            for sampled, learned in zip(*completion, strict=True)
        ]
        assert max(abs(sampled - learned) for sampled, learned in pairs) == pytest.approx(
            line["logprob_difference_max"], abs=1e-6
        )


def test_each_recording_that_was_trained_on_is_kept_once_as_it_was_read(recorded: Finished) -> None:
    trained = load(recorded.path).rollouts.query("drop_reason.isna()")
    kept = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (recorded.path / "clips").iterdir()}
    assert kept == {name: name for name in trained.audio_sha256}


def test_the_reward_of_a_plug_in_counts_with_its_weight(recorded: Finished) -> None:
    trained = load(recorded.path).rollouts.query("drop_reason.isna()")
    vowels = [
        0.05 * sum(letter in "aeiou" for letter in completion) for row in trained.completions for completion in row
    ]
    logged = [value for row in trained.rewards for value in dict(row)["tests.integration.plug_ins:vowels"]]
    assert logged == vowels
    assert len(set(vowels)) > 1
    lines = recorded.lines()
    mean = sum(sum(line["rewards"][name] * weight for name, weight in weights().items()) for line in lines)
    assert math.isclose(mean, sum(line["reward_mean"] for line in lines), rel_tol=1e-9)


def weights() -> dict[str, float]:
    return {"accuracy": 1.0, "format": 1.0, "tests.integration.plug_ins:vowels": 2.0}


def test_the_summary_tells_accuracy_before_and_after_with_intervals_and_by_task(
    recorded: Finished, questions: Questions
) -> None:
    summary = json.loads((recorded.path / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["train_seconds"] > 0
    assert summary["completions_per_second"] > 0
    assert 0 < summary["logprob_difference_max"] < 1e-3
    tasks = {row["task"] for row in questions.rows("test")}
    for figures in (summary["base"], summary["trained"]):
        assert figures["questions"] == len(questions.rows("test"))
        assert set(figures["by_task"]) == tasks
        assert 0 <= figures["format_rate"] <= 1
        for part in (figures, *figures["by_task"].values()):
            for measure in ("accuracy", "accuracy_sampled"):
                low, high = part[f"{measure}_interval"]
                assert 0 <= low <= part[measure] <= high <= 1


def test_evaluations_keep_every_answer(recorded: Finished, questions: Questions) -> None:
    evaluations = load(recorded.path).evaluations
    assert set(evaluations) == {"base", "trained", "validation_step_2", "validation_step_4"}
    for name in ("base", "trained"):
        rows = evaluations[name]
        assert list(rows.id) == [row["id"] for row in questions.rows("test")]
        assert all(isinstance(text, str) for text in rows.completion)
        assert all(len(sampled) == 2 for sampled in rows.sampled)
    assert len(evaluations["validation_step_2"]) == 3
    validated = {line["step"]: line["validation_accuracy"] for line in recorded.lines()}
    assert [step for step, accuracy in validated.items() if accuracy is not None] == [2, 4]


def test_the_directory_tells_configuration_environment_and_checkpoints(recorded: Finished) -> None:
    config = yaml.safe_load((recorded.path / "config.yaml").read_text())
    assert config["run"]["name"] == "recorded"
    assert config["algorithm"]["prompts_per_step"] == PROMPTS
    environment = json.loads((recorded.path / "environment.json").read_text())
    assert environment["packages"]["ray"]
    assert environment["cpus"] > 0
    assert sorted(path.name for path in (recorded.path / "checkpoints").iterdir()) == ["step_2", "step_4"]
    for checkpoint in (recorded.path / "checkpoints").iterdir():
        assert sorted(path.name for path in checkpoint.iterdir()) == ["hf", "trainer", "whole.json"]


def test_a_resume_of_a_finished_run_prints_its_table_and_asks_nothing_again(recorded: Finished) -> None:
    def files() -> dict[str, tuple[int, int]]:
        found = [path for path in recorded.path.rglob("*") if path.is_file() and path.name != ".lock"]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = files()
    with command("cluster.launch", "--config", "recorded.yaml", "--resume", cwd=recorded.folder) as started:
        assert started.wait(START_SECONDS) == 0, started.output
    assert f"is finished: it has taken {STEPS} steps" in started.output
    assert "accuracy before and after 4 steps" in started.output
    assert "starting" not in started.output
    assert files() == before


def test_a_run_is_read_as_data_frames(recorded: Finished) -> None:
    run = load(recorded.path)
    assert isinstance(run.metrics, pd.DataFrame)
    assert list(run.metrics["step"]) == [1, 2, 3, 4]
    assert {"reward_mean", "seconds.sample", "seconds.sync"} <= set(run.metrics.columns)
    assert run.summary is not None
    assert run.config["data"]["train"].endswith("flawed.jsonl")


def test_metrics_are_served_during_the_run_with_the_step_and_the_ledger(recorded: Finished) -> None:
    served = recorded.metrics
    run = '{run="recorded"}'
    step = served[f"auricle_step{run}"]
    assert 1 <= step <= STEPS
    assert served[f"auricle_groups_trained_total{run}"] == step * PROMPTS
    dropped = sum(value for name, value in served.items() if name.startswith("auricle_groups_dropped_total"))
    admitted, in_flight = served[f"auricle_groups_admitted_total{run}"], served[f"auricle_groups_in_flight{run}"]
    assert admitted == step * PROMPTS + dropped + in_flight
    assert served[f"auricle_reward_mean{run}"] > 0


def test_every_process_of_the_run_serves_metrics_of_its_own_and_is_listed_while_the_run_goes_on(
    recorded: Finished,
) -> None:
    assert recorded.processes.keys() == {"controller", "engine engine-0", "learner 0", "ray"}
    engine, learner = recorded.processes["engine engine-0"], recorded.processes["learner 0"]
    assert engine["auricle_engine_completion_tokens_total"] >= PROMPTS
    assert 0 < engine["auricle_engine_load_seconds_total"] < engine["auricle_engine_busy_seconds_total"]
    assert any(name.startswith("vllm:generation_tokens_total{") and value for name, value in engine.items())
    assert learner["auricle_rank_steps_total"] >= 1
    assert learner["auricle_rank_packed_tokens_total"] > 0
    assert learner['auricle_rank_phase_seconds_total{phase="backward"}'] > 0
    assert learner["auricle_rank_process_peak_bytes"] >= learner["process_resident_memory_bytes"] > 0
    assert any(name.startswith("ray_node_cpu_utilization{") for name in recorded.processes["ray"])
    assert not recorded.path.with_name("recorded.targets.json").exists()
