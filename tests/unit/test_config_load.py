"""Reading a configuration: presets, files, overrides and what is said when they are wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import reference
from configs.algorithms import ALGORITHMS, GRPO
from configs.load import ConfigError, dump_config, load_config, load_prompt, presets
from configs.schema import Algorithm, Config, Data, Model

MINIMAL = "model: {path: m}\ndata: {train: t.jsonl}\n"


def write(tmp_path: Path, text: str, name: str = "mine.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(tmp_path: Path, *overrides: str, text: str = MINIMAL) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return caught.value.problems


def test_the_name_of_the_run_defaults_to_the_stem_of_the_file(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL)).run.name == "mine"
    assert load_config(write(tmp_path, MINIMAL + "run: {name: other}\n")).run.name == "other"


def test_a_preset_is_found_by_its_bare_name_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("qwen2_audio_7b").run.name == "qwen2_audio_7b"


def test_every_preset_loads_and_is_under_fifty_lines() -> None:
    folder = Path(reference.__file__).parent
    for name in presets():
        load_config(name)
        assert len((folder / f"{name}.yaml").read_text().splitlines()) < 50, name


def test_scientific_notation_is_a_number_in_files_overrides_and_reward_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "learner: {learning_rate: 1e-6}\nrewards: [{use: m:f, args: {scale: 2e3}}]\n")
    config = load_config(path, ["algorithm.beta=4e-2"])
    assert config.learner.learning_rate == 1e-6
    assert config.algorithm.beta == 0.04
    assert config.rewards[0].args == {"scale": 2000.0}


def test_words_that_yaml_1_1_reads_as_booleans_times_or_dates_stay_text(tmp_path: Path) -> None:
    for word in ("no", "on", "12:30", "2024-01-01", "007"):
        assert load_config(write(tmp_path, MINIMAL + f"run: {{name: {word}}}\n")).run.name == word


def test_an_override_takes_scalars_lists_and_maps(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, MINIMAL),
        ["run.max_steps=7", "rewards=[{use: format, weight: 0.5}]", "data.test=null", "learner.betas=[0.8, 0.9]"],
    )
    assert config.run.max_steps == 7
    assert [(reward.use, reward.weight) for reward in config.rewards] == [("format", 0.5)]
    assert config.data.test is None
    assert config.learner.betas == (0.8, 0.9)


def test_an_override_of_a_text_key_need_not_be_quoted(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL), ["run.name=2024"]).run.name == "2024"


def test_a_later_override_wins(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL), ["run.seed=1", "run.seed=2"]).run.seed == 2


def test_an_empty_section_keeps_its_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL + "learner:\n")).learner.ranks == 1


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "learner.ranks=0", "lerner.ranks=2", "noequals", "rollout.top_p=0.9")
    assert len(problems) == 4


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("learner.ranks=0", "learner.ranks: 0 is not an integer above 0"),
        ("learner.ranks=many", "learner.ranks: 'many' is not an integer above 0"),
        ("learner.ranks=true", "learner.ranks: true is not an integer above 0"),
        ("learner.betas=[true, 0.9]", "learner.betas[0]: true is not a list of 2, each a number"),
        ("rewards=[{use: accuracy, weight: true}]", "rewards[0].weight: true is not a number"),
        ("rollout.gpu_memory_utilization=2", "rollout.gpu_memory_utilization: 2 is not a number above 0 and at most 1"),
        ("data.format=awqa", "data.format: 'awqa' is not `auto` or `auricle` or `jsonl` or `avqa` or `mmau` or "
         "`huggingface` or a plug-in `module:function`; did you mean avqa?"),
        ("learner.betas=[0.1]", "learner.betas[1]: missing"),
        ("learner.betas=[a, 0.1]", "learner.betas[0]: 'a' is not a list of 2, each a number"),
        ("learner=3", "learner: 3 is not a section of keys"),
        ("learner.lerning_rate=1", "learner.lerning_rate: unknown key (value 1); did you mean learner.learning_rate?"),
        ("run.group_size=4", "run.group_size: unknown key (value 4); did you mean algorithm.group_size?"),
        ("lerner.ranks=4", "lerner: unknown key (value a mapping {'ranks': 4}); did you mean learner?"),
        ("rewards=[{use: accuracy, wieght: 2}]", "rewards[0].wieght: unknown key (value 2); did you mean "
         "rewards[0].weight?"),
        ("rewards=[{weight: 2}]", "rewards[0].use: missing"),
        ("rewards=[]", "rewards is empty"),
        ("rewards.use=accuracy", "rewards.use: rewards is not a section"),
        ("run.max_steps.x=1", "run.max_steps.x: run.max_steps is not a section"),
        ("learner.learning_rate=1e400", "learner.learning_rate: inf is not finite"),
        ("rewards=[{use: length}, {use: length}]", "rewards has ['length'] twice; sum their weights, or give "),
        ("rewards=[{use: length, name: overlong}]", "rewards has one that is called overlong, under which algorithm."),
        ("rewards=[{use: judge, timeout_seconds: 0}]", "rewards[0].timeout_seconds: 0 is not a number above 0"),
        ("rewards=[{use: accuracy, weight: nan}]", "rewards[0].weight: 'nan' is not finite; give a number"),
        ("learner.betas=[nan, 0.1]", "learner.betas[0]: 'nan' is not finite; give a list of 2, each a number"),
        ("run.name=a/b", "run.name: 'a/b' is not the name of a directory"),
        ("rollout.top_p=0.9", "rollout.top_p is refused in training"),
        ("rollout.on_update=recompute", "rollout.on_update: recompute lets completions cross versions"),
        ("rollout={on_update: keep_kv, audio: waveform}", "rollout.on_update: keep_kv lets completions cross versions"),
        ("algorithm.correction={level: none, mask: [0.5, 2]}", "algorithm.correction.mask needs"),
        ("data.prompt=thnk", "data.prompt: 'thnk' is not known; use one of answer, think, letters, or a section"),
        ("data.prompt=5", "data.prompt: 5 is not a section of keys"),
        ("data.prompt={text: 'Say {answer} to {question}', form: answer}",
         "data.prompt.text: {answer} is not known; there are {question} and {choices}"),
        ("data.prompt={text: '{question!r}', form: answer}", "data.prompt.text: {question!r} is not known"),
        ("data.prompt={text: '{question} {', form: answer}", "data.prompt.text: Single '{' encountered"),
        ("data.prompt={text: 'Choose {choices}', form: answer}", "data.prompt.text: 'Choose {choices}' asks nothing"),
        ("data.prompt={text: '{question}'}", "data.prompt.form: missing; say what data.prompt.text asks for"),
        ("data.prompt={choices: leters}", "data.prompt.choices: 'leters' is not `list` or `letters` or `lines`; did "
         "you mean letters?"),
        ("data.prompt={choces: letters}", "data.prompt.choces: unknown key (value 'letters'); did you mean "
         "data.prompt.choices?"),
        ("run.max_steps", "override 'run.max_steps' is not KEY=VALUE"),
        ("data.test={", "data.test: '{' is not YAML"),
    ],
)  # fmt: skip
def test_a_problem_names_the_key_the_value_and_the_mend(tmp_path: Path, override: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, override)
    assert found.startswith(problem)


def test_a_missing_key_says_what_belongs_there(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, text="data: {train: t.jsonl}\nmodel: {dtype: float32}\n")
    assert problem == "model.path: missing; set it (hub id, directory or URL of a Qwen2-Audio checkpoint of any size)"


def test_a_number_where_text_belongs_is_told_to_be_quoted(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, text="model: {path: 5}\ndata: {train: t}\n")
    assert problem == 'model.path: 5 is not text; write it in quotes: "5"'


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, text=MINIMAL + "run: {seed: 1, seed: 2}\n")
    assert "'seed' stands twice" in problem


def test_no_problem_speaks_the_validator_s_language(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path, "learner.ranks=0", "data.format=x", "learner=3", "bogus=1", "rewards=[{weight: x}]"
    )
    assert not any(word in problem.lower() for problem in problems for word in ("pydantic", "input should", "extra"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [", "is not YAML"),
        (b"- a list", "not sections"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"", "model: missing"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        load_config(str(path))


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset; did you mean the preset qwen2_audio_7b\?"):
        load_config("qwen2_audio7b")
    with pytest.raises(ConfigError, match="neither a file nor a preset"):
        load_config(str(tmp_path))


@settings(max_examples=settings.default.max_examples // 4)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1).filter(
        lambda text: text not in (".", "..")
    ),
    path=st.text(st.characters(codec="utf-8")),
    rate=st.floats(min_value=1e-12, max_value=1.0),
)
def test_a_dumped_configuration_loads_unchanged(
    name: str, path: str, rate: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = Config.model_validate(
        {"run": {"name": name}, "model": {"path": path}, "data": {"train": "1e-6"}, "learner": {"learning_rate": rate}}
    )
    folder = tmp_path_factory.mktemp("dump")
    assert load_config(write(folder, dump_config(config))) == config


def test_a_file_changes_its_base_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + "run: {max_steps: 7, seed: 3}\nrewards: [{use: format}]\n", "base.yaml")
    path = write(tmp_path, "base: base.yaml\nrun: {seed: 4}\nrewards: [{use: accuracy}]\n", "child.yaml")
    config = load_config(path, ["run.max_steps=8"])
    assert (config.run.name, config.run.max_steps, config.run.seed) == ("child", 8, 4)
    assert [reward.use for reward in config.rewards] == ["accuracy"]
    assert load_config(write(tmp_path, "base: tiny\n", "of_a_preset.yaml")).model.path == "demo:model"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nowhere.yaml\n", "is neither a file nor a preset"),
        ("base: child.yaml\n", "comes back to itself"),
        ("base: folder/../child.yaml\n", "comes back to itself"),
        ("base: [a, b]\n", "is not the name of a preset or the path of a file"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text, "child.yaml")
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_an_algorithms_name_sets_what_is_not_given_and_a_dump_shows_it(tmp_path: Path) -> None:
    dapo = load_config(write(tmp_path, MINIMAL), ["algorithm.name=dapo", "algorithm.dynamic_sampling=false"]).algorithm
    assert (dapo.clip, dapo.mean, dapo.beta, dapo.dynamic_sampling) == ((0.2, 0.28), "token", 0.0, False)
    again = load_config(write(tmp_path, dump_config(load_config(write(tmp_path, MINIMAL), ["algorithm.name=rloo"]))))
    assert (again.algorithm.advantage, again.algorithm.kl_in) == ("leave_one_out", "reward")


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("name", ALGORITHMS)
def test_on_every_preset_a_name_has_its_own_values_unless_it_is_the_presets(preset: str, name: str) -> None:
    plain, named = load_config(preset).algorithm, load_config(preset, [f"algorithm.name={name}"]).algorithm
    expected = plain if plain.name == name else Algorithm.model_validate({"name": name})
    assert {key: getattr(named, key) for key in GRPO} == {key: getattr(expected, key) for key in GRPO}
    assert (named.group_size, named.prompts_per_step) == (plain.group_size, plain.prompts_per_step)


def test_a_file_that_names_another_algorithm_than_its_base_leaves_the_bases_values_of_the_name(tmp_path: Path) -> None:
    path = write(tmp_path, "base: tiny\nalgorithm: {name: rloo, mean: token}\n")
    found = load_config(path).algorithm
    assert (found.beta, found.kl_in, found.mean, found.prompts_per_step) == (0.03, "reward", "token", 32)
    again = load_config(path, ["algorithm.beta=0.5", "algorithm.name=reinforce_plus_plus"]).algorithm
    assert (again.beta, again.kl_in, again.mean) == (0.5, "loss", "sequence")
    assert load_config(path, ["algorithm.name=rloo"]).algorithm == found
    assert load_config("tiny", ["algorithm.name=grpo"]).algorithm.beta == 0.0


def test_an_algorithm_that_does_not_exist_is_refused_with_the_nearest(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, "algorithm.name=dpao")
    assert "did you mean dapo?" in problem


def test_k1_in_the_loss_is_refused_since_it_has_no_gradient(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, "algorithm.kl=k1")
    assert "use k2" in problem


def test_a_dump_reads_the_same_under_yaml_1_1() -> None:
    config = Config(model=Model(path="no"), data=Data(train="1e-6"))
    assert yaml.safe_load(dump_config(config))["model"]["path"] == "no"


def test_the_reference_page_is_up_to_date() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.render(), "run `python -m configs.reference`"


def test_the_check_of_the_reference_page_fails_when_it_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "configuration.md"
    monkeypatch.setattr(reference, "PAGE", page)
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    page.write_text(page.read_text() + "more\n")
    assert reference.main(["--check"]) == 1
    assert "is stale" in capsys.readouterr().err


@pytest.mark.heavy
def test_loading_a_configuration_imports_no_heavy_package() -> None:
    script = (
        "import sys; import configs.load; configs.load.load_config('qwen2_audio_7b');"
        "print([name for name in ('torch', 'ray', 'vllm', 'transformers', 'numpy') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert output.stdout.strip() == "[]"


def test_a_prompt_is_a_name_or_its_own_keys_and_is_written_back_as_it_was(tmp_path: Path) -> None:
    own = {"text": "{question}: {choices}", "choices": "lines", "form": "think"}
    for written, form in (("think", "think"), ("letters", "answer"), (own, "think")):
        config = load_config(write(tmp_path, MINIMAL), [f"data.prompt={json.dumps(written)}"])
        assert config.data.prompt.form == form
        assert yaml.safe_load(dump_config(config))["data"]["prompt"] == written
        assert load_config(write(tmp_path, dump_config(config))) == config


def test_a_key_of_the_prompt_changes_the_papers(tmp_path: Path) -> None:
    changed = load_config(write(tmp_path, MINIMAL), ["data.prompt.choices=letters"]).data.prompt
    paper = load_config(write(tmp_path, MINIMAL)).data.prompt
    assert (changed.text, changed.form, changed.choices) == (paper.text, paper.form, "letters")


def test_a_prompt_is_read_from_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text("text: 'Listen. {question} {choices}'\nform: answer\n")
    assert load_prompt(str(file)).text == "Listen. {question} {choices}"
    assert load_prompt("think").form == "think"
    file.write_text("text: 'Listen.'\nform: answr\n")
    for name, message in (
        (str(file), "data.prompt.form: 'answr' is not `answer` or `think`; did you mean answer?"),
        ("thnk", "data.prompt: 'thnk' is not known"),
        (str(tmp_path / "absent.yaml"), "cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_prompt(name)
