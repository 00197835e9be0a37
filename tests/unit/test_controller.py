"""The order in which a run asks its actors, with stand-ins that answer at once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from cluster.asking import Unusable, as_asked
from cluster.controller import MOST_ISSUES
from cluster.metrics import LIVE_COUNTERS, LIVE_GAUGES
from cluster.training_loop import NotFinite, NothingToTrain, RewardFails
from cluster.waiting import WorkerError
from data.types import ClipSource, Dropped, Example, GroupSummary, LoggedStep, Prompt
from data.whole_file import WriteError
from tests.unit.run_stand_ins import EXAMPLES, STEPS, Launch


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path)


def test_the_steps_before_a_checkpoint_are_in_the_rollout_log_before_it_gets_its_name(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = launch.run_directory.checkpoints.finish

    def finish_and_note(*arguments: Any) -> int:
        launch.actors.asked.append("checkpoint")
        return finish(*arguments)

    monkeypatch.setattr(launch.run_directory.checkpoints, "finish", finish_and_note)
    launch.run()
    order = [call for call in launch.actors.asked if call in ("write", "written", "checkpoint")]
    assert order == ["write", "write", "written", "checkpoint", "written"]


def test_steps_are_taken_while_a_checkpoint_is_written_and_the_next_one_waits_for_it(launch: Launch) -> None:
    launch.change(run={"max_steps": 4}, checkpoint={"every_steps": 2, "keep": 9})
    launch.actors.may_write.clear()
    controller = launch.controller()
    steps = controller._step

    async def step() -> dict[str, Any]:
        if controller.version == 3:
            assert controller.figures()["saving"] == 1
            assert launch.run_directory.checkpoints.steps() == []
            launch.actors.may_write.set()
        return await steps()

    controller._step = step  # type: ignore[method-assign]
    asyncio.run(controller.run())
    assert launch.run_directory.checkpoints.steps() == [2, 4]
    assert [launch.run_directory.checkpoints.state(step)["step"] for step in (2, 4)] == [2, 4]
    assert controller.figures()["saving"] == 0


def test_a_step_that_the_log_cannot_write_ends_the_run_though_checkpoints_may_fail(launch: Launch) -> None:
    async def fails() -> None:
        raise WriteError("step_000001.parquet cannot be written")

    launch.change(checkpoint={"every_steps": 1, "on_failure": "continue"})
    launch.actors.written = fails  # type: ignore[method-assign]
    with pytest.raises(WriteError, match="parquet"):
        asyncio.run(launch.controller().run())
    assert launch.run_directory.checkpoints.steps() == []


@pytest.mark.parametrize("when", ["begin", "save", "saved", "finish"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_or_is_told_of_as_configured(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise WriteError("/full cannot be written: it takes 9.0 MB, and 1.0 MB are free there")

    async def fails_later(*_: Any) -> Any:
        fails()

    for on_failure in ("stop", "continue"):
        launch = Launch(tmp_path / on_failure)
        launch.change(checkpoint={"every_steps": 1, "on_failure": on_failure})
        owner: Any = launch.actors if when.startswith("save") else launch.run_directory.checkpoints
        monkeypatch.setattr(owner, when, fails_later if when.startswith("save") else fails)
        controller = launch.controller()
        if on_failure == "stop":
            with pytest.raises(WriteError, match=r"9\.0 MB"):
                asyncio.run(controller.run())
            assert list((launch.run_directory.path / "checkpoints").iterdir()) == []
            continue
        asyncio.run(controller.run())
        assert (controller.version, controller.figures()["checkpoints_failed"]) == (STEPS, STEPS)
        assert [said for said in launch.said if "has no checkpoint" in said] == [
            f"step {step} has no checkpoint, and the run goes on: "
            "/full cannot be written: it takes 9.0 MB, and 1.0 MB are free there"
            for step in range(1, STEPS + 1)
        ]
        assert launch.run_directory.checkpoints.steps() == []
        assert list((launch.run_directory.path / "checkpoints").iterdir()) == []


def test_a_defect_in_the_writing_of_a_checkpoint_ends_the_run_whatever_is_configured(launch: Launch) -> None:
    async def fails(*_: Any) -> Any:
        raise ZeroDivisionError

    launch.change(checkpoint={"every_steps": 1, "on_failure": "continue"})
    launch.actors.saved = fails  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(launch.controller().run())


def test_no_clip_is_prepared_for_a_step_after_the_last(launch: Launch) -> None:
    launch.run()
    assert launch.actors.asked.count("prefetch") == STEPS - 1


@pytest.mark.parametrize(
    ("unusable", "scored", "message"),
    [
        ("clip_missing", 2, r"4 of them for clip_missing: data\.audio_dir may name the wrong directory"),
        ("prompt_too_long", 2, r"4 of them for prompt_too_long: raise rollout\.max_model_tokens"),
        ("", 0, r"4 of them for reward_raised: try the functions of `rewards` .*mine:score, example 0: it raised KeyE"),
    ],
)
def test_where_no_question_can_be_used_the_most_frequent_reason_is_blamed(
    launch: Launch, unusable: str, scored: int, message: str
) -> None:
    launch.actors.unusable, launch.actors.scored = unusable, scored
    with pytest.raises(NothingToTrain, match=message) as refused:
        launch.run()
    assert ("audio_dir" in str(refused.value)) == unusable.startswith("clip_")


def test_what_a_reward_notes_of_a_group_is_said(launch: Launch) -> None:
    sample = launch.actors.sample_and_score

    async def noting(*arguments: Any) -> tuple[str, GroupSummary]:
        reference, summary = await sample(*arguments)
        return reference, dataclasses.replace(summary, notes=("reward mine was started again",))

    launch.actors.sample_and_score = noting  # type: ignore[method-assign]
    launch.run()
    assert "reward mine was started again" in launch.said


def test_a_reward_that_fails_every_group_ends_the_run_long_before_the_epoch_does(tmp_path: Path) -> None:
    launch = Launch(tmp_path, train=[Example(str(n), ClipSource(""), "?", ("a", "b"), "a") for n in range(200)])
    sample = launch.actors.sample_and_score
    launch.actors.scored = 0

    async def failing(*arguments: Any) -> tuple[str, GroupSummary]:
        reference, summary = await sample(*arguments)
        return reference, dataclasses.replace(summary, faulted=("mine",))

    launch.actors.sample_and_score = failing  # type: ignore[method-assign]
    controller = launch.controller()
    with pytest.raises(RewardFails, match=r"the reward 'mine' has failed each of the first 16 groups.*raised KeyError"):
        asyncio.run(controller.run())
    assert controller.ledger.admitted <= 32


def test_a_group_without_rewards_is_counted_under_the_reason_and_the_run_goes_on(launch: Launch) -> None:
    sample = launch.actors.sample_and_score

    async def mended_at_the_third(*arguments: Any) -> tuple[str, GroupSummary]:
        launch.actors.scored = 2 if controller.ledger.admitted > 2 else 1
        return await sample(*arguments)

    launch.actors.sample_and_score = mended_at_the_third  # type: ignore[method-assign]
    controller = launch.controller()
    asyncio.run(controller.run())
    assert controller.ledger.dropped == {"reward_raised": 2}
    assert controller.ledger.trained == STEPS
    assert any("(reward_raised): reward mine:score, example 0: it raised" in said for said in launch.said)


def test_completions_without_a_reward_are_counted_in_the_line_of_the_step_that_trains_the_others(
    launch: Launch,
) -> None:
    launch.change(algorithm={"group_size": 4})
    launch.actors.scored = 3
    launch.run()
    lines = [json.loads(line) for line in launch.run_directory.metrics.read_text().splitlines()]
    assert [line["completions_dropped"] for line in lines] == [{"reward_raised": 1}] * STEPS
    assert lines[-1]["dropped_by_reason"] == {}


@pytest.mark.parametrize(("name", "staleness"), [("grpo", 0), ("grpo", 2), ("sft", 0)])
def test_a_step_whose_gradient_is_none_drops_its_questions_and_others_take_their_place(
    tmp_path: Path, name: str, staleness: int
) -> None:
    launch = Launch(tmp_path)
    launch.change(algorithm={"name": name, "prompts_per_step": 2, "max_staleness": staleness})
    launch.actors.not_finite = 2
    loop = launch.controller()
    asyncio.run(loop.run())
    assert (loop.version, loop.figures()["steps_skipped"]) == (STEPS, 2)
    counts = {"admitted": 2 * (STEPS + 2), "trained": 2 * STEPS, "dropped": 4, "in_flight": 0}
    assert loop.ledger.counts() == counts
    assert loop.ledger.dropped == {"not_finite": 4}
    lines = [json.loads(line) for line in launch.run_directory.metrics.read_text().splitlines()]
    assert [(line["step"], line["trained"]) for line in lines] == [(step, 2 * step) for step in range(1, STEPS + 1)]
    assert sum("step 1 is skipped" in said and "a loss of nan" in said for said in launch.said) == 2


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_too_many_such_steps_in_a_row_end_the_run_with_the_way_on(tmp_path: Path, name: str) -> None:
    launch = Launch(tmp_path)
    launch.change(algorithm={"name": name, "prompts_per_step": 1}, learner={"max_skipped_steps": 2})
    launch.actors.not_finite = 2
    asyncio.run(launch.controller().run())
    launch.actors.not_finite = 3
    with pytest.raises(
        NotFinite, match=r"^3 steps in a row were skipped, the last for a loss of nan .*run\.init_from="
    ):
        asyncio.run(launch.controller().run())


def test_a_step_that_makes_only_some_of_its_updates_is_told_of(launch: Launch) -> None:
    launch.run()
    assert not any("updates" in said for said in launch.said)
    launch.change(algorithm={"updates_per_step": 3})
    launch.run()
    assert f"step {STEPS} ends after 1 of 3 updates: loss or gradient of the next was not finite" in launch.said


def test_dynamic_sampling_draws_another_question_for_a_group_without_a_signal(launch: Launch) -> None:
    launch.change(algorithm={"dynamic_sampling": True})
    launch.actors.alike = 2
    launch.run()
    line = launch.run_directory.metrics.read_text().splitlines()[-1]
    counts = json.loads(line)
    assert (counts["trained"], counts["dropped_by_reason"]) == (STEPS, {"zero_variance": 2})


def test_without_dynamic_sampling_a_group_without_a_signal_is_trained(launch: Launch) -> None:
    launch.actors.alike = 2
    launch.run()
    assert launch.state()["ledger"]["dropped"] == {}


def test_training_time_goes_on_where_the_checkpoint_stood(launch: Launch) -> None:
    launch.run()
    state = launch.state()
    assert 0 < state["train_seconds"] < 60
    assert launch.run(state | {"train_seconds": 1000.0})["train_seconds"] > 1000


def test_a_held_out_answer_that_is_kept_is_not_asked_for_again(tmp_path: Path) -> None:
    launch = Launch(tmp_path, test=EXAMPLES[:2])
    first = launch.run()
    launch.actors.asked.clear()
    again = launch.run(launch.state())
    assert not [call for call in launch.actors.asked if call.startswith("sample")]
    assert (again["base"], again["trained"]) == (first["base"], first["trained"])


@pytest.mark.parametrize(("name", "step"), [("base", 0), ("trained", STEPS)])
def test_a_broken_evaluation_is_told_of_and_asked_again(tmp_path: Path, name: str, step: int) -> None:
    launch = Launch(tmp_path, test=EXAMPLES[:2])
    first = launch.run()
    (launch.run_directory.evaluations / f"{name}.json").write_text('{"accuracy": 0.')
    state = launch.state() | {"step": step} if step else None
    again = asyncio.run(launch.controller(state).evaluate_test(name))
    assert again == first[name]
    assert f"{name}.json is broken" in launch.said[-2]


def test_weights_of_a_later_step_are_not_taken_for_the_base_model(tmp_path: Path) -> None:
    launch = Launch(tmp_path, test=EXAMPLES[:2])
    launch.run()
    (launch.run_directory.evaluations / "base.json").write_text("{")
    assert asyncio.run(launch.controller(launch.state()).evaluate_test("base")) is None
    assert "accuracy before training is unknown" in launch.said[-1]


@pytest.mark.parametrize("staleness", [0, 2])
def test_engines_are_held_against_the_learner_every_so_many_versions(tmp_path: Path, staleness: int) -> None:
    launch = Launch(tmp_path, staleness=staleness)
    launch.change(run={"max_steps": 5}, rollout={"verify_every": 2})
    launch.run()
    assert [asked for asked in launch.actors.asked if asked.startswith("check")] == ["check verify-2", "check verify-4"]
    lines = [json.loads(line) for line in launch.run_directory.metrics.read_text().splitlines()]
    assert [line["verified_difference"] for line in lines] == [None, 2e-5, None, 2e-5, None]
    assert launch.actors.replaced == []


def test_an_engine_that_is_another_policy_is_replaced(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.change(rollout={"verify_every": 2})
    launch.actors.difference["engine-1"] = 0.25
    launch.run()
    assert launch.actors.replaced == [("engine-1", "its log-probs of version 2 differ by 0.25")]


@pytest.mark.parametrize("difference", [0.25, math.inf, math.nan])
def test_engines_that_are_another_policy_at_two_checks_in_a_row_end_the_run(tmp_path: Path, difference: float) -> None:
    launch = Launch(tmp_path)
    launch.change(rollout={"verify_every": 1})
    launch.actors.difference["engine-0"] = difference
    with pytest.raises(WorkerError, match=r"log-probs of engine-0 differ by .* at version 2, and some engine's did"):
        launch.run()
    assert [name for name, _ in launch.actors.replaced] == ["engine-0"]


@pytest.mark.parametrize("staleness", [0, 1])
def test_sampling_goes_on_while_the_learner_trains_only_where_staleness_allows_it(
    tmp_path: Path, staleness: int
) -> None:
    launch = Launch(tmp_path, staleness=staleness)
    launch.change(run={"max_steps": 6})
    controller = launch.controller()
    asyncio.run(controller.run())
    assert bool(launch.actors.sampled_while_training) == bool(staleness)
    assert controller.ledger.counts() == {"admitted": 6, "trained": 6, "dropped": 0, "in_flight": 0}
    lines = [json.loads(line) for line in launch.run_directory.metrics.read_text().splitlines()]
    assert max(line["staleness_max"] for line in lines) == staleness


def test_no_more_groups_are_on_their_way_than_the_engines_have_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission has room for four."""
    launch = Launch(tmp_path, staleness=3)
    launch.change(run={"max_steps": 6})
    actors, seen = launch.actors, []
    actors.places = 2
    give = actors.sample_and_score

    async def sample_and_score(prompt: Prompt, sampling: Any) -> tuple[str, GroupSummary]:
        actors.sampling += 1
        seen.append(actors.sampling)
        await asyncio.sleep(0)
        actors.sampling -= 1
        actors.on_place()  # type: ignore[attr-defined]
        return await give(prompt, sampling)

    monkeypatch.setattr(actors, "sample_and_score", sample_and_score)
    launch.run()
    assert max(seen) == 2


