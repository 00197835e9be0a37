"""Sizes are read from config.json alone as transformers reads them, whatever it leaves out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest
from transformers import Qwen2AudioConfig

from learner.released import load_config
from learner.sizes import LANGUAGE_DEFAULTS, TOWER_DEFAULTS, SizesError, find_sizes, sizes_of
from tests.integration.models import other_model
from tests.tiny_models import expected_shapes, model_directory


@pytest.mark.heavy
@pytest.mark.parametrize("build", [model_directory, other_model])
def test_the_shapes_of_a_model_directory_are_those_of_transformers_class(build: object, tmp_path: Path) -> None:
    path = build(tmp_path)  # type: ignore[operator]
    sizes = find_sizes(str(path))
    assert sizes.shapes() == {name: tuple(s) for name, s in expected_shapes(load_config(str(path))).items()}
    assert sizes.source == str(path / "config.json")


def test_what_a_config_leaves_out_is_transformers_default() -> None:
    config = Qwen2AudioConfig()
    assert {key: getattr(config.text_config, key) for key in LANGUAGE_DEFAULTS} == LANGUAGE_DEFAULTS
    assert {key: getattr(config.audio_config, key) for key in TOWER_DEFAULTS} == TOWER_DEFAULTS
    assert sizes_of({"model_type": "qwen2_audio"}, "bare").language.vocabulary == config.text_config.vocab_size


def test_a_hub_model_that_was_fetched_is_read_from_the_cache_and_another_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    cached = tmp_path / "models--me--mine"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    config = {"model_type": "qwen2_audio", "text_config": {"vocab_size": 77}}
    (cached / "snapshots" / commit / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = find_sizes("me/mine")
    assert found.language.vocabulary == 77
    assert find_sizes("me/other") is None
    assert find_sizes("/nowhere/at/all") is None
    assert find_sizes(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "config.json is not JSON"),
        ('{"model_type": "qwen2"}', "model_type is 'qwen2'; only 'qwen2_audio' is supported"),
        ('{"model_type": "qwen2_audio", "text_config": {"hidden_size": "wide"}}', "hidden_size is 'wide', not a count"),
    ],
)
def test_a_config_that_gives_no_sizes_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SizesError, match=named):
        find_sizes(str(tmp_path))


@pytest.mark.heavy
def test_a_forecast_imports_neither_torch_nor_transformers() -> None:
    script = "import cluster.forecast.report, sys; print({'torch', 'transformers', 'ray', 'vllm'} & {*sys.modules})"
    done = run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
