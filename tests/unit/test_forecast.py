"""What a dry run says that a run will take: lines that add up, warnings with mends that help, and measured steps."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest

from bench import models
from cluster.errors import UsageError
from cluster.forecast.estimate import step_time, store
from cluster.forecast.fits import warnings
from cluster.forecast.forecast import Forecast, forecast, free_at, lengths_of
from cluster.forecast.hardware import KNOWN, Hardware, HardwareError, hardware
from cluster.forecast.report import report
from cluster.launch import main
from cluster.nodes import embedded_nodes
from cluster.placement import Node, plan
from configs.load import load_config
from configs.schema import Config
from learner.figure import total
from learner.memory import parts_of
from learner.sizes import TOWER_DEFAULTS, Sizes, find_sizes, sizes_of
from learner.work import Lengths, work_of

PRESET = "qwen2_audio_7b"
BASELINES = Path(__file__).resolve().parents[2] / "bench" / "baselines"
TEXT_TOKENS = 84
"""Of the benchmarks' questions."""


def told(*overrides: str, device: str | None = None, assumed: str | None = None) -> Forecast:
    config = load_config(PRESET, overrides)
    sizes, roles = find_sizes(config.model.path), plan(config, [Node("any", 1e9, 1e9)])
    return forecast(config, sizes, hardware(device, on_gpu=True), lengths_of(config, assumed), roles)


def text(of: Forecast) -> str:
    return "\n".join(report(of))


def gigabytes(amount: str) -> float:
    number, unit = amount.split()
    return float(number.replace(",", "")) * {"GB": 1.0, "MB": 1e-3}[unit]


def test_the_papers_preset_fits_the_gpus_that_it_names_and_says_what_it_takes() -> None:
    lines = text(told(device="a100"))
    assert "8,397,094,912 parameters, 8,395,174,912 trained" in lines
    assert "16.8 GB  reference policy, whole = parameters x bytes = 8,397,094,912 x 2" in lines
    assert "everything fits on A100" in lines
    assert "warning" not in lines


def test_the_whole_run_is_told_in_completions_tokens_hours_and_money() -> None:
    lines = text(told("cluster.gpu_hour_price=2.5", device="h100"))
    _, whole = lines.split("the whole run of 1,000 steps\n")
    assert "128,000  completions = steps x questions x group size = 1,000 x 16 x 8" in whole
    hours = float(re.search(r"([\d.]+) h  GPU hours", whole)[1])  # type: ignore[index]
    price = float(re.search(r"([\d.]+)  cost at cluster.gpu_hour_price", whole)[1])  # type: ignore[index]
    assert price == pytest.approx(2.5 * hours, abs=0.2)
    assert "cost" not in text(told(device="h100"))


def test_supervised_fine_tuning_has_no_completions_to_tell_of() -> None:
    whole = text(told("algorithm.name=sft", device="h100")).split("the whole run")[1]
    assert "completions" not in whole
    assert "tokens that the learner packs" in whole


SWEPT: dict[str, list[str]] = {
    "learner.ranks": ["1", "2"],
    "model.dtype": ["float32", "bfloat16"],
    "sharding": ["0 none", "1 none", "1 optimizer", "2 none", "2 optimizer", "3 none", "3 optimizer", "3 all"],
    "trained": ["all", "frozen tower", "adapters"],
}
"""What chooses among the forecast's formulas, beside the device, with what is taken in turn."""
IN_TURN = [
    *(f"algorithm.name={name} learner.activation_checkpointing={again}" for again in ("true", "false") for name in
      ("grpo", "sft", "rloo")),
    "rollout.audio=waveform",
]  # fmt: skip


def swept(values: dict[str, str]) -> list[str]:
    """Overrides for a point of the sweep."""
    stage, offload = values.pop("sharding").split()
    trained = {
        "all": [],
        "frozen tower": ["model.audio_tower=frozen", "rollout.tensor_parallel=2"],
        "adapters": ["model.audio_tower=frozen", "model.projector=frozen", "model.lora={rank: 8}"],
    }[values.pop("trained")]
    sharding = [f"learner.zero_stage={stage}", f"learner.offload={offload}"]
    return [*sharding, *trained, *(f"{key}={value}" for key, value in values.items())]