def test_a_group_that_is_lost_is_asked_again_with_another_seed_and_admitted_once(launch: Launch) -> None:
    launch.actors.losses = 2
    controller = launch.controller()
    asyncio.run(controller.run())
    [first, *_] = launch.actors.issues
    assert [issue for group_id, issue in launch.actors.issues if group_id == first[0]] == [0, 1, 2]
    assert controller.ledger.counts() == {"admitted": 2, "trained": 2, "dropped": 0, "in_flight": 0}


def test_a_group_that_is_lost_again_and_again_is_dropped_and_counted(launch: Launch) -> None:
    launch.actors.losses = MOST_ISSUES
    controller = launch.controller()
    asyncio.run(controller.run())
    assert controller.ledger.dropped == {"engine_lost": 1}
    assert controller.ledger.counts() == {"admitted": 3, "trained": 2, "dropped": 1, "in_flight": 0}
    assert any("engine-0 has died" in said for said in launch.said)


def test_a_question_whose_engines_are_lost_in_two_of_its_turns_is_asked_no_more_not_even_after_a_resume(
    tmp_path: Path,
) -> None:
    launch = Launch(tmp_path)
    launch.change(run={"max_steps": 12})
    launch.actors.deadly = EXAMPLES[1].id
    controller = launch.controller()
    asyncio.run(controller.run())
    assert controller._quarantined == {1}
    assert controller.ledger.dropped["engine_lost"] == 2
    assert controller.ledger.dropped["quarantined"] >= 1
    launch.change(run={"max_steps": 24})
    again = launch.controller(launch.state())
    asyncio.run(again.run())
    assert again._quarantined == {1}
    assert again.ledger.dropped["quarantined"] > controller.ledger.dropped["quarantined"]
    assert again.ledger.dropped["engine_lost"] == 2


