"""Loading rewards by name: built-in ones, plug-ins by path, and those that installed distributions give."""

from __future__ import annotations

import sys
from typing import Any

import psutil
import pytest

from configs.schema import Reward
from rewards.registry import BUILT_IN, RewardError, is_async, load_reward
from rewards.score import check_rewards
from rewards.terms import terms_of
from tests.plug_in_files import PlugIns
from tests.reward_processes import START_SECONDS

BREVITY = """
import functools

def brevity(completions, example, *, limit=10):
    return [1.0 if len(text) <= limit else None for text in completions]

async def later(completions, example):
    return [0.0]

class Later:
    async def __call__(self, completions, example):
        return [0.0]

an_object = Later()
partly = functools.partial(brevity, limit=3)

def each(completions, example):
    yield 0.0

def lonely(completions):
    return [0.0]

LIMIT = 10
"""


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("brevty", {}, "has no 'brevty'; did you mean brevity?"),
        ("LIMIT", {}, "is int, not a function"),
        ("each", {}, "is a generator; give a list"),
        ("lonely", {}, "takes (completions): too many positional arguments"),
        ("brevity", {"limits": 3}, "got an unexpected keyword argument 'limits'"),
    ],
)
def test_a_plug_in_that_cannot_be_used_says_what_is_wrong(
    plug_ins: PlugIns, name: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(RewardError) as caught:
        load_reward(f"{plug_ins.module(BREVITY)}:{name}", args)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "awaited"), [("brevity", False), ("partly", False), ("later", True), ("an_object", True)]
)
def test_a_function_and_an_object_may_be_asynchronous(plug_ins: PlugIns, name: str, awaited: bool) -> None:
    assert is_async(load_reward(f"{plug_ins.module(BREVITY)}:{name}")) is awaited


def test_a_plug_in_that_lacks_a_module_names_that_module(plug_ins: PlugIns) -> None:
    name = plug_ins.module("import surely_no_such_module\n")
    with pytest.raises(RewardError, match="needs the module 'surely_no_such_module'; install it"):
        load_reward(f"{name}:f")


def test_a_plug_in_that_breaks_on_import_says_how(plug_ins: PlugIns) -> None:
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        load_reward(f"{plug_ins.module('1 / 0')}:f")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("acuracy", "'acuracy' is not a reward; did you mean accuracy?"),
        ("xyz", "there are accuracy, format, think_format, answer, "),
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


def test_an_installed_reward_is_found_by_its_name_alone(plug_ins: PlugIns) -> None:
    plug_ins.distribution("terse", brevity=f"{plug_ins.module(BREVITY)}:brevity")
    assert load_reward("brevity", {"limit": 3})(["abcd", "abc"], None, limit=3) == [None, 1.0]
    with pytest.raises(RewardError, match="'brevty' is not a reward; did you mean brevity"):
        load_reward("brevty")


def test_an_installed_reward_that_is_not_there_is_named_with_its_distribution(plug_ins: PlugIns) -> None:
    plug_ins.distribution("terse", brevity="no_such_module_of_terse:brevity")
    with pytest.raises(
        RewardError, match=r"'brevity of terse \(no_such_module_of_terse:brevity\)': there is no module"
    ):
        load_reward("brevity")


def test_a_name_that_is_built_in_and_installed_is_refused_and_the_others_are_not(plug_ins: PlugIns) -> None:
    name = plug_ins.module(BREVITY)
    plug_ins.distribution("terse", accuracy=f"{name}:brevity")
    with pytest.raises(RewardError, match=rf"'accuracy' is given by Auricle and by terse \({name}:brevity\): unin"):
        load_reward("accuracy")
    assert load_reward("format") is BUILT_IN["format"]


def test_a_name_that_two_distributions_give_is_refused(plug_ins: PlugIns) -> None:
    name = plug_ins.module(BREVITY)
    plug_ins.distribution("terse", brevity=f"{name}:brevity")
    plug_ins.distribution("laconic", brevity=f"{name}:partly")
    with pytest.raises(RewardError) as caught:
        load_reward("brevity")
    assert f"terse ({name}:brevity)" in str(caught.value)
    assert f"laconic ({name}:partly)" in str(caught.value)


JUDGE = {"model": "m", "base_url": "http://localhost:1/v1"}


