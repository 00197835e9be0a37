import json
from pathlib import Path

import pytest

from cluster.run_directory import RunDirectory, RunError, model_directory
from configs.schema import Config


def config(tmp_path: Path, **changes: object) -> Config:
    values = {
        "run": {"name": "r", "dir": str(tmp_path)},
        "model": {"path": "m"},
        "data": {"train": "t.jsonl"},
        **changes,
    }
    return Config.model_validate(values)


def test_an_existing_run_is_refused_with_the_ways_on(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False)
    with pytest.raises(RunError, match=r"--resume.*--fresh.*run\.name="):
        RunDirectory.create(config(tmp_path), fresh=False)


def test_fresh_moves_the_old_run_aside_and_keeps_it(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False).write_text("kept", "old")
    RunDirectory.create(config(tmp_path), fresh=True)
    aside = [path for path in tmp_path.iterdir() if path.name != "r"]
    assert [(path / "kept").read_text() for path in aside] == ["old"]
    assert not (tmp_path / "r" / "kept").exists()


def test_a_resume_takes_more_steps_and_other_placement_and_tells_of_them(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False)
    run = {"name": "r", "dir": str(tmp_path), "max_steps": 7}
    _, changed = RunDirectory.resume(config(tmp_path, run=run, cluster={"nodes": 2}))
    assert changed == {"run.max_steps": (100, 7), "cluster.nodes": (None, 2)}


def test_a_resume_with_another_learning_rate_is_refused_with_the_key(tmp_path: Path) -> None:
    RunDirectory.create(config(tmp_path), fresh=False)
    with pytest.raises(RunError, match=r"learner\.learning_rate: 1e-06 in the run, 0\.1 now"):
        RunDirectory.resume(config(tmp_path, learner={"learning_rate": 0.1}))


def test_a_resume_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        RunDirectory.resume(config(tmp_path))


def test_cutting_after_a_step_leaves_every_step_before_it_once(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    for step in range(1, 6):
        run.append_metrics({"step": step})
        (run.rollouts / f"step_{step:06d}.parquet").touch()
    run.write_evaluation("validation_step_4", {})
    run.write_evaluation("base", {})
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "cut in the mid')
    run.cut_after(3)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]
    assert sorted(shard.stem for shard in run.rollouts.iterdir()) == [f"step_{n:06d}" for n in (1, 2, 3)]
    assert [file.stem for file in run.evaluations.iterdir()] == ["base"]


def test_checkpoints_are_complete_or_not_there_and_the_newest_are_kept(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path), fresh=False)
    for step in (2, 4, 10):
        temporary = run.begin_checkpoint(step)
        assert run.latest_checkpoint() is None or run.latest_checkpoint() != temporary
        run.finish_checkpoint(temporary, keep=2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step_10", "step_4"]
    latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.name == "step_10"


def test_a_checkpoint_directory_stands_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "step_3" / "hf").mkdir(parents=True)
    assert model_directory(str(tmp_path / "step_3")) == str(tmp_path / "step_3" / "hf")
    assert model_directory("Qwen/Qwen2-Audio-7B-Instruct") == "Qwen/Qwen2-Audio-7B-Instruct"
