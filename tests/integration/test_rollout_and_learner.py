"""Engine and learner are one policy: before and after an update, for every clip, whichever way the audio goes."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from _pytest.mark import ParameterSet

from actors.weights.buckets import Layout
from actors.weights.incoming import Arrivals
from cluster.placement import Node
from configs.schema import Config
from data.types import ClipSource, Example, Group, Sampling
from learner.hf import load_tensors
from learner.sizes import PROJECTOR, TOWER
from tests.integration.live import Live, live, live_config
from tests.integration.recordings import Questions

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

AGREEMENT = 1e-4
"""Largest difference of a log-prob between engine and learner in float32."""
VISIBLE = 1e-2
"""Least difference that old weights, old keys or another's clip would make."""
LIMIT_SECONDS = 30.0
LONG_QUESTION = "Which of these is heard first, and which of these is heard last? " * 8

PATHS = {
    "a frozen tower and projector": {"model": {"audio_tower": "frozen", "projector": "frozen"}},
    "a frozen tower and a trained projector": {"model": {"audio_tower": "frozen", "projector": "trained"}},
    "a frozen tower and the engine's own": {
        "model": {"audio_tower": "frozen", "projector": "frozen"},
        "rollout": {"audio": "waveform"},
    },
    "a trained tower": {"model": {"audio_tower": "trained", "projector": "trained"}},
    "a trained tower and the engine's own": {
        "model": {"audio_tower": "trained", "projector": "trained"},
        "rollout": {"audio": "waveform"},
    },
    "adapters in the language model": {
        "model": {"audio_tower": "frozen", "projector": "trained", "lora": {"rank": 4}},
    },
    "some adapters in language model and tower and the engine's own": {
        "model": {
            "audio_tower": "trained",
            "projector": "trained",
            "lora": {"rank": 4, "targets": ["q_proj", "v_proj", "up_proj", "fc1"], "tower": True},
        },
        "rollout": {"audio": "waveform"},
    },
}
"""How the audio gets from the clip into engine and learner, and what of them is trained."""
SAME_TOWER = {
    "frozen": ("a frozen tower and projector", "a frozen tower and the engine's own"),
    "trained": ("a trained tower", "a trained tower and the engine's own"),
}
"""Two ways of one clip into one model: embeddings that the rollout actor makes, and vLLM's own."""
SLOW = {
    "a frozen tower and a trained projector",
    "adapters in the language model",
    "a frozen tower and the engine's own",
    "a trained tower and the engine's own",
    "some adapters in language model and tower and the engine's own",
    "frozen",
    "trained",
}
"""Left out of `make test`: each starts an engine of its own."""
LONG = {
    "a frozen tower and a trained projector",
    "some adapters in language model and tower and the engine's own",
}
"""Left out of `make test-all` too."""


def configured(path: str, model: Path, questions: Questions) -> Config:
    return live_config(
        *(model, questions),
        **PATHS[path],
        learner={"micro_batch_tokens": 600, "bucket_bytes": 60_000},  # tensors of one layer lie in several buckets
        algorithm={"prompts_per_step": 6},
    )


@pytest.fixture(scope="module")
def first_groups() -> dict[str, list[Group]]:
    """What each way of the audio sampled with the first weights, all from the same prompts and seeds."""
    return {}


def marked(names: Iterable[str]) -> list[ParameterSet]:
    """The names as parameters, marked where they are slow or long."""
    marks = {name: [pytest.mark.slow] * (name in SLOW) + [pytest.mark.long] * (name in LONG) for name in names}
    return [pytest.param(name, marks=of_name) for name, of_name in marks.items()]


@pytest.fixture(scope="module", params=marked(PATHS))
def session(
    request: pytest.FixtureRequest,
    model: Path,
    questions: Questions,
    nodes: list[Node],
    first_groups: dict[str, list[Group]],
) -> Iterator[Live]:
    with live(configured(request.param, model, questions), nodes) as started:
        first_groups[request.param] = sample_first(started, questions)
        yield started


def sample_first(session: Live, questions: Questions) -> list[Group]:
    return session.sample(session.prompts(examples(questions, "Which animal is heard?"), epoch=100))


