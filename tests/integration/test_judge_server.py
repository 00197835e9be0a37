"""The LLM judge as a run has it, in its process, on vLLM's own server with a tiny model."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from data.types import Clip, ClipSource, Completion, Example, Group, Prompt
from rewards.score import Scored, Scorer
from rewards.terms import Term
from tests.free_ports import free_ports
from tests.integration.commands import command
from tests.tiny_models import text_model_directory

pytestmark = pytest.mark.timeout(600)  # a busy machine starts a server in minutes

START_SECONDS = 300.0
KEY = "a key that the server wants"
ENVIRONMENT = {
    "JUDGE_KEY_OF_THE_TESTS": KEY,
    "VLLM_API_KEY": KEY,
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
SCORES = {"structured_outputs": {"choice": ["<score>0</score>", "<score>5</score>", "10"]}}
"""Makes even a random model reply with a score."""


@dataclass(frozen=True)
class Judge:
    """A server that is there."""

    url: str

    def scored(self, *groups: Group, **args: Any) -> list[Scored]:
        """Groups that are judged at the same time."""
        given = {"model": "judge", "base_url": self.url, "max_reply_tokens": 16, "temperature": 1.0, "retries": 0}
        term = Term("judge", "judge", args={**given, "api_key_env": "JUDGE_KEY_OF_THE_TESTS", **args})

        async def score() -> list[Scored]:
            scorer = Scorer([term], 60.0)
            try:
                await scorer.start()
                return await asyncio.gather(*map(scorer.score, groups))
            finally:
                await scorer.end()

        return asyncio.run(score())


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    model = text_model_directory(tmp_path_factory.mktemp("judge"))
    [port] = free_ports(1)
    arguments = f"--served-model-name judge --host 127.0.0.1 --port {port} --enforce-eager --dtype float32".split()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        server = "vllm.entrypoints.openai.api_server"
        with command(server, "--model", str(model), *arguments, "--max-num-seqs", "8", cwd=model) as started:
            started.wait_for(lambda: answers(port), "a server that answers", START_SECONDS)
            yield Judge(f"http://127.0.0.1:{port}/v1")


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def group(name: str, *texts: str) -> Group:
    example = Example(name, ClipSource("a.wav"), "Which animal is heard?", ("dog", "cat"), "dog")
    prompt = Prompt(name, example, (1,), Clip("c", 1.0, 25), seed=0)
    return Group(prompt, tuple(Completion((1,), text, (-0.1,), (0,), "stop") for text in texts))


COMPLETIONS = ("<think>It barks.</think><answer>dog</answer>", "<answer>cat</answer>", "dog", "")


def test_every_completion_of_groups_that_come_together_gets_a_score_on_the_scale(judge: Judge) -> None:
    scored = judge.scored(*(group(str(number), *COMPLETIONS) for number in range(6)), extra_body=SCORES)
    assert [one.problems for one in scored] == [()] * 6
    totals = [total for one in scored for total in one.group.total]
    assert set(totals) <= {0.0, 0.5, 1.0}
    assert len(set(totals)) > 1


def test_replies_without_a_score_drop_their_completions_and_are_counted(judge: Judge) -> None:
    [scored] = judge.scored(group("1", *COMPLETIONS))
    assert set(scored.dropped) <= {"reward_unparseable", "reward_reply_cut"}
    assert sum(scored.dropped.values()) == 4
    assert scored.group.total == (None,) * 4


@pytest.mark.parametrize(
    ("args", "problem"),
    [({"api_key_env": None}, "Error code: 401"), ({"model": "another"}, "The model `another` does not exist")],
)
def test_a_judge_that_refuses_costs_the_group_and_is_told_with_its_address(
    judge: Judge, args: dict[str, Any], problem: str
) -> None:
    [scored] = judge.scored(group("1", *COMPLETIONS), **args)
    assert scored.dropped == {"reward_raised": 4}
    assert f"args.base_url {judge.url}" in scored.problems[0]
    assert problem in scored.problems[0]