@pytest.mark.heavy
@pytest.mark.parametrize("on_gpu", [True, False])
def test_every_formula_of_every_way_to_train_has_its_numbers(on_gpu: bool) -> None:
    sizes = find_sizes("Qwen/Qwen2-Audio-7B-Instruct")
    gpus = 1e9 if on_gpu else 0.0
    for point, turn in zip(product(*SWEPT.values()), cycle(IN_TURN), strict=False):
        overrides = [*swept(dict(zip(SWEPT, point, strict=True))), *turn.split()]
        config = load_config(PRESET, [*overrides, f"cluster.device={'gpu' if on_gpu else 'cpu'}"])
        roles = plan(config, [Node("any", 1e9, gpus)])
        of = forecast(config, sizes, hardware(None, on_gpu), Lengths(10, 80, 32), roles, free=("/", 1e15))
        amounts = re.findall(r"^ +(-?[\d,.]+) (?:[GM]B|s)  ", text(of), re.MULTILINE)
        assert len(amounts) > 10, overrides
        assert all(figure.value >= 0 for figure in (*of.rank.held, *of.rank.backward, *of.rank.step, *of.rank.host))


AMOUNT = re.compile(r"^ +([\d,.]+ [GM]B)  (.*)$")


def sections(lines: list[str]) -> dict[str, list[tuple[float, str]]]:
    """The lines with an amount, in gigabytes, by the title that they stand under."""
    found: dict[str, list[tuple[float, str]]] = {}
    title = ""
    for line in lines:
        if amount := AMOUNT.match(line):
            found.setdefault(title, []).append((gigabytes(amount[1]), amount[2]))
        elif line:
            title = line.strip()
    return found


def test_every_printed_amount_is_that_of_the_arithmetic_beside_it() -> None:
    amounts = [one for lines in sections(list(report(told()))).values() for one in lines]
    checked = 0
    for amount, told_of in amounts:
        numbers = told_of.rpartition(" = ")[2]
        if " = " in told_of:
            by_hand = eval(re.sub(r"(?<=\d),(?=\d{3})", "", numbers).replace(" x ", " * "), {"max": max, "min": min})
            assert amount == pytest.approx(by_hand / 1e9, abs=0.051 if amount >= 1 else 5.1e-5), told_of
            checked += 1
    assert checked > 25


def test_the_printed_peak_is_the_sum_of_the_lines_above_it() -> None:
    found = sections(list(report(told())))
    held = sum(amount for amount, _ in found["held"])
    moments = {
        title: sum(amount for amount, what in lines if "at most" not in what)
        for title, lines in found.items()
        if title in ("at the end of a forward and in its backward", "after the backward", "in the optimizer's step")
    }
    [peak] = [amount for lines in found.values() for amount, what in lines if what.startswith("at most")]
    assert peak == pytest.approx(held + max(moments.values()), abs=0.5)


def test_the_machines_memory_is_that_of_the_moment_that_takes_most() -> None:
    whole = 16.8e9
    adapted = ["model.lora={rank: 16}", "model.audio_tower=frozen", "learner.zero_stage=2"]
    stored = 2 * 2 * 8.4e9
    parts = "checkpoint.in_background=false"
    assert told().host == pytest.approx(4 * 42e9 + 8.4e9 * 12 + whole + stored + 2e9, rel=0.01)
    assert told(parts).host == pytest.approx(4 * (42e9 + whole) + stored + 2e9, rel=0.01)
    assert told(*adapted).host == pytest.approx(
        4 * whole + total(store(told(*adapted).config, told(*adapted).parts)), rel=0.01
    )
    assert told("algorithm.beta=0", parts).host == pytest.approx(4 * 42e9 + 33.6e9 + stored + 2e9, rel=0.01)


def test_a_machine_with_too_little_memory_beside_its_devices_is_told_with_mends() -> None:
    [warning] = warnings(told(device="h100,host_memory_gigabytes=200"))
    assert "needs 321.0 GB of memory beside its devices, and has 200.0 GB" in warning
    assert "checkpoint.in_background: false" in warning
    assert "algorithm.beta: 0" in warning
    assert "learner.offload: none" in warning


def test_a_disk_that_is_too_small_is_told_with_where_it_is(tmp_path: Path) -> None:
    config = load_config(PRESET, [f"run.dir={tmp_path}/not/yet"])
    place, free = free_at(config.run.dir)
    assert place == str(tmp_path)
    assert free > 0
    of = told()
    [warning] = warnings(replace(of, free=(place, 300e9)))
    assert f"checkpoints take 352.6 GB of disk, and {tmp_path} has 300.0 GB free" in warning
    assert list(warnings(replace(of, free=(place, 400e9)))) == []
    assert "the disk of run.dir was not looked at" in text(of)


