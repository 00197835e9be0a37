"""The built-in rewards, the parser of answers and MMAU's rule."""

import dataclasses
import signal
import sys
import threading
import time
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.types import ClipSource, Example
from rewards.accuracy import accuracy
from rewards.answers import answer, extract_answer, extract_thoughts, is_correct
from rewards.format import format_reward, think_format
from rewards.length import length
from rewards.mmau import mmau, mmau_correct
from rewards.repetition import repetition
from rewards.well_formed import well_formed

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<>$\\"), max_size=30)


def example(gold: str = "Dog") -> Example:
    return Example("1", ClipSource("a.wav"), "Which animal?", (gold, "Something else"), gold)


def scores(completion: str, gold: str = "Dog") -> tuple[float | None, float | None]:
    row = example(gold)
    return accuracy([completion], row)[0], format_reward([completion], row)[0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<answer>Dog</answer>", (1.0, 1.0)),
        ("<answer> Dog </answer>", (1.0, 1.0)),
        ("<answer>dog</answer>", (0.0, 1.0)),
        ("<answer>Cat</answer>", (0.0, 1.0)),
        ("<answer>\nDog</answer>", (0.0, 1.0)),
        ("<answer>Dog\n</answer>", (0.0, 1.0)),
        ("Dog", (1.0, 0.0)),
        (" Dog\n", (1.0, 0.0)),
        ("<answer>Cat</answer><answer>Dog</answer>", (0.0, 1.0)),
        ("<answer>Dog</answer><answer>Cat</answer>", (1.0, 1.0)),
        ("I say <answer>Dog</answer>", (1.0, 0.0)),
        ("<answer>Dog</answer>\n", (1.0, 0.0)),
        ("<answer>Dog", (0.0, 0.0)),
        ("", (0.0, 0.0)),
    ],
)
def test_accuracy_and_format_score_as_the_paper_does(completion: str, expected: tuple[float, float]) -> None:
    assert scores(completion) == expected


def test_equal_mathematics_in_another_notation_is_accurate() -> None:
    assert scores("<answer>$0.5$</answer>", "$\\frac{1}{2}$")[0] == 1.0
    assert scores("<answer>$0.6$</answer>", "$\\frac{1}{2}$")[0] == 0.0


def test_the_same_number_in_another_choice_is_accurate_unless_mathematics_is_off() -> None:
    row = example("the 3 dogs")
    assert accuracy(["<answer>the 3 cats</answer>"], row) == [1.0]
    assert accuracy(["<answer>the 3 cats</answer>"], row, math=False) == [0.0]


@pytest.mark.heavy
def test_a_power_tower_ends_at_the_time_limit_of_the_main_thread() -> None:
    assert accuracy(["<answer>it is $9^{9^{9^9}}$ </answer>"], example("the 3 dogs")) == [0.0]


@pytest.mark.heavy
def test_a_group_of_power_towers_ends_before_the_group_is_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["rewards.accuracy"]
    monkeypatch.setattr(module, "BUDGET_SECONDS", 0.5)
    monkeypatch.setattr(module, "MATH_TIMEOUT_SECONDS", 1)
    towers = [f"<answer>it is ${number}^{{9^{{9^9}}}}$ </answer>" for number in range(3, 23)]
    started = time.monotonic()
    assert accuracy([*towers, "<answer>the 3 dogs</answer>"], example("the 3 dogs")) == [0.0] * 20 + [1.0]
    assert time.monotonic() - started < 6


def test_a_completion_that_stands_many_times_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["rewards.accuracy"]
    parse, parsed = module._parse, list[str]()
    monkeypatch.setattr(module, "_parse", lambda text: parsed.append(text) or parse(text))
    assert accuracy(["about 3 puppies"] * 20, example("the 3 hounds")) == [1.0] * 20
    assert parsed.count("about 3 puppies") == 1