def only(*paths: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("session", marked(paths), indirect=True)


only_the_demo_path = only("a frozen tower and projector")


def examples(questions: Questions, question: str, count: int = 6) -> list[Example]:
    """One question about several recordings."""
    return [
        Example(row["id"], ClipSource(str(questions.folder / row["audio"])), question, ("a dog", "a cat"), "a cat")
        for row in questions.rows()[:count]
    ]


def test_every_token_has_the_same_log_prob_in_engine_and_learner_and_another_clip_would_show(
    session: Live, questions: Questions
) -> None:
    groups = session.sample(session.prompts(examples(questions, "Which animal is heard?")))
    assert len({group.prompt.expanded_tokens for group in groups}) == 1
    assert session.train(groups).logprob_difference_max < AGREEMENT
    session.send_weights()

    groups = session.sample(session.prompts(examples(questions, "Which animal is heard?"), epoch=1))
    clips = [group.prompt.clip for group in groups]
    swapped = [
        dataclasses.replace(group, prompt=dataclasses.replace(group.prompt, clip=clip))
        for group, clip in zip(groups, [*clips[1:], clips[0]], strict=True)
    ]
    assert session.train(swapped).logprob_difference_max > VISIBLE
    session.send_weights()


def test_after_an_update_a_repeated_prompt_is_sampled_from_the_learners_new_policy(
    session: Live, questions: Questions
) -> None:
    asked = examples(questions, LONG_QUESTION, count=2)
    prompts = session.prompts(asked, epoch=2)
    block_tokens, caching = session.in_engine(
        lambda engine: (
            engine.vllm_config.cache_config.block_size,
            engine.vllm_config.cache_config.enable_prefix_caching,
        )
    )
    assert caching
    assert min(prompt.expanded_tokens for prompt in prompts) > 3 * block_tokens
    before = session.version
    old = session.sample(prompts)
    assert {version for group in old for one in group.completions for version in one.versions} == {before}
    assert session.train(old).logprob_difference_max < AGREEMENT
    session.send_weights()

    new = session.sample(session.prompts(asked, epoch=3))
    assert {version for group in new for one in group.completions for version in one.versions} == {before + 1}
    assert session.train(new).logprob_difference_max < AGREEMENT
    assert session.train(old).off_policy["logprob_difference_max"] > VISIBLE
    session.send_weights()


@only_the_demo_path
def test_no_two_completions_of_a_step_share_a_random_stream(session: Live, questions: Questions) -> None:
    [same] = examples(questions, "Which animal is heard?", count=1)
    asked = [dataclasses.replace(same, id=f"copy-{number}") for number in range(4)]
    prompts = session.prompts(asked, epoch=0) + session.prompts(asked, epoch=1)
    groups = session.sample(prompts, completions=8)
    sampled = [completion.token_ids for group in groups for completion in group.completions]
    long = [token_ids for token_ids in sampled if len(token_ids) >= 4]  # shorter ones may be equal by chance
    assert len(long) > 0.8 * len(sampled)
    assert all(first != second for first, second in combinations(long, 2))


@only_the_demo_path
def test_the_same_draw_of_the_same_run_is_sampled_again_token_by_token(session: Live, questions: Questions) -> None:
    asked = examples(questions, "Which animal is heard?", count=2)
    first = session.sample(session.prompts(asked, epoch=5))
    again = session.sample(session.prompts(asked, epoch=5))
    other = session.sample(session.prompts(asked, epoch=6))
    for one, same, different in zip(first, again, other, strict=True):
        assert [c.token_ids for c in one.completions] == [c.token_ids for c in same.completions]
        assert [c.token_ids for c in one.completions] != [c.token_ids for c in different.completions]


def update_three_times(session: Live, asked: Sequence[Example], epoch: int) -> list[Group]:
    """Sample, train and send the weights in three epochs; gives the first groups, of what was the policy then."""
    first = session.sample(session.prompts(asked, epoch))
    assert session.train(first).logprob_difference_max < AGREEMENT
    session.send_weights()
    for later in (epoch + 1, epoch + 2):
        session.train(session.sample(session.prompts(asked, later)))
        session.send_weights()
    return first


@only("a trained tower", "a trained tower and the engine's own")
def test_after_three_updates_the_tower_is_another_and_engine_and_learner_stay_one_policy(
    session: Live, questions: Questions, model: Path
) -> None:
    asked = examples(questions, "Which animal is heard?")
    old = update_three_times(session, asked, epoch=20)

    trained = session.in_learner(lambda learner: {name: w.clone() for name, w in learner.engine.weights()})
    for name, first in load_tensors(str(model), TOWER):
        assert name.endswith("embed_positions.weight") or (trained[name] - first).abs().max() > VISIBLE, name
    new = session.sample(session.prompts(asked, epoch=23))
    assert {group.context_version for group in new} == {session.version}
    assert session.train(new).logprob_difference_max < AGREEMENT
    assert session.train(old).off_policy["logprob_difference_max"] > VISIBLE
    session.send_weights()


@only("a frozen tower and a trained projector")
def test_the_projector_alone_is_trained_and_engine_and_learner_stay_one_policy(
    session: Live, questions: Questions
) -> None:
    asked = examples(questions, "Which animal is heard?")

    def train_only_the_projector(learner: Any, alone: bool = True) -> dict[str, Any]:
        for name, parameter in learner.engine.policy.model.named_parameters():
            if "audio_tower" not in name:
                parameter.requires_grad_(not alone or "multi_modal_projector" in name)
        return {name: weight.clone() for name, weight in learner.engine.weights()}

    first = session.train_other_parameters(train_only_the_projector)
    assert set(first) == {f"{PROJECTOR}linear.weight", f"{PROJECTOR}linear.bias"}
    old = update_three_times(session, asked, epoch=30)

    trained = session.in_learner(train_only_the_projector)
    assert all((trained[name] - weight).abs().max() > VISIBLE for name, weight in first.items())
    new = session.sample(session.prompts(asked, epoch=33))
    assert session.train(new).logprob_difference_max < AGREEMENT
    assert session.train(old).off_policy["logprob_difference_max"] > VISIBLE
    session.send_weights()
    session.train_other_parameters(lambda learner: len(train_only_the_projector(learner, alone=False)))


@only("a trained tower")
def test_a_request_that_waits_for_an_update_is_embedded_and_sampled_after_it(
    session: Live, questions: Questions
) -> None:
    asked = examples(questions, "Which animal is heard?")
    session.train(session.sample(session.prompts(asked, epoch=40)))
    prompts = session.prompts(asked, epoch=41)
    before, after = session.sample_around_an_update(prompts[:3], prompts[3:])
    for groups, version in ((before, session.version - 1), (after, session.version)):
        versions = {version for group in groups for one in group.completions for version in one.versions}
        assert versions | {group.context_version for group in groups} == {version}
        assert {group.oldest_version for group in groups} == {version}
    assert session.train(after).logprob_difference_max < AGREEMENT
    session.send_weights()


@only("a trained tower")
def test_a_clip_is_encoded_once_in_a_version(session: Live, questions: Questions) -> None:
    def count_encoded(actor: Any) -> None:
        actor._encoded = []
        actor._audio._tower.layer_norm.register_forward_hook(lambda *_: actor._encoded.append(1))

    session.in_rollout(count_encoded)
    asked = examples(questions, "Which animal is heard?", count=3)
    for epoch in (50, 51):
        groups = session.sample(session.prompts(asked, epoch))
    assert session.in_rollout(lambda actor: len(actor._encoded)) == 3
    session.train(groups)
    session.send_weights()
    session.sample(session.prompts(asked, epoch=52))
    assert session.in_rollout(lambda actor: len(actor._encoded)) == 6


@only("a frozen tower and projector", "a trained tower")
def test_vllm_holds_no_tower_where_the_rollout_actor_embeds(session: Live) -> None:
    def names(engine: Any) -> list[str]:
        [found] = engine.collective_rpc(lambda worker: [name for name, _ in worker.get_model().named_parameters()])
        return found

    held = session.in_engine(names)
    assert held
    assert all(name.startswith("language_model.") for name in held)


@only_the_demo_path
def test_who_waits_for_an_engine_that_dies_is_told_and_so_is_who_comes_later(
    session: Live, questions: Questions
) -> None:
    [prompt] = session.prompts(examples(questions, "Which animal is heard?", count=1))

    def die(actor: Any) -> list[str]:
        from actors import engine

        class Dying:
            """Takes a request, and breaks when it decodes what came out."""

            def add_request(self, name: str, *_: Any) -> None:
                self.name = name

            def step(self) -> list[Any]:
                tokens = range(prompt.expanded_tokens)
                return [SimpleNamespace(request_id=self.name, finished=True, prompt_token_ids=tokens, outputs=None)]

        features, sampling = ray.get(prompt.clip.features), Sampling(2, 1.0, 4)
        build, engine.build_engine = engine.build_engine, lambda *_, **__: Dying()
        try:
            thread = engine.EngineThread(actor.config, "none", 0, (), actor._audio)
            first = thread.generate(prompt, features, sampling).exception(LIMIT_SECONDS)
            thread._thread.join(LIMIT_SECONDS)
            later = [
                thread.generate(prompt, features, sampling),
                thread.load(Arrivals(1, Layout(()), LIMIT_SECONDS)),
                thread.call(lambda _: None),
            ]
            return [str(first), *(str(call.exception(LIMIT_SECONDS)) for call in later)]
        finally:
            engine.build_engine = build

    told = session.in_rollout(die)
    assert len(told) == 4
    assert all(message.startswith("the engine died: TypeError(") for message in told), told


@only_the_demo_path
def test_prompts_that_come_together_start_together_and_one_that_keeps_coming_is_not_waited_for(
    session: Live, questions: Questions
) -> None:
    [prompt] = session.prompts(examples(questions, "Which animal is heard?", count=1))

    def ask(actor: Any) -> str:
        from actors import engine

        features, sampling = ray.get(prompt.clip.features), Sampling(2, 1.0, 4)

        class Counting:
            """Has the next prompt asked a while after it was given one; tells at its first step how many it got."""

            given = 0

            def add_request(self, *_: Any) -> None:
                self.given += 1
                threading.Timer(0.2, lambda: thread.generate(prompt, features, sampling)).start()

            def step(self) -> list[Any]:
                raise RuntimeError(f"{self.given} started")

        build, patience = engine.build_engine, engine.GATHER_SECONDS
        engine.build_engine, engine.GATHER_SECONDS = lambda *_, **__: Counting(), 2.0
        try:
            thread = engine.EngineThread(actor.config, "none", 0, (), actor._audio)
            return str(thread.generate(prompt, features, sampling).exception(LIMIT_SECONDS))
        finally:
            engine.build_engine, engine.GATHER_SECONDS = build, patience

    [started] = re.findall(r"(\d+) started", session.in_rollout(ask))
    assert 2 <= int(started) <= 11


@pytest.mark.parametrize("tower", marked(SAME_TOWER))
def test_embeddings_and_waveforms_give_the_same_log_probs(
    tower: str, model: Path, questions: Questions, nodes: list[Node], first_groups: dict[str, list[Group]]
) -> None:
    for path in SAME_TOWER[tower]:
        if path not in first_groups:
            with live(configured(path, model, questions), nodes) as started:
                first_groups[path] = sample_first(started, questions)
    compared = 0
    for embedded, heard in zip(*(first_groups[path] for path in SAME_TOWER[tower]), strict=True):
        assert embedded.prompt.clip.sha256 == heard.prompt.clip.sha256
        for one, other in zip(embedded.completions, heard.completions, strict=True):
            for token, same, logprob, its in zip(
                one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False
            ):
                if token != same:  # a draw on the edge between two tokens
                    break
                assert abs(logprob - its) < AGREEMENT
                compared += 1
    sampled = sum(group.completion_tokens for group in first_groups[SAME_TOWER[tower][0]])
    assert compared > 0.9 * sampled > 100
