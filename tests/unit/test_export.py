"""An exported checkpoint is the trained one, bit by bit, in one file or in shards; what cannot be exported is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2AudioForConditionalGeneration

from configs.schema import Model
from data.checksums import checksums
from data.remote import WHOLE
from learner import export, lora
from learner.hf import load_model, load_tensors
from learner.hf_files import INDEX_FILE, ModelError
from learner.released import load_config, name_of_parameter
from learner.sizes import TOWER, find_sizes
from learner.weights import released_name, weights_of
from tests.integration.models import other_model
from tests.tiny_models import logits

SHARD_BYTES = 60_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the kinds of tensors that the released one has."""
    return other_model(tmp_path_factory.mktemp("export"))


def checkpoint(path: Path, model: Path, adapter: bool = False) -> Path:
    """A checkpoint as a learner leaves it, of the model or of adapters on it."""
    path.mkdir(parents=True)
    shutil.copytree(model, path / "hf")
    if not adapter:
        return path
    adapted = load_model(str(model), torch.float32)
    settings = Model.model_validate({"path": str(model), "audio_tower": "frozen", "lora": {"rank": 4}})
    lora.add_adapters(adapted, settings, str(model))
    generator = torch.Generator().manual_seed(0)
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    state = {released_name(name): parameter.detach() for name, parameter in trained.items()}
    lora.export_adapter(path / "adapter", adapted, state, torch.float32)
    merged = {weight.name: weight.value().clone() for weight in weights_of(adapted)}
    save_file(merged, path / "hf" / "model.safetensors", metadata={"format": "pt"})
    return path


def run(*arguments: object) -> int:
    return export.main([str(argument) for argument in arguments])


def test_the_small_model_has_the_released_ones_kinds_of_tensors(model: Path) -> None:
    def kinds(path: str) -> set[str]:
        shapes = find_sizes(path).shapes()
        return {".".join(part for part in name.split(".") if not part.isdigit()) for name in shapes}

    assert kinds(str(model)) == kinds("Qwen/Qwen2-Audio-7B-Instruct")
    config = load_config(str(model))
    assert config.audio_config.num_mel_bins == 128
    assert config.text_config.num_key_value_heads == config.text_config.num_attention_heads


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_bytes", [SHARD_BYTES, 10**9], ids=["shards", "one file"])
def test_what_is_exported_and_read_again_is_the_same_bits(
    model: Path, tmp_path: Path, dtype: torch.dtype, shard_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = checkpoint(tmp_path / "step_3", model), tmp_path / "out"
    name = str(dtype).removeprefix("torch.")
    assert run(source, "--out", out, "--dtype", name, "--max-shard-bytes", shard_bytes) == 0
    expected = {name: tensor.to(dtype) for name, tensor in load_tensors(str(model))}
    found = dict(load_tensors(str(out)))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == dtype
        assert torch.equal(found[key].view(torch.uint8), tensor.view(torch.uint8)), key
    loaded = Qwen2AudioForConditionalGeneration.from_pretrained(out, dtype=dtype)
    again = {name_of_parameter(key): parameter for key, parameter in loaded.named_parameters()}
    assert all(torch.equal(again[key], tensor) for key, tensor in expected.items())
    assert (out / INDEX_FILE).exists() == (shard_bytes == SHARD_BYTES)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(model).get_vocab()
    assert {file.name for file in model.iterdir() if file.suffix != ".safetensors"} <= {f.name for f in out.iterdir()}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1
    assert f"{len(expected)} tensors" in capsys.readouterr().out


def test_an_index_names_every_tensors_file_and_the_size_of_all(model: Path, tmp_path: Path) -> None:
    assert run(model, "--out", tmp_path / "out", "--max-shard-bytes", SHARD_BYTES) == 0
    index = json.loads((tmp_path / "out" / INDEX_FILE).read_text())
    held = {file.name: load_file(file) for file in (tmp_path / "out").glob("*.safetensors")}
    assert len(held) > 3
    assert max(held) == f"model-{len(held):05d}-of-{len(held):05d}.safetensors"
    assert index["weight_map"] == {name: file for file, tensors in held.items() for name in tensors}
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in held.values() for t in tensors.values())
    for tensors in held.values():
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= SHARD_BYTES