def test_accuracy_works_outside_the_main_thread_and_sets_no_alarm_there() -> None:
    found: list[list[float | None]] = []
    thread = threading.Thread(target=lambda: found.append(accuracy(["the 3 dogs", "4"], example("the 3 dogs"))))
    thread.start()
    thread.join(timeout=60)
    assert found == [[1.0, 0.0]]


def test_accuracy_leaves_an_alarm_handler_as_it_was() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise AssertionError("no alarm was set")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        accuracy(["the 3 dogs"], example("the 3 dogs"))
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)


@given(answer=TEXT, other=TEXT)
def test_the_gold_choice_in_tags_always_earns_both_rewards(answer: str, other: str) -> None:
    if "\n" not in answer:
        assert accuracy([f"<answer>{answer}</answer>"], example(answer)) == [1.0]
    assert format_reward([f"<answer>{other}</answer>"], example(answer)) == [1.0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>hm</think><answer>Dog</answer>", 1.0),
        ("<think>a\nb</think>\n<answer>Dog</answer>", 1.0),
        ("<answer>Dog</answer>", 0.0),
        ("<think>hm</think> so <answer>Dog</answer>", 0.0),
    ],
)
def test_the_think_form_wants_thoughts_and_then_the_answer(completion: str, expected: float) -> None:
    assert format_reward([completion], example(), form="think") == [expected]
    assert think_format([completion], example()) == [expected]


def test_an_unknown_form_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"args.form is 'thnk'; use one of answer, think"):
        format_reward(["x"], example(), form="thnk")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("completion", "prediction"),
    [
        ("<answer>Dog</answer>", "Dog"),
        ("<answer>Cat</answer> or <answer>\n Dog\n</answer> it is", "Dog"),
        ("<answer>a <answer>b</answer>", "b"),
        ("Dog ", "Dog"),
        ("<answer>Dog", "<answer>Dog"),
    ],
)
def test_the_prediction_is_the_last_answer_or_else_the_whole(completion: str, prediction: str) -> None:
    assert extract_answer(completion) == prediction


def test_a_prediction_is_right_whatever_its_white_space_and_case() -> None:
    assert is_correct("<answer> a  DOG\nbarks </answer>", "A dog barks")
    assert not is_correct("<answer>A dog</answer>", "A dog barks")


