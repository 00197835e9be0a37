"""What `demo:` paths stand for: named by the code that makes them, made once, never taken from a reader."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import demo
from cluster.fingerprint import HOME, fingerprint, sources
from configs.schema import Config

MAKE = "import pathlib, sys; out = pathlib.Path(sys.argv[1]); out.mkdir(); (out / 'made').write_text('now')"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A checkout with a few modules."""
    for name, text in {
        "learner/__init__.py": "",
        "learner/maker.py": "import numpy\nfrom learner.parts import one\nfrom data import rows\n",
        "learner/parts/__init__.py": "",
        "learner/parts/one.py": "import data.clips as clips\n",
        "learner/other.py": "",
        "data/__init__.py": "",
        "data/rows.py": "",
        "data/clips.py": "if True:\n    from data.late import this\n",
        "data/late.py": "this = 1\n",
    }.items():
        file = tmp_path / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "code"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Make `out` by a module that writes a file, after what else is to happen meanwhile."""

    def make(out: Path, code: str = MAKE) -> None:
        (tmp_path / "maker.py").write_text(code.replace("sys.argv[1]", "sys.argv[2]"))
        monkeypatch.setattr(demo, "HOME", tmp_path)
        demo._make(out, "maker")

    return make


def test_the_name_covers_every_module_that_is_imported_and_no_other(code: Path) -> None:
    found = {file.relative_to(code).as_posix() for file in sources(["learner.maker"], code)}
    everything = {file.relative_to(code).as_posix() for file in code.rglob("*.py")}
    assert found == everything - {"learner/other.py"}


@pytest.mark.parametrize("changed", ["learner/maker.py", "learner/parts/one.py", "data/late.py"])
def test_a_change_to_any_of_them_changes_the_name(code: Path, changed: str) -> None:
    before = fingerprint("learner.maker", home=code)
    (code / changed).write_text((code / changed).read_text() + "# more\n")
    assert fingerprint("learner.maker", home=code) != before


def test_a_change_elsewhere_leaves_the_name(code: Path) -> None:
    before = fingerprint("learner.maker", home=code)
    (code / "learner/other.py").write_text("changed = True\n")
    assert fingerprint("learner.maker", home=code) == before


@pytest.mark.heavy
def test_the_model_is_named_by_what_trains_it_and_by_what_makes_its_questions() -> None:
    names = {file.relative_to(HOME).as_posix() for file in sources([demo.DATA_MAKER, demo.MODEL_MAKER])}
    learner = ("engine", "policy", "packing", "schedule", "hf", "hf_files", "feature_cache", "audio_tower", "attention")
    learner += ("head", "sft", "demo/warm_up", "demo/vocabulary", "demo/whisper", "demo/tiny_model")
    data = ("audio", "order", "formats", "parquet", "prompts", "demo/build", "demo/labels")
    assert names >= {f"learner/{name}.py" for name in learner} | {f"data/{name}.py" for name in data}
    assert "configs/schema.py" in names


def test_no_key_of_the_configuration_has_the_questions_made_anew() -> None:
    names = {file.relative_to(HOME).as_posix() for file in sources([demo.DATA_MAKER])}
    assert {"data/demo/build.py", "data/demo/questions.py", "data/demo/packages.py"} <= names
    assert not any(name.startswith("configs/") for name in names)


@pytest.mark.heavy
def test_the_small_model_is_named_by_the_code_that_puts_it_together() -> None:
    names = {file.relative_to(HOME).as_posix() for file in sources([demo.MODEL_MAKERS["small"]])}
    parts = [f"demo/{name}" for name in ("small_warm_up", "small_model", "gguf_language", "pinned", "word_alignment")]
    parts += ["demo/whisper", "lora", "sft"]
    assert names >= {f"learner/{name}.py" for name in parts}
    assert demo.model_name(0, "small").startswith("small-")


@pytest.mark.heavy
def test_each_model_of_the_demo_has_a_place_of_its_own_and_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))

    def place(model: str) -> str:
        config = Config.model_validate({"model": {"path": model}, "data": {"train": "demo:train"}})
        return demo.resolved(config, print, build=False).model.path

    assert len({place("demo:model"), place("demo:small"), place("mine")}) == 3
    assert place("mine") == "mine"
    with pytest.raises(demo.DemoError, match="no demo:large; use demo:model or demo:small"):
        place("demo:large")


@pytest.mark.heavy
def test_another_encoder_makes_another_model_from_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make
) -> None:
    monkeypatch.delenv("AURICLE_WHISPER", raising=False)
    names = [demo.model_name(0)]
    (tmp_path / "whisper").mkdir()
    monkeypatch.chdir(tmp_path)
    for named in ("openai/whisper-base", "whisper", str(tmp_path / "whisper")):
        monkeypatch.setenv("AURICLE_WHISPER", named)
        names.append(demo.model_name(0))
    assert len(set(names)) == 3
    assert names[2] == names[3]
    monkeypatch.setenv("AURICLE_WHISPER", "whisper")
    make(tmp_path / "out", MAKE.replace("'now'", "__import__('os').environ['AURICLE_WHISPER']"))
    assert (tmp_path / "out" / "made").read_text() == str(tmp_path / "whisper")


@pytest.mark.heavy
def test_everything_lies_in_the_cache_that_auricle_cache_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AURICLE_CACHE", "kept")
    config = Config.model_validate({"model": {"path": "demo:model"}, "data": {"train": "demo:train"}})
    resolved = demo.resolved(config, print, build=False)
    for path in (resolved.model.path, resolved.data.train, resolved.data.feature_cache):
        assert path.startswith(f"{tmp_path}/kept/")


def test_what_is_made_gets_its_name_when_it_is_complete(make, tmp_path: Path) -> None:
    make(tmp_path / "demo" / "model")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["model"]
    assert (tmp_path / "demo" / "model" / "made").read_text() == "now"


def test_a_failure_leaves_nothing(make, tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match="maker"):
        make(tmp_path / "demo" / "model", MAKE + "; sys.exit(1)")
    assert list((tmp_path / "demo").iterdir()) == []


def test_what_another_process_finished_first_is_left_to_its_readers(make, tmp_path: Path) -> None:
    out = tmp_path / "demo" / "model"
    first = f"; first = pathlib.Path({str(out)!r}); first.mkdir(); (first / 'made').write_text('first')"
    make(out, MAKE + first)
    assert (out / "made").read_text() == "first"
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_makes_is_not(make, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder, here = tmp_path / "demo", socket.gethostname()
    abandoned = folder / f"data.{here}.{ended.pid}.partial"
    others = [folder / f"data.{here}.{os.getppid()}.partial", folder / f"data.elsewhere.{ended.pid}.partial"]
    for partial in (abandoned, *others):
        partial.mkdir(parents=True)
    make(folder / "model")
    assert not abandoned.exists()
    assert all(partial.exists() for partial in others)
