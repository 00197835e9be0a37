"""A llama in a GGUF file becomes the same model under Qwen2's names, with the same tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.demo.gguf_language import load_language
from learner.hf_files import ModelError
from tests import gguf_files
from tests.gguf_files import Q4_1, Q8_0, llama_file, tiny_llama

IDS = torch.tensor([[1, 70, 71, 72, 260, 5, 9, 2]])


def as_qwen2(path: Path) -> Qwen2ForCausalLM:
    """The file's model in transformers' Qwen2 class."""
    language = load_language(path)
    sizes = {name: getattr(language.sizes, name) for name in language.sizes.__dataclass_fields__}
    theta = sizes.pop("rope_theta")
    config = Qwen2Config(
        **sizes,
        vocab_size=len(language.weights["embed_tokens.weight"]),
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.model.load_state_dict(language.weights)
    return model


def test_the_logits_are_those_of_the_llama(tmp_path: Path) -> None:
    llama = tiny_llama()
    with torch.no_grad():
        expected = llama(IDS).logits
        found = as_qwen2(llama_file(tmp_path / "tiny.gguf", llama))(IDS).logits
    assert torch.equal(found, expected)


def test_sizes_are_read_as_the_model_was_made(tmp_path: Path) -> None:
    sizes = load_language(llama_file(tmp_path / "tiny.gguf", tiny_llama())).sizes
    assert (sizes.num_attention_heads, sizes.num_key_value_heads, sizes.num_hidden_layers) == (4, 2, 2)
    assert (sizes.rms_norm_eps, sizes.rope_theta, sizes.max_position_embeddings) == (1e-5, 1000.0, 512)


@pytest.mark.parametrize(("kind", "levels"), [(Q8_0, 127), (Q4_1, 15)])
def test_quantised_blocks_are_read_to_half_a_step(tmp_path: Path, kind: int, levels: int) -> None:
    llama = tiny_llama()
    path = llama_file(tmp_path / "tiny.gguf", llama, {"blk.1.ffn_down.weight": kind})
    expected = llama.state_dict()["model.layers.1.mlp.down_proj.weight"]
    found = load_language(path).weights["layers.1.mlp.down_proj.weight"]
    step = (expected.max() - expected.min()) / levels
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.6 * step


def test_text_is_split_into_single_digits_and_put_together_by_the_files_merges(tmp_path: Path) -> None:
    tokenizer = load_language(llama_file(tmp_path / "tiny.gguf", tiny_llama())).tokenizer
    assert tokenizer.encode("<answer>dog 12</answer><|im_end|>").tokens == [
        *("<", "answer", ">", "dog", "Ġ", "1", "2", "<", "/", "answer", ">", "<|im_end|>")
    ]
    text = "Où est l'été? 12,5 °C\n\n  日本 \t<answer >"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(gguf_files.vocabulary())}


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"general__architecture": "gemma"}, "architecture 'gemma'"),
        ({"tokenizer__ggml__pre": "llama3"}, r"tokenizer of the kind \('gpt2', 'llama3'\)"),
    ],
)
def test_what_is_no_such_model_is_refused_by_name(tmp_path: Path, metadata: dict[str, str], told: str) -> None:
    path = llama_file(tmp_path / "other.gguf", tiny_llama(), **metadata)
    with pytest.raises(ModelError, match=rf"other\.gguf .*{told}"):
        load_language(path)


def test_a_tensor_that_a_llama_has_not_is_refused(tmp_path: Path) -> None:
    llama = tiny_llama()
    path = llama_file(tmp_path / "tiny.gguf", llama)
    path.write_bytes(path.read_bytes().replace(b"blk.0.attn_output.weight", b"blk.0.attn_outpux.weight"))
    with pytest.raises(ModelError, match=r"tensor blk\.0\.attn_outpux\.weight"):
        load_language(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"no\.gguf cannot be read: .*not a GGUF file"):
        load_language(tmp_path / "no.gguf")


@pytest.mark.parametrize("missing", ["llama__block_count", "tokenizer__ggml__merges", "tokenizer__ggml__token_type"])
def test_a_file_that_lacks_a_key_is_refused_by_the_keys_name(tmp_path: Path, missing: str) -> None:
    path = llama_file(tmp_path / "tiny.gguf", tiny_llama())
    key = missing.replace("__", ".")
    path.write_bytes(path.read_bytes().replace(key.encode(), key[:-1].encode() + b"x"))
    with pytest.raises(ModelError, match=rf"tiny\.gguf lacks {key}"):
        load_language(path)


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.1, 0.001])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    path = llama_file(tmp_path / "tiny.gguf", tiny_llama())
    content = path.read_bytes()
    path.write_bytes(content[: min(int(len(content) * kept), len(content) - 300)])
    with pytest.raises(ModelError, match=r"tiny\.gguf (is cut short|cannot be read)"):
        load_language(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.gguf cannot be read"):
        load_language(tmp_path / "no.gguf")


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
        {"llama__rope__scaling__factor": 4.0},
        {"llama__rope__scale_linear": 4.0},
    ],
)
def test_a_scaled_rotation_is_refused(tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="scales its rotation"):
        load_language(llama_file(tmp_path / "tiny.gguf", tiny_llama(), **metadata))
    load_language(llama_file(tmp_path / "none.gguf", tiny_llama(), llama__rope__scaling__type="none"))
