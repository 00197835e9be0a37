import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.checkpoints import CheckpointError
from cluster.run_directory import RESULTS, RunDirectory, RunError
from cluster.run_lock import RunInUse
from configs.schema import Config
from data.checksums import Checksums, checksums
from data.remote import written


def config(runs: Path | str, **changes: object) -> Config:
    values = {"run": {"name": "r", "dir": str(runs)}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}}
    return Config.model_validate(values | changes)


FACTS = {
    "step": 4,
    "updates": 4,
    "position": 9,
    "outstanding": [[0, 8]],
    "dropped_since": [],
    "ledger": {},
    "train_seconds": 1.5,
}
"""What a checkpoint tells of a run, but for its questions."""


def kept_checkpoint(run: RunDirectory, state: str) -> None:
    files = write_checkpoint(run.checkpoints.begin(4), state)
    run.checkpoints.finish(4, files)
    run.checkpoints.tidy(newest(1))


def newest(count: int) -> Callable[[Sequence[int]], set[int]]:
    """Keeps so many."""
    return lambda steps: set(steps[-count:])


def write_checkpoint(place: str, state: str = "{}") -> Checksums:
    with written(place) as folder:
        for name, text in (("hf/config.json", "{}"), ("trainer/state.json", state)):
            (folder / name).parent.mkdir()
            (folder / name).write_text(text)
        return checksums(folder)


