"""What a study's file plans, and what is said when it is wrong."""

from pathlib import Path

import pytest

from configs.load import ConfigError
from configs.study import load_study

MINIMAL = """
title: Mine
config: tiny
steps: 10
full_steps: 20
seeds: [0, 4]
keys: {learner.threads: 2}
arms:
  sft: {title: SFT, keys: {algorithm.name: sft}}
  grpo: {title: GRPO, seeds: [4], steps: 3, keys: {algorithm.beta: 0.1, model.lora: {rank: 4}}}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_arms_are_run_seed_by_seed_with_their_own_keys_on_top_of_the_studys(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, MINIMAL))
    runs = [(config.run.name, config.run.max_steps) for _, config in study.runs(False, tmp_path)]
    assert runs == [("sft-seed0", 10), ("sft-seed4", 10), ("grpo-seed4", 3)]
    grpo = study.config_of("grpo", 4, full=True, directory=tmp_path)
    assert (grpo.run.seed, grpo.run.max_steps, grpo.learner.threads, grpo.algorithm.beta) == (4, 20, 2, 0.1)
    assert grpo.model.lora is not None
    assert not grpo.evaluate.before


def test_the_study_that_comes_with_auricle_loads_and_the_arms_of_a_preset_see_as_many_questions() -> None:
    study = load_study("study")
    for full in (False, True):
        for preset in {arm.config for arm in study.arms.values()}:
            arms = [name for name, arm in study.arms.items() if arm.config == preset]
            configs = [study.config_of(name, study.seeds_of(name)[0], full, Path("runs")) for name in arms]
            assert len(configs) > 2
            assert len({config.run.max_steps * config.algorithm.prompts_per_step for config in configs}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "compare: [[sft, ppo]]\n", "compare: ppo is no arm"),
        (MINIMAL + "compare: [[base, sft]]\n", "compare: base is no arm; there are sft, grpo, and base as the second"),
        (MINIMAL.replace("seeds: [0, 4]", "seeds: [0]") + "compare: [[grpo, sft]]\n", "have no seed in common"),
        (MINIMAL.replace("seeds: [0, 4]", "seeds: []"), r"seeds: \[\] cannot be used: tuple should have at least 1"),
        (MINIMAL.replace("title: SFT, ", ""), r"arms\.sft\.title: missing; set it"),
        (MINIMAL.replace("title: SFT, ", "title: GRPO, "), "arms: two are called 'GRPO'"),
        (MINIMAL.replace("seeds: [4], ", "sedes: [4], "), r"arms\.grpo\.sedes: unknown key; there are title, config"),
        (MINIMAL.replace("steps: 10", "steps: 0"), "steps: 0 cannot be used: input should be greater than 0"),
        (MINIMAL.replace("  sft:", "  base:"), "base is the model before training"),
        (MINIMAL.replace("algorithm.name: sft", "algorithm: {name: sft}"), r"keys: algorithm would replace a section"),
    ],
)
def test_a_study_that_cannot_be_used_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, text))


def test_an_arm_whose_keys_are_wrong_is_refused_before_anything_runs(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, MINIMAL.replace("algorithm.beta", "algorithm.bata")))
    with pytest.raises(ConfigError, match=r"algorithm\.bata: unknown key"):
        list(study.runs(False, tmp_path))
    study = load_study(write(tmp_path, MINIMAL.replace("algorithm.beta: 0.1", "data.test: null")))
    with pytest.raises(ConfigError, match=r"configuration grpo:\n  data\.test is not set"):
        list(study.runs(False, tmp_path))
    other = MINIMAL.replace("algorithm.beta: 0.1", "data.test: other.jsonl") + "compare: [[grpo, sft]]\n"
    with pytest.raises(ConfigError, match=r"configuration grpo:\n  data\.test is not what sft has"):
        list(load_study(write(tmp_path, other)).runs(False, tmp_path))


def test_a_key_of_an_arm_keeps_every_character(tmp_path: Path) -> None:
    text = MINIMAL.replace("algorithm.beta: 0.1", "data.prompt: {text: '🐶 {question}', form: answer}")
    config = load_study(write(tmp_path, text)).config_of("grpo", 4, False, tmp_path)
    assert config.data.prompt.text == "🐶 {question}"
