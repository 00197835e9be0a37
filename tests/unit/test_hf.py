"""Checkpoints in every form that transformers has saved, and the errors of those that cannot be used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner import hf_files
from learner.hf import export_checkpoint, load_model, load_tensors, load_tower, tower_hash
from learner.hf_files import ModelError, load_processor
from learner.released import check_model, for_engines, load_config, name_of_parameter, parameter_name
from learner.sizes import HEAD


def changed(
    model: Path,
    out: Path,
    tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    config: dict[str, object] | None = None,
) -> str:
    """A copy of the model with other tensors or configuration entries."""
    shutil.copytree(model, out)
    save_file(tensors(load_file(model / "model.safetensors")), out / "model.safetensors")
    stored = json.loads((model / "config.json").read_text()) | (config or {})
    (out / "config.json").write_text(json.dumps(stored))
    return str(out)


def weights(path: Path | str) -> dict[str, Tensor]:
    loaded = load_model(str(path), torch.float32)
    return {name_of_parameter(name): parameter.detach() for name, parameter in loaded.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_every_parameter_name_goes_to_its_released_name_and_back(model: Path) -> None:
    names = [name for name, _ in load_model(str(model), torch.float32).named_parameters()]
    assert [parameter_name(name_of_parameter(name)) for name in names] == names
    assert name_of_parameter("model.language_model.layers.0.mlp.up_proj.weight") == (
        "language_model.model.layers.0.mlp.up_proj.weight"
    )
    assert name_of_parameter("lm_head.weight") == "language_model.lm_head.weight"
    assert name_of_parameter("model.audio_tower.conv1.bias") == "audio_tower.conv1.bias"


def test_a_name_of_no_parameter_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'policy\.lm_head\.weight' is no parameter name"):
        name_of_parameter("policy.lm_head.weight")


def test_a_checkpoint_saved_by_transformers_5_loads_unchanged(model: Path, tmp_path: Path) -> None:
    load_model(str(model), torch.float32).save_pretrained(tmp_path)
    assert "language_model.model.model.embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    assert_same(weights(tmp_path), weights(model))


def test_a_checkpoint_with_the_parameters_own_names_loads_unchanged(model: Path, tmp_path: Path) -> None:
    renamed = changed(model, tmp_path / "inside", lambda all: {parameter_name(n): t for n, t in all.items()})
    check_model(renamed)
    assert_same(weights(renamed), weights(model))


@pytest.mark.parametrize("level", ["top", "text"])
def test_tied_embeddings_are_untied_by_copying(model: Path, tmp_path: Path, level: str) -> None:
    text = json.loads((model / "config.json").read_text())["text_config"]
    says = {"tie_word_embeddings": True} if level == "top" else {"text_config": text | {"tie_word_embeddings": True}}
    tied = changed(model, tmp_path / "tied", lambda all: {n: t for n, t in all.items() if n != HEAD}, says)
    check_model(tied)
    loaded = load_model(tied, torch.float32)
    assert torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)
    assert loaded.lm_head.weight is not loaded.get_input_embeddings().weight
    assert not loaded.config.tie_word_embeddings
    assert not loaded.config.text_config.tie_word_embeddings


def test_an_output_layer_of_its_own_is_kept_although_the_configuration_says_tied(model: Path, tmp_path: Path) -> None:
    path = changed(model, tmp_path / "own", config={"tie_word_embeddings": True})
    assert_same(weights(path), weights(model))


def test_a_checkpoint_without_output_layer_that_is_not_tied_is_refused(model: Path, tmp_path: Path) -> None:
    path = changed(model, tmp_path / "headless", lambda all: {n: t for n, t in all.items() if n != HEAD})
    with pytest.raises(ModelError, match=r"has no language_model.lm_head.weight, and config.json does not say"):
        load_model(path, torch.float32)


def test_missing_unexpected_and_misshapen_tensors_are_named(model: Path, tmp_path: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["audio_tower.conv1.bias"]
        tensors["multi_modal_projector.linear.bias"] = torch.zeros(3)
        return tensors | {"audio_tower.extra": torch.zeros(1)}

    path = changed(model, tmp_path / "damaged", damage)
    with pytest.raises(ModelError) as refused:
        load_model(path, torch.float32)
    with pytest.raises(ModelError, match=f"^{re.escape(str(refused.value))}$"):
        check_model(path)
    assert "missing: audio_tower.conv1.bias;" in str(refused.value)
    assert "unexpected: audio_tower.extra;" in str(refused.value)
    assert "of another shape: multi_modal_projector.linear.bias (3,) for (64,)." in str(refused.value)


def test_a_truncated_weight_file_is_named(model: Path, tmp_path: Path) -> None:
    path = Path(changed(model, tmp_path / "cut")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut short or damaged"):
        load_model(str(path.parent), torch.float32)


def test_a_directory_without_a_usable_model_says_what_it_lacks(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no config.json"):
        load_model(str(tmp_path / "empty"), torch.float32)
    shutil.copy(model / "config.json", tmp_path / "empty")
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(str(tmp_path / "empty"), torch.float32)
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pickled weights .* only; save them as safetensors"):
        load_model(str(tmp_path / "empty"), torch.float32)
    with pytest.raises(ModelError, match="does not exist; name a checkpoint directory or a hub id"):
        load_model(str(tmp_path / "nowhere"), torch.float32)


def test_a_sharded_checkpoint_loads_unchanged_and_one_that_lacks_a_shard_names_it(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "sharded"
    export_checkpoint(out, load_config(str(model)), load_tensors(str(model)), str(model), max_shard_bytes=100_000)
    assert_same(weights(out), weights(model))
    lost = sorted(out.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(ModelError, match=f"lacks {lost.name}, which model.safetensors.index.json names"):
        load_model(str(out), torch.float32)


def test_another_kind_of_model_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_type is 'qwen2'; only 'qwen2_audio' is supported"):
        load_model(changed(model, tmp_path / "other", config={"model_type": "qwen2"}), torch.float32)


def test_attention_over_a_sliding_window_is_refused(model: Path, tmp_path: Path) -> None:
    text = json.loads((model / "config.json").read_text())["text_config"]
    text |= {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0, "layer_types": None}
    with pytest.raises(ModelError, match="use_sliding_window is true"):
        load_model(changed(model, tmp_path / "windowed", config={"text_config": text}), torch.float32)


def test_bfloat16_is_the_rounded_float32(model: Path) -> None:
    rounded = {name: tensor.bfloat16() for name, tensor in weights(model).items()}
    loaded = load_model(str(model), torch.bfloat16)
    assert_same({name_of_parameter(name): parameter for name, parameter in loaded.named_parameters()}, rounded)


def test_without_tower_the_rest_is_the_same_and_nothing_of_it_is_held(model: Path) -> None:
    loaded = load_model(str(model), torch.float32, tower=False)
    found = {name_of_parameter(name): parameter.detach() for name, parameter in loaded.named_parameters()}
    assert_same(found, {name: t for name, t in weights(model).items() if not name.startswith("audio_tower.")})


def test_the_tower_alone_is_the_towers_part_and_has_its_hash(model: Path, tmp_path: Path) -> None:
    tower = load_tower(str(model), torch.float32)
    whole = weights(model)
    assert_same(
        {f"audio_tower.{n}": p.detach() for n, p in tower.named_parameters()},
        {name: tensor for name, tensor in whole.items() if name.startswith("audio_tower.")},
    )
    assert tower_hash(tower) == tower_hash(load_model(str(model), torch.float32).model.audio_tower)
    with torch.no_grad():
        tower.layers[1].fc2.bias[0] += 1e-3
    assert tower_hash(tower) != tower_hash(load_tower(str(model), torch.float32))


def test_the_hash_of_a_tower_does_not_depend_on_the_language_model(model: Path) -> None:
    loaded = load_model(str(model), torch.float32)
    before = tower_hash(loaded.model.audio_tower)
    with torch.no_grad():
        loaded.lm_head.weight.zero_()
    assert tower_hash(loaded.model.audio_tower) == before


def test_an_export_holds_the_tensors_type_and_the_processor(model: Path, tmp_path: Path) -> None:
    halved = ((name, tensor.bfloat16()) for name, tensor in load_tensors(str(model)))
    export_checkpoint(tmp_path / "out", load_config(str(model)), halved, str(model))
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["architectures"] == ["Qwen2AudioForConditionalGeneration"]
    assert stored["dtype"] == stored["text_config"]["dtype"] == "bfloat16"
    assert stored["tie_word_embeddings"] is False
    assert stored["audio_token_index"] == load_processor(str(tmp_path / "out")).audio_token_id
    files = {file.name for file in model.iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files


def test_an_export_that_lacks_a_tensor_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    partial = ((name, tensor) for name, tensor in load_tensors(str(model)) if name != HEAD)
    with pytest.raises(ModelError, match=f"missing: {HEAD}"):
        export_checkpoint(tmp_path / "out", load_config(str(model)), partial, str(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
def test_engines_take_a_released_checkpoint_as_it_is_and_an_export_of_any_other(model: Path, tmp_path: Path) -> None:
    assert for_engines(str(model), tmp_path / "unused") == model
    assert not (tmp_path / "unused").exists()
    saved = tmp_path / "saved"
    load_model(str(model), torch.float32).save_pretrained(saved)
    with pytest.raises(ModelError, match="exists already"):
        for_engines(str(saved), model)
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(model / file, saved)
    exported = for_engines(str(saved), tmp_path / "exported")
    assert load_file(exported / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()
    assert load_processor(str(exported)).chat_template


def test_a_processor_that_is_incomplete_or_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    path = changed(model, tmp_path / "other", config={"audio_token_index": 5})
    with pytest.raises(ModelError, match=r"config.json says audio_token_index 5; tokenizer and model do not belong"):
        load_processor(path)
    (tmp_path / "other" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer.json or vocab.json\); copy it"):
        load_processor(path)


def test_a_tokenizer_loaded_by_itself_is_the_processors(model: Path) -> None:
    alone, loaded = hf_files._plain(model), hf_files._by_processor(model)
    assert alone[1:] == loaded[1:]
    (mine, *_), (theirs, *_) = alone, loaded
    assert type(mine) is type(theirs)
    assert mine.get_vocab() == theirs.get_vocab()
    text = "<|im_start|>user\n<|AUDIO|> Wörter,  12 of them<|im_end|>"
    assert mine(text).input_ids == theirs(text).input_ids
    assert mine.eos_token_id == theirs.eos_token_id


@pytest.mark.parametrize("missing", ["chat_template.jinja", "processor_config.json"])
def test_a_directory_that_leaves_its_template_or_audio_token_open_is_read_by_the_processor(
    model: Path, tmp_path: Path, missing: str
) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    template = (copy / "chat_template.jinja").read_text()
    (copy / missing).unlink()
    assert hf_files._plain(copy) is None
    loaded = load_processor(str(copy))
    assert loaded.audio_token_id == load_processor(str(model)).audio_token_id
    assert (loaded.chat_template == template) == (missing != "chat_template.jinja")
    assert loaded.feature_extractor.sampling_rate == 16_000


@pytest.mark.heavy
def test_a_model_is_checked_without_the_import_of_any(model: Path) -> None:
    script = (
        "import sys; from cluster.session import usable_model; usable_model(sys.argv[1]);"
        "heavy = ('torch', 'sklearn', 'librosa', 'vllm');"
        "print([name for name in sys.modules if 'auto_factory' in name or name in heavy])"
    )
    told = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
