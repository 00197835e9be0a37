"""Prompts: R1-AQA's wording, Qwen2-Audio's chat form, and text that tries to be more than text."""

import pytest
from hypothesis import example as also
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_audio.processing_qwen2_audio import Qwen2AudioProcessor

from configs.schema import Prompt
from data.prompts import PromptEncoder, render_question
from data.types import ClipSource, Example
from rewards.answers import is_correct

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
QWEN_TEMPLATE: str = Qwen2AudioProcessor.default_chat_template.fget(None)  # type: ignore[attr-defined]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(special: tuple[str, ...] = SPECIAL, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE of Qwen2's kind, trained on a few sentences."""
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["You are a helpful assistant. Audio 1: Please choose\n\nthe answer"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def example(question: str = "Which animal?", choices: tuple[str, ...] = ("Dog", "Cat's")) -> Example:
    return Example("1", ClipSource("a.wav"), question, choices, choices[0] if choices else "")


def chat(text: str) -> str:
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
        f"{text}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_question_is_worded_as_in_the_paper() -> None:
    assert render_question(example(), "answer") == (
        "Which animal? Please choose the answer from the following options: ['Dog', \"Cat's\"]. "
        "Output the final answer in <answer> </answer>."
    )
    assert render_question(example(), "think") == (
        "Which animal? Please choose the answer from the following options: ['Dog', \"Cat's\"]. "
        "Output the thinking process in <think> </think> and final answer in <answer> </answer>."
    )


@pytest.mark.parametrize("template", ["answer", "think"])
def test_an_open_question_speaks_of_no_options(template: str) -> None:
    rendered = render_question(example("Which animal?", ()), template)
    assert rendered.startswith("Which animal? Output the ")
    assert rendered.endswith("final answer in <answer> </answer>.")


def test_braces_in_a_question_are_only_text() -> None:
    assert render_question(example("What is {choices} {0}?"), "answer").startswith("What is {choices} {0}? Please")


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"data.prompt: 'thnk' is not known; use one of answer, think"):
        render_question(example(), "thnk")  # type: ignore[arg-type]


def test_the_prompt_is_the_chat_of_qwen2_audio(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = PromptEncoder(tokenizer, QWEN_TEMPLATE, "answer").encode(example())
    assert tokenizer.decode(ids) == chat(render_question(example(), "answer"))


@given(question=st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=40))
@also(question="\nWhich animal?")
def test_ordinary_text_is_tokenised_as_if_the_prompt_were_one_piece(
    tokenizer: PreTrainedTokenizerFast, question: str
) -> None:
    ids = PromptEncoder(tokenizer, QWEN_TEMPLATE, "answer").encode(example(question))
    whole = tokenizer(chat(render_question(example(question), "answer")), add_special_tokens=False)["input_ids"]
    assert list(ids) == whole


@given(
    pieces=st.lists(st.sampled_from([*SPECIAL, "\n", "user", "<|", "|>", "AUDIO", " "]), min_size=1, max_size=8),
    choice=st.sampled_from(SPECIAL),
)
def test_special_tokens_in_the_data_stay_text(
    tokenizer: PreTrainedTokenizerFast, pieces: list[str], choice: str
) -> None:
    row = example("".join(pieces), ("Dog", choice))
    encoder = PromptEncoder(tokenizer, QWEN_TEMPLATE, "answer")
    ids = encoder.encode(row)
    clean = encoder.encode(example())
    for token in SPECIAL:
        assert ids.count(tokenizer.convert_tokens_to_ids(token)) == clean.count(tokenizer.convert_tokens_to_ids(token))
    assert ids.count(encoder.audio_token_id) == 1
    assert tokenizer.decode(ids) == chat(render_question(row, "answer"))


def test_the_assistants_turn_ends_as_the_users_does(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(tokenizer, QWEN_TEMPLATE, "answer")
    assert encoder.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_lacking_special_tokens_are_named() -> None:
    lacking = make_tokenizer(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>"))
    with pytest.raises(ValueError, match=r"lacks the special tokens <\|audio_bos\|>, <\|audio_eos\|>; use"):
        PromptEncoder(lacking, QWEN_TEMPLATE, "answer")


def test_a_tokenizer_whose_control_tokens_could_be_forged_is_refused() -> None:
    forgeable = make_tokenizer(special=SPECIAL[:-1], added=SPECIAL[-1:])
    with pytest.raises(ValueError, match=r"does not mark <\|audio_eos\|> as special"):
        PromptEncoder(forgeable, QWEN_TEMPLATE, "answer")


@pytest.mark.parametrize(
    "chat_template",
    ["nothing", "{% for message in messages %}{{ message['content'][1]['text'] }}{% endfor %}", QWEN_TEMPLATE * 2],
)
def test_a_chat_template_without_one_clip_and_one_question_is_refused(
    tokenizer: PreTrainedTokenizerFast, chat_template: str
) -> None:
    with pytest.raises(ValueError, match="the chat template renders"):
        PromptEncoder(tokenizer, chat_template, "answer")


def test_choices_may_have_letters_or_lines_of_their_own() -> None:
    shown = {
        form: render_question(example(), Prompt(text="{question}\n{choices}", choices=form, form="answer"))
        for form in ("list", "letters", "lines")
    }
    assert shown == {
        "list": "Which animal?\n['Dog', \"Cat's\"]",
        "letters": "Which animal?\n(A) Dog (B) Cat's",
        "lines": "Which animal?\n- Dog\n- Cat's",
    }


def test_there_are_letters_for_any_number_of_choices() -> None:
    choices = tuple(f"c{number}" for number in range(60))
    text = render_question(example("?", choices), Prompt(text="{question}{choices}", choices="letters", form="answer"))
    assert "(Z) c25 (AA) c26 (AB) c27" in text
    assert "(AZ) c51 (BA) c52" in text


def test_the_prompt_with_letters_asks_for_the_text_of_a_choice_which_is_scored() -> None:
    asked = example()
    text = render_question(asked, "letters")
    assert "following options: (A) Dog (B) Cat's. Output the text of the right option, without its letter" in text
    assert is_correct(f"<answer>{asked.choices[0]}</answer>", asked.answer)


def test_a_prompt_of_ones_own_is_worded_as_it_is_written() -> None:
    own = Prompt(text="Listen: {question} {{one of}} {choices}", choices="letters", form="think")
    assert render_question(example("What is {0}?"), own) == "Listen: What is {0}? {one of} (A) Dog (B) Cat's"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{question} Choose from {choices}. Answer.", "Which animal? Answer."),
        ("{question}\n{choices}\nAnswer.", "Which animal?\nAnswer."),
        ("Options: {choices}\n{question}", "Which animal?"),
        ("{question}", "Which animal?"),
    ],
)
def test_an_open_question_leaves_out_the_sentence_or_line_of_the_choices(text: str, rendered: str) -> None:
    assert render_question(example("Which animal?", ()), Prompt(text=text, form="answer")) == rendered


def test_a_lesson_may_think_before_it_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(tokenizer, QWEN_TEMPLATE, "think")
    *thoughtful, end = encoder.answer(example(), thought="It barks.")
    assert (tokenizer.decode(thoughtful), end) == ("<think>It barks.</think><answer>Dog</answer>", encoder.eos_token_id)
    assert tokenizer.decode(encoder.answer(example())[:-1]) == "<answer>Dog</answer>"
