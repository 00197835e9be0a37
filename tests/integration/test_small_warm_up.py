"""The start of the preset `small`, on scaled-down parts; and, where there is time, its real parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster import demo
from configs.schema import Config
from learner.demo import small_model
from learner.demo.gguf_language import load_language
from learner.hf import load_model, load_tensors
from learner.hf_files import load_processor
from learner.sizes import EMBEDDINGS, HEAD, PROJECTOR, TOWER
from tests.gguf_files import llama_file, tiny_llama
from tests.integration.commands import CHECKOUT
from tests.tiny_models import whisper_directory

TRAIN, VALIDATION = 24, 6


def few_questions(folder: Path) -> Path:
    """A demo set of the first questions of each split."""
    splits = {split: f"demo:{split}" for split in ("train", "validation")}
    made = demo.resolved(Config.model_validate({"model": {"path": "unused"}, "data": splits}), print).data
    folder.mkdir()
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        rows = next(pq.ParquetFile(getattr(made, split)).iter_batches(batch_size=count))
        pq.write_table(pa.Table.from_batches([rows]), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `whisper`, `tiny.gguf` and the model `warmed` that was made of them."""
    path = tmp_path_factory.mktemp("small")
    whisper_directory(path / "whisper")
    llama_file(path / "tiny.gguf", tiny_llama())
    places = ("--data", few_questions(path / "data"), "--features", path / "features", "--out", path / "warmed")
    chosen = ("--encoder", path / "whisper", "--language", path / "tiny.gguf", "--steps", "2")
    command = [sys.executable, "-m", "learner.demo.small_warm_up", *map(str, places + chosen)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"accuracy on {VALIDATION} validation questions" in done.stdout
    return path


@pytest.mark.slow
def test_projector_and_layers_have_learned_and_tower_and_words_are_as_they_were(parts: Path) -> None:
    small_model.build(parts / "before", 0, parts / "whisper", parts / "tiny.gguf")
    before, after = (dict(load_tensors(str(parts / name))) for name in ("before", "warmed"))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert not changed & {EMBEDDINGS, HEAD}
    assert not any(name.startswith(TOWER) for name in changed)
    assert {PROJECTOR + "linear.weight", PROJECTOR + "linear.bias"} <= changed
    layers = [name for name in before if name.endswith("_proj.weight") and name.startswith("language_model")]
    assert layers
    assert set(layers) <= changed


@pytest.mark.slow
def test_what_comes_out_is_a_model_that_answers(parts: Path) -> None:
    model, processor = load_model(str(parts / "warmed"), torch.float32), load_processor(str(parts / "warmed"))
    prompt = processor.tokenizer("<|im_start|>user\ndog<|im_end|>\n", return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=prompt.input_ids).logits
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.timeout(600)  # a quarter of a gigabyte to download
def test_the_real_parts_speak_and_hear_as_they_did_apart(tmp_path: Path) -> None:
    small_model.build(tmp_path / "model", seed=0)
    model, tokenizer = (
        load_model(str(tmp_path / "model"), torch.float32),
        load_processor(str(tmp_path / "model")).tokenizer,
    )
    turn = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(turn, return_tensors="pt").input_ids
    said = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "The capital of France is Paris."
    language = load_language(small_model.fetch(small_model.SMOLLM2))
    assert tokenizer.get_vocab().items() >= language.tokenizer.get_vocab().items()
    assert (model.model.audio_tower.config.d_model, model.config.text_config.num_hidden_layers) == (512, 30)
