"""What the warm-ups refuse before minutes are spent, and how their process ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from learner.address import free_address
from learner.demo import small_warm_up, warm_up
from learner.engine import leaving_ranks
from learner.hf_files import ModelError

MODULES = (warm_up, small_warm_up)


def refused(module: object, out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    nowhere = ["--data", str(out.parent / "nowhere"), "--features", str(out.parent / "nowhere")]
    with pytest.raises(SystemExit) as ended:
        module.main([*nowhere, "--out", str(out), *arguments])  # type: ignore[attr-defined]
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("module", MODULES)
def test_a_directory_that_holds_something_is_refused_at_once_and_left_as_it_is(
    module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("of years")
    assert f"{tmp_path}/thesis exists already" in refused(module, tmp_path / "thesis", capsys)
    assert f"{tmp_path}/thesis/chapter exists already" in refused(module, tmp_path / "thesis" / "chapter", capsys)
    assert (tmp_path / "thesis" / "chapter").read_text() == "of years"


def test_a_directory_that_was_filled_meanwhile_is_left_as_it_is_too(tmp_path: Path) -> None:
    (tmp_path / "chapter").write_text("of years")
    engine: Any = SimpleNamespace(policy=SimpleNamespace(model=SimpleNamespace(config=None)), weights=lambda **_: ())
    with pytest.raises(ModelError, match="exists already"):
        warm_up.write(engine, tmp_path, tmp_path)
    assert (tmp_path / "chapter").read_text() == "of years"


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("steps", ["0", "-3", "some"])
def test_steps_that_are_none_are_refused(
    module: object, steps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(module, tmp_path / "out", capsys, f"--steps={steps}")
    assert f"'{steps}' is not an integer of at least 1" in told


def test_a_process_group_is_left_when_the_block_ends_and_when_it_fails() -> None:
    for fails in (False, True):
        try:
            with leaving_ranks():
                dist.init_process_group("gloo", init_method=free_address(), rank=0, world_size=1)
                if fails:
                    raise RuntimeError("something else")
        except RuntimeError:
            assert fails
        assert not dist.is_initialized()
    with leaving_ranks():
        pass
