"""The simulation of the loop against arithmetic by hand, its bounds, and what has to hold whatever is simulated."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.forecast.simulated_engine import SimulatedEngine, SimulatedGroup
from cluster.forecast.simulation import Outcome, Setting, SettingError, simulate
from cluster.forecast.splits import least_seconds
from cluster.forecast.timings import Timings

BASELINES = Path(__file__).resolve().parents[2] / "bench" / "baselines"
HAND: dict[str, Any] = {"name": "by hand", "step_seconds": 1, "prompt_seconds": 2, "load_seconds": 0.5}
HAND |= {"token_seconds": 1, "publish_seconds": 1, "prompt_tokens": 1, "groups": ((3,),)}
"""A group is a completion of 3 tokens: 2 s for its prompt, 2 steps of 1 s, and 3 packed tokens of 1 s to train."""


def timings(**values: Any) -> Timings:
    return Timings(**(HAND | values))


def setting(**values: Any) -> Setting:
    usual = {"engines": 1, "ranks": 1, "prompts_per_step": 1, "max_staleness": 1, "max_running": 1, "steps": 2}
    mode = "recompute" if values.get("max_staleness", 1) else "drain"
    return Setting(**{**usual, "on_update": mode, **values})


def groups(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    return st.integers(1, 4).flatmap(
        lambda size: st.lists(st.tuples(*[lengths] * size), min_size=1, max_size=12).map(tuple)
    )


SECONDS = st.sampled_from((0.0, 0.01, 0.5, 3.0))
SOME_TIMINGS = st.builds(
    timings,
    step_seconds=SECONDS,
    sequence_seconds=SECONDS,
    read_seconds=SECONDS,
    cache_seconds=SECONDS,
    request_seconds=SECONDS,
    prompt_seconds=SECONDS,
    gather_seconds=SECONDS,
    load_seconds=SECONDS,
    token_seconds=SECONDS,
    update_seconds=SECONDS,
    exchange_seconds=SECONDS,
    publish_seconds=SECONDS,
    encode_seconds=SECONDS,
    control_seconds=SECONDS,
    score_seconds=SECONDS,
    wait_seconds=SECONDS,
    weights_bytes=st.sampled_from((0.0, 1e10)),
    prompt_tokens=st.integers(1, 50),
    groups=groups(st.integers(1, 30)),
    dropped_share=st.sampled_from((0.0, 0.3)),
)
ON_UPDATE = {0: ("drain",), 1: ("drain", "recompute", "keep_kv")}
SOME_SETTINGS = st.integers(0, 3).flatmap(
    lambda staleness: st.builds(
        Setting,
        engines=st.integers(1, 5),
        ranks=st.integers(1, 4),
        prompts_per_step=st.integers(1, 7),
        max_staleness=st.just(staleness),
        max_running=st.integers(1, 12),
        steps=st.integers(1, 6),
        on_update=st.sampled_from(ON_UPDATE[min(staleness, 1)]),
        encoders=st.integers(1, 2),
        cores=st.sampled_from((None, 1, 2)),
        engines_per_machine=st.integers(1, 3),
        seed=st.integers(0, 9),
    )
)


def test_two_steps_take_what_they_take_by_hand() -> None:
    """a: prompt 0 to 2, decoded to 4, stepped to 7, published at 8. b: sampled from 4 to 8, stepped to 11."""
    outcome = simulate(timings(), setting())
    assert outcome.ended == (8.0, 12.0)
    assert outcome.staleness == {0: 1, 1: 1}
    assert outcome.step_staleness == (0.0, 1.0)
    assert outcome.engine_seconds == {"idle": 3.5, "prompts": 4.0, "decoding": 4.0, "loading": 1.0}
    assert outcome.learner_seconds == {"idle": 4.5, "stepping": 6.0, "publishing": 2.0}


def test_a_synchronous_step_is_the_sum_of_its_parts() -> None:
    """2 engines with 3 of 6 prompts each, 4 completions a prompt, all of them at once."""
    of = timings(
        groups=((9,) * 4,), sequence_seconds=0.1, request_seconds=0.3, gather_seconds=0.2, wait_seconds=0.7,
        update_seconds=0.4, prompt_tokens=10,
    )  # fmt: skip
    outcome = simulate(of, setting(engines=2, prompts_per_step=6, max_staleness=0, max_running=12, steps=5))
    sampling = 0.2 + 3 * (0.3 + 2) + 8 * (1 + 12 * 0.1)
    learning = 0.7 + 6 * (10 + 4 * 8) * 1 + 0.4
    assert outcome.seconds_per_step == pytest.approx(sampling + learning + 1 + 0.5)
    assert outcome.staleness == {0: 30}


def test_a_step_is_as_long_as_its_learner_where_there_are_engines_enough() -> None:
    of = timings(wait_seconds=0.25)
    outcome = simulate(of, setting(engines=50, prompts_per_step=4, max_staleness=3, steps=30))
    assert outcome.seconds_per_step == pytest.approx(0.25 + 4 * 3 + 1)
    assert outcome.learner_idle == pytest.approx(0.25 / 13.25, abs=0.02)


def test_a_step_is_as_long_as_its_sampling_where_the_learner_takes_no_time() -> None:
    of = timings(token_seconds=0, publish_seconds=0, load_seconds=0)
    outcome = simulate(of, setting(prompts_per_step=4, max_staleness=2, steps=30, on_update="keep_kv"))
    assert outcome.seconds_per_step == pytest.approx(4 * 4)
    assert outcome.engine_idle == pytest.approx(0.0, abs=1e-9)


def test_ranks_share_the_tokens_and_pay_for_their_traffic() -> None:
    of = timings(token_seconds=1, exchange_seconds=8)
    shared = [simulate(of, setting(ranks=ranks, prompts_per_step=4, max_staleness=0)) for ranks in (1, 2, 4)]
    assert [outcome.learner_seconds["stepping"] / 2 for outcome in shared] == [12, 6, 6]  # 12 / 4 is less than 8 * 3/4


def test_threads_that_share_cores_slow_each_other() -> None:
    """Two engines with a group each: on one core they take twice as long as on two, and the learner as long."""
    of = timings(token_seconds=0.5)
    alone, shared = (
        simulate(of, setting(engines=2, prompts_per_step=2, max_staleness=0, steps=1, cores=cores)) for cores in (2, 1)
    )
    assert alone.seconds == 4 + 3 + 1 + 0.5
    assert shared.seconds == 2 * 4 + 3 + 1 + 2 * 0.5


def test_other_processes_take_their_time_only_where_cores_are_shared() -> None:
    """7 s of a core go by while the group is sampled and trained, in 4 + 3 + 1 + 0.5 s."""
    busy = timings(beside_seconds=7)
    seconds = [simulate(busy, setting(max_staleness=0, steps=1, cores=cores)).ended[0] for cores in (None, 2, 1)]
    assert seconds == [8.5, 8.5, 8.5 + 7]


def test_one_reward_actor_bounds_what_any_number_of_engines_sample() -> None:
    outcome = simulate(timings(score_seconds=5), setting(engines=64, ranks=8, prompts_per_step=8, steps=6))
    assert outcome.seconds_per_step == pytest.approx(8 * 5)


def test_clips_that_are_not_prepared_hold_the_engines_up() -> None:
    slow = [
        simulate(timings(encode_seconds=10), setting(engines=8, prompts_per_step=4, steps=6, encoders=encoders))
        for encoders in (1, 2)
    ]
    assert [outcome.seconds_per_step for outcome in slow] == pytest.approx([4 * 10, 4 * 10 / 2])


def test_a_machine_of_its_own_gets_new_weights_when_the_network_has_brought_them() -> None:
    of = timings(weights_bytes=50e9, network_gigabytes_per_second=10)
    near, far = (
        simulate(of, setting(engines=2, prompts_per_step=2, max_staleness=0, steps=1, engines_per_machine=machine))
        for machine in (2, 1)
    )
    assert far.seconds - near.seconds == 50 / 10 - 1  # while the learner publishes, buckets are passed on


@pytest.mark.parametrize(
    ("on_update", "moments"),
    [
        ("drain", [("decoding", 6.0), ("loading", 7.0), ("idle", float("inf"))]),
        ("keep_kv", [("loading", 5.0), ("decoding", 7.0), ("idle", float("inf"))]),
        # the prompt and two tokens again, at 0.5 s each
        ("recompute", [("loading", 5.0), ("prompts", 8.0), ("decoding", 10.0), ("idle", float("inf"))]),
    ],
)
def test_new_weights_find_what_runs_as_they_are_told(on_update: str, moments: list[tuple[str, float]]) -> None:
    engine = SimulatedEngine(timings(prompt_tokens=4, load_seconds=1), max_running=1, on_update=on_update)
    group = SimulatedGroup("a", (5,))
    engine.ask(0.0, group)
    engine.act(2.0)
    engine.offer(4.0, version=1)  # two of its four steps are taken
    seen, finished = [(engine.state, engine.until)], []
    while engine.until < float("inf"):
        finished += engine.act(engine.until)
        seen.append((engine.state, engine.until))
    assert seen == moments
    assert (finished, group.oldest, engine.version) == ([group], 0, 1)


def test_a_draining_engine_holds_what_comes_until_it_has_the_weights() -> None:
    engine = SimulatedEngine(timings(), max_running=4, on_update="drain")
    first, second = SimulatedGroup("a", (3,)), SimulatedGroup("b", (3,))
    engine.ask(0.0, first)
    engine.offer(1.0, version=1)
    engine.ask(1.5, second)
    finished = []
    while engine.until < float("inf"):
        finished += engine.act(engine.until)
    assert [(group.name, group.oldest) for group in finished] == [("a", 0), ("b", 1)]


@pytest.mark.heavy
@given(SOME_TIMINGS, SOME_SETTINGS)
@settings(max_examples=80)
def test_whatever_is_simulated_no_group_is_lost_and_no_token_too_old(of: Timings, what: Setting) -> None:
    outcome = simulate(of, what)
    assert outcome.trained == what.steps * what.prompts_per_step == sum(outcome.staleness.values())
    assert outcome.admitted == outcome.trained + outcome.dropped
    assert outcome.completions == outcome.trained * of.group_size
    assert max(outcome.staleness) <= what.max_staleness
    assert len(outcome.ended) == what.steps
    assert list(outcome.ended) == sorted(outcome.ended)


@pytest.mark.heavy
@given(SOME_TIMINGS, SOME_SETTINGS)
@settings(max_examples=40)
def test_every_second_of_an_engine_and_of_the_learner_is_spent_on_one_thing(of: Timings, what: Setting) -> None:
    outcome = simulate(of, what)
    whole = sum(outcome.learner_seconds.values())
    assert whole >= outcome.seconds * (1 - 1e-9)
    assert sum(outcome.engine_seconds.values()) == pytest.approx(what.engines * whole)
    assert simulate(of, what) == outcome


@pytest.mark.heavy
@given(SOME_TIMINGS, SOME_SETTINGS)
@settings(max_examples=40)
def test_no_synchronous_run_is_faster_than_its_arithmetic(of: Timings, what: Setting) -> None:
    alike = of.model_copy(update={"groups": of.groups[:1], "dropped_share": 0.0})
    alone = replace(what, cores=None, max_staleness=0, on_update="drain", max_running=100)
    even = replace(alone, prompts_per_step=alone.prompts_per_step * alone.engines * alone.ranks)
    slowest = max(alike.groups[0])
    least = least_seconds(alike.model_copy(update={"groups": ((min(alike.groups[0]),) * of.group_size,)}), even)
    assert simulate(alike, even).seconds_per_step >= least * (1 - 1e-9)
    assert simulate(alike, even).seconds >= (slowest - 1) * alike.decoding_seconds(1)


@pytest.mark.heavy
@given(
    SOME_TIMINGS.map(lambda of: of.model_copy(update={"control_seconds": 0.0, "encode_seconds": 0.0})),
    SOME_SETTINGS.map(lambda what: replace(what, cores=None, max_staleness=0, on_update="drain", max_running=100)),
)
@settings(max_examples=40)
def test_twice_the_engines_with_devices_of_their_own_never_take_longer(of: Timings, what: Setting) -> None:
    kept = of.model_copy(update={"dropped_share": 0.0})
    near = replace(what, engines_per_machine=100)
    seconds = [simulate(kept, replace(near, engines=engines)).seconds for engines in (1, 2, 4, 8)]
    assert all(more <= fewer * (1 + 1e-9) for fewer, more in pairwise(seconds))


@pytest.mark.heavy
def test_further_engines_make_the_asynchronous_loop_faster_until_the_learner_is_full() -> None:
    of = timings(groups=((2, 3), (9, 4), (5, 5)), token_seconds=0.05, publish_seconds=0.1, load_seconds=0.1)
    rates = [
        simulate(of, setting(engines=engines, prompts_per_step=16, max_running=8, steps=30)).completions_per_second
        for engines in (1, 2, 4, 8, 16, 32)
    ]
    assert all(more >= 0.98 * fewer for fewer, more in pairwise(rates))
    assert rates[2] > 3 * rates[0]


@pytest.mark.parametrize("share_of_prompts", [0.1, 0.3])
def test_the_overlap_that_was_measured_is_met_within_a_twentieth(share_of_prompts: float) -> None:
    """`bench.pipeline`: an engine and a rank with a core each; what a prompt is of the rollout's time was not kept."""
    kept = json.loads((BASELINES / "pipeline.json").read_text())
    tokens, prompts, publishing, loading = kept["completion_tokens"], 4, 0.1, 0.05
    sampling = kept["rollout_seconds"] - loading
    of = timings(
        step_seconds=sampling * (1 - share_of_prompts) / (tokens - 1),
        prompt_seconds=sampling * share_of_prompts / prompts,
        load_seconds=loading,
        publish_seconds=publishing,
        token_seconds=0,
        update_seconds=kept["learner_seconds"] - publishing,
        groups=((tokens,) * 4,),
    )
    both = setting(prompts_per_step=prompts, max_running=16, steps=kept["steps"])
    synchronous = simulate(of, replace(both, max_staleness=0, on_update="drain"))
    asynchronous = simulate(of, replace(both, on_update="keep_kv"))
    for outcome, name in ((synchronous, "synchronous"), (asynchronous, "asynchronous")):
        assert outcome.seconds / both.steps == pytest.approx(kept[f"{name}_step_seconds"], rel=0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engines": 0}, "engines is 0"),
        ({"on_update": "wait"}, "on_update is 'wait'"),
        ({"max_staleness": 0, "on_update": "recompute"}, "only drain keeps that bound"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        setting(**values)


def test_the_first_step_is_left_out_of_the_rates() -> None:
    outcome = Outcome(
        ended=(10.0, 12.0, 14.0),
        admitted=3,
        trained=3,
        dropped=0,
        completions=6,
        staleness={0: 1, 1: 1, 2: 1},
        step_staleness=(0.0, 1.0, 2.0),
        engine_seconds={"idle": 1.0, "decoding": 3.0},
        learner_seconds={"idle": 1.0},
    )
    assert (outcome.seconds_per_step, outcome.completions_per_second) == (2.0, 1.0)
    assert (outcome.engine_idle, outcome.mean_staleness) == (0.25, 1.5)