@given(before=TEXT, wrong=TEXT, gold=TEXT)
def test_only_the_last_answer_counts(before: str, wrong: str, gold: str) -> None:
    completion = f"{before}<answer>{wrong}</answer>{before}<answer>{gold}</answer>{before}"
    assert is_correct(completion, gold)
    assert answer([completion], example(gold)) == [1.0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<answer>\n dog </answer>", 1.0),
        ("DOG", 1.0),
        ("<answer>Cat</answer><answer>Dog</answer>", 1.0),
        ("<answer>Dog</answer><answer>Cat</answer>", 0.0),
        ("<answer>Dog Dog</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_the_robust_accuracy_takes_the_last_answer_whatever_its_white_space_and_case(
    completion: str, expected: float
) -> None:
    assert answer([completion], example()) == [expected]


@pytest.mark.parametrize(
    ("completion", "thoughts"),
    [
        ("<think> It barks.\n</think><answer>Dog</answer>", "It barks."),
        ("It barks. <answer>Cat</answer> No: <answer>Dog</answer>", "It barks. <answer>Cat</answer> No:"),
        ("<answer>Dog</answer>", ""),
        ("Dog", ""),
    ],
)
def test_thoughts_are_in_their_tag_or_else_before_the_last_answer(completion: str, thoughts: str) -> None:
    assert extract_thoughts(completion) == thoughts


@pytest.mark.parametrize(
    ("completion", "answer_form", "think_form"),
    [
        ("<answer>Dog</answer>", 1.0, 0.0),
        (" \n<answer>\nDog\n</answer>\n", 1.0, 0.0),
        ("<answer>Dog</answer><answer>Cat</answer>", 0.0, 0.0),
        ("<answer> - </answer>", 1.0, 0.0),
        ("<answer> \n </answer>", 0.0, 0.0),
        ("<answer><b>Dog</b></answer>", 1.0, 0.0),
        ("<answer></answer>", 0.0, 0.0),
        ("I say <answer>Dog</answer>", 0.0, 0.0),
        ("<answer><think>Dog</think></answer>", 0.0, 0.0),
        ("<think>It barks.</think>\n<answer>Dog</answer>\n", 0.0, 1.0),
        ("<think></think><answer>Dog</answer>", 0.0, 0.0),
        ("<think>a</think><think>b</think><answer>Dog</answer>", 0.0, 0.0),
        ("<think>It is <answer>Cat</answer></think><answer>Dog</answer>", 0.0, 0.0),
    ],
)
def test_a_well_formed_completion_has_each_tag_once_with_text_in_it(
    completion: str, answer_form: float, think_form: float
) -> None:
    assert well_formed([completion], example()) == [answer_form]
    assert well_formed([completion], example(), form="think") == [think_form]


def test_a_long_completion_without_an_end_is_found_malformed_at_once() -> None:
    assert well_formed(["<answer>" + "a " * 50_000], example()) == [0.0]


@pytest.mark.parametrize(
    ("words", "above", "both"),
    [(0, 0.0, -1.0), (8, 0.0, -0.4), (10, 0.0, 0.0), (12, -0.4, -0.4), (15, -1.0, -1.0), (99, -1.0, -1.0)],
)
def test_length_costs_nothing_at_the_target_and_everything_a_slope_away(words: int, above: float, both: float) -> None:
    texts = ["word\n " * words]
    assert length(texts, example(), target_words=10, slope_words=5) == [above]
    assert length(texts, example(), target_words=10, slope_words=5, side="both") == [both]


@pytest.mark.parametrize(
    ("completion", "size", "expected"),
    [
        ("a dog barks and a cat meows", 2, 0.0),
        ("a dog A  dog a dog", 2, -3 / 5),  # a dog, dog a, a dog, dog a, a dog
        ("no " * 101, 3, -98 / 99),
        ("too short", 3, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_costs_the_share_of_n_grams_that_were_there_before(
    completion: str, size: int, expected: float
) -> None:
    assert repetition([completion], example(), ngram_words=size) == pytest.approx([expected])


CHOICES = ("Dog barking", "Cat meowing", "Dog and cat")


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("dog barking", True),
        ("It is a Dog, barking.", True),
        ("barking dog", True),
        ("dog", False),
        ("dog barking and howling", False),  # "and" is a word of wrong choices only
        ("dog barking, no cat meowing", False),
        ("", False),
        ("...", False),
    ],
)
def test_mmau_wants_all_words_of_the_answer_and_none_of_the_wrong_choices_alone(prediction: str, right: bool) -> None:
    assert mmau_correct(prediction, "Dog barking", CHOICES) is right


def test_the_mmau_reward_applies_the_rule_to_the_prediction_alone() -> None:
    row = dataclasses.replace(example("Dog barking"), choices=CHOICES)
    completions = ["Not a cat meowing. <answer>It is a dog barking</answer>", "<answer>cat meowing</answer>"]
    assert mmau(completions, row) == [1.0, 0.0]


def test_mmau_forgives_words_that_right_and_wrong_choices_share() -> None:
    assert mmau_correct("one", "one", ("zero", "zero", "one", "one hundred"))
    assert not mmau_correct("one hundred", "one", ("zero", "one", "one hundred"))


def test_mmau_counts_a_prediction_without_a_word_as_wrong_even_for_an_answer_without_one() -> None:
    assert not mmau_correct("", "-", ("-", "+"))
    assert mmau_correct("minus", "-", ("-", "+"))


@given(choices=st.lists(TEXT.filter(lambda text: any(c.isalnum() for c in text)), min_size=2, max_size=5))
def test_mmau_counts_the_gold_choice_itself_as_right(choices: list[str]) -> None:
    assert mmau_correct(choices[0], choices[0], choices)
