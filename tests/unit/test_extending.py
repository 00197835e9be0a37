"""What docs/extending.md shows does what it says there, and what does not fit is refused with the mend."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

from actors.weights.buckets import lay_out
from cluster.transports import ObjectStore, kind_of
from cluster.view.clips import Clips
from configs.load import ConfigError, load_config, load_prompt
from configs.plugins import PlugInError
from configs.schema import Algorithm
from data import check
from data.audio import audio_tokens
from data.errors import DataError
from data.formats import load_examples
from data.types import ClipFeatures, ClipSource, Example
from learner.advantage import advantages
from learner.losses import Clip, clipped, surrogate
from learner.off_policy import check_objective
from learner.packing import Sequences, expand_audio, pack
from learner.policy import MicroBatch
from rewards.registry import load_reward
from tests.page_files import write_files
from tests.plug_in_files import PlugIns

EXAMPLE = Example("a", ClipSource("a"), "What is heard?", ("cat", "dog"), "dog")
QUIZ = {"file": "a.wav", "ask": "What is heard?", "options": {"A": "cat", "B": "dog"}, "key": "B"}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    names = write_files("extending.md", tmp_path)
    expected = {
        "my_rewards.py", "my_format.py", "my_prompt.yaml", "my_advantages.py", "my_losses.py", "my_transport.py",
        "my_omni.py"
    }  # fmt: skip
    assert set(names) == expected
    return tmp_path


def rows(path: Path, *given: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def test_the_reward_takes_its_argument(page: Path) -> None:
    function = load_reward("my_rewards:brevity", {"limit": 3})
    assert function(["dog", "a dog"], EXAMPLE, limit=3) == [1.0, 0.0]


def test_the_format_reads_rows_with_other_keys_and_tells_of_those_it_cannot(page: Path) -> None:
    loaded = load_examples(rows(page / "quiz.jsonl", QUIZ, {"file": "b.wav"}), format="my_format:quiz")
    [example] = loaded.examples
    assert (example.id, example.question, example.choices, example.answer) == (
        "a.wav", "What is heard?", ("cat", "dog"), "dog"
    )  # fmt: skip
    assert example.clip.path == str(page / "a.wav")
    assert [(bad.line, bad.reason) for bad in loaded.bad] == [(2, "plug_in")]
    assert "my_format:quiz raised KeyError('ask')" in loaded.bad[0].detail


def test_data_check_takes_the_format_too(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows(page / "quiz.jsonl", QUIZ, {"file": "b.wav"})
    assert check.main([str(file), "--format", "my_format:quiz", "--no-audio"]) == 1
    assert "line 2: plug_in: my_format:quiz raised" in capsys.readouterr().out


def test_the_format_refuses_a_clip_outside_of_the_data_as_any_other_does(page: Path) -> None:
    with pytest.raises(DataError, match="is no file inside"):
        load_examples(rows(page / "quiz.jsonl", QUIZ | {"file": "/etc/passwd"}), format="my_format:quiz")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(row):\n    return None\n", "gave null, not an object with keys; return a dict"),
        ("def f(row):\n    raise SystemError('x')\n", "raised SystemError('x'); mend it, or the row"),
    ],
)
def test_a_format_that_makes_no_row_costs_that_row(
    plug_ins: PlugIns, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_examples(rows(tmp_path / "rows.jsonl", QUIZ), format=f"{plug_ins.module(source)}:f")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_at_all:f", "there is no module 'no_such_module_at_all'"),
        ("json:lods", "has no 'lods'; did you mean loads"),
        ("json:dump", "takes"),
        ("nonsense", "use one of auto"),
    ],
)
def test_a_format_that_cannot_be_used_is_refused_at_once(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.format: '{name}'.*{message}"):
        load_examples(rows(tmp_path / "rows.jsonl", QUIZ), format=name)


def test_a_look_at_a_run_imports_nothing_that_the_run_names(plug_ins: PlugIns, tmp_path: Path) -> None:
    module = plug_ins.module("from pathlib import Path\nPath(__file__).with_suffix('.told').touch()\n")
    train = rows(tmp_path / "rows.jsonl", QUIZ)
    assert Clips(tmp_path, {"train": str(train), "format": f"{module}:f"})._sources == {}
    assert not list(plug_ins.folder.glob("*.told"))


def test_the_prompt_is_a_prompt(page: Path) -> None:
    assert load_prompt(str(page / "my_prompt.yaml")).choices == "lines"


def test_the_advantage_is_from_the_median_and_keeps_what_was_dropped(page: Path) -> None:
    given = advantages([[0.0, 1.0, 5.0, None], [2.0, 2.0]], "my_advantages:from_the_median")
    assert given == ((-1.0, 0.0, 4.0, None), (0.0, 0.0))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [[0.0] for _ in groups]", "give a number each"),
        ("return groups[:1]", "give a number each"),
        ("return [['x'] * len(group) for group in groups]", "give a number each"),
        ("return None", "give a number each"),
        ("return [[float('nan')] * len(group) for group in groups]", "give finite numbers"),
        ("yield 1", "is a generator"),
    ],
)
def test_an_advantage_that_does_not_fit_is_refused(plug_ins: PlugIns, body: str, message: str) -> None:
    name = f"{plug_ins.module(f'def f(groups):{chr(10)}    {body}{chr(10)}')}:f"
    with pytest.raises(PlugInError, match=rf"algorithm\.advantage: '{name}' .*{message}"):
        check_objective(Algorithm(advantage=name))


def test_the_loss_is_the_policy_gradient_at_a_ratio_of_one(page: Path) -> None:
    advantage, owners = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([0, 0, 1])
    gradients = []
    for function in (surrogate("my_losses:smooth"), clipped):
        logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
        loss, cut = function(logprobs, logprobs.detach(), advantage, owners, Clip(0.2, 0.2))
        loss.sum().backward()
        gradients.append(logprobs.grad)
        assert torch.equal(loss, -advantage)
        assert not cut.any()
    assert torch.equal(*gradients)


def test_the_loss_levels_off_at_the_bounds(page: Path) -> None:
    older = torch.tensor([0.0, 0.0])
    loss, cut = surrogate("my_losses:smooth")(
        torch.tensor([3.0, -3.0]), older, torch.ones(2), torch.tensor([0, 1]), Clip(0.2, 0.3)
    )
    assert loss.tolist() == pytest.approx([-1.3, -0.8], abs=1e-3)
    assert cut.tolist() == [True, True]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return logprobs.sum(), logprobs > 0", "give the loss of each"),
        ("return logprobs.detach(), logprobs > 0", "give the loss of each"),
        ("return logprobs / 0, logprobs > 0", "give the loss of each"),
        ("return logprobs", "raised"),
        ("raise KeyError('here')", r"raised KeyError\('here'\) on three tokens"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(plug_ins: PlugIns, body: str, message: str) -> None:
    source = f"def f(logprobs, older_logprobs, advantages, owners, clip):\n    {body}\n"
    name = f"{plug_ins.module(source)}:f"
    with pytest.raises(PlugInError, match=rf"algorithm\.surrogate: '{name}' .*{message}"):
        check_objective(Algorithm(surrogate=name))


def thinker() -> Any:
    """A thinker of any sizes, with weights of its own."""
    torch.manual_seed(0)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={
            "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 8,
            "output_dim": 32, "n_window": 10, "max_source_positions": 100,
        },
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 16},
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 50,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        audio_token_id=48, image_token_id=46, video_token_id=47,
        vision_start_token_id=44, vision_end_token_id=45, audio_start_token_id=42, audio_end_token_id=43,
    )  # fmt: skip
    return Qwen2_5OmniThinkerForConditionalGeneration(config).eval()


def test_another_model_packs_groups_and_gives_each_token_what_its_own_forward_does(page: Path) -> None:
    from my_omni import ThinkerPolicy

    rng, model = np.random.default_rng(0), thinker()
    clips = [ClipFeatures(mel=rng.normal(size=(8, n + 8)).astype(np.float32), valid_frames=n) for n in (30, 57)]
    groups = [
        Sequences(expand_audio((1, 48, 2, 3), 48, audio_tokens(clip.valid_frames)), [(4, 5, 6), (7, 8)])
        for clip in clips
    ]
    own = []
    with torch.no_grad():
        for clip, group in zip(clips, groups, strict=True):
            for completion in group.completions:
                ids = torch.tensor([[*group.prompt, *completion]])
                logits = model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    input_features=torch.tensor(clip.mel[None, :, : clip.valid_frames]),
                    feature_attention_mask=torch.ones(1, clip.valid_frames, dtype=torch.long),
                ).logits[0]
                predicted = logits[len(group.prompt) - 1 : -1].log_softmax(-1)
                own += predicted.gather(-1, torch.tensor(completion)[:, None])[:, 0].tolist()
        packed, _ = ThinkerPolicy(model, 1.0)(MicroBatch(pack(groups), clips))
    assert packed.tolist() == pytest.approx(own, abs=1e-5)


def test_the_transport_is_one(page: Path) -> None:
    assert issubclass(kind_of("my_transport:InTurn"), ObjectStore)


async def test_the_transport_sends_to_one_engine_after_the_other(page: Path) -> None:
    from my_transport import OneByOne

    events: list[str] = []

    class Receive:
        def __init__(self, name: str) -> None:
            self.name = name

        async def loaded(self) -> str:
            events.append(f"{self.name} begins")
            await asyncio.sleep(0)
            events.append(f"{self.name} has loaded")
            return self.name

        def remote(self, version: int, number: int, bucket: Any) -> Any:
            return self.loaded()

    update = OneByOne(1, lay_out([("a", torch.float32, (2,))], 100))
    update.add("bucket")
    engines = [SimpleNamespace(receive=Receive(name)) for name in ("first", "second")]
    assert [await answer for answer in await asyncio.gather(*map(update.send, engines))] == ["first", "second"]
    assert events == ["first begins", "first has loaded", "second begins", "second has loaded"]


def test_a_transport_that_takes_no_learners_is_refused(plug_ins: PlugIns) -> None:
    name = f"{plug_ins.module('class Mine:' + chr(10) + '    pass' + chr(10))}:Mine"
    with pytest.raises(PlugInError, match=rf"rollout\.weight_transfer: '{name}' takes"):
        kind_of(name)


@pytest.mark.parametrize(
    "key", ["algorithm.surrogate", "algorithm.advantage", "rollout.weight_transfer", "data.format"]
)
def test_a_name_that_is_neither_known_nor_a_plug_in_is_refused_with_the_key(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: 'my losses:f' is not .* or a plug-in `module:function`"):
        load_config("tiny", [f"{key}=my losses:f"])
    [section, name] = key.split(".")
    assert getattr(getattr(load_config("tiny", [f"{key}=my.losses:f"]), section), name) == "my.losses:f"