@pytest.mark.parametrize(
    ("use", "args", "message"),
    [
        ("format", {"tempate": "think"}, "'tempate'"),
        ("format", {"form": "thnk"}, "args.form is 'thnk'; use one of answer, think"),
        ("well_formed", {"form": "thnk"}, "args.form is 'thnk'"),
        ("length", {}, "missing a required argument: 'target_words'"),
        ("length", {"target_words": 10, "slope_words": 0}, "give at least 0 and at least 1"),
        ("length", {"target_words": "ten", "slope_words": 1}, "rewards: 'length': '<' not supported"),
        (
            "length",
            {"target_words": 1, "slope_words": 1, "side": "below"},
            "args.side is 'below'; use one of above, both",
        ),
        ("repetition", {"ngram_words": 0}, "args.ngram_words is 0; give at least 1"),
        ("judge", {}, "missing a required argument: 'model'"),
        ("judge", JUDGE | {"api_key_env": "SURELY_UNSET"}, "SURELY_UNSET, and that environment variable is not set"),
        ("judge", JUDGE | {"template": "Rate {thought}"}, "args.template names 'thought'; there are question, "),
        ("judge", JUDGE | {"template": 'As JSON {"score": N}: {completion}'}, "args.template names "),
        ("judge", JUDGE | {"template": "Rate {completion"}, "args.template is no template"),
        ("judge", JUDGE | {"template": "Rate {question}"}, "shows the judge nothing of the completion"),
        ("judge", JUDGE | {"scale": [1, 1]}, "args.scale is [1, 1]; give the lowest and the highest"),
        ("judge", JUDGE | {"max_concurrency": 0}, "args.max_concurrency is 0"),
    ],
)
def test_wrong_arguments_of_a_built_in_are_refused_when_it_is_loaded(
    use: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(RewardError) as caught:
        load_reward(use, args)
    assert message in str(caught.value)


@pytest.mark.heavy
def test_a_configuration_is_refused_for_any_reward_that_cannot_be_used() -> None:
    with pytest.raises(RewardError, match="did you mean format"):
        check_rewards([Reward(use="accuracy"), Reward(use="formt")], "answer", START_SECONDS)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("source", "seconds", "message"),
    [
        ("1 / 0", START_SECONDS, "raised ZeroDivisionError"),
        ("raise SystemExit(0)", START_SECONDS, r"raised SystemExit\(0\); mend the module"),
        ("import os; os._exit(0)", START_SECONDS, "its process ended by exit status 0 while it was loaded"),
        ("import time; time.sleep(60)", 0.3, ":do' has not been loaded within 0.3 s"),
    ],
)
def test_a_plug_in_whose_import_ends_or_hangs_is_refused_and_does_neither_to_who_asks(
    plug_ins: PlugIns, source: str, seconds: float, message: str
) -> None:
    name, before = plug_ins.module(source), psutil.Process().children()
    with pytest.raises(RewardError, match=f"{name}.*{message}"):
        check_rewards([Reward(use="accuracy"), Reward(use=f"{name}:do")], "answer", seconds)
    assert name not in sys.modules
    assert psutil.Process().children() == before


@pytest.mark.heavy
def test_a_configuration_whose_rewards_can_be_used_passes_and_leaves_no_process(plug_ins: PlugIns) -> None:
    before = psutil.Process().children()
    check_rewards([Reward(use="accuracy"), Reward(use=f"{plug_ins.module(BREVITY)}:later")], "answer", START_SECONDS)
    assert psutil.Process().children() == before


@pytest.mark.parametrize(
    ("prompt", "args", "form"),
    [("think", {}, "think"), ("answer", {}, "answer"), ("think", {"form": "answer"}, "answer")],
)
@pytest.mark.parametrize("use", ["format", "well_formed"])
def test_the_format_rewards_follow_the_prompt_unless_their_args_say_otherwise(
    use: str, prompt: str, args: dict[str, str], form: str
) -> None:
    [term] = terms_of([Reward(use=use, args=args)], prompt)
    assert term.args == {"form": form}


def test_a_term_is_called_by_its_name_or_else_by_its_function() -> None:
    rewards = [Reward(use="length", args={"target_words": 5, "slope_words": 5}), Reward(use="length", name="brief")]
    assert [term.name for term in terms_of(rewards, "answer")] == ["length", "brief"]
