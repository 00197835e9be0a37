"""Loading rewards by name and scoring a group with them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Reward
from data.types import Clip, ClipSource, Completion, Example, Group, Prompt
from rewards.registry import RewardError, load_reward
from rewards.score import RewardTerm, load_terms, score_group


def group(*texts: str) -> Group:
    example = Example("row 7", ClipSource("a.wav"), "Which animal?", ("Dog", "Cat"), "Dog")
    prompt = Prompt("g", example, (1, 2), Clip("00", 1.0, 25), seed=1)
    return Group(prompt, tuple(Completion((1,), text, (-0.1,), (0,), "stop") for text in texts))


def term(function: Any, name: str = "mine", weight: float = 1.0, **args: Any) -> RewardTerm:
    return RewardTerm(name, function, weight, args)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of an importable module with the source that the test gives as its parameter."""
    name = f"plug_in_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(request.param)
    monkeypatch.syspath_prepend(tmp_path)
    return name


BREVITY = """
def brevity(completions, example, *, limit=10):
    return [1.0 if len(text) <= limit else None for text in completions]

async def later(completions, example):
    return [0.0]

def lonely(completions):
    return [0.0]

LIMIT = 10
"""


@pytest.mark.parametrize("plug_in", [BREVITY], indirect=True)
def test_a_plug_in_scores_with_its_arguments_and_none_drops_the_completion(plug_in: str) -> None:
    terms = load_terms(
        [Reward(use=f"{plug_in}:brevity", weight=0.5, args={"limit": 3}), Reward(use="accuracy")], "answer"
    )
    scored, problems = score_group(group("Dog", "a long one"), terms)
    assert scored.rewards == {f"{plug_in}:brevity": (1.0, None), "accuracy": (1.0, 0.0)}
    assert scored.total == (1.5, None)
    assert problems == ()


@pytest.mark.parametrize("plug_in", [BREVITY], indirect=True)
@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("brevty", {}, "has no 'brevty'; did you mean brevity?"),
        ("LIMIT", {}, "is int, not a function"),
        ("later", {}, "write a plain function"),
        ("lonely", {}, "takes (completions): too many positional arguments"),
        ("brevity", {"limits": 3}, "got an unexpected keyword argument 'limits'"),
    ],
)
def test_a_plug_in_that_cannot_be_used_says_what_is_wrong(
    plug_in: str, name: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(RewardError) as caught:
        load_reward(f"{plug_in}:{name}", args)
    assert message in str(caught.value)


@pytest.mark.parametrize("plug_in", ["import surely_no_such_module\n"], indirect=True)
def test_a_plug_in_that_lacks_a_module_names_that_module(plug_in: str) -> None:
    with pytest.raises(RewardError, match="needs the module 'surely_no_such_module'; install it"):
        load_reward(f"{plug_in}:f")


@pytest.mark.parametrize("plug_in", ["1 / 0\n"], indirect=True)
def test_a_plug_in_that_breaks_on_import_says_how(plug_in: str) -> None:
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        load_reward(f"{plug_in}:f")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("acuracy", "'acuracy' is not a reward; did you mean accuracy?"),
        ("xyz", "built-in: accuracy, format; a plug-in is module:function"),
        ("no_such_plug_in:f", "there is no module 'no_such_plug_in'; install it, or put its folder on PYTHONPATH"),
        ("a b:f", "is not module:function"),
        (":f", "is not module:function"),
        ("json:", "is not module:function"),
    ],
)
def test_an_unknown_reward_names_the_nearest_or_what_is_missing(use: str, message: str) -> None:
    with pytest.raises(RewardError) as caught:
        load_reward(use)
    assert message in str(caught.value)


def test_wrong_arguments_of_a_built_in_are_refused_when_it_is_loaded() -> None:
    with pytest.raises(RewardError, match="'tempate'"):
        load_reward("format", {"tempate": "think"})


def test_the_total_is_the_weighted_sum() -> None:
    terms = load_terms([Reward(use="accuracy", weight=2.0), Reward(use="format", weight=0.5)], "answer")
    scored, problems = score_group(group("<answer>Dog</answer>", "<answer>Cat</answer>", "Dog", "Cat"), terms)
    assert scored.total == (2.5, 0.5, 2.0, 0.0)
    assert problems == ()


@pytest.mark.parametrize(
    ("prompt", "args", "expected"),
    [
        ("think", {}, (1.0, 0.0)),
        ("answer", {}, (0.0, 1.0)),
        ("think", {"template": "answer"}, (0.0, 1.0)),
        ("answer", {"template": "think"}, (1.0, 0.0)),
    ],
)
def test_the_format_reward_follows_the_prompt_unless_its_args_say_otherwise(
    prompt: str, args: dict[str, str], expected: tuple[float, float]
) -> None:
    terms = load_terms([Reward(use="format", args=args)], prompt)
    scored, _ = score_group(group("<think>It barks.</think><answer>Dog</answer>", "<answer>Dog</answer>"), terms)
    assert scored.total == expected


def test_numbers_of_numpy_and_booleans_become_floats() -> None:
    scored, problems = score_group(group("a", "b"), [term(lambda texts, example: np.array([True, False]))])
    assert scored.total == (1.0, 0.0)
    assert all(type(value) is float for value in scored.total)
    assert problems == ()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0], "gave 1 values for 2 completions"),
        ([1.0, 1.0, 1.0], "gave 3 values for 2 completions"),
        ([1.0, math.nan], "gave nan; a reward is a finite number or None"),
        ([math.inf, 1.0], "gave inf; a reward is a finite number or None"),
        ([1.0, "2"], "gave '2'; a reward is a finite number or None"),
        ([1.0, 10**400], "a reward is a finite number or None"),
        (None, "raised TypeError"),
        (0.5, "raised TypeError"),
    ],
)
def test_unusable_values_cost_the_group_its_score_and_are_counted(values: Any, problem: str) -> None:
    terms = [term(lambda texts, example: values), term(lambda texts, example: [1.0, 1.0], name="good")]
    scored, problems = score_group(group("a", "b"), terms)
    assert scored.rewards == {"mine": (None, None), "good": (1.0, 1.0)}
    assert scored.total == (None, None)
    assert len(problems) == 1
    assert problems[0].startswith("reward mine, example row 7: ")
    assert problem in problems[0]


def test_a_reward_that_raises_is_named_with_the_line_that_raised() -> None:
    def broken(texts: list[str], example: Example) -> list[float | None]:
        raise KeyError("x")

    scored, problems = score_group(group("a"), [term(broken)])
    assert scored.total == (None,)
    assert f"raised KeyError('x') at {__file__}:" in problems[0]


def test_a_reward_that_changes_its_list_does_not_disturb_the_next() -> None:
    def greedy(texts: list[str], example: Example) -> list[float | None]:
        texts.clear()
        return [0.0, 0.0]

    scored, _ = score_group(group("Dog", "Cat"), [term(greedy), term(load_reward("accuracy"), name="accuracy")])
    assert scored.rewards["accuracy"] == (1.0, 0.0)
