"""Supervised fine-tuning as a run, with stand-ins that answer at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.training_loop import NothingToTrain
from cluster.waiting import WorkerError
from configs.schema import Config
from data.order import DataOrder
from tests.unit.run_stand_ins import EXAMPLES, STEPS, Launch


def supervised(folder: Path, **changes: Any) -> Launch:
    launch = Launch(folder, **changes)
    launch.change(algorithm={"name": "sft", "beta": 0.0, "prompts_per_step": 2})
    return launch


def lines(launch: Launch) -> list[dict[str, Any]]:
    return [json.loads(line) for line in launch.run_directory.metrics.read_text().splitlines()]


def test_a_step_learns_the_next_questions_of_the_order(tmp_path: Path) -> None:
    launch = supervised(tmp_path)
    launch.run()
    order = DataOrder(len(EXAMPLES), launch.config.run.seed)
    drawn = [EXAMPLES[order.take().index].id for _ in range(2 * STEPS)]
    assert launch.actors.taught == [drawn[:2], drawn[2:]]
    assert [line["trained"] for line in lines(launch)] == [2, 4]


def test_a_resume_goes_on_with_the_question_after_the_checkpoint(tmp_path: Path) -> None:
    launch = supervised(tmp_path)
    launch.change(checkpoint={"every_steps": 1})
    launch.run()
    whole, launch.actors.taught = launch.actors.taught, []
    launch.run(launch.run_directory.checkpoints.state(1))
    assert launch.actors.taught == whole[1:]


def test_engines_get_the_weights_when_they_are_to_answer_and_not_before(tmp_path: Path) -> None:
    launch = supervised(tmp_path, test=EXAMPLES[:1])
    launch.run()
    calls = [call.split()[0] for call in launch.actors.asked if call not in ("prefetch", "written")]
    assert calls == ["sample", "sample", "teach", "teach", "publish", "sample", "sample"]
    assert launch.actors.version == STEPS


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_silence_takes_the_place_of_the_clips_in_training_and_not_in_evaluations(tmp_path: Path, name: str) -> None:
    launch = supervised(tmp_path, test=EXAMPLES[:1])
    launch.change(algorithm={"name": name}, data={"silent": True})
    launch.run()
    asked = {(group_id.startswith("evaluation"), silent) for group_id, silent in launch.actors.silences}
    assert asked == {(True, False), (False, True)}
    assert "prefetch" not in launch.actors.asked


def test_a_run_may_leave_out_the_evaluation_before_it(tmp_path: Path) -> None:
    launch = supervised(tmp_path, test=EXAMPLES[:1])
    launch.change(evaluate={"before": False})
    summary = launch.run()
    assert summary["base"] is None
    assert summary["trained"]["questions"] == 1


def test_a_question_that_cannot_be_used_is_kept_by_id_with_the_step_and_the_reason(tmp_path: Path) -> None:
    launch = supervised(tmp_path)
    launch.actors.unusable, launch.actors.unusable_ids = "clip_missing", {"2"}
    launch.run()
    kept = [json.loads(line) for line in launch.run_directory.dropped.read_text().splitlines()]
    assert {(row["id"], row["reason"]) for row in kept} == {("2", "clip_missing: no such clip")}
    assert [row["step"] for row in kept] == sorted(row["step"] for row in kept)
    assert lines(launch)[-1]["dropped"] == len(kept)


@pytest.mark.parametrize("name", ["sft", "grpo"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_weights_that_do_not_reach_the_engines_end_the_run_with_their_own_error(
    tmp_path: Path, name: str, split: str
) -> None:
    launch = supervised(tmp_path, **{split: EXAMPLES[:1]})
    launch.change(algorithm={"name": name}, evaluate={"every_steps": 1, "before": False})
    launch.actors.fails_to_publish = True
    with pytest.raises(WorkerError, match="the learner has died"):
        launch.run()


def test_where_no_question_can_be_used_the_reason_is_blamed(tmp_path: Path) -> None:
    launch = supervised(tmp_path)
    launch.actors.unusable = "clip_missing"
    with pytest.raises(NothingToTrain, match=r"for clip_missing: data\.audio_dir"):
        launch.run()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"algorithm": {"name": "sft", "beta": 0.1}}, r"algorithm\.beta"),
        (
            {"algorithm": {"name": "sft"}, "data": {"train": "t", "prompt": "think"}},
            r"data\.prompt asks for a thinking process",
        ),
    ],
)
def test_what_fine_tuning_cannot_do_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, **keys})