def test_a_question_that_was_lost_once_with_engines_that_others_killed_is_asked_again(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.change(run={"max_steps": 12})
    launch.actors.losses = MOST_ISSUES
    controller = launch.controller()
    asyncio.run(controller.run())
    assert controller.ledger.dropped == {"engine_lost": 1}
    assert controller._quarantined == set()


def test_a_resume_asks_first_what_was_outstanding_at_the_checkpoint(tmp_path: Path) -> None:
    launch = Launch(tmp_path, staleness=2)
    state = {
        "step": 0,
        "position": 3,
        "outstanding": [[0, 2], [0, 0]],
        "dropped_since": [[0, 1, "clip_missing: gone"]],
        "ledger": {"admitted": 1, "trained": 0, "dropped": {"clip_missing": 1}},
        "train_seconds": 0.0,
    }
    logged: list[Any] = []

    async def write(*arguments: Any) -> None:
        logged.append(arguments[-1])

    launch.actors.write = write  # type: ignore[method-assign]
    controller = launch.controller(state)
    asyncio.run(controller.run())
    assert [group_id for group_id, _ in launch.actors.issues] == ["0-2", "0-0"]
    assert [(drop.group_id, drop.why) for drop in logged[0].dropped] == [("0-1", "clip_missing: gone")]
    assert controller.ledger.counts() == {"admitted": 3, "trained": 2, "dropped": 1, "in_flight": 0}


def test_a_checkpoint_keeps_the_draws_that_are_outstanding(tmp_path: Path) -> None:
    launch = Launch(tmp_path, staleness=1)
    launch.change(checkpoint={"every_steps": 1, "keep": 9})
    launch.run()
    kept = [launch.run_directory.checkpoints.state(step) for step in (1, 2)]
    assert len(kept[0]["outstanding"]) == 1
    assert kept[0]["position"] == 2
    assert kept[0]["ledger"] == {"admitted": 1, "trained": 1, "dropped": {}}
    assert kept[1]["outstanding"] == []


def test_bad_questions_are_no_end_while_good_ones_are_being_sampled(launch: Launch) -> None:
    """Drops come at once and are drawn anew at once, long before the first group is there."""
    launch.change(algorithm={"prompts_per_step": 16})
    actors, ask, sample = launch.actors, launch.actors.prompt, launch.actors.sample_and_score

    async def prompt(example: Example, *arguments: Any, **named: Any) -> Prompt | Unusable:
        return Unusable("clip_missing", "gone") if example.id == "3" else await ask(example, *arguments, **named)

    async def slowly(*arguments: Any) -> tuple[str, GroupSummary]:
        await asyncio.sleep(0.05)
        return await sample(*arguments)

    actors.prompt, actors.sample_and_score = prompt, slowly  # type: ignore[method-assign]
    controller = launch.controller()
    asyncio.run(controller.run())
    assert controller.ledger.trained == 16 * STEPS
    assert controller.ledger.dropped["clip_missing"] > len(EXAMPLES)


def test_a_dropped_question_is_logged_with_its_choices_as_they_would_have_been_asked(launch: Launch) -> None:
    launch.change(algorithm={"prompts_per_step": 16}, data={"shuffle_choices": True})
    actors, ask, logged = launch.actors, launch.actors.prompt, []

    async def prompt(example: Example, *arguments: Any, **named: Any) -> Prompt | Unusable:
        return Unusable("clip_missing", "gone") if example.id == "3" else await ask(example, *arguments, **named)

    async def write(directory: str, clips: str, step: LoggedStep) -> None:
        logged.extend(step.dropped)

    actors.prompt, actors.write = prompt, write  # type: ignore[method-assign, assignment]
    launch.run()
    epochs = [int(drop.group_id.split("-")[0]) for drop in logged]
    assert [drop.example for drop in logged] == [as_asked(launch.config, EXAMPLES[3], epoch) for epoch in epochs]
    assert {drop.example.choices for drop in logged} == {("a", "b"), ("b", "a")}
    assert {drop.group for drop in logged} == {None}


def test_a_group_that_is_dropped_after_it_was_scored_is_logged_with_its_completions(launch: Launch) -> None:
    launch.change(algorithm={"dynamic_sampling": True})
    launch.actors.alike = 1
    logged: list[Dropped] = []

    async def write(directory: str, clips: str, step: LoggedStep) -> None:
        logged.extend(step.dropped)

    launch.actors.write = write  # type: ignore[method-assign, assignment]
    launch.run()
    assert [(drop.why.split(":")[0], drop.group) for drop in logged] == [("zero_variance", "group")]


def test_what_a_scrape_asks_for_is_told_whatever_the_run_is_at(launch: Launch) -> None:
    figures = launch.controller().figures()
    assert figures.keys() == LIVE_GAUGES.keys() | LIVE_COUNTERS.keys()
    assert figures["max_steps"] == STEPS
    assert 0 < figures["disk_free_bytes"] < figures["disk_bytes"]


def test_an_answer_of_an_evaluation_is_progress_and_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Launch(tmp_path, test=EXAMPLES).controller()
    moved: list[None] = []
    monkeypatch.setattr(controller.metrics, "progress", lambda: moved.append(None))
    asyncio.run(controller.evaluate_test("base"))
    assert len(moved) == len(EXAMPLES)
    told = {sample.name for metric in controller.metrics.registry.collect() for sample in metric.samples}
    assert "auricle_last_step_timestamp_seconds" not in told