def test_a_checkpoint_that_cannot_be_resumed_from_is_named_with_the_way_on(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    kept_checkpoint(run, '{"step": 4, "position": 9, "ledger": {}}')
    told = r"does not tell updates, outstanding, dropped_since, train_seconds, questions: .*run\.init_from=\S+step_4$"
    with pytest.raises(CheckpointError, match=told):
        run.check_questions({})


def test_a_resume_with_other_questions_is_refused_with_the_file(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    asked = {"train": "a", "test": "b"}
    run.check_questions(asked)  # there is no checkpoint yet
    kept_checkpoint(run, json.dumps({**FACTS, "questions": asked}))
    run.check_questions(asked)
    with pytest.raises(RunError, match=r"^data\.test of \S+r held other questions .* run\.init_from"):
        run.check_questions(asked | {"test": "c"})


def test_a_resume_cannot_count_other_samples_after_than_before(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False)
    with pytest.raises(RunError, match=r"evaluate\.samples: 8 in the run, 2 now"):
        RunDirectory.resume(config(tmp_path, evaluate={"samples": 2}))


def test_a_resume_takes_more_steps_and_other_placement_and_tells_of_them(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False)
    run = {"name": "r", "dir": str(tmp_path), "max_steps": 7}
    _, changed = RunDirectory.resume(config(tmp_path, run=run, cluster={"nodes": 2}))
    assert changed == {"run.max_steps": (100, 7), "cluster.nodes": (None, 2)}


def test_a_resume_takes_other_threads_ranks_encoders_memory_offload_and_limits(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path, learner={"zero_stage": 1}), fresh=False)
    limits = {"request_timeout_seconds": 1, "update_timeout_seconds": 2}
    now = config(
        tmp_path,
        learner={"zero_stage": 1, "ranks": 2, "threads": 3, "offload": "optimizer", "step_timeout_seconds": 4},
        rollout={"threads": 2, "gpu_memory_utilization": 0.5, **limits},
        data={"train": "t.jsonl", "encoders": 2},
    )
    _, changed = RunDirectory.resume(now)
    assert len(changed) == 9


def test_a_resume_with_another_learning_rate_is_refused_with_the_key(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False)
    with pytest.raises(RunError, match=r"learner\.learning_rate: 1e-06 in the run, 0\.1 now"):
        RunDirectory.resume(config(tmp_path, learner={"learning_rate": 0.1}))


def test_a_resume_takes_other_limits_of_a_reward_and_no_other_reward(tmp_path: Path) -> None:
    terms = [{"use": "accuracy"}, {"use": "format", "weight": 0.5}]
    RunDirectory.create(config(tmp_path, rewards=terms), fresh=False).close()
    slower = [terms[0] | {"timeout_seconds": 90, "concurrency": 2}, terms[1]]
    run, changed = RunDirectory.resume(config(tmp_path, rewards=slower))
    assert changed == {"rewards[0].timeout_seconds": (60.0, 90.0), "rewards[0].concurrency": (8, 2)}
    run.close()
    with pytest.raises(RunError, match=r"rewards\[1\]\.weight: 0\.5 in the run, 1\.0 now"):
        RunDirectory.resume(config(tmp_path, rewards=[slower[0], {"use": "format"}]))
    with pytest.raises(RunError, match=r"rewards\[1\]\.use: 'format' in the run, None now"):
        RunDirectory.resume(config(tmp_path, rewards=slower[:1]))


def test_a_key_that_is_newer_than_the_run_has_its_default_there_within_a_reward_too(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    run.close()
    path = run.path / "config.yaml"
    newer = ("updates_per_step", "concurrency")
    older = [line for line in path.read_text().splitlines() if not any(key in line for key in newer)]
    path.write_text("\n".join(older))
    _, changed = RunDirectory.resume(config(tmp_path))
    assert changed == {}
    path.write_text("\n".join(older))
    with pytest.raises(RunError, match=r"algorithm\.updates_per_step: 1 in the run, 2 now"):
        RunDirectory.resume(config(tmp_path, algorithm={"updates_per_step": 2}))


OWN_PROMPT = {"text": "{question} {choices}", "form": "answer"}


@pytest.mark.parametrize("prompt", ["answer", "letters", OWN_PROMPT])
def test_a_resume_keeps_its_prompt_and_is_refused_with_another(tmp_path: Path, prompt: object) -> None:
    before = config(tmp_path, data={"train": "t.jsonl", "prompt": prompt})
    RunDirectory.create(before, fresh=False).close()
    run, changed = RunDirectory.resume(before)
    run.close()
    assert changed == {}
    with pytest.raises(RunError, match=r"data\.prompt: .* in the run, 'think' now"):
        RunDirectory.resume(config(tmp_path, data={"train": "t.jsonl", "prompt": "think"}))


def test_a_resume_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        RunDirectory.resume(config(tmp_path))


def test_cutting_after_a_step_leaves_every_step_before_it_once(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    for step in range(1, 6):
        run.append_metrics({"step": step})
        (run.path / "rollouts" / f"step_{step:06d}.parquet").touch()
    run.write_evaluation("validation_step_4", {})
    run.write_evaluation("base", {})
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "cut in the mid')
    for step in (2, 4):
        run.append_dropped(step, [(f"q{step}", "clip_missing")])
    run.cut_after(3, max_steps=9)
    assert run.dropped.read_text() == '{"step": 2, "id": "q2", "reason": "clip_missing"}\n'
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]
    assert sorted(shard.stem for shard in (run.path / "rollouts").iterdir()) == [f"step_{n:06d}" for n in (1, 2, 3)]
    assert [file.stem for file in run.evaluations.iterdir()] == ["base"]


def test_results_of_an_end_go_where_the_run_goes_on_and_stay_where_it_has_ended(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    for name in RESULTS:
        run.write_json(name, {"steps": 4})
    run.cut_after(4, max_steps=4)
    assert all((run.path / name).exists() for name in RESULTS)
    run.cut_after(4, max_steps=5)
    assert not any((run.path / name).exists() for name in RESULTS)


def test_a_run_is_finished_once_its_summary_tells_of_all_steps(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    assert run.finished(4) is None
    run.write_json("summary.json", {"steps": 4})
    assert run.finished(4) == {"steps": 4}
    assert run.finished(5) is None


def test_an_evaluation_that_is_cut_in_the_middle_is_called_broken(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    assert run.read_evaluation("base") is None
    run.write_evaluation("base", {"accuracy": 0.5})
    assert run.read_evaluation("base") == {"accuracy": 0.5}
    path = run.evaluations / "base.json"
    path.write_text(path.read_text()[:9])
    with pytest.raises(RunError, match=r"base\.json is broken"):
        run.read_evaluation("base")


def test_readers_never_see_half_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    run.write_evaluation("base", {"accuracy": 0.5})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_evaluation("base", {"accuracy": 0.7})
    assert run.read_evaluation("base") == {"accuracy": 0.5}


def test_the_first_environment_stays_and_another_one_of_a_resume_stands_beside_it(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    run.write_environment({"cpus": 2}, 0)
    run.write_environment({"cpus": 2}, 3)
    run.write_environment({"cpus": 64}, 6)
    told = {path.name: json.loads(path.read_text()) for path in run.path.glob("environment*.json")}
    assert told == {"environment.json": {"cpus": 2}, "environment_resume_6.json": {"cpus": 64}}


@pytest.mark.heavy
def test_a_lock_that_a_killed_process_left_does_not_block(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cluster.run_lock import RunLock;"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    RunDirectory.create(config(tmp_path), fresh=False).close()
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunInUse, match=f"by process {holder.pid} on"):
        RunDirectory.resume(config(tmp_path))
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    RunDirectory.resume(config(tmp_path))


def test_a_check_claims_nothing(tmp_path: Path) -> None:
    RunDirectory.check(config(tmp_path), resume=False, fresh=False)
    assert not (tmp_path / "r").exists()
    RunDirectory.create(config(tmp_path), fresh=False).write_text("kept", "old")
    RunDirectory.check(config(tmp_path), resume=False, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