def test_a_rank_that_does_not_fit_is_told_with_mends_that_come_to_what_they_say() -> None:
    tight = ["learner.zero_stage=1", "learner.offload=none", "learner.activation_checkpointing=false"]
    of = told(*tight)
    [warning] = [line for line in warnings(of) if "a learner rank needs" in line]
    mends = dict(re.findall(r"([^;:]+?: .+?) comes to ([\d.,]+ [GM]B)", warning.partition("reserved: ")[2]))
    settings = {
        "learner.zero_stage: 3": ["learner.zero_stage=3"],
        "learner.activation_checkpointing: true": ["learner.activation_checkpointing=true"],
        "learner.zero_stage: 2 with learner.offload: optimizer": ["learner.zero_stage=2", "learner.offload=optimizer"],
        "algorithm.beta: 0 (no reference)": ["algorithm.beta=0"],
        "model.lora: {rank: 16} with model.audio_tower: frozen": ["model.lora={rank: 16}", "model.audio_tower=frozen"],
    }
    named = {text.strip(" ;"): amount for text, amount in mends.items()}
    assert settings.keys() <= named.keys(), warning
    for mend, overrides in settings.items():
        changed = told(*tight, *overrides)
        assert changed.rank.peak < of.rank.peak
        assert gigabytes(named[mend]) == pytest.approx(changed.rank.peak / 1e9, abs=0.06)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["rollout.gpu_memory_utilization=0.2"], ["room for the keys and values of 0 tokens", "tensor_parallel"]),
        (["rollout.max_running=2000", "algorithm.prompts_per_step=500"], ["waits and computes again", "max_running"]),
        (["rollout.gpu_memory_utilization=1"], ["vLLM's share and the rollout actor's own weights take 81.3 GB"]),
        (["cluster.object_store_bytes=1"], ["weights of two versions take 33.6 GB", "--object-store-memory"]),
        (["learner.micro_batch_tokens=1000"], ["a group has up to 2,890 packed tokens", "taken whole"]),
        (["rollout.max_model_tokens=1000"], ["a prompt with its completion has up to 1,106 tokens", "raise it"]),
    ],
)
def test_what_else_does_not_fit_is_told_with_the_key(overrides: list[str], named: list[str]) -> None:
    found = list(warnings(told(*overrides)))
    assert any(all(part in line for part in named) for line in found), found


def test_sharding_an_engine_divides_its_weights_and_its_cache_but_not_the_actors_own() -> None:
    alone, shared = told().engine, told("rollout.tensor_parallel=2", "rollout.engines=2").engine
    assert shared.held[0].value == alone.held[0].value / 2
    assert shared.of_a_token.value == alone.of_a_token.value / 2
    assert [one.value for one in shared.beside] == [one.value for one in alone.beside]


def test_a_frozen_tower_is_neither_sent_nor_held_by_the_rollout_actor() -> None:
    whole, frozen = told(), told("model.audio_tower=frozen")
    tower = 636_968_960
    assert frozen.parts.sent == whole.parts.sent - (tower - 1500 * 1280)
    assert whole.engine.beside[0].value - frozen.engine.beside[0].value == 2 * tower
    assert not [one for one in frozen.rank.backward if "tower" in one.what]


def test_sampling_and_learning_overlap_only_where_staleness_allows_it() -> None:
    apart, together = told().time, told("algorithm.max_staleness=1").time
    assert apart.seconds == pytest.approx(total(apart.sampling) + apart.learning + total(apart.sync))
    assert together.seconds == pytest.approx(max(total(together.sampling), together.learning) + total(together.sync))


def test_supervised_fine_tuning_samples_nothing_and_sends_nothing() -> None:
    found = told("algorithm.name=sft", "algorithm.beta=0")
    assert (found.engines, found.time.sampling, found.time.sync) == (0, (), ())
    assert "a process of an engine" not in text(found)


def benchmark_sizes() -> Sizes:
    """Of the model that `bench.models` builds."""
    language, encoder = asdict(models.LANGUAGE), models.ENCODER
    tower = {key: getattr(encoder, key) for key in TOWER_DEFAULTS if key != "max_source_positions"}
    config = {"model_type": "qwen2_audio", "audio_config": tower}
    return sizes_of(config | {"text_config": language | {"vocab_size": models.VOCABULARY}}, "bench.models")


