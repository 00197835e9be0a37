"""Which directory the actors of a session load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.checkpoints import BrokenCheckpoint
from cluster.session import engine_model, from_anywhere, usable_model
from configs.schema import Config
from data.checksums import checksums
from data.remote import WHOLE
from learner.hf import load_model
from learner.sizes import EMBEDDINGS, HEAD
from tests.tiny_models import model_directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_directory(tmp_path / "model")


def tie(model: Path) -> None:
    """Leave the output layer out, as a checkpoint with tied embeddings does."""
    tensors = load_file(model / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(stored))


@pytest.mark.heavy
def test_a_tied_model_is_exported_with_an_output_layer_of_its_own(model: Path, tmp_path: Path) -> None:
    tie(model)
    given = engine_model(str(model), f"{tmp_path}/run/engine_model")
    assert given == str(tmp_path / "run" / "engine_model")
    tensors = load_file(Path(given) / "model.safetensors")
    assert torch.equal(tensors[HEAD], tensors[EMBEDDINGS])
    assert json.loads((Path(given) / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.heavy
def test_a_model_with_the_names_of_transformers_5_is_exported_with_released_names(model: Path, tmp_path: Path) -> None:
    released = load_file(model / "model.safetensors").keys()
    load_model(str(model), torch.float32).save_pretrained(model)
    assert load_file(model / "model.safetensors").keys() != released
    given = engine_model(str(model), f"{tmp_path}/engine_model")
    assert load_file(Path(given) / "model.safetensors").keys() == released


def test_a_released_model_is_loaded_where_it_lies(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert engine_model(model.name, f"{tmp_path}/engine_model") == str(model)
    assert not (tmp_path / "engine_model").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("named", ["step_3", "step_3/hf"])
def test_a_checkpoint_whose_model_is_not_as_it_was_written_is_refused(model: Path, tmp_path: Path, named: str) -> None:
    checkpoint = tmp_path / "step_3"
    shutil.copytree(model, checkpoint / "hf")
    (checkpoint / "trainer").mkdir()
    (checkpoint / "trainer" / "state.json").write_text("{}")
    (checkpoint / WHOLE).write_text(json.dumps({"files": checksums(checkpoint)}))
    (checkpoint / "trainer" / "state.json").unlink()  # of no matter to a model
    assert usable_model(str(tmp_path / named)) == str(checkpoint / "hf")
    weights = checkpoint / "hf" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match=f"{named} is broken: hf/model.safetensors has other content"):
        usable_model(str(tmp_path / named))
    (checkpoint / WHOLE).write_text("{")
    with pytest.raises(BrokenCheckpoint, match=r"whole\.json does not tell what was written"):
        usable_model(str(tmp_path / named))


@pytest.mark.heavy
def test_an_export_that_an_interrupted_run_left_is_written_anew(model: Path, tmp_path: Path) -> None:
    tie(model)
    (tmp_path / "engine_model").mkdir()
    (tmp_path / "engine_model" / "model.safetensors").write_bytes(b"of another model")
    given = engine_model(str(model), f"{tmp_path}/engine_model")
    assert HEAD in load_file(Path(given) / "model.safetensors")


@pytest.mark.parametrize(("given", "found"), [("kept", "work/kept"), ("~/kept", "home/kept"), (None, None)])
def test_the_feature_cache_is_found_from_any_directory(
    given: str | None, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = {"train": "questions.jsonl", "feature_cache": given}
    config = from_anywhere(Config.model_validate({"model": {"path": "model"}, "data": data}))
    assert config.data.feature_cache == (found and str(tmp_path / found))
