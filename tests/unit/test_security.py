"""What the code never does, so that nothing from a disk or a network runs: see docs/security.md."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from configs import load
from tests.deploy_files import CHECKOUT

ROOMS = ("actors", "cluster", "configs", "data", "deploy", "learner", "rewards")
HARMLESS = {
    ("configs/load.py", "yaml.load"),  # with a safe loader
    ("learner/figure.py", "eval"),  # of arithmetic that stands in the code
    ("rewards/messages.py", "pickle.loads"),  # between a reward actor and the processes that it has started
}
EXECUTES = {"pickle.load", "pickle.loads", "torch.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"}
SHELLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
}


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the product: its file, the whole name of what is called, and itself."""
    found = []
    for room in ROOMS:
        for file in sorted((CHECKOUT / room).rglob("*.py")):
            nodes = list(ast.walk(ast.parse(file.read_text())))
            imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
            whole = {one.asname or one.name: f"{node.module}.{one.name}" for node in imports for one in node.names}
            for node in nodes:
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    found.append((str(file.relative_to(CHECKOUT)), whole.get(called, called), node))
    return found


def switched_on(name: str) -> list[str]:
    """Files in which a call has that argument, and not as False."""
    given = [(file, word.value) for file, _, node in calls() for word in node.keywords if word.arg == name]
    return [file for file, value in given if ast.unparse(value) != "False"]


@pytest.mark.heavy
def test_nothing_is_loaded_that_can_execute() -> None:
    found = {(file, name) for file, name, _ in calls() if name in EXECUTES}
    assert found == HARMLESS
    assert issubclass(load._Loader, yaml.SafeLoader)
    assert switched_on("allow_pickle") == []


@pytest.mark.heavy
def test_no_model_brings_code_that_is_run() -> None:
    assert switched_on("trust_remote_code") == []


@pytest.mark.heavy
def test_no_command_goes_through_a_shell() -> None:
    assert switched_on("shell") == []
    assert [file for file, name, _ in calls() if name in SHELLS] == []


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt", "dev.txt"])
def test_every_package_is_pinned_by_version_and_hash(name: str) -> None:
    lines = (CHECKOUT / "deploy" / "locks" / name).read_text().splitlines()
    assert lines
    assert [line for line in lines if line and not ("==" in line and " --hash=sha256:" in line)] == []


def test_no_key_or_token_stands_in_what_a_run_keeps_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.environment import describe
    from cluster.run_directory import RunDirectory
    from configs.load import load_config

    secret = "sk-not-to-be-kept"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    judged = "rewards=[{use: judge, args: {base_url: 'http://127.0.0.1:1', model: m, api_key_env: OPENAI_API_KEY}}]"
    config = load_config("tiny", [f"run.dir={tmp_path}", "model.path=m", "data.train=t.jsonl", judged])
    run = RunDirectory.create(config, fresh=False)
    run.write_environment(describe(), 0)
    run.close()
    kept = {file.name: file.read_text() for file in run.path.iterdir() if file.is_file()}
    assert {"config.yaml", "environment.json"} <= kept.keys()
    assert [name for name, text in kept.items() if secret in text] == []