@pytest.mark.parametrize(("seconds", "file"), [(3.0, "step.json"), (10.0, "step_10s.json")])
def test_a_measured_step_of_the_benchmark_is_forecast_within_a_factor_of_one_and_a_half_and_its_lesser_phases_of_two(
    seconds: float, file: str
) -> None:
    measured = json.loads((BASELINES / file).read_text())
    rates = {
        "float32_teraflops": measured["matmul_gflops"] / 1e3,
        "memory_gigabytes_per_second": measured["copy_gigabytes_per_second"],
    }
    here = hardware("cpu," + ",".join(f"{key}={value}" for key, value in rates.items()), on_gpu=False)
    prompts = measured["completions"] // 8
    settings = {"model": {"path": "m"}, "data": {"train": "t"}, "algorithm": {"prompts_per_step": prompts}}
    config, sizes = Config.model_validate(settings), benchmark_sizes()
    work = work_of(config, Lengths(seconds, TEXT_TOKENS, measured["completion_tokens"]))
    time = step_time(config, sizes, parts_of(sizes, config.model), work, here, engines=1, on_gpu=False)
    phases = {"reference": time.passes[:1], "sample": time.sampling}
    for phase, lines in phases.items():
        assert 1 / 2 < total(lines) / measured[f"seconds_{phase}"] < 2
    passes = measured["seconds_forward"] + measured["seconds_backward"]
    assert 2 / 3 < time.passes[1].value / passes < 1.5
    assert 2 / 3 < time.seconds / measured["auricle_step_seconds"] < 1.5


def test_hardware_is_a_name_a_file_or_either_with_keys_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: a100\nmemory_gigabytes: 40\n")
    mine = hardware(f"{tmp_path}/mine.yaml,compute_share=0.5", on_gpu=True)
    assert (mine.memory_gigabytes, mine.compute_share, mine.bfloat16_teraflops) == (40, 0.5, 312)
    assert hardware("memory_gigabytes=24", on_gpu=True).bfloat16_teraflops == hardware("h100", True).bfloat16_teraflops
    assert hardware(None, on_gpu=False).name.startswith("this machine")
    assert all(isinstance(hardware(name, on_gpu=True), Hardware) for name in KNOWN)


@pytest.mark.parametrize(
    ("named", "parts"),
    [
        ("h10", ["'h10' is neither a file nor known hardware", "did you mean h100?"]),
        ("h100,memory_gigabyte=3", ["unknown key 'memory_gigabyte'", "did you mean memory_gigabytes?"]),
        ("h100,memory_gigabytes=much", ["memory_gigabytes is 'much'", "valid number"]),
        ("h100,compute_share=2", ["compute_share is 2", "less than or equal to 1"]),
        ("h100,memory_gigabytes=[", ["'[', the value of memory_gigabytes, is not YAML"]),
        ("h100,fast", ["'fast' is not KEY=VALUE"]),
        ("{tmp}/half.yaml", ["half.yaml has no memory_gigabytes_per_second", "base: h100"]),
        ("{tmp}/list.yaml", ["list.yaml holds no keys"]),
    ],
)
def test_hardware_that_cannot_be_made_out_is_named(tmp_path: Path, named: str, parts: list[str]) -> None:
    (tmp_path / "half.yaml").write_text("memory_gigabytes: 24\nbfloat16_teraflops: 100\n")
    (tmp_path / "list.yaml").write_text("- 24\n")
    with pytest.raises(HardwareError) as refused:
        hardware(named.format(tmp=tmp_path), on_gpu=True)
    assert all(part in str(refused.value) for part in parts), refused.value


@pytest.mark.parametrize("assumed", ["clip_second=3", "clip_seconds=long", "completion_tokens=0", "clip_seconds"])
def test_lengths_that_are_none_are_refused(assumed: str) -> None:
    with pytest.raises(UsageError, match=r"--assume: .* is not KEY=NUMBER with one of clip_seconds, text_tokens"):
        told(assumed=assumed)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    return main(["--config", PRESET, *arguments]), capsys.readouterr()


@pytest.mark.heavy
def test_a_dry_run_takes_hardware_and_lengths_and_a_run_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = run(capsys, "--dry-run", "--hardware", "h800", "--assume", "clip_seconds=10,completion_tokens=9")
    assert status == 0
    assert "H800 (maker's figures)" in shown.out
    assert "(350 with the clip), completions of 9 tokens" in shown.out
    status, shown = run(capsys, "--hardware", "h800")
    assert status == 2
    assert "--hardware and --assume are of a dry run: add --dry-run" in shown.err


def test_the_papers_preset_can_be_placed_on_the_machine_that_it_names() -> None:
    config = load_config(PRESET)
    [node] = embedded_nodes(config.cluster)
    roles = plan(config, [replace(node, gpus=8)])
    assert sum(role.gpus * role.count for role in roles) == 8


def test_a_dry_run_refuses_what_the_embedded_node_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = run(capsys, "--dry-run", "cluster.cpus_per_node=4")
    assert status == 2
    assert "10.5 logical CPUs are needed and the 1 node(s) have 4: raise cluster.cpus_per_node" in shown.err


def test_a_model_that_this_machine_knows_nothing_of_has_no_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = run(capsys, "--dry-run", "model.path=me/mine")
    assert status == 0
    assert "no forecast of memory and time: this machine does not know the sizes of me/mine" in shown.out