def test_of_a_run_the_newest_complete_checkpoint_is_taken(model: Path, tmp_path: Path) -> None:
    for step in (9, 10):
        checkpoint(tmp_path / "run" / "checkpoints" / f"step_{step}", model)
    (tmp_path / "run" / "checkpoints" / "step_11" / "hf").mkdir(parents=True)
    checkpoint(tmp_path / "run" / "checkpoints" / "step_10_best", model)
    (tmp_path / "run" / "checkpoints" / "notes").write_text("")
    newest = tmp_path / "run" / "checkpoints" / "step_10" / "hf"
    assert export.find_source(str(tmp_path / "run")).model == newest
    assert export.find_source(str(newest)).model == newest
    assert export.find_source(str(newest.parent)).model == newest


@pytest.mark.heavy
def test_a_run_with_adapters_gives_the_adapter_alone_which_peft_loads_on_the_base(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "step_3", model, adapter=True)
    assert run(source / "hf", "--out", tmp_path / "alone") == 0
    told = capsys.readouterr().out
    assert f"it needs its base model, {model}: peft.PeftModel.from_pretrained" in told
    names = {file.name for file in (tmp_path / "alone").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert len({file.stat().st_mode for file in (tmp_path / "alone").iterdir()}) == 1
    assert "config.json" not in names
    base = Qwen2AudioForConditionalGeneration.from_pretrained(model)
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, str(tmp_path / "alone")))
    assert run(source, "--out", tmp_path / "whole", "--merge-lora", "--max-shard-bytes", SHARD_BYTES) == 0
    merged = logits(load_model(str(tmp_path / "whole"), torch.float32))
    torch.testing.assert_close(adapted, merged, rtol=0, atol=5e-5)
    assert (adapted - before).abs().max() > 0.01


def test_from_within_a_checkpoint_its_adapter_is_seen(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(tmp_path / "step_3", model, adapter=True)
    monkeypatch.chdir(source / "hf")
    assert (
        export.find_source(".") == export.find_source(str(source)) == export.Source(source / "hf", source / "adapter")
    )


def test_a_damaged_adapter_is_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint(tmp_path / "step_3", model, adapter=True)
    file = source / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert run(source, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"{file} is cut short or damaged" in told
    assert "--merge-lora" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("part", ["hf/config.json", "adapter/adapter_model.safetensors"])
def test_a_checkpoint_that_is_not_as_it_was_written_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    source = checkpoint(tmp_path / "step_3", model, adapter=True)
    (source / WHOLE).write_text(json.dumps({"files": checksums(source)}))
    assert run(source, "--out", tmp_path / "as it was", "--merge-lora") == 0
    content = (source / part).read_bytes()
    (source / part).write_bytes(content[:-2] + b" }")
    assert run(source, "--out", tmp_path / "out") == 2
    assert f"{source} is broken: {part} has other content; take another checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bit_that_changes_on_its_way_to_the_disk_is_noticed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = export.export_checkpoint

    def damaged(out: Path, *arguments: object) -> None:
        written(out, *arguments)  # type: ignore[arg-type]
        tensors = load_file(out / "model.safetensors")
        name = next(name for name in sorted(tensors) if name.startswith(TOWER))
        tensors[name].view(torch.uint8).view(-1)[5] ^= 1
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(export, "export_checkpoint", damaged)
    assert run(model, "--out", tmp_path / "out") == 2
    assert "1 tensor(s) read back are not what was written, audio_tower.conv1.bias first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{model}", "--merge-lora"], ["has no adapter to merge", "leave --merge-lora out"]),
        (["{tmp}/nowhere"], ["nowhere is no directory", "runs/NAME/checkpoints/step_N"]),
        (["{tmp}"], ["holds neither a model (config.json) nor a checkpoint"]),
        (["{tmp}/empty"], ["holds no complete checkpoint yet"]),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_mend(
    model: Path, tmp_path: Path, arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert run(*(argument.format(model=model, tmp=tmp_path) for argument in arguments), "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert all(part in told for part in named), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("adapter", [False, True])
def test_a_directory_that_is_there_is_left_as_it_is(
    model: Path, tmp_path: Path, adapter: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "step_3", model, adapter)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("")
    assert run(source, "--out", tmp_path / "taken") == 2
    assert "exists already; export to a new directory or move it away" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["mine"]


def test_a_source_without_tokenizer_is_refused_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        export.export_model(bare, tmp_path / "out", None, SHARD_BYTES)
    assert not (tmp_path / "out").exists()
